"""Asking a server what it can do, once, and refusing one whose numbers would be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np

from kullback.errors import ModelError
from kullback.models.protocols import Tokens
from kullback.models.sampling import Sampling
from kullback.models.servers.asking import Asker
from kullback.models.servers.capabilities import Capabilities
from kullback.models.servers.client import Client, RefusedError
from kullback.models.servers.dialects import VLLM, WHOLE, Continuation, Dialect, Echo, SGLang
from kullback.models.servers.llama_cpp import LlamaCpp, context_of
from kullback.models.servers.tokenizer import ServerTokenizer, tokenizer_of
from kullback.rollouts.quanta import rounding_of, rounding_within
from kullback.rollouts.readers.responses import Drawn

DIALECTS: tuple[Dialect, ...] = (VLLM(), SGLang(), LlamaCpp(), Echo())
"""In the order in which they are tried: the one that says most first."""

TEXTS = ("The small dog ran home.", "One day a man said 12.")
"""What is scored, read one between two readings of the other."""

IDS = (tuple(range(5, 25)), tuple(range(44, 24, -1)))
"""What is scored where the server does not say how it reads a text: any vocabulary has them."""

WORDS = (WHOLE, 128, 20, 5, 1)
"""How many likely words are asked for, until the server does not refuse; 20 is what OpenAI and vLLM allow at first."""

MOST_WHOLE = 1 << 15
"""Tokens of a vocabulary up to which whole distributions go through HTTP, some 40 bytes a token and place."""

DRAWS = 6
"""Completions that are drawn to see an end token."""

LONGEST_DRAW = 64
"""Tokens of them at most."""

NOISE = 0.02
"""Nats between two readings of one text that batching and bfloat16 leave; above it is said."""

WRONG = 0.5
"""Nats between two readings of one token from which one of them is of something else."""

ONLY_TEXTS = (
    "llama-cpp-python takes prompts as texts alone, and a text is not always read as the tokens that a model drew; "
    "llama.cpp's own server (llama-server) takes ids, and gives whole distributions"
)

Law = Literal["raw", "processed", "unknown"]


@dataclass
class Probe:
    """What is known of a server so far."""

    client: Client
    model: str
    context: int
    tokenizer: ServerTokenizer | None
    texts: Sequence[Tokens]
    notes: list[str] = field(default_factory=list)


def probed(client: Client) -> tuple[Capabilities, ServerTokenizer | None]:
    """What a server can do, and the way to its tokenizer.

    Raises:
        ModelError: it cannot be reached, has no such model, or gives numbers that would be wrong: prompt log-probs that
            change when another text is read between, log-probs above 0, shifted places, drawn tokens in place of the
            prompt's, or log-probs of given tokens that are not those it draws with.
    """
    model, context = _model(client)
    tokenizer, told = tokenizer_of(client, model)
    texts: Sequence[Tokens] = IDS if tokenizer is None else [tokenizer.encode(text) for text in TEXTS]
    probe = Probe(client, model, min(context, told or context), tokenizer, texts)
    asker, words, read = _scoring(probe)
    if asker is not None and isinstance(asker.dialect, LlamaCpp):
        probe.context = min(probe.context, context_of(client) or probe.context)
    chooses = asker is not None and read is not None and words > 0 and _chooses(probe, asker, read)
    law: Law = "unknown"
    reread = redrawn = None
    drawing, draws, ends = _drawing(probe, asker)
    if draws and drawing is not None:
        law = _law(probe, drawing)
    if asker is not None and read is not None:
        reread = _check_stale(probe, asker, words, read)
        redrawn = _check_drawn(probe, asker, words) if draws else None
    places = cast(list[Mapping[int, float]], [one.top for one in (read or ()) if one.top])
    vocab = max((int(word) for place in places for word in place), default=0) + 1 if words == WHOLE else None
    numbers = [value for place in places for value in place.values()] or [
        one.logprob for one in (read or ()) if one.logprob is not None
    ]
    rounding = rounding_within(places) or rounding_of(np.asarray(numbers, dtype=np.float64))
    if rounding is not None:
        probe.notes.append(
            f"log-probs of {model} lie on a grid ({rounding.words}): a head in half precision; a KL of two such models "
            "cannot be told from rounding below it"
        )
    if asker is None and not draws:
        if tokenizer is not None and tokenizer.way.encode == "/extras/tokenize":
            probe.notes.append(ONLY_TEXTS)
        raise ModelError(
            f"{client.address} neither scores given tokens nor draws any as a KL needs them: "
            f"{'; '.join(probe.notes) or 'it gives no log-probs'}"
        )
    found = Capabilities(
        model=model,
        dialect=None if asker is None else asker.dialect,
        words=words,
        chooses=chooses,
        vocab=vocab,
        context=probe.context,
        law=law,
        draws=draws,
        tokenizer=tokenizer is not None,
        ends=ends,
        rounding=rounding,
        reread=reread,
        redrawn=redrawn,
        notes=tuple(probe.notes),
    )
    return found, tokenizer


def _model(client: Client) -> tuple[str, int]:
    """The model that is meant, by the server's list, and its context."""
    wanted = client.address.model
    try:
        listed = client.get("models").get("data", [])
    except RefusedError as error:
        if not wanted or error.status in (401, 403):
            raise
        return wanted, 1 << 30
    names = {str(one.get("id")): one for one in listed if isinstance(one, Mapping)} if isinstance(listed, list) else {}
    if not wanted and len(names) == 1:
        wanted = next(iter(names))
    if wanted not in names:
        have = ", ".join(sorted(names)[:5]) or "none"
        asked = f"has no model {wanted}" if wanted else "has several models"
        raise ModelError(f"{client.address.base} {asked} (it has {have}): name one as {client.address.base}#MODEL")
    length = names[wanted].get("max_model_len")
    return wanted, int(length) if isinstance(length, int) and length > 0 else 1 << 30


