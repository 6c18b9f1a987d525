"""What has to be said beside the numbers: what was left out, what is missing, what they cannot show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kullback.jobs.files.dumps import Dump
from kullback.jobs.files.joined import Joined
from kullback.jobs.files.outcome import Grouping
from kullback.jobs.files.sieve import Counts
from kullback.jobs.files.sources import Source, drawing_notes, echo_notes, floor_notes, law_notes
from kullback.jobs.files.tally import Answer

NAMED = 3
"""Files or records that a sentence names."""


def notes_of(
    counts: Counts,
    sources: Sequence[Source],
    answers: Sequence[Answer],
    groupings: Sequence[Grouping],
    *,
    prompts_known: bool,
) -> tuple[str, ...]:
    """Sentences, the ones that change how a number is read first."""
    said = [
        *drawing_notes(sources, answers),
        *echo_notes(sources),
        *floor_notes(sources, answers),
        *(sentence for answer in answers for sentence in law_notes(sources, answer.question)),
        *(answer.unreliable for answer in answers if answer.unreliable),
        *(_refusal(answer) for answer in answers if answer.refused),
        *_counted(counts, prompts_known),
        *_alone(groupings),
    ]
    return tuple(dict.fromkeys(said))


def dump_notes(dump: Dump | Joined) -> Iterator[str]:
    """What the files say about their columns, and what of them was not read."""
    files = dump.files if isinstance(dump, Dump) else (*dump.drew.files, *dump.scored.files)
    yield from dict.fromkeys(note for file in files for note in file.metadata.notes)
    if dump.left_out:
        named, more = ", ".join(dump.left_out[:NAMED]), len(dump.left_out) - NAMED
        yield f"left out, in no format that is known: {named}{f' and {more:,} more' if more > 0 else ''}"
    if dump.bad:
        more = len(dump.bad) - NAMED
        yield (
            f"--skip-bad left out {len(dump.bad):,} records that cannot be read: {'; '.join(dump.bad[:NAMED])}"
            f"{f'; and {more:,} more' if more > 0 else ''}"
        )


def _refusal(answer: Answer) -> str:
    return f"{answer.question.title} cannot be given by reweighting: {answer.refused}"


def _counted(counts: Counts, prompts_known: bool) -> Iterator[str]:
    """What rows lack, or why some do not count."""
    if missing := counts.endings.missing:
        yield (
            f"the token that ended it is not counted in {missing:,} of {counts.rows:,} sequences: its part of the KL "
            "is missing from every number"
        )
    if counts.unmasked:
        yield (
            f"{counts.unmasked:,} of {counts.rows:,} sequences end in log-probs of exactly 0 by every law, which look "
            "like padding that is counted: name the mask with --map mask=THEIRS, or every number a token is too small"
        )
    if counts.rows > 1 and not prompts_known:
        yield (
            "prompts are not known, and each sequence counts as one of a prompt of its own: where several answer one "
            "prompt, the errors are too small"
        )
    if counts.elsewhere:
        yield f"--where left out {counts.elsewhere:,} rows"
    if counts.empty:
        yield f"{counts.empty:,} rows without a counted token were left out"
    if counts.alone and counts.alone < counts.rows:
        yield f"{counts.alone:,} of {counts.rows:,} rows have the log-probs of one law alone, and take no part"
    if counts.bad:
        more = counts.bad - len(counts.bad_named)
        yield (
            f"--skip-bad left out {counts.bad:,} rows that cannot be right: {'; '.join(counts.bad_named)}"
            f"{f'; and {more:,} more' if more else ''}"
        )


def _alone(groupings: Sequence[Grouping]) -> Iterator[str]:
    """A column that was asked for and has one value."""
    for grouping in groupings:
        if len(grouping.groups) < 2:
            yield f"--by {grouping.name}: all rows have the same value"
