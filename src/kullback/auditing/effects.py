"""What has an effect on a function's result: the reference, each token of either model, a token that is equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from kullback.arrays import Float64
from kullback.auditing.handling import rows_of_every_length
from kullback.auditing.one_model import both_tempered, mixed_laws, of_one_model, reads_raw_logits, scaled_logits
from kullback.auditing.probes import Probe, same
from kullback.auditing.subject.columns import BEHAVIOR, PROCESSED, REFERENCE
from kullback.auditing.subject.failures import CallFailed
from kullback.auditing.subject.subject import Subject

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Columns, Tensor

Shift = Literal["", "late", "early"]
LONG = 40
"""Tokens of a row in which borders between chunks show."""


@dataclass(frozen=True)
class Effects:
    """Facts; None or nothing where there is nothing to see.

    Attributes:
        reference: whether the reference has any effect on the result.
        behavior: whether what drew the samples has.
        shift: "late" where the policy's token t is compared with the reference's t − 1, "early" with t + 1.
        twice: tokens, counted from 0, that count twice in a row of equal ones.
        bonus: what each token adds where the models agree, whatever it is.
        temperature: how many times the policy's log-prob counts for one of the reference's.
        lost: tokens within a row of equal ones that do not count.
        places: how much the second and the last of a row of equal tokens count for one of the first, where that
            follows their place; None where it does not.
        end: whether a token that ends a row by its number has an effect; None for what takes no tokens.
        mixed: what it gives for one and the same model, a row, where what it takes as processed is after top-p 0.9.
        scaled: by what the policy's logits are divided more than the reference's; 1 but for a temperature on one side.
        tempered: by what the logits of both models are divided, and how many times the result is then taken; None
            but for a temperature on both sides.
        agreeing: what a function of whole distributions gives for one model on both sides, a token or a row.
        raw: whether a constant that is added to all logits of a place changes the result.
    """

    reference: bool | None = None
    behavior: bool | None = None
    shift: Shift = ""
    twice: tuple[int, ...] = ()
    bonus: float = 0.0
    temperature: float = 1.0
    scaled: float = 1.0
    end: bool | None = None
    lost: tuple[int, ...] = ()
    places: tuple[float, float] | None = None
    mixed: float = 0.0
    tempered: tuple[float, float] | None = None
    agreeing: float = 0.0
    raw: bool = False


def effects(probe: Probe) -> Effects:
    """Look at one thing at a time."""
    subject = probe.subject
    reference = _matters(subject, REFERENCE)
    if reference is None and "reference" in subject.wires.models.values():
        reference = False  # A model of the reference that was never called.
    behavior = _matters(subject, BEHAVIOR) if not subject.wires.pair else None
    if PROCESSED & subject.columns:
        return Effects(reference, behavior, mixed=mixed_laws(subject))
    if subject.full:
        return Effects(
            reference,
            behavior,
            scaled=scaled_logits(subject),
            tempered=both_tempered(subject),
            agreeing=of_one_model(subject),
            raw=reads_raw_logits(subject),
        )
    if not probe.possible or subject.level == "sequence" or reference is False:
        return Effects(reference, behavior)
    shift: Shift = ""
    uneven = _Uneven()
    bonus, temperature = 0.0, 1.0
    try:
        shift = _shift(probe)
        uneven = _uneven(probe)
        bonus = _bonus(probe)
        temperature = _temperature(probe)
    except CallFailed:
        pass
    return Effects(
        reference,
        behavior,
        shift,
        uneven.twice,
        bonus,
        temperature,
        end=_end(subject),
        lost=uneven.lost,
        places=uneven.places,
    )


def _end(subject: Subject) -> bool | None:
    """Whether the token that ends a row, of number 0, has any effect."""
    if "tokens" not in subject.columns or not {"logprobs", "log_ratio"} & subject.columns:
        return None
    base = rows_of_every_length()
    row = int((base["mask"].sum(-1) == 2).nonzero()[0, 0])
    try:
        seen = []
        for place in (0, 1):
            moved = {name: array.clone() for name, array in base.items()}
            for name in ("logprobs", "log_ratio"):
                moved[name][row, place] -= 0.3
            pairs = zip(_result(subject, base), _result(subject, moved), strict=True)
            seen.append(not all(bool((a == b).all()) for a, b in pairs))
    except CallFailed:
        return None
    return seen[1] if seen[0] else None


def _matters(subject: Subject, group: frozenset[str]) -> bool | None:
    """Whether other numbers in a group of columns change the result; None where it takes none of them."""
    import torch

    if not group & subject.columns:
        return None
    base = rows_of_every_length()
    index = torch.arange(base["mask"].numel(), dtype=torch.float64).reshape(base["mask"].shape)
    noise = 0.3 + 0.2 * torch.sin(index)

    def other(name: str, array: Tensor) -> Tensor:
        return array - (noise if array.ndim == 2 else noise[..., None] * torch.arange(1.0, 1 + array.shape[-1]))

    try:
        plain, moved = (
            _result(subject, base),
            _result(subject, {name: other(name, array) if name in group else array for name, array in base.items()}),
        )
    except CallFailed:
        return None
    return not all(
        bool(torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))) for a, b in zip(plain, moved, strict=True)
    )


def _result(subject: Subject, given: Columns) -> tuple[Tensor, Tensor]:
    """The result and its derivative in the policy's log-probs."""
    from kullback.auditing.subject.tensors import differentiate

    live = given["logprobs"].clone().requires_grad_()
    result = subject({**given, "logprobs": live})
    return result.detach(), differentiate(result.double().sum(), [live])[0]


