"""Which columns are written, kept, replaced or compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kullback.errors import InputError
from kullback.jobs.rescoring.entries import Entry
from kullback.rollouts import Metadata, Model, Rollout, Rollouts

EXACT = ("token_kl", "ref_mass")
"""What takes both models' distributions."""

OF_POLICY = ("state", "deviation")
"""What is of the law that drew the tokens, and cannot be made of other models' scores alone."""


@dataclass(frozen=True)
class Additions:
    """What scoring does to rows that have the columns of the first one.

    Attributes:
        given: the columns that models were named for.
        had: those of them that the rows have already.
        overwrite: whether those are replaced.
        exact: whether both models give whole distributions.
        displaces: whether the rows' own log-probs of what drew them, where they are replaced, are kept as those of
            what sampled.
        had_exact: whether the rows have exact token KLs, which are then of their own log-probs.
    """

    given: tuple[str, ...]
    had: tuple[str, ...]
    overwrite: bool = False
    exact: bool = False
    displaces: bool = False
    had_exact: bool = False

    @classmethod
    def of(cls, first: Rollout, given: tuple[str, ...], *, overwrite: bool, exact: bool) -> Additions:
        """By the first row."""
        had = tuple(name for name in given if getattr(first, name) is not None)
        written = given if overwrite else [name for name in given if name not in had]
        return cls(
            given=given,
            had=had,
            overwrite=overwrite,
            exact=exact and len(written) == 2,
            displaces=overwrite and drawn_by(first) in had,
            had_exact=first.token_kl is not None,
        )

    @property
    def written(self) -> tuple[str, ...]:
        """The columns of log-probs that are the models'."""
        return self.given if self.overwrite else tuple(name for name in self.given if name not in self.had)

    def notes(self) -> Iterator[str]:
        """What became of columns that were there."""
        if self.displaces:
            yield "the file's log-probs of what drew the tokens are kept as behavior_logprobs, and weigh the estimates"
        if self.had_exact and self.written and not self.exact:
            yield (
                "the file's token_kl and ref_mass were left out, since they are of other log-probs than now stand "
                "beside them: they come with --policy and --reference where both columns are the models'"
            )
        if len(self.given) == 2 and self.had and not self.overwrite and not self.had_exact:
            yield (
                "no exact token KLs were written, since they would be of other log-probs than the file's: "
                "--overwrite-columns (overwrite_columns=True) takes the models' for both"
            )

    @property
    def all_written(self) -> tuple[str, ...]:
        """Those, and the exact ones."""
        return (*self.written, *(EXACT if self.exact else ()))

    def check(self, rollout: Rollout) -> None:
        """Hold a row against the first one: a column half of a file and half of a model has no law.

        Raises:
            InputError: it has a column that the first lacks, or lacks one.
        """
        for name in self.given:
            if not self.overwrite and (getattr(rollout, name) is not None) != (name in self.had):
                has, lacks = (
                    ("the first row has", "this one lacks") if name in self.had else ("this row has", "the first lacks")
                )
                raise InputError(
                    f"{has} {name} and {lacks} it: --overwrite-columns (overwrite_columns=True) takes the model's"
                )

    def applied(self, entry: Entry, scores: Mapping[str, np.ndarray]) -> Rollout:
        """The row with its new columns."""
        rollout = entry.rollout
        changed: dict[str, Any] = {name: scores[name] for name in self.written}
        if self.written:  # what stood there was of other log-probs
            changed |= {name: scores[name] if self.exact else None for name in EXACT}
            changed |= dict.fromkeys(OF_POLICY)
        drew = drawn_by(rollout)
        if entry.text:
            changed["behavior_logprobs"] = None
        elif self.displaces and drew in self.written:
            changed["behavior_logprobs"] = getattr(rollout, drew)
        return replace(rollout, **changed)

    def described(
        self, rollouts: Rollouts, models: Mapping[str, tuple[Model, Any]], notes: tuple[str, ...]
    ) -> Metadata:
        """What the written file says about itself; `models` has each column's model and its law."""
        said = rollouts.metadata
        roles = {"logprobs": "policy", "ref_logprobs": "reference", "behavior_logprobs": "behavior"}
        held = {name: getattr(said, role) for name, role in roles.items()}
        law, quantum = dict(said.law), dict(said.quantum)
        if self.displaces:
            moved = [name for name in self.written if name in self.had]
            law["behavior_logprobs"] = law.get(moved[0], "unknown") if len(moved) == 1 else "unknown"
            held["behavior_logprobs"] = held[moved[0]] if len(moved) == 1 else None
            if moved[0] in quantum:
                quantum["behavior_logprobs"] = quantum[moved[0]]
        for name in self.written:
            held[name], law[name] = models[name]
            quantum.pop(name, None)
        named = {roles[name]: model for name, model in held.items()}
        return Metadata(**named, law=law, quantum=quantum, notes=(*said.notes, *notes))


def drawn_by(rollout: Rollout) -> str:
    """The column of what drew a row, as far as it says."""
    if rollout.behavior_logprobs is not None:
        return "behavior_logprobs"
    return "ref_logprobs" if rollout.sampled_from == "reference" else "logprobs"
