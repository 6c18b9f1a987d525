"""What was scored so far, and what is to be said of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kullback.jobs.rescoring.agreement import Agreement
from kullback.jobs.rescoring.entries import Entry
from kullback.rollouts import Rollouts

NAMED = 3
"""Rows that a sentence names."""

SAMPLER = "behavior_logprobs"


@dataclass
class Tally:
    """Counts that grow row by row.

    Attributes:
        rows, tokens: that were written; tokens that were scored.
        empty: texts without a completion, left out.
        bad: rows that were left out since they cannot be scored, and why.
        texts: rows that were read from texts.
        lost: those of them whose end is lost.
        respelled: those that come out otherwise when their tokens are written.
        agreements: of the file's columns with the models' scores.
    """

    rows: int = 0
    tokens: int = 0
    empty: int = 0
    bad: list[str] = field(default_factory=list)
    texts: int = 0
    lost: int = 0
    respelled: int = 0
    agreements: dict[str, Agreement] = field(default_factory=dict)

    def add(self, entry: Entry, scores: Mapping[str, np.ndarray], models: Mapping[str, str]) -> None:
        """Count a scored row; `models` are named by their columns."""
        self.rows += 1
        self.tokens += len(entry.completion)
        for name, model in models.items():
            self._compare(entry, name, scores[name], model)
        if "logprobs" in models:  # what drew the tokens beside what was trained on them
            self._compare(entry, SAMPLER, scores["logprobs"], models["logprobs"])
        if entry.text:
            self.texts += 1
            self.lost += entry.rollout.missing_end
            self.respelled += entry.respelled

    def _compare(self, entry: Entry, name: str, scored: np.ndarray, model: str) -> None:
        held = entry.held(name)
        if held is not None:
            agreement = self.agreements.get(name, Agreement(name, model))
            self.agreements[name] = agreement.plus(held, scored, entry.rollout.counted)

    def notes(self, rollouts: Rollouts) -> Iterator[str]:
        """What the numbers do not say themselves."""
        yield from self._text_notes()
        yield from (agreement.note for agreement in self.agreements.values() if agreement.note)
        if self.empty:
            yield f"{self.empty:,} texts with an empty completion were left out"
        bad = [*self.bad, *rollouts.bad]
        if bad:
            yield f"{len(bad):,} rows that cannot be scored were left out: {_named(bad, '; ')}"
        if rollouts.left_out:
            yield f"left out, in no format that is known: {_named(rollouts.left_out, ', ')}"

    def _text_notes(self) -> Iterator[str]:
        if self.lost:
            yield (
                f"{self.lost:,} of {self.texts:,} texts do not end in an end token: if one was drawn, its part of the "
                "KL is missing"
            )
        if self.respelled:
            yield (
                f"{self.respelled:,} of {self.texts:,} completions come out otherwise when their tokens are written "
                "again: what was scored is not quite what was sampled"
            )


def _named(names: Sequence[str], between: str) -> str:
    more = f"{between}and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{between.join(names[:NAMED])}{more}"
