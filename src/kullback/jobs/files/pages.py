"""What an estimate from files has to say to people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import nan

from kullback.documents import (
    Block,
    Cell,
    Chart,
    Document,
    Facts,
    Interval,
    Note,
    Number,
    Panel,
    Series,
    Table,
    Tone,
    Verdict,
    text_of,
)
from kullback.estimation import Estimate
from kullback.jobs.files.ledger import Group
from kullback.jobs.files.outcome import FilesEstimate, Grouping, Moved, names_of
from kullback.jobs.files.places import Found
from kullback.jobs.files.sources import LAWS, laws_of, rounded_as
from kullback.jobs.files.tally import Answer

MOST_GROUPS = 24
"""Groups that a table shows: of more, those with the largest values; JSON and the picture have all."""

NAMED = 5
"""Groups that a sentence names."""

LINE = 56
"""Characters shown of a row's text."""


def document_of(found: FilesEstimate) -> Document:
    """The answer, its table, what was read, groups and their picture, the rows behind it, what the words mean."""
    return Document(
        title=names_of(found.sources),
        subtitle=_read(found),
        blocks=(
            *_verdict(found),
            *([Note(found.joined)] if found.joined else []),
            *_answers(found.answers),
            *(Note(sentence, tone="warning") for sentence in _warnings(found.answers)),
            *(Note(sentence, tone="warning") for sentence in found.notes),
            *([Note(found.bracket.sentence)] if found.bracket else []),
            *_carry(found.answers),
            *_laws(found),
            *(block for grouping in found.groupings for block in _grouping(grouping)),
            *_rows(found.influential),
            Note(_glossary(found), tone="quiet"),
        ),
    )


def _read(found: FilesEstimate) -> str:
    prompts = "" if found.prompts is None else f" of {counted(found.prompts, 'prompt')}"
    clustered = ", prompts not known" if found.prompts is None else ""
    formats = ", ".join(dict.fromkeys(source.format for source in found.sources))
    files = "" if len(found.sources) == 1 else f"{len(found.sources):,} files, "
    where = f", {found.where}" if found.where else ""
    rows = f"{counted(found.sequences, 'sequence')}{prompts}, {counted(found.tokens, 'token')}{clustered}{where}"
    return f"{files}{formats}: {rows}; {found.seconds:.1f} s"


