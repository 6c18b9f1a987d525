"""Audits for people: a table of many, a page of one, on a terminal, as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import StringIO
from math import isfinite, isnan

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kullback.auditing.identify import Identification, name, times
from kullback.auditing.report import CREDIT_WORDS, PLACES, AuditReport, formula, percent
from kullback.auditing.rules import RULES
from kullback.documents import Table as Exhibit
from kullback.report import markdown
from kullback.targets import ZERO

LEGEND = "q is the policy, p the reference, μ what drew the samples; ℓ = log q − log p and r = p/q of one token; nats."
WIDTH = 118


def audit_table(reports: Sequence[AuditReport]) -> Exhibit:
    """One row a function: what it reports, what it follows, and the codes of what was found."""
    return Exhibit(
        title="Audits",
        note=(
            "Exact, over enumerated worlds. “≈” marks what holds where the models are close and not where they are "
            f"far apart. {LEGEND}"
        ),
        columns=("function", "placed", "value", "gradient", "findings"),
        rows=tuple(
            (
                report.subject,
                report.placement + (f", {report.credit.replace('_', ' ')}" if report.placement == "reward" else ""),
                "not audited" if report.failed else short(report.value),
                "–" if report.failed or report.placement == "metric" else short(report.gradient),
                ", ".join(finding.code for finding in report.findings) or "none",
            )
            for report in reports
        ),
    )


def short(found: Identification) -> str:
    """An identification in a few words."""
    target = found.named
    if target is None:
        near = found.errors.get("near", found.relative_error)
        return f"none; nearest {found.nearest.name}, off by {percent(near)} near, {percent(found.relative_error)} far"
    about = "" if found.target is not None else "≈ "
    per = {"sequence": "", "length": " / its length", "width": " / padded width"}[found.per]
    return f"{about}{'0' if target is ZERO else times(found.factor) + target.name}{per}"


def audit_view(reports: Sequence[AuditReport]) -> RenderableType:
    """What a terminal shows: each audit, and a table where there are several."""
    if len(reports) > 3:
        return Group(_rich_table(audit_table(reports)), *_explained(reports), Text(LEGEND, style="dim"))
    pages = [part for report in reports for part in (_page(report), Text())]
    return Group(*pages, Text(LEGEND, style="dim"))


def audit_markdown(reports: Sequence[AuditReport]) -> str:
    """The same as Markdown."""
    parts = [markdown.table(audit_table(reports))] if len(reports) > 1 else []
    for report in reports:
        parts += [f"## {report.subject}, {PLACES[report.placement]}", report.verdict]
        if report.origin:
            parts.append(f"Function {report.origin}.")
        parts += [
            f"- **{f.code} {f.slug}**: {f.message}. {f.why} *Instead*: {_stopped(f.instead)}" for f in report.findings
        ]
        if not report.failed:
            parts.append("\n".join(["| | |", "| --- | --- |", *(f"| {a} | {_cell(b)} |" for a, b in facts(report))]))
    return "\n\n".join([*parts, LEGEND]) + "\n"


def audit_html(reports: Sequence[AuditReport]) -> str:
    """The same as one page of HTML that needs nothing else."""
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True)
    if len(reports) > 1:
        console.print(_rich_table(audit_table(reports)))
    for report in reports:
        console.print(_page(report))
        console.print()
    console.print(Text(LEGEND, style="dim"))
    return console.export_html(inline_styles=True)


def facts(report: AuditReport) -> Iterator[tuple[str, str]]:
    """What was measured, as pairs of words."""
    if report.value.target is None:
        yield "value's error, by world", _errors(report.value)
    if report.placement != "metric" and report.gradient.target is None:
        yield "gradient's error, by world", _errors(report.gradient)
    if report.value.growth:
        yield "value's error, by KL", ", ".join(f"{percent(e)} at {kl:.2g}" for kl, e in report.value.growth)
    for sampler, words in (("off_policy", "samples of another policy"), ("from_reference", "samples of the reference")):
        if sampler in report.values and sampler != report.sampler:
            gradient = f"; gradient {short(report.gradients[sampler])}" if sampler in report.gradients else ""
            yield f"with {words}", f"value {short(report.values[sampler])}{gradient}"
    if report.placement == "reward":
        yield "credit", CREDIT_WORDS[report.credit]
    if (text := formula(report.form)) is not None:
        yield "one token's formula", text
    yield from _numerics(report)
    yield "rows of a batch", report.coupling
    seen = report.treatment
    if seen.length is not None:
        yield "over tokens", {"sum": "sum", "mean": "mean", "other": "neither sum nor mean"}[seen.length]
    if seen.padding is not None:
        yield "padding", seen.padding
    if (used := report.behavior) is not None:
        clip = f", clipped to [{used.low:.3g}, {used.high:.3g}]" if used.low > 0 or isfinite(used.high) else ""
        flow = {True: ", detached", False: ", differentiated", None: ""}[used.detached]
        yield "behaviour log-probs", f"{used.ratio} ratio{clip}{flow}"
    if isfinite(report.edge) and report.edge > 1e-6 and report.value.named is not None:
        yield "where the policy excludes tokens", f"value off by {percent(report.edge)}, as with top-p sampling"


def _numerics(report: AuditReport) -> Iterator[tuple[str, str]]:
    found = report.numerics
    if report.form is None or report.form.kernel is None:
        return
    lost = "never" if isnan(found.lost_below) else f"below {found.lost_below:.1g} nats"
    yield "float32 off by more than 1%", lost
    if not isnan(found.overflow):
        yield "float32 overflows", f"from {found.overflow:.3g} nats on"
    if found.bfloat16_failed:
        yield "bfloat16", "fails"
    elif not isnan(found.bfloat16_error):
        yield "bfloat16 error", f"up to {percent(found.bfloat16_error)}"


def _errors(found: Identification) -> str:
    undone = "" if found.weight == "sequence" else f", each sequence multiplied back by its {found.weight}"
    return f"to {name(found.nearest)}{undone}: " + ", ".join(
        f"{percent(e)} {world}" for world, e in found.errors.items()
    )


def _page(report: AuditReport) -> RenderableType:
    parts: list[RenderableType] = [Text(f"{report.subject}, {PLACES[report.placement]}", style="bold")]
    if report.origin:
        parts.append(Text(report.origin, style="dim"))
    if report.failed:
        parts += _findings(report)
        return Group(*parts)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    sentences = report.verdict.split(" Instead: ")
    grid.add_row("verdict", Text(sentences[0], style="green" if not report.findings else "yellow"))
    if len(sentences) > 1:
        grid.add_row("instead", Text(sentences[1], style="cyan"))
    parts += [Padding(grid, (1, 0, 1, 0)), *_findings(report)]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(style="dim", overflow="fold")
    for words, value in facts(report):
        table.add_row(words, Text(value))
    return Group(*parts, table)


def _findings(report: AuditReport) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for finding in report.findings:
        words = Text.assemble(
            f"{finding.message[0].upper()}{finding.message[1:]}.",
            (f"\n{finding.why}", "dim"),
            (f"\nInstead: {finding.instead}", "dim cyan"),
        )
        parts += [Text(f"{finding.code} {finding.slug}", style="bold red"), Padding(words, (0, 0, 1, 6))]
    return parts


def _explained(reports: Sequence[AuditReport]) -> Iterator[Text]:
    """A line for every code in a table."""
    for code in dict.fromkeys(sorted(finding.code for report in reports for finding in report.findings)):
        yield Text.assemble((code, "bold red"), f"  {RULES[code].title}")
    yield Text()


def _rich_table(table: Exhibit) -> Table:
    drawn = Table(title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        drawn.add_column(column, overflow="fold", no_wrap=column == table.columns[0])
    for row in table.rows:
        drawn.add_row(*map(Text, row))
    return drawn


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _stopped(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
