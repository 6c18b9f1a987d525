"""Audits for people: a page of one, a table of many, as documents that any face can draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import isfinite, isnan

from kullback.auditing import words
from kullback.auditing.options import Sampler
from kullback.auditing.report import Audited, AuditReport, Finding
from kullback.auditing.rules import RULES
from kullback.documents import (
    Block,
    Chart,
    Code,
    Document,
    Facts,
    Heading,
    Item,
    Note,
    Panel,
    Series,
    Table,
    Verdict,
)

LEGEND = Note(words.LEGEND, tone="quiet")

OTHER_SAMPLERS: tuple[Sampler, ...] = ("off_policy", "from_reference")

READ_AT_ONCE = 3
"""Audits that a terminal shows in full; of more it shows the table."""


def page(report: AuditReport) -> Document:
    """One audit: the verdict, what to do instead, what was found, and what was measured."""
    return Document(title=report.title, subtitle=report.origin, blocks=(*_body(report), *_legend([report])))


def overview(reports: Sequence[AuditReport]) -> Document:
    """What fits a terminal: each audit, or a table with a line for every code where there are more than a few."""
    if len(reports) <= READ_AT_ONCE:
        return _pages(reports)
    return Document(title="", blocks=(audit_table(reports), *_codes(reports), *_legend(reports)))


def book(reports: Sequence[AuditReport]) -> Document:
    """Everything: a table of several audits, and each of them."""
    return _pages(reports, *([audit_table(reports)] if len(reports) > 1 else []))


def _pages(reports: Sequence[AuditReport], *before: Block) -> Document:
    if len(reports) == 1:
        return page(reports[0])
    return Document(title="", blocks=(*before, *_chapters(reports), *_legend(reports)))


def comment(reports: Sequence[AuditReport]) -> Document:
    """What fits a comment on a pull request: a page of a few, the table and a line for every code of many."""
    return book(reports) if len(reports) <= READ_AT_ONCE else overview(reports)


def site(reports: Sequence[AuditReport]) -> Document:
    """A page for a browser: everything, how errors grow, and the rules that its codes lead to."""
    whole = book(reports)
    title = whole.title or f"{len(reports)} audits of KL code"
    return replace(whole, title=title, blocks=(*whole.blocks, *_pictures(reports), *_rules(reports)))


def _legend(reports: Sequence[AuditReport]) -> Iterator[Block]:
    """What letters and words stand for, of the words that are used."""
    yield LEGEND
    said = " ".join(text for report in reports for text in (report.answer, *(f.message for f in report.findings)))
    if used := [f"{word}: {meaning}" for word, meaning in words.FOOTNOTES.items() if word in said]:
        yield Note(". ".join(used) + ".", tone="quiet")


def growth(reports: Sequence[AuditReport]) -> Chart | None:
    """Relative error against the distance of the models, of what is no target's."""
    series = [
        Series.of(f"{report.subject}: {what}", found.growth)
        for report in reports
        if not report.failed
        for what, found in (("value", report.value), ("gradient", report.gradient))
        if found.growth
    ][:8]
    if not series:
        return None
    panel = Panel(
        title="Error by the distance of the models",
        x="KL(q‖p), nats a sequence",
        y="relative error to the nearest target",
        series=tuple(series),
        log="xy",
    )
    return Chart("growth", "Exact, as the same two models move apart; a run starts at the left.", (panel,))


def _pictures(reports: Sequence[AuditReport]) -> Iterator[Block]:
    if chart := growth(reports):
        yield Heading("How errors grow")
        yield chart


def _rules(reports: Sequence[AuditReport]) -> Iterator[Block]:
    """The rules whose codes were found, each where a link finds it."""
    codes = sorted({finding.code for report in reports for finding in report.findings})
    if codes:
        yield Heading("The rules")
    for code in codes:
        rule = RULES[code]
        yield Heading(f"{rule.code} {rule.slug}: {rule.title}", level=3, anchor=code.lower())
        yield Note(f"{rule.checks} {rule.why}")
        yield Code(rule.example)
        yield Note(f"Instead: {words.stopped(rule.instead)}", tone="hint")


def audit_table(reports: Sequence[AuditReport]) -> Table:
    """One row a function: what it reports, what it follows, and the codes of what was found."""
    return Table(
        title="Audits",
        note=(
            "Exact, over enumerated worlds. “≈” marks what holds where the models are close and not where they are "
            "far apart."
        ),
        columns=("function", "verdict", "placed", "value", "gradient", "findings"),
        rows=tuple(
            (
                report.subject + (" (default)" if report.default else ""),
                report.status,
                report.placement + (f", {report.credit.replace('_', ' ')}" if report.options.credited else ""),
                "not audited" if report.failed else words.short(report.value),
                "–" if report.failed or report.placement == "metric" else words.short(report.gradient),
                ", ".join(_main_first(report)) or "none",
            )
            for report in reports
        ),
    )


def _main_first(report: AuditReport) -> list[str]:
    """The codes of a report's findings, the one that matters most first."""
    return list(dict.fromkeys(f.code for f in (*((report.main,) if report.main else ()), *report.findings)))


