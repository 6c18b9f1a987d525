"""A comparison as a page that is looked through: the answer first, then prompts, positions and single tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from kullback.documents import Bars, Block, Cell, Document, Facts, Heading, Link, Note, Number, Record, Table, Verdict
from kullback.errors import InputError
from kullback.jobs.estimates import Row, quoted
from kullback.jobs.excerpts import excerpts
from kullback.jobs.passages import groups_shown, log_ratio, name_of, passages_of
from kullback.jobs.shown import MOST_SEQUENCES as MOST_SEQUENCES
from kullback.jobs.spread import spread_of, tail_of
from kullback.rollouts import Rollout

if TYPE_CHECKING:
    from kullback.jobs.outcomes import Comparison

MOST_BARS = 64

QUOTE = " ◂ quote this"
"""Behind the estimator whose number is to be quoted."""


def comparison_page(found: Comparison) -> Document:
    """The document of a comparison with an answer before it, and behind it what a page can show and a terminal not."""
    document = found.document()
    own = [rollout for rollout in found.rollouts if rollout.sampled_from == "policy"]
    row = _quoted(found)
    shown = [block if row is None else _marked(block, row) for block in document.blocks]
    blocks: list[Block] = [*_answer(row), *_next(found, row), *shown]
    if row is not None:
        blocks += _influential(found, row, own)
    blocks += [*_positions(own), *_ratios(own)]
    if own:
        blocks.append(passages_of(found, own))
    blocks += [Heading("What reproduces this", level=2), Facts(tuple(_facts(found.settings)), tone="plain")]
    return Document(title=document.title, subtitle=document.subtitle, blocks=tuple(blocks))


def _quoted(found: Comparison) -> Row | None:
    cut = found.settings.get("top_k") != 0 or found.settings.get("top_p") != 1
    try:
        return quoted(found.rows, truncated=cut)
    except InputError:
        return None


def _answer(row: Row | None) -> Iterator[Verdict]:
    """The row to quote, in a sentence."""
    if row is None:
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


def _next(found: Comparison, row: Row | None) -> Iterator[Note]:
    """What to do with it, in words."""
    if row is None:
        return
    one, said = row.per_sequence, []
    if not found.complete:
        said.append("The run did not come to its end: start it again, with --resume where it had workers.")
    if one.warnings:
        said.append("Mind the warnings first: they say what the number cannot bear.")
    if one.given_prompts is None:
        said.append("Draw two samples or more of each prompt, and the error for these very prompts is known too.")
    elif isfinite(row.sequences_for_one_percent) and row.sequences_for_one_percent > one.n:
        said.append(
            f"To know it for these prompts to ±1% draw about {row.sequences_for_one_percent:,.0f} sequences of them "
            f"(here {one.n:,})."
        )
    if isfinite(row.prompts_for_one_percent) and row.prompts_for_one_percent > one.clusters:
        said.append(
            f"For prompts like these to ±1% about {row.prompts_for_one_percent:,.0f} prompts are needed (here "
            f"{one.clusters:,}): more samples of the same ones do not help."
        )
    said.append("Then read the sequences that move it most, and the prompts that are farthest apart, token by token.")
    yield Note(" ".join(said), tone="hint")


def _marked(block: Block, row: Row) -> Block:
    """The table of estimates with the one to quote named in it."""
    name = row.per_sequence.estimator + (" (sequence)" if row.per_sequence.level == "sequence" else "")
    if not isinstance(block, Table) or block.title != _title(row):
        return block
    rows = tuple(
        (f"{cells[0]}{QUOTE}", *cells[1:]) if str(cells[0]).split(" [")[0] == name else cells for cells in block.rows
    )
    return replace(block, rows=rows)


def _title(row: Row) -> str:
    from kullback.jobs.outcomes import TITLES  # it imports this module

    return TITLES[row.direction]


def _influential(found: Comparison, row: Row, own: Sequence[Rollout]) -> Iterator[Table]:
    """The sequences that move the answer most, each with a link to where it is read."""
    moved = [one for one in row.per_sequence.influential if one.row < len(own)]
    if not moved:
        return
    places = {id(rollout): place for place, rollout in enumerate(r for g in groups_shown(found, own) for r in g.shown)}
    prompts = {int(own[one.row].prompt_id or 0) for one in moved if not isinstance(own[one.row].prompt_id, str)}
    texts = excerpts(found.hotspots.texts, [p for p in sorted(prompts) if p in found.hotspots.texts], 60)
    rows: list[tuple[Cell, ...]] = []
    for one in moved:
        rollout = own[one.row]
        name = name_of(rollout)
        place = places.get(id(rollout))
        sample: Cell = name if place is None else Link(name, f"passage={place}&token={one.token}")
        prompt = rollout.prompt_id if isinstance(rollout.prompt_id, int) else -1
        word = found.words.get((rollout.tokens or [-1] * rollout.length)[one.token], "")
        token = f"{one.token + 1}: {word!r}" if word else f"{one.token + 1}"
        rows.append((texts.get(prompt, str(rollout.prompt_id)), sample, token, Number(one.change, "+.2g")))
    yield Table(
        title="Sequences that move it most",
        note=(
            f"change: what {row.per_sequence.estimator} would lose without the sequence, nats a sequence. "
            "token: where most of it stands."
        ),
        columns=("prompt", "sequence", "token", "change"),
        rows=tuple(rows),
        right=("change",),
    )


def _positions(rollouts: Sequence[Rollout]) -> Iterator[Bars]:
    """The token KL along positions."""
    kls = [rollout.token_kl for rollout in rollouts if rollout.token_kl is not None]
    longest = max(map(len, kls), default=0)
    if not longest:
        return
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


def _ratios(rollouts: Sequence[Rollout]) -> Iterator[Block]:
    """How the log-ratios of the drawn tokens lie, and their tail."""
    ratios = np.concatenate([np.empty(0), *(log_ratio(rollout)[rollout.counted] for rollout in rollouts)])
    yield from spread_of(ratios, title="Log-ratios of the drawn tokens", what="log q − log p", unit="tokens")
    if not any(rollout.behavior_logprobs is not None for rollout in rollouts):
        yield from tail_of(ratios)


def _facts(settings: Record) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, str | int | float | bool):
            yield name.replace("_", " "), str(value)