def _scoring(probe: Probe) -> tuple[Asker | None, int, list[Drawn] | None]:
    """Who scores, with how many words a place, and what came of it."""
    for dialect in DIALECTS:
        asker = Asker(probe.client, probe.model, dialect)
        for words in WORDS if not isinstance(dialect, Echo) else (1,):
            try:
                if words == WHOLE and not _fits(probe, asker.score(probe.texts[0][:2], WHOLE)):
                    continue
                read = asker.score(probe.texts[0], words)
            except RefusedError as error:
                if error.status in (401, 403):
                    raise
                if error.status == 404 or "prompt_logprobs" in str(error):
                    break
                continue
            except ModelError as error:
                if not isinstance(dialect, Echo):
                    raise
                probe.notes.append(f"it cannot score given tokens: {error}")
                break
            by_id = all(isinstance(word, int) for one in read for word in one.top)
            enough = by_id and all(len(one.top) >= min(words, 2) for one in read[1:])
            return asker, words if enough or words == WHOLE else 0, read
    return None, 0, None


def _fits(probe: Probe, read: Sequence[Drawn]) -> bool:
    """Whether every place has every word, with all the probability, and they are not too many."""
    words = max((len(one.top) for one in read), default=0)
    if any(sorted(one.top) != list(range(words)) for one in read[1:] if all(isinstance(key, int) for key in one.top)):
        # A list that a limit cuts off may have all the probability to rounding, and not the words that matter.
        probe.notes.append("its places list different words where all were asked for: they are taken as likely words")
        return False
    if words > MOST_WHOLE:
        probe.notes.append(f"its whole distributions have {words:,} tokens, too many for HTTP: fewer words are used")
        return False
    masses = [np.exp(list(one.top.values())).sum() if one.top else 0.0 for one in read[1:]]
    return all(abs(mass - 1.0) < 1e-3 for mass in masses)


def _chooses(probe: Probe, asker: Asker, read: Sequence[Drawn]) -> bool:
    """Whether it gives log-probs of chosen words, and the same as of its own."""
    if not isinstance(asker.dialect, VLLM):
        return False
    tokens = probe.texts[0]
    try:
        found = asker.choose(tokens, [[token, 0] for token in tokens[1:]], 1)[:, 0]
    except RefusedError:
        return False
    apart = max(abs(one - (other.logprob or 0.0)) for one, other in zip(found, read[1:], strict=True))
    if apart > WRONG:
        raise ModelError(
            f"{probe.client.address} gives chosen words log-probs {apart:.2g} nats from those of a prompt's tokens: "
            "places are shifted"
        )
    return True