def _chapters(reports: Sequence[AuditReport]) -> Iterator[Block]:
    for report in reports:
        yield Heading(report.title)
        if report.origin:
            yield Note(report.origin, tone="quiet")
        yield from _body(report)


def _codes(reports: Sequence[AuditReport]) -> Iterator[Block]:
    """A line for every code in a table, with the functions that it is found in; and what parameters got."""
    found: dict[str, list[str]] = {}
    subjects = {report.subject for report in reports}
    for report in reports:
        for finding in report.findings:
            found.setdefault(finding.code, []).append(report.subject)
    if found:
        yield Facts(tuple((code, RULES[code].title + _several(found[code], len(subjects))) for code in sorted(found)))
    wirings = dict.fromkeys(_wired(report) for report in reports if report.wiring)
    if wirings:
        yield Facts(tuple(("parameters", text) for text in wirings), tone="quiet")


def _several(subjects: Sequence[str], count: int) -> str:
    """Where a code is found, of several functions: up to three names, and how many more there are."""
    names = list(dict.fromkeys(subjects))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return "" if count == 1 else f" ({', '.join(names[:3])}{more})"


def _wired(report: AuditReport) -> str:
    return ", ".join(f"{name} → {column}" for name, column in report.wiring.items())


def _body(report: AuditReport) -> Iterator[Block]:
    if not isinstance(report, Audited):
        yield Verdict(words.NOT_AUDITED, tone="bad")
        yield from map(_item, report.findings)
        if report.wiring:
            yield Facts((("parameters", _wired(report)),), tone="quiet")
        return
    if report.findings:
        yield Verdict(f"{report.status.capitalize()}. {report.answer}", tone="warning")
        yield Note(f"Instead: {report.instead}", tone="hint")
    else:
        yield Verdict(f"Ok. {report.verdict}", tone="good")
    # What matters most first, the others in the order of their codes.
    yield from map(_item, sorted(report.findings, key=lambda finding: finding is not report.main))
    for repair in report.repairs:
        yield Note(words.sentence(words.repaired(repair, report.placement)), tone="hint")
    for note in report.notes:
        yield Note(words.sentence(note), tone="quiet")
    yield Facts(tuple(_measured(report)), tone="quiet")


def _item(finding: Finding) -> Item:
    notes = [Note(finding.why, tone="quiet"), Note(f"Instead: {words.stopped(finding.instead)}", tone="hint")]
    if finding.note:
        notes.append(Note(words.stopped(finding.note), tone="quiet"))
    return Item(f"{finding.code} {finding.slug}", words.sentence(finding.message), tuple(notes))


def _measured(report: Audited) -> Iterator[tuple[str, str]]:
    """What was measured, as pairs of words."""
    yield "parameters", _wired(report)
    yield from _errors(report)
    yield from _other_samplers(report)
    if report.options.credited:
        yield "credit", words.CREDITS[report.credit]
    if (text := words.one_token_formula(report.form)) is not None:
        yield "one token's formula", text
        yield from _numerics(report)
    yield "rows of a batch", report.conduct.coupling
    if report.masking.length is not None:
        yield "over tokens", words.LENGTHS[report.masking.length]
    if report.masking.padding is not None:
        yield "padding", report.masking.padding
    if report.weighting is not None:
        yield "behaviour log-probs", words.importance_ratio(report.weighting)
    edge = report.limits.edge
    if isfinite(edge) and edge > 1e-6 and report.value.named is not None:
        yield "where the policy excludes tokens", f"value off by {words.percent(edge)}, as with top-p sampling"

    if report.unexamined:
        yield "not examined", "; ".join(report.unexamined)


def _errors(report: Audited) -> Iterator[tuple[str, str]]:
    if report.value.target is None:
        yield "value's error, by world", words.errors_by_world(report.value)
    if report.placement != "metric" and report.gradient.target is None:
        yield "gradient's error, by world", words.errors_by_world(report.gradient)
    for aspect, distance in report.meant.items():
        if distance.most > 1e-6:
            yield f"{aspect} to what is meant, {words.name(distance.target)}", words.away(distance)
    if report.value.growth:
        yield "value's error, by KL", ", ".join(f"{words.percent(e)} at {kl:.2g}" for kl, e in report.value.growth)


def _other_samplers(report: Audited) -> Iterator[tuple[str, str]]:
    for sampler in OTHER_SAMPLERS:
        if sampler in report.values and sampler != report.sampler:
            gradient = f"; gradient {words.short(report.gradients[sampler])}" if sampler in report.gradients else ""
            yield f"with samples of {words.SAMPLES[sampler]}", f"value {words.short(report.values[sampler])}{gradient}"


def _numerics(report: Audited) -> Iterator[tuple[str, str]]:
    found = report.numerics
    lost = "never" if isnan(found.lost_below) else f"below {found.lost_below:.1g} nats"
    yield "float32 off by more than 1%", lost
    if not isnan(found.overflow):
        yield "float32 overflows", f"from {found.overflow:.3g} nats on"
    if found.bfloat16_failed:
        yield "bfloat16", "fails"
    elif not isnan(found.bfloat16_error):
        yield "bfloat16 error", f"up to {words.percent(found.bfloat16_error)}"
