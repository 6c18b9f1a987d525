"""What two dumps say side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isnan
from pathlib import PurePath

from kullback.displays import Displayed
from kullback.documents import (
    Block,
    Cell,
    Document,
    Heading,
    Interval,
    Note,
    Number,
    Record,
    Table,
    Uncertain,
    Verdict,
    json_of,
    plain,
    text_of,
)
from kullback.estimation import Estimate
from kullback.jobs.files.beside import Pairs
from kullback.jobs.files.outcome import SCHEMA, FilesEstimate, records_of
from kullback.jobs.files.pages import document_of
from kullback.jobs.files.pairing import Difference


@dataclass(frozen=True)
class SideBySide(Displayed):
    """What `estimate_files` found in two dumps.

    The differences are over the prompts that both have, where they share prompts; paired, so that what prompts have
    in common cancels.

    Attributes:
        first, second: what each says.
        differences: second minus first, of every question that both answer.
        done: how they were set beside each other, in words.
        pairs: rows of what differs most, for a page that shows them token by token; None unless they were asked for, or
            where nothing is paired.

    Example:
        >>> import tempfile, kullback as kb
        >>> folder = tempfile.mkdtemp()
        >>> for name, p in (("a", -0.7), ("b", -0.9)):
        ...     rows = [kb.Rollout(logprobs=[-0.5], ref_logprobs=[p], prompt_id=prompt) for prompt in range(3)]
        ...     kb.write_rollouts(f"{folder}/{name}.parquet", rows)
        >>> found = kb.estimate_files([f"{folder}/a.parquet", f"{folder}/b.parquet"])
        >>> found.done
        'Paired by prompt: the difference is over the 3 prompts of both.'
        >>> round(found.differences[0].value, 4)
        0.0516
    """

    first: FilesEstimate
    second: FilesEstimate
    differences: tuple[Difference, ...]
    done: str
    pairs: Pairs | None = field(default=None, repr=False)

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """Of the first dump, then of the second."""
        return (*self.first.estimates, *self.second.estimates)

    def to_dict(self) -> Record:
        """What ``--json`` prints."""
        dumps = {"first": self.first, "second": self.second}
        record = {
            "schema": SCHEMA,
            "done": self.done,
            "differences": [difference.to_dict() for difference in self.differences],
            "estimates": [
                {**record, "dump": name}
                for name, dump in dumps.items()
                for answer in dump.answers
                for record in records_of(answer)
            ],
            "dumps": {name: dump.to_dict() for name, dump in dumps.items()},
        }
        return dict(plain(record))

    def to_json(self, *, indent: int | None = None) -> str:
        """`to_dict` as JSON."""
        return json_of(self.to_dict(), indent=indent)

    def records(self) -> list[Record]:
        """A record for each estimate, of the first dump and of the second."""
        return list(self.to_dict()["estimates"])

    def document(self) -> Document:
        """What it has to say to people."""
        names = short_names(self.first, self.second)
        return Document(
            title=f"{names[0]} beside {names[1]}",
            blocks=(*_verdict(self), Note(self.done), *_differences(self, names), *_each(self, names)),
        )

    def page(self) -> Document:
        """The same with what differs most, token by token."""
        from kullback.jobs.files.side_page import page_of

        return page_of(self)

    def __str__(self) -> str:
        lines = [self.done, *(f"  {one.title} {_words(one)}" for one in self.differences)]
        return "\n".join([*lines, str(self.first), str(self.second)])


def short_names(first: FilesEstimate, second: FilesEstimate) -> tuple[str, str]:
    """The dumps by the last parts of their paths, as many as tell them apart."""
    paths = [PurePath(dump.sources[0].path) for dump in (first, second)]
    if len(first.sources) > 1 or len(second.sources) > 1:
        paths = [path.parent for path in paths] if paths[0].parent != paths[1].parent else paths
    for count in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if names[0] != names[1]:
            return names[0], names[1]
    return "first", "second"


def _words(one: Difference) -> str:
    return f"differs by {Uncertain(one.value, one.stderr)} nats/{one.unit}"


def _verdict(found: SideBySide) -> Iterator[Block]:
    if not found.differences:
        yield Verdict("The two dumps answer no question in common.", "warning")
        return
    one = found.differences[0]
    interval = text_of(Interval(one.low, one.high))
    if one.value == 0 == one.stderr:
        yield Verdict(f"{one.title} is the same in both, to the last digit.")
    elif isnan(one.low):
        yield Verdict(f"{one.title} {_words(one)}, and no error can be given.", "warning")
    elif one.low > 0 or one.high < 0:
        how = "larger" if one.value > 0 else "smaller"
        size = Uncertain(abs(one.value), one.stderr)
        yield Verdict(f"{one.title} is {how} in the second by {size} nats a {one.unit}, 95% interval {interval}.")
    else:
        yield Verdict(f"{one.title} does not tell them apart: it {_words(one)}, 95% interval {interval}.")


def _differences(found: SideBySide, names: tuple[str, str]) -> Iterator[Table]:
    if not found.differences:
        return
    right = (*names, "second − first", "95% interval")
    rows: list[tuple[Cell, ...]] = [
        (
            f"{one.title}, nats/{one.unit}",
            Number(one.first),
            Number(one.second),
            Uncertain(one.value, one.stderr),
            Interval(one.low, one.high),
        )
        for one in found.differences
    ]
    yield Table(title="", note="", columns=("KL", *right), rows=tuple(rows), right=right)


def _each(found: SideBySide, names: tuple[str, str]) -> Iterator[Block]:
    for name, dump in zip(names, (found.first, found.second), strict=True):
        document = document_of(dump)
        yield Heading(name)
        yield Note(document.subtitle, tone="quiet")
        last = dump is found.second
        yield from document.blocks if last else document.blocks[:-1]  # what words mean is said once
