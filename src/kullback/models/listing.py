"""Token KLs between bounds, where a server lists the likely words of a place and not all of them.

S is what both sides know: the words that a server lists, which hang on the prefix alone and not on what was drawn. The
other side gives its own log-probs of those, or the ones of them that it lists itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kullback.arrays import Float64
from kullback.models.protocols import DistributionScorer, Scorer, Tokens
from kullback.models.sampling import RAW, Sampling
from kullback.models.servers.chosen import CHOSEN

Words = Mapping[int, float]


@dataclass(frozen=True)
class TokenBracket:
    """Between what the KL of each token's place lies, (tokens,), nats.

    Attributes:
        lower: the KL of S and all other words taken as one.
        upper: inf where nothing bounds the second law outside S from below.
        estimate: of the drawn token, unbiased: exact on S, sampled outside of it.
    """

    lower: Float64
    upper: Float64
    estimate: Float64


@dataclass(frozen=True)
class Place:
    """What one model says at a token's place.

    Attributes:
        logprob: of the token that stands there.
        words: its likely words; None where it has the whole distribution.
        law: the whole distribution, (vocab,); None where it lists words.
    """

    logprob: float
    words: Words | None = None
    law: np.ndarray | None = None


def lists_words(model: object) -> bool:
    """Whether a model is behind a server that gives likely words."""
    found: Any = getattr(model, "capabilities", None)
    return found is not None and found.kind == "likely words"


def can_bracket(policy: Scorer, reference: Scorer, sampling: Sampling, ref_sampling: Sampling) -> bool:
    """Whether the KL can be put between bounds: one lists words, the other words or all, and of their own laws."""
    pair = (policy, reference)
    listing = [lists_words(model) for model in pair]
    whole = [isinstance(model, DistributionScorer) for model in pair]
    return any(listing) and all(map(any, zip(listing, whole, strict=True))) and sampling.raw and ref_sampling.raw


def chooses_words(model: object) -> bool:
    """Whether a model is behind a server that gives log-probs of the words that it is asked for."""
    found: Any = getattr(model, "capabilities", None)
    return found is not None and found.chooses


def places_beside(
    first: Sequence[Sequence[Place]], model: Any, prompts: Sequence[Tokens], completions: Sequence[Tokens]
) -> list[list[Place]]:
    """What a second model says at every token: of the words that the first finds most likely, where it can be asked."""
    if not chooses_words(model):
        return places_of(model, prompts, completions)
    chosen = [[_most_likely(place) for place in row] for row in first]
    # One width for all places, and last the token that stands there: S must not hang on what was drawn.
    width = min(len(words) for row in chosen for words in row)
    asked = [
        [[*words[:width], token] for words, token in zip(row, completion, strict=True)]
        for row, completion in zip(chosen, completions, strict=True)
    ]
    tables = model.chosen(prompts, completions, asked)
    return [
        [
            Place(float(numbers[-1]), dict(zip(words[:-1], numbers[:-1].tolist(), strict=True)))
            for words, numbers in zip(row, table, strict=True)
        ]
        for row, table in zip(asked, tables, strict=True)
    ]


def _most_likely(place: Place) -> list[int]:
    """The words that a place finds most likely, the likeliest first."""
    if place.words is not None:
        return sorted(place.words, key=lambda word: -place.words[word])  # type: ignore[index]
    law = place.law if place.law is not None else np.empty(0)
    count = min(CHOSEN, int((law > -np.inf).sum()))
    return [int(word) for word in np.argsort(-law, kind="stable")[:count]]


def places_of(model: Any, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> list[list[Place]]:
    """What a model says at every token of the completions."""
    if lists_words(model):
        count = model.capabilities.words
        rows = model.listed(prompts, completions)
        return [[Place(one.logprob, _likely(one.top, count)) for one in row] for row in rows]
    logits = model.next_logits(prompts, completions)
    found, start = [], 0
    for completion in completions:
        laws = RAW.logprobs(logits[start : start + len(completion)]).double().cpu().numpy()
        start += len(completion)
        found.append([Place(float(law[token]), None, law) for law, token in zip(laws, completion, strict=True)])
    return found


def bracket_of(first: Sequence[Place], second: Sequence[Place], tokens: Tokens) -> TokenBracket:
    """Bounds on KL(first‖second) at each token of a completion, and the estimate from what was drawn."""
    from kullback.vocab import topk_kl

    lists = [_shared(a, b) for a, b in zip(first, second, strict=True)]
    lower, _, sampled = topk_kl(
        [one for one, _ in lists],
        [other for _, other in lists],
        tokens=list(tokens),
        logprobs=[place.logprob for place in first],
        ref_logprobs=[place.logprob for place in second],
    )
    upper = [_upper(a, b, shared[0], float(low)) for a, b, shared, low in zip(first, second, lists, lower, strict=True)]
    columns = (np.asarray(one, dtype=np.float64) for one in (lower, upper, sampled))
    return TokenBracket(*columns)


def _likely(top: Mapping[Any, float], count: int) -> dict[int, float]:
    """The most likely words; a server adds the token that stands there, and S would hang on what was drawn."""
    return dict(sorted(top.items(), key=lambda item: -item[1])[:count])


def _shared(first: Place, second: Place) -> tuple[dict[int, float], dict[int, float]]:
    """Log-probs of S under both."""
    both = [word for word in (first.words or second.words or {}) if _knows(first, word) and _knows(second, word)]
    return {word: _said(first, word) for word in both}, {word: _said(second, word) for word in both}


def _knows(place: Place, word: int) -> bool:
    return word in place.words if place.words is not None else place.law is not None and word < len(place.law)


def _said(place: Place, word: int) -> float:
    return (
        place.words[word] if place.words is not None else float(place.law[word]) if place.law is not None else -np.inf
    )


def _upper(first: Place, second: Place, shared: Words, lower: float) -> float:
    """The largest KL that the first law's list allows, where the second law is known as a whole.

    A word outside the list is at most as likely as the last in it, so that q log(q/p) is largest where the mass that
    is left lies, as much as each may have, on the words that the second law finds least likely.
    """
    rest = 1.0 - float(np.exp(list(shared.values())).sum())
    if rest <= 0:
        return lower
    if second.law is None or not first.words:
        return np.inf
    most = np.exp(min(first.words.values()))
    outside = np.delete(second.law, list(shared))
    full = int(rest / most)
    if full >= len(outside):
        return np.inf
    least = np.sort(np.partition(outside, full)[: full + 1])
    part = rest - full * most
    tail = full * most * np.log(most) - most * least[:full].sum() + part * (np.log(max(part, 1e-300)) - least[full])
    head = sum(np.exp(q) * (q - float(second.law[word])) for word, q in shared.items())
    return max(lower, float(head + tail))
