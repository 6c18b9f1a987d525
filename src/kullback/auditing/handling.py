"""What a function does with batches as they really are: padding on either side, holes, garbage, types of masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from kullback.arrays import Float64
from kullback.auditing.subject.failures import CallFailed
from kullback.auditing.subject.subject import MASK_TYPES, MaskType, Subject
from kullback.auditing.subject.tensors import differentiate
from kullback.auditing.worlds import Setting, columns

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Columns, Tensor

SETTING = Setting("batches", "rows as trainers pad them", 3, 3, 1.2, 0.9)
WIDTH = 6
RIGHT = (0, 1, 2)
HOLES = (1, 3, 4)
"""Where the three tokens of a row lie: at the front, or after a prompt and around a tool's token."""

NORMAL = {"ref_logprobs": -0.2, "behavior_logprobs": -2.9, "ref_log_distributions": -1.0}
MODERATE = (
    {"logprobs": -7.7, **NORMAL, "token_kl": 3.3, "reverse_token_kl": 2.2, "log_distributions": -2.0},
    {"logprobs": -0.1, "ref_logprobs": -3.3, "behavior_logprobs": -0.4, "ref_log_distributions": -0.3},
)
"""What padding may hold: log-probs like any other."""

USUAL = {value for filling in MODERATE for name, value in filling.items() if name.endswith("log_distributions")}

FAR = {
    "−1e10 for the policy": {"logprobs": -1e10, "log_distributions": -1e10},
    "−1e10 for the reference": {"ref_logprobs": -1e10, "ref_log_distributions": -1e10},
    "−1e10 for what drew the samples": {"behavior_logprobs": -1e10},
    "the least float32 for both": {"logprobs": -3.4e38, "ref_logprobs": -3.4e38},
}
"""What trainers fill padding with."""

WORST = {
    "−inf for both": {"logprobs": -np.inf, "ref_logprobs": -np.inf},
    "nan": {"logprobs": np.nan, "ref_logprobs": np.nan},
}
"""What nothing but a selection survives."""

LEAVES = (
    "logprobs",
    "ref_logprobs",
    "behavior_logprobs",
    "token_kl",
    "reverse_token_kl",
    "log_distributions",
    "ref_log_distributions",
)


@dataclass(frozen=True)
class Handling:
    """Facts; None or nothing where there is nothing to see.

    Attributes:
        reads_mask: whether the mask has any effect.
        leaks: whether log-probs in masked places, like any other, change what counts.
        holes, left: whether masked places between counted tokens, or before them, change what counts.
        poisoned_by: the first of the fillings of trainers that makes the result another one, or no number.
        broken_by: the same of −inf and nan, which only a selection survives.
        mask_types: types of masks with which the result is silently another one.
        empty: whether a row in which nothing counts makes the result no number.
    """

    reads_mask: bool | None = None
    leaks: bool | None = None
    holes: bool | None = None
    left: bool | None = None
    poisoned_by: str = ""
    broken_by: str = ""
    mask_types: tuple[MaskType, ...] = ()
    empty: bool = False


@dataclass(frozen=True)
class Arrangement:
    """How the rows of a batch are laid out.

    Attributes:
        places: where the tokens of a row lie.
        fill: what the columns hold elsewhere; 0 if nothing is said.
        left: whether rows end at the end instead.
        unmasked: whether the mask leaves out a first token and one in between, to see whether it is read.
        width: places of a row.
        empty: whether nothing counts in the first row.
    """

    places: tuple[int, ...] = RIGHT
    fill: Mapping[str, float] = field(default_factory=dict)
    left: bool = False
    unmasked: bool = False
    width: int = WIDTH
    empty: bool = False


def handling(subject: Subject, tolerance: float, *, coupled: bool = False) -> Handling:
    """Look at a batch of four rows, and at the same rows laid out in other ways.

    Of a function that couples rows only the value has to stay: a baseline at each place is another one where rows
    lie elsewhere, and as good.
    """
    if subject.level == "sequence" or subject.layout != "padded":
        return Handling()
    try:
        plain = outcome(subject, Arrangement())
    except CallFailed:
        return Handling()

    def changes(arrangement: Arrangement) -> bool | None:
        try:
            other = outcome(subject, arrangement)
        except CallFailed:
            return None
        moved = coupled and (arrangement.left or arrangement.places != RIGHT)
        return not (_same(plain[:1], other[:1], tolerance) if moved else _same(plain, other, tolerance))

    def first(fillings: Mapping[str, Mapping[str, float]]) -> str:
        return next((name for name, fill in fillings.items() if changes(Arrangement(fill=fill))), "")

    leaks = any(changes(Arrangement(fill=fill)) for fill in MODERATE)
    takes_mask = "mask" in subject.columns
    return Handling(
        reads_mask=changes(Arrangement(unmasked=True)) if takes_mask else None,
        leaks=leaks,
        holes=changes(Arrangement(HOLES, MODERATE[0])) if takes_mask else None,
        left=changes(Arrangement(left=True, fill=MODERATE[0])) if takes_mask else None,
        poisoned_by="" if leaks or not takes_mask else first(FAR),
        broken_by="" if leaks or not takes_mask else first(WORST),
        mask_types=_mask_types(subject, plain, tolerance) if takes_mask else (),
        empty=takes_mask and _spoilt_by_an_empty_row(subject),
    )


