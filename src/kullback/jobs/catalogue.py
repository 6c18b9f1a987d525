"""Every estimator, surrogate and target: what it is, whose gradient it follows, how noisy it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from kullback.documents import Document, Number, Record, Table, text_of
from kullback.estimators import ESTIMATORS, LEVELS, Estimator, Promise
from kullback.oracle import reference_world, relative_gradient_variance, relative_variance
from kullback.surrogates import SURROGATES, Surrogate
from kullback.targets import TARGETS, Target

WORLDS = ("near", "apart")


@dataclass(frozen=True)
class Catalogue:
    """The families' tables, computed by enumeration on exact worlds."""

    tables: tuple[Table, ...]

    def to_dict(self) -> Record:
        """Every member as a record of the words of its row."""
        return {
            table.title.lower(): [dict(zip(table.columns, map(text_of, row), strict=True)) for row in table.rows]
            for table in self.tables
        }

    def document(self) -> Document:
        """The tables, one after another."""
        return Document("Estimators and surrogates", self.tables)


def catalogued() -> Catalogue:
    """Every member of every family."""
    return Catalogue((estimator_table(), surrogate_table(), target_table()))


def estimator_table() -> Table:
    """Every estimator at every level."""
    worlds = [reference_world(name) for name in WORLDS]
    return Table(
        title="Estimators",
        note=(
            "A function k of ℓ = log q − log p of samples of the policy, applied to every token and summed, or to "
            "the summed ℓ of a sequence. What its mean is; whose gradient it follows in the loss, and detached in "
            "the reward; whether it is ever negative; Var/mean² of one sequence, exact, in two worlds (fitted "
            "coefficients at their best)."
        ),
        columns=("estimator", "k", "level", "mean", "in the loss", "in the reward", "≥ 0", *_variance_columns()),
        rows=tuple(
            (
                estimator.name,
                _formula(estimator),
                level,
                _target(estimator.value_of[level]),
                _target(estimator.loss_gradient_of[level]),
                _target(estimator.reward_gradient_of[level]),
                "yes" if estimator.nonnegative else "no",
                *(Number(relative_variance(world, estimator, level), ".3g") for world in worlds),
            )
            for estimator, level in _levels()
        ),
        wide=("k",),
    )


def surrogate_table() -> Table:
    """Every surrogate, by what drew the rows."""
    return Table(
        title="Surrogates",
        note=(
            "Losses as trainers write them, differentiated with the samples held fixed. Mean and gradient for rows "
            "drawn from the policy, from another policy μ, and from the reference; trace of the gradient's "
            "covariance over ‖∇KL(q‖p)‖² for one on-policy sequence, exact, in two worlds."
        ),
        columns=("surrogate", "formula", "where", "mean", "gradient", "≥ 0", *_variance_columns(), "found in"),
        rows=tuple(
            (
                surrogate.name,
                surrogate.formula,
                surrogate.placement,
                _cases(surrogate.value_of),
                _cases(surrogate.gradient_of),
                "yes" if surrogate.nonnegative else "no",
                *(Number(_gradient_variance(name, surrogate), ".3g") for name in WORLDS),
                surrogate.source,
            )
            for surrogate in SURROGATES
        ),
        wide=("formula", "found in"),
    )


def target_table() -> Table:
    """Every named target."""
    return Table(
        title="Targets",
        note="What estimates and gradients are compared with. q is the policy, p the reference, μ what drew the rows.",
        columns=("target", "what it is"),
        rows=tuple((target.name, target.formula) for target in TARGETS),
    )


def _levels() -> Iterator[tuple[Estimator, str]]:
    for estimator in ESTIMATORS:
        yield from ((estimator, level) for level in LEVELS if estimator.link is None or level == "sequence")


@cache  # 2.7 s for the table
def _gradient_variance(world: str, surrogate: Surrogate) -> float:
    return relative_gradient_variance(reference_world(world, torch=True), surrogate.fn)[0]


def _variance_columns() -> tuple[str, ...]:
    return tuple(f"var, {name}" for name in WORLDS)


def _formula(estimator: Estimator) -> str:
    base = estimator.formula.removesuffix(".").split(". ")[0].split(":")[0]
    return " + ".join([base, *(f"c·({control.formula})" for control in estimator.controls)])


def _target(target: Target | None) -> str:
    return "none" if target is None else target.name


def _cases(promise: Promise) -> str:
    """Policy / another / reference, once where all three are the same."""
    targets = [_target(promise[case]) for case in promise]
    return targets[0] if len(set(targets)) == 1 else " / ".join(targets)