def _check_stale(probe: Probe, asker: Asker, words: int, before: Sequence[Drawn]) -> float:
    """Refuse a server whose prompt log-probs change when another text is read between."""
    asker.score(probe.texts[1], words)
    after = asker.score(probe.texts[0], words)
    apart = _apart(before, after)
    if apart > WRONG:
        raise ModelError(
            f"{probe.client.address} gave one text's tokens log-probs that are {apart:.2g} nats apart, before and "
            "after another text was read: it gives stale memory; turn prefix caching off (vLLM: "
            "--no-enable-prefix-caching)"
        )
    if apart > NOISE:
        probe.notes.append(
            f"two readings of one text are up to {apart:.2g} nats a token apart: a KL below that is noise"
        )
    return apart


def _apart(first: Sequence[Drawn], second: Sequence[Drawn]) -> float:
    return max(abs((a.logprob or 0.0) - (b.logprob or 0.0)) for a, b in zip(first, second, strict=True))


def _drawing(probe: Probe, asker: Asker | None) -> tuple[Asker | None, bool, tuple[int, ...]]:
    """Who draws, whether with ids and log-probs, and the end tokens that were seen."""
    asker = asker or Asker(probe.client, probe.model, VLLM())
    drawn: list[Continuation] = []
    try:
        for seed in range(DRAWS):
            drawn.append(asker.draw(probe.texts[0][:3], Sampling(), most=LONGEST_DRAW, seed=seed))
    except RefusedError:
        return None, False, ()
    except ModelError as error:
        probe.notes.append(f"it cannot draw for a KL: {error}")
        return None, False, ()
    if any(token.id is None for one in drawn for token in one.tokens):
        probe.notes.append("it does not say which tokens it drew by id: another model has to draw")
        _check_end(probe, drawn)
        return asker, False, ()
    ended = [one.tokens[-1].id for one in drawn if one.finish == "stop" and one.tokens]
    ends = tuple(sorted({token for token in ended if token is not None}))
    if len(ends) > 2:
        probe.notes.append(
            "what it drew ends in many different tokens: the end token has no log-prob, and the KL of whether to "
            "stop is missing"
        )
        return asker, False, ()
    return asker, True, ends


def _check_end(probe: Probe, drawn: Sequence[Continuation]) -> None:
    """Say where an end token has no log-prob, by the text of the last token."""
    lasts = {one.tokens[-1].text for one in drawn if one.finish == "stop" and one.tokens}
    if len(lasts) > 2:
        probe.notes.append("the end token that it draws has no log-prob: the KL of whether to stop would be missing")


def _law(probe: Probe, asker: Asker) -> Law:
    """Whether its log-probs follow the temperature, by the gap between two words at two temperatures."""
    gaps = []
    for temperature in (1.0, 2.0):
        with suppress(ModelError):
            top = asker.client.post(
                *_with_words(asker.dialect.drawing(asker.model, probe.texts[0], Sampling(temperature), most=1, seed=0))
            )
            found = asker.dialect.drawn(top).tokens[0].top
            gaps.append(dict(sorted(found.items(), key=lambda item: -item[1])[:2]))
    if len(gaps) < 2 or len(gaps[0]) < 2 or set(gaps[0]) != set(gaps[1]):
        return "unknown"
    one, two = (max(gap.values()) - min(gap.values()) for gap in gaps)
    if one < 1e-3:
        return "unknown"
    return "raw" if abs(two / one - 1.0) < 0.1 else "processed" if abs(two / one - 0.5) < 0.1 else "unknown"


def _with_words(request: tuple[str, Mapping[str, Any]]) -> tuple[str, Mapping[str, Any]]:
    path, body = request
    name = next(name for name in ("top_logprobs_num", "n_probs", "logprobs") if name in body)
    return path, {**body, name: 5}


def _check_drawn(probe: Probe, asker: Asker, words: int) -> float | None:
    """Refuse a server whose log-probs of given tokens are not those that it draws them with."""
    prompt = probe.texts[1]
    drawn = asker.draw(prompt, Sampling(), most=4, seed=1)
    tokens = [int(token.id) for token in drawn.tokens if token.id is not None]
    if not tokens:
        return None
    scored = asker.score([*prompt, *tokens], words)[len(prompt) :]
    apart = _apart(drawn.tokens, scored)
    if apart > WRONG:
        raise ModelError(
            f"{probe.client.address} gives tokens that it drew log-probs {apart:.2g} nats from those it drew them "
            "with: its places are shifted, or it scores under another law than it draws from (--logprobs-mode, "
            "temperature)"
        )
    if apart > NOISE:
        probe.notes.append(f"drawing and scoring are up to {apart:.2g} nats a token apart")
    return apart
