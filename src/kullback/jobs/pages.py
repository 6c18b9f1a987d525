"""A comparison as a page that is looked through: the answer first, then prompts, positions and single tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kullback.arrays import Float64
from kullback.documents import (
    Bars,
    Block,
    Channel,
    Document,
    Facts,
    Heading,
    Passage,
    PassageGroup,
    Passages,
    Record,
    Verdict,
)
from kullback.errors import InputError
from kullback.jobs.estimates import Row, quoted
from kullback.rollouts import Rollout

if TYPE_CHECKING:
    from kullback.jobs.outcomes import Comparison

MOST_SEQUENCES, MOST_TOKENS = 500, 60_000
"""What a page holds token by token: with it a page has at most some 2.5 MB."""

MOST_PROMPTS = 2_000
MOST_BARS = 64

CHANNELS = (
    Channel("token KL", "nats"),
    Channel("log-ratio", "nats", signed=True),
    Channel("probability, policy", ""),
    Channel("probability, reference", ""),
    Channel("log-ratio to the sampler", "nats", signed=True),
)
"""Of a token: KL(policy‖reference) at its place, log q − log p, q, p, and log q − log μ of what drew it."""


def comparison_page(found: Comparison) -> Document:
    """The document of a comparison with an answer before it, and behind it what a page can show and a terminal not."""
    document = found.document()
    own = [rollout for rollout in found.rollouts if rollout.sampled_from == "policy"]
    blocks: list[Block] = [*_answer(found), *document.blocks, *_bars(own)]
    if own:
        blocks.append(_passages(found, own))
    blocks += [Heading("What reproduces this", level=2), Facts(tuple(_facts(found.settings)), tone="plain")]
    return Document(title=document.title, subtitle=document.subtitle, blocks=tuple(blocks))


def _answer(found: Comparison) -> Iterator[Verdict]:
    """The row to quote, in a sentence."""
    cut = found.settings.get("top_k") != 0 or found.settings.get("top_p") != 1
    try:
        row = quoted(found.rows, truncated=cut)
    except InputError:
        return
    one = row.per_sequence
    low, high = one.interval()
    here = "" if one.given_prompts is None else f"; for these very prompts ± {one.given_prompts.stderr:.2g}"
    doubt = " It comes with a warning: read it below." if one.warnings else ""
    yield Verdict(
        f"KL(policy‖reference) is {one.value:.4g} nats a sequence, and between {low:.4g} and {high:.4g} with 95% "
        f"confidence ({one.estimator}; ± {one.stderr:.2g} for prompts like these{here}), or {_per_token(row)} nats a "
        f"token.{doubt}",
        tone="warning" if one.warnings else "plain",
    )


def _per_token(row: Row) -> str:
    return f"{row.per_token.value:.3g} ± {row.per_token.stderr:.2g}"


def _bars(rollouts: Sequence[Rollout]) -> Iterator[Bars]:
    """The token KL along positions, and how the log-ratios lie."""
    kls = [rollout.token_kl for rollout in rollouts if rollout.token_kl is not None]
    longest = max(map(len, kls), default=0)
    if longest:
        width = -(-longest // MOST_BARS)
        starts = range(0, longest, width)
        within = [np.concatenate([kl[start : start + width] for kl in kls]) for start in starts]
        names = [f"{start + 1}" if width == 1 else f"{start + 1}–{min(start + width, longest)}" for start in starts]
        yield Bars(
            title="Token KL by position",
            note="Mean over the sequences that are as long.",
            x="new token",
            y="nats a token",
            labels=tuple(names),
            heights=np.array([part.mean() if part.size else np.nan for part in within]),
        )
    ratios = np.concatenate([np.empty(0), *(_log_ratio(rollout)[_counted(rollout)] for rollout in rollouts)])
    ratios = ratios[np.isfinite(ratios)]
    if ratios.size > 1 and ratios.min() < ratios.max():
        counts, edges = np.histogram(ratios, bins=40)
        yield Bars(
            title="Log-ratios of the drawn tokens",
            note=(
                f"log q − log p of {ratios.size:,} tokens, from {ratios.min():.3g} to {ratios.max():.3g}; half of them "
                f"between {np.quantile(ratios, 0.25):.2g} and {np.quantile(ratios, 0.75):.2g}. Bars are of log(1 + n)."
            ),
            x="log-ratio, nats",
            y="log(1 + tokens)",
            labels=tuple(
                f"{a:.3g} to {b:.3g}: {n:,} tokens" for a, b, n in zip(edges, edges[1:], counts, strict=False)
            ),
            heights=np.log1p(counts),
        )


def _log_ratio(rollout: Rollout) -> Float64:
    return np.asarray(rollout.column("logprobs") - rollout.column("ref_logprobs"), np.float64)


def _counted(rollout: Rollout) -> np.ndarray:
    return np.ones(rollout.length, bool) if rollout.mask is None else np.asarray(rollout.mask, bool)


def _passages(found: Comparison, rollouts: Sequence[Rollout]) -> Passages:
    by_prompt: dict[int | str, list[Rollout]] = {}
    for rollout in rollouts:
        by_prompt.setdefault(rollout.prompt_id or 0, []).append(rollout)
    groups = list(by_prompt)[:MOST_PROMPTS]
    chosen = _chosen([by_prompt[name] for name in groups])
    shown = sum(map(len, chosen))
    of = "every prompt" if len(groups) == len(by_prompt) else f"the first {len(groups):,} prompts"
    which = "all" if shown == len(rollouts) else f"{shown:,}, some of {of} as far as there is room,"
    channels = CHANNELS if any(r.behavior_logprobs is not None for r in rollouts) else CHANNELS[:4]
    return Passages(
        title="Token by token",
        note=f"Of {len(rollouts):,} sequences {which} are here. Choose a prompt, then read; darker is more.",
        channels=channels,
        groups=tuple(_group(found, name, by_prompt[name]) for name in groups),
        unit="nats a sequence",
        passages=tuple(
            Passage(number, f"sample {rollout.sample}", _texts(found, rollout), _values(rollout, len(channels)))
            for number, several in enumerate(chosen)
            for rollout in several
        ),
    )


def _chosen(groups: Sequence[Sequence[Rollout]]) -> list[list[Rollout]]:
    """The first sequence of every group, then the second, as far as there is room."""
    chosen: list[list[Rollout]] = [[] for _ in groups]
    sequences = tokens = 0
    for turn in range(max(map(len, groups), default=0)):
        for own, kept in zip(groups, chosen, strict=True):
            if turn < len(own) and sequences < MOST_SEQUENCES and tokens + own[turn].length <= MOST_TOKENS:
                kept.append(own[turn])
                sequences, tokens = sequences + 1, tokens + own[turn].length
    return chosen


def _group(found: Comparison, name: int | str, rollouts: Sequence[Rollout]) -> PassageGroup:
    """A prompt: its mean exact KL, or where there is none of the log-ratio."""
    sums = [
        float(np.sum((_log_ratio(one) if one.token_kl is None else one.token_kl)[_counted(one)])) for one in rollouts
    ]
    number = int(name) if isinstance(name, int) else -1
    text = found.hotspots.texts.get(number) or f"prompt {number + 1 if number >= 0 else name}"
    return PassageGroup(text, float(np.mean(sums)), len(rollouts))


def _texts(found: Comparison, rollout: Rollout) -> tuple[str, ...]:
    return tuple(found.words.get(token, f"[{token}]") for token in rollout.tokens or range(rollout.length))


def _values(rollout: Rollout, channels: int) -> Float64:
    q, p = rollout.column("logprobs"), rollout.column("ref_logprobs")
    missing = np.full(rollout.length, np.nan)
    drawn = rollout.behavior_logprobs
    rows = (
        missing if rollout.token_kl is None else rollout.token_kl,
        q - p,
        np.exp(q),
        np.exp(p),
        missing if drawn is None else q - drawn,
    )
    return np.where(_counted(rollout), np.array(rows[:channels], np.float64), np.nan)


def _facts(settings: Record) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, str | int | float | bool):
            yield name.replace("_", " "), str(value)
