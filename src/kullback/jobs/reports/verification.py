"""What a report claims beside what its files say: which numbers agree, which differ, and what nobody looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from kullback.documents import Block, Document, Note, Record, Table, Verdict
from kullback.errors import shown
from kullback.jobs.reports.again import Again
from kullback.jobs.reports.claims import digest, from_folder

Standing = Literal["verified", "differs", "not verified"]

CLOSE, NEAR = 1e-4, 1e-6
"""Relative, and absolute in nats: files hold log-probs in float32, by which estimates of 320 sequences move 1e-6."""

UNTOLD = ("report", "seconds", "gate", "notes", "file", "path", "origin")
"""Fields that are no claim of a number: how long it took, where it lay."""

MOST_SHOWN = 12


@dataclass(frozen=True)
class Check:
    """One thing that a report claims.

    Attributes:
        what: in words.
        standing: whether it is so.
        said: what came, and what was expected or why it was not looked at.
    """

    what: str
    standing: Standing
    said: str = ""


@dataclass(frozen=True)
class Verification:
    """What `kullback verify` found.

    Attributes:
        path: of the report.
        kind: the command that wrote it.
        checks: everything that was looked at, or was not.
    """

    path: str
    kind: str
    checks: tuple[Check, ...]

    @property
    def differs(self) -> bool:
        """Whether something is not as it is claimed."""
        return any(check.standing == "differs" for check in self.checks)

    @property
    def computed(self) -> bool:
        """Whether numbers were computed once more, and not only files compared."""
        return any(check.standing == "verified" and check.what.startswith("numbers") for check in self.checks)

    @property
    def status(self) -> int:
        """Of the command: 0 what was computed again agrees, 1 something differs, 2 no number could be computed."""
        return 1 if self.differs else 0 if self.computed else 2

    def to_dict(self) -> Record:
        """What ``--json`` prints."""
        verdict = {0: "verified", 1: "differs", 2: "not verified"}[self.status]
        checks = [{"what": one.what, "standing": one.standing, "said": one.said} for one in self.checks]
        return {"report": self.path, "kind": self.kind, "verdict": verdict, "checks": checks}

    def document(self) -> Document:
        """The verdict, and every check."""
        texts = {
            0: "Verified: the numbers come out again from the files.",
            1: "Not as it claims: something differs.",
            2: "Not verified: no number could be computed again.",
        }
        tones: Mapping[int, Any] = {0: "good", 1: "bad", 2: "warning"}
        rows = tuple((check.what, check.standing, check.said) for check in self.checks)
        blocks: tuple[Block, ...] = (
            Verdict(texts[self.status], tones[self.status]),
            Table("", "", ("what", "standing", "how"), rows),
            Note(
                "What is not verified is neither right nor wrong: nobody looked. Numbers agree where they are within "
                f"{CLOSE:g} of each other, or {NEAR:g}.",
                tone="quiet",
            ),
        )
        return Document(title=f"{self.path}, of kullback {self.kind}", blocks=blocks)


def verified(path: Path, record: Record, again: Again | str) -> Verification:
    """Hold a report against its files and against numbers that were computed again.

    Args:
        path: of the report.
        record: what it says.
        again: the numbers; or why there are none.
    """
    report, folder = record["report"], path.parent
    checks = [*_files(report, folder), *_numbers(record, again)]
    return Verification(str(path), report["kind"], tuple(checks))


def unchanged(report: Record, folder: Path) -> bool:
    """Whether every file that a report rests on is there, and is what it was."""
    return all(check.standing == "verified" for check in _resting(report, folder))


def _files(report: Record, folder: Path) -> Iterator[Check]:
    yield from _resting(report, folder)
    for name, wanted in report.get("beside", {}).items():
        yield _same(folder / Path(name).name, wanted, "as it was written", "changed since it was written")


def _resting(report: Record, folder: Path) -> Iterator[Check]:
    for one in report.get("rests_on", ()):
        yield _same(folder / one["path"], one["sha256"], "what the numbers rest on", "another file than it was")


def _same(path: Path, wanted: str, same: str, other: str) -> Check:
    what = f"file {from_folder(path, path.parent) if path.parent else path}"
    if not path.is_file():
        return Check(what, "not verified", "it is not there")
    return Check(what, "verified", same) if digest(path) == wanted else Check(what, "differs", other)


def _numbers(record: Record, again: Again | str) -> Iterator[Check]:
    if isinstance(again, str):
        yield Check("numbers", "not verified", again)
        return
    agreed, apart = 0, []
    for place, claim, found in _pairs(record, again.numbers, ""):
        if _close(claim, found):
            agreed += 1
        else:
            apart.append(Check(place, "differs", f"claimed {_said(claim)}, computed {_said(found)}"))
    yield Check("numbers", "verified" if agreed and not apart else "differs", f"{agreed:,} agree: {again.how}")
    yield from apart[:MOST_SHOWN]
    if len(apart) > MOST_SHOWN:
        yield Check("more", "differs", f"and {len(apart) - MOST_SHOWN:,} more numbers")
    yield from (Check(left.split(":")[0], "not verified", left.partition(":")[2].strip()) for left in again.left)


def _pairs(claim: Any, found: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """What is claimed and what was computed, leaf by leaf; only of what was computed."""
    if isinstance(found, Mapping):
        for name, value in found.items():
            if name not in UNTOLD:
                inner = claim.get(name) if isinstance(claim, Mapping) else None
                yield from _pairs(inner, value, f"{place}.{name}" if place else str(name))
    elif isinstance(found, Sequence) and not isinstance(found, str):
        listed = claim if isinstance(claim, Sequence) and not isinstance(claim, str) else []
        if len(listed) != len(found):
            yield f"{place}: how many", len(listed), len(found)
        for number, (one, value) in enumerate(zip(listed, found, strict=False)):
            yield from _pairs(one, value, f"{place}[{_name(one, number)}]")
    else:
        yield place, claim, found


def _name(one: Any, number: int) -> str:
    """What tells an entry from the others for people."""
    if not isinstance(one, Mapping):
        return str(number)
    words = [str(one[key]) for key in ("kl", "direction", "estimator", "level", "unit", "group") if key in one]
    return " ".join(words) or str(number)


def _close(claim: Any, found: Any) -> bool:
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (claim, found))
    if not numbers or not isfinite(claim) or not isfinite(found):
        return bool(claim == found)
    return bool(abs(claim - found) <= max(CLOSE * max(abs(claim), abs(found)), NEAR))


def _said(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else shown(value)