def counted(number: int, word: str) -> str:
    """So many of something."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _verdict(found: FilesEstimate) -> Iterator[Block]:
    answer = found.main
    if answer is None or answer.main is None:
        return
    main = answer.main
    interval = text_of(Interval(*main.interval()))
    error = f", 95% interval {interval}" if main.clusters > 1 else "; of one sequence no error can be given"
    if found.greedy:
        value = f"Along greedy tokens {answer.question.title} would read {main.rounded} nats a {main.unit}{error}."
        yield Verdict(f"{value} That is no KL, which needs tokens that were sampled.", "warning")
        return
    tone: Tone = "warning" if answer.unreliable else "plain"
    value = f"{answer.question.title} is {main.rounded} nats a {main.unit}{error}."
    yield Verdict(f"{value} It says {answer.question.meaning}.", tone)


def _warnings(answers: Sequence[Answer]) -> Iterator[str]:
    """Each doubt once, after the KLs that it is of."""
    of: dict[str, list[str]] = {}
    for answer in answers:
        for found in answer.estimates.values():
            for warning in found.warnings:
                titles = of.setdefault(warning, [])
                titles += [] if answer.question.title in titles else [answer.question.title]
    every = len({answer.question.title for answer in answers if answer.main})
    for warning, titles in of.items():
        yield warning if len(titles) == every > 1 else f"{', '.join(titles)}: {warning}"


def _answers(answers: Sequence[Answer]) -> Iterator[Table]:
    units = [unit for unit in ("token", "sequence") if any(unit in answer.estimates for answer in answers)]
    many = len({answer.main.estimator for answer in answers if answer.main}) > 1
    rows = tuple(tuple(_answer(answer, units, many)) for answer in answers if answer.main)
    right = (f"nats/{units[0]}", "95% interval", "here", *(f"nats/{unit}" for unit in units[1:]))
    yield Table(title="", note="", columns=("KL", *right), rows=rows, right=right)


def _answer(answer: Answer, units: Sequence[str], many: bool) -> Iterator[Cell]:
    estimates = {str(unit): found for unit, found in answer.estimates.items()}
    by = f" by {answer.main.estimator}" if many and answer.main else ""
    yield f"{answer.question.title}{by}{'' if answer.drawn else '*'}"
    main = estimates.get(units[0])
    given = None if main is None else main.given_prompts
    yield Number(nan) if main is None else main.rounded
    yield Number(nan) if main is None else Interval(*main.interval())
    yield Number(nan if given is None else given.stderr, ".2g")
    if len(units) > 1:
        other = estimates.get(units[1])
        yield Number(nan) if other is None else other.rounded


def _carry(answers: Sequence[Answer]) -> Iterator[Table]:
    """How many sequences each number rests on, and how heavy its tail is."""
    right = ("sequences", "effective", "k̂", "χ² a token")
    rows = [
        (
            f"{answer.question.title}{'' if answer.drawn else '*'}",
            Number(found.n, ",.0f"),
            Number(found.ess, ",.4g"),
            Number(found.khat, ".2f"),
            Number(nan) if answer.chi2 is None else answer.chi2.rounded,
        )
        for answer in answers
        if (found := answer.main) is not None
    ]
    yield Table(title="What the numbers rest on", note="", columns=("KL", *right), rows=tuple(rows), right=right)


def _laws(found: FilesEstimate) -> Iterator[Facts]:
    """The law and the rounding of each column."""
    rows: list[tuple[str, Cell]] = []
    for side in ("policy", "reference", "sampler"):
        laws = laws_of(found.sources, side)
        rounded = rounded_as(found.sources, side)
        if laws:
            said = "; ".join(LAWS[law] for law in laws)
            rows.append((f"log-probs of the {side}", said + (f", rounded to {rounded}" if rounded else "")))
    yield Facts(tuple(rows), tone="quiet")


def _grouping(grouping: Grouping) -> Iterator[Block]:
    groups = grouping.groups
    if len(groups) < 2:
        return
    shown = groups if len(groups) <= MOST_GROUPS else _largest(groups)
    apart = {groups[place].value for place in grouping.standing.apart}
    unit = f"nats/{grouping.unit}"
    right = (unit, "95% interval", "sequences")
    yield Table(
        title=f"{grouping.title} by {grouping.name}",
        note=" ".join(_group_notes(grouping, shown)),
        columns=(grouping.name, *right),
        rows=tuple(
            (
                _value(group) + (" ≠" if group.value in apart else ""),
                group.found.rounded,
                Interval(*group.found.interval()),
                Number(group.found.n, ",.0f"),
            )
            for group in shown
        ),
        right=right,
    )
    if grouping.name == "step":
        yield _picture(grouping)


def _largest(groups: Sequence[Group]) -> Sequence[Group]:
    """Those with the largest values, in their own order."""
    values = sorted((group.found.value for group in groups), reverse=True)
    return [group for group in groups if group.found.value >= values[MOST_GROUPS - 1]][:MOST_GROUPS]


def _group_notes(grouping: Grouping, shown: Sequence[Group]) -> Iterator[str]:
    groups = grouping.groups
    if len(shown) < len(groups):
        yield f"The {len(shown)} largest of {len(groups):,}."
    yield standing_sentence(grouping)
    if grouping.name == "position" and grouping.unit == "sequence":
        yield "Nats that these positions add to a sequence that reaches them."


def standing_sentence(grouping: Grouping) -> str:
    """What looking at so many groups at once tells."""
    judged, total = grouping.standing.judged, len(grouping.groups)
    if not judged:
        return "Too few sequences a group to tell any of them apart."
    named = [str(grouping.groups[place].value) for place in grouping.standing.apart]
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    of = f"of {judged} groups" if judged == total else f"of {judged} groups that can be judged ({total:,} in all)"
    found = f"{len(named)} {of} stand apart from the rest (≠: {', '.join(named[:NAMED])}{more})"
    return (
        f"{found if named else f'None {of} stands apart from the rest'}, by a test that allows for looking at {judged} "
        f"(Holm, 5%); of {judged} intervals of 95%, {0.05 * judged:.2g} miss by chance."
    )


def _value(group: Group) -> str:
    if group.value is None:
        return "(none)"
    return f"{group.value:g}" if isinstance(group.value, float) else str(group.value)


def _picture(grouping: Grouping) -> Chart:
    """The value by step, and its interval."""
    known = [(float(g.value), g.found) for g in grouping.groups if isinstance(g.value, int | float)]
    bounds = [(step, found.interval()) for step, found in known]
    points = [(step, found.value) for step, found in known]
    return Chart(
        name=f"{grouping.question}_by_step",
        text=_trend(grouping, known),
        panels=(
            Panel(
                title=f"{grouping.title} by step",
                x="step",
                y=f"nats/{grouping.unit}",
                series=(
                    Series.of("value", points),
                    Series.of("95% interval", [(step, low) for step, (low, _) in bounds], "dashed"),
                    Series.of("95% interval", [(step, high) for step, (_, high) in bounds], "dashed"),
                ),
            ),
        ),
    )


def _trend(grouping: Grouping, known: Sequence[tuple[float, Estimate]]) -> str:
    if not known:
        return f"{grouping.title} by step: no step is a number"
    (first, start), (last, end) = known[0], known[-1]
    top, largest = max(known, key=lambda pair: pair[1].value)
    return (
        f"{grouping.title} goes from {start.rounded} at step {first:g} to {end.rounded} at step {last:g} "
        f"nats/{grouping.unit}; the largest is {largest.rounded} at step {top:g}."
    )


def _rows(influential: Sequence[Moved]) -> Iterator[Table]:
    if len(influential) < 2:
        return
    right = ("token", "change")
    yield Table(
        title=f"Rows that move {influential[0].title} most",
        note="change: what the estimate would lose without the row. token: where most of it stands, from 0.",
        columns=("where", "text", *right),
        rows=tuple(
            (
                "" if moved.found is None else _where(moved.found),
                "" if moved.found is None else _clipped(moved.found.text),
                Number(moved.token, ".0f"),
                Number(moved.change, "+.2g"),
            )
            for moved in influential
        ),
        right=right,
    )


def _where(found: Found) -> str:
    step = "" if found.step is None else f", step {found.step}"
    return f"{found.file.rpartition('/')[2]}, row {found.row}{step}"


def _clipped(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LINE else text[: LINE - 1] + "…"


def _glossary(found: FilesEstimate) -> str:
    """The words above, for those who meet them first."""
    clusters = "sequences" if found.prompts is None else "prompts"
    said = [
        f"±: one standard error; it and the interval are for {clusters} drawn anew.",
        "here: the standard error for these very prompts." if found.prompts is not None else "",
        "*: another law drew the tokens, and the rows were weighted to correct for it."
        if any(not answer.drawn for answer in found.answers)
        else "",
        "effective: as many unweighted sequences would do (ESS).",
        "k̂: how heavy the tail is; from 0.7 on, means are not to be trusted.",
        "r and p/q: the second law's probability of a token over the first's; χ²: the mean square of p/q − 1.",
        "policy: the model as the trainer scored it. sampler: what drew the tokens. reference: what the policy is held "
        "to.",
    ]
    return " ".join(sentence for sentence in said if sentence)