@dataclass(frozen=True)
class _Rows:
    """A row of log-probs, and what moving some of them does to the result."""

    probe: Probe
    q: Float64
    p: Float64
    mask: np.ndarray

    @classmethod
    def of(cls, probe: Probe, length: int, width: int, *, turned: bool = False) -> _Rows:
        q, p = np.zeros((1, width)), np.zeros((1, width))
        index = np.arange(length)[:: -1 if turned else 1]
        q[0, :length] = -0.4 - 0.3 * np.cos(1.3 * index)
        p[0, :length] = -1.1 - 0.2 * np.cos(index)
        return cls(probe, q, p, np.arange(width)[None, :] < length)

    def value(self, q: int = -1, p: int = -1, by: float = 0.17) -> float:
        """With the policy's log-prob of one token and the reference's of another moved."""
        moved_q, moved_p = self.q.copy(), self.p.copy()
        if q >= 0:
            moved_q[0, q] -= by
        if p >= 0:
            moved_p[0, p] -= by
        return float(self.probe.at(moved_q, moved_p, mask=self.mask)[0][0])


def _shift(probe: Probe) -> Shift:
    """Whether tokens of different places are compared, in a row as in the same one turned around."""
    found = _shift_of(probe, turned=False)
    # In one of them a middle or a largest token looks like a shift.
    return found if found and found == _shift_of(probe, turned=True) else ""


def _shift_of(probe: Probe, *, turned: bool) -> Shift:
    rows = _Rows.of(probe, 3, 5, turned=turned)
    plain = rows.value()
    of_q = {t for t in range(5) if not same(plain, rows.value(q=t))}
    of_p = {t for t in range(5) if not same(plain, rows.value(p=t))}
    if of_q != of_p and of_q and of_p:
        for name, by in (("late", -1), ("early", 1)):
            if of_p == {(t + by) % 5 for t in of_q}:
                return "late" if name == "late" else "early"
    rows = _Rows.of(probe, 5, 5, turned=turned)
    plain = rows.value()
    if same(plain, rows.value(2, 2)) or same(plain, rows.value(q=2)):
        return _shift_of_ends(rows, plain)
    if same(plain, rows.value(2, 1)):
        return "late"
    return "early" if same(plain, rows.value(2, 3)) else ""


def _shift_of_ends(rows: _Rows, plain: float) -> Shift:
    """The same where moving both by as much never shows, as for k1: by which ends have no effect."""
    first_q, last_q = (not same(plain, rows.value(q=t)) for t in (0, 4))
    first_p, last_p = (not same(plain, rows.value(p=t)) for t in (0, 4))
    if (first_q, last_q, first_p, last_p) == (False, True, True, False):
        return "late"
    return "early" if (first_q, last_q, first_p, last_p) == (True, False, False, True) else ""


@dataclass(frozen=True)
class _Uneven:
    """Tokens that count twice among equal ones, those that do not count, and how much tokens count by their place."""

    twice: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()
    places: tuple[float, float] | None = None


def _uneven(probe: Probe) -> _Uneven:
    """What each token of a row of equal ones counts."""
    long = LONG if probe.subject.kind == "scalar" else 136
    rows = np.full((long + 1, long), -0.9)
    reference = np.full((long + 1, long), -1.6)
    rows[np.arange(long), np.arange(long)] -= 1e-3
    values = probe.at(rows, reference)[0]
    effect = values[:long] - values[long]
    counted = effect[np.abs(effect) > 1e-9]
    usual = float(np.median(counted)) if len(counted) else 0.0
    if not abs(usual) > 1e-9:
        return _Uneven()
    shares = effect / usual
    twice, lost = np.isclose(shares, 2.0, atol=1e-2), np.isclose(shares, 0.0, atol=1e-2)
    if not (twice | lost | np.isclose(shares, 1.0, atol=1e-2)).all():
        return _Uneven(places=_by_place(effect))
    # A first or a last token that is dropped has rules of its own.
    inner = lost & (np.arange(long) > 0) & (np.arange(long) < long - 1)
    return _Uneven(tuple(map(int, np.flatnonzero(twice))), tuple(map(int, np.flatnonzero(inner))))


def _by_place(effect: Float64) -> tuple[float, float] | None:
    """What the second and the last token count for one of the first, where that grows or falls along the row."""
    steps = np.diff(effect / effect[0]) if effect[0] != 0 else np.zeros(0)
    if not len(steps) or not ((steps > 0).all() or (steps < 0).all()):
        return None
    return float(effect[1] / effect[0]), float(effect[-1] / effect[0])


def _bonus(probe: Probe) -> float:
    """What each token adds where the models agree."""
    one, two, four = (float(probe.at(np.full((1, n), -0.9), np.full((1, n), -0.9))[0][0]) for n in (1, 2, 4))
    return one if abs(one) > 1e-5 and same(two, 2 * one) and same(four, 4 * one) else 0.0


def _temperature(probe: Probe) -> float:
    """How many times the policy's log-prob counts for one of the reference's: 1 but for a temperature on one side."""
    step = 1e-4
    policy, reference = np.array([-0.7, -1.6, -2.3]), np.array([-1.9, -0.9, -1.1])
    q = np.concatenate([policy + step, policy - step, policy, policy])
    p = np.concatenate([reference, reference, reference + step, reference - step])
    up_q, down_q, up_p, down_p = probe.at(q[:, None], p[:, None])[0].reshape(4, 3)
    with np.errstate(invalid="ignore"):  # what is infinite on both sides
        change_q, change_p = up_q - down_q, up_p - down_p
    if not (np.isfinite(change_q) & (np.abs(change_p) >= 1e-9)).all():
        return 1.0
    slopes = -change_q / change_p
    found = float(np.mean(slopes))
    return found if np.allclose(slopes, found, rtol=1e-3) and found > 0 and abs(found - 1) > 1e-2 else 1.0