def _spoilt_by_an_empty_row(subject: Subject) -> bool:
    """Whether a row in which nothing counts makes any result or any slope no number."""
    try:
        return not all(bool(np.isfinite(found).all()) for found in outcome(subject, Arrangement(empty=True)))
    except CallFailed:
        return False


def _mask_types(subject: Subject, plain: list[Float64], tolerance: float) -> tuple[MaskType, ...]:
    found, own = [], subject.mask_type
    for kind in MASK_TYPES:
        if kind == own:
            continue
        try:
            subject.mask_type = kind
            if not _same(plain, outcome(subject, Arrangement()), tolerance):
                found.append(kind)
        except CallFailed:
            pass
        finally:
            subject.mask_type = own
    return tuple(found)


@cache
def rows_of_every_length() -> dict[str, Tensor]:
    """Columns of four rows of one, two and three tokens, drawn by another policy."""
    found = columns(SETTING, "off_policy")
    lengths = found["mask"].sum(-1)
    chosen = [int((lengths == n).nonzero()[i, 0]) for n, i in ((1, 0), (2, 1), (3, 2), (3, 5))]
    return {name: array[chosen].detach() for name, array in found.items()}


def outcome(subject: Subject, arrangement: Arrangement) -> list[Float64]:
    """What counts of the result, and its derivatives in what counts of the columns."""
    base = rows_of_every_length()
    leaves = {name: base[name].clone().requires_grad_() for name in LEAVES}
    given, index = _laid_out(base, leaves, arrangement)
    result = subject(given).double()
    where = given["mask"].bool() if arrangement.empty else index
    values = result[where] if subject.kind == "token" else result.reshape(-1)
    slopes = differentiate(values.sum(), list(leaves.values()))
    return [values.detach().numpy(), *(slope.detach().double().numpy() for slope in slopes)]


def _laid_out(
    base: Columns, leaves: Columns, arrangement: Arrangement
) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """The columns of an arrangement, and where the counted tokens lie, row after row."""
    import torch

    mask = base["mask"]
    rows, time = mask.nonzero(as_tuple=True)
    width = arrangement.width
    places = time + (width - mask.sum(-1))[rows] if arrangement.left else torch.tensor(arrangement.places)[time]
    index = (rows, places)

    def lay(name: str, array: Tensor) -> Tensor:
        fill = arrangement.fill.get(name, 0.0)
        empty = torch.full((len(mask), width, *array.shape[2:]), fill, dtype=array.dtype)
        if array.ndim == 3 and fill in USUAL:
            # Logits of words that are all equal would be one distribution for both models.
            empty = empty + torch.cos(torch.arange(array.shape[2], dtype=array.dtype) + fill)
        return empty.index_put(index, array[mask])

    given = {name: lay(name, array) for name, array in leaves.items()}
    given["tokens"] = lay("tokens", base["tokens"])
    given["log_ratio"] = given["logprobs"] - given["ref_logprobs"]
    given["ratio"] = (given["logprobs"] - given["behavior_logprobs"]).exp()
    counted = torch.ones(len(rows), dtype=torch.bool)
    if arrangement.unmasked:
        counted[0] = counted[-2] = False
    if arrangement.empty:
        counted &= rows != 0
    given["mask"] = torch.zeros((len(mask), width), dtype=torch.bool).index_put(index, counted)
    return given, index


def _same(plain: list[Float64], other: list[Float64], tolerance: float) -> bool:
    close = max(1e-7, 10 * tolerance)
    return all(
        a.shape == b.shape and np.allclose(a, b, rtol=close, atol=close, equal_nan=True)
        for a, b in zip(plain, other, strict=True)
    )


def without_words(subject: Subject, tolerance: float) -> bool | None:
    """Whether two words that both models exclude change the result of a function of whole distributions."""
    import torch

    if not {"log_distributions", "ref_log_distributions", "distributions"} & subject.columns:
        return None
    base = rows_of_every_length()
    try:
        plain = _of_words(subject, base, 0)
        more = _of_words(subject, base, 2)
    except CallFailed:
        return None
    return not all(
        bool(torch.isfinite(b).all()) and a.shape == b.shape and torch.allclose(a, b, rtol=max(1e-6, 10 * tolerance))
        for a, b in zip(plain, more, strict=True)
    )


def _of_words(subject: Subject, base: Columns, more: int) -> tuple[Tensor, Tensor]:
    """The result, and its derivative in the words that are not excluded, with `more` excluded ones."""
    import torch

    mask = base["mask"]
    live = base["log_distributions"].clone().requires_grad_()
    given = {**base, "mask": mask}
    for name, array in (("log_distributions", live), ("ref_log_distributions", base["ref_log_distributions"])):
        none = torch.full((*array.shape[:2], more), -torch.inf, dtype=array.dtype)
        # What padding holds is another question.
        clean = torch.where(mask[..., None], array, torch.full_like(array, -1.0))
        given[name] = torch.cat([clean, none], -1)
    result = subject(given).double()
    values = result[mask] if subject.kind == "token" else result.reshape(-1)
    return values.detach(), differentiate(values.sum(), [live])[0]
