"""Results as rich tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import floor, isfinite, isnan, log10
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from kullback.documents import Table as Exhibit
from kullback.estimation.means import Share
from kullback.estimation.result import Estimate
from kullback.jobs.comparison import Comparison
from kullback.jobs.estimates import Row
from kullback.jobs.text import TextComparison

TITLES = {
    "reverse": "KL(policy‖reference), sampled from the policy",
    "forward": "KL(reference‖policy), sampled from the reference",
}


def comparison(found: Comparison) -> RenderableType:
    """Estimates in both directions, where the models differ, and what to be careful about."""
    parts: list[RenderableType] = [_heading(found)]
    for direction in TITLES:
        rows = [row for row in found.rows if row.direction == direction]
        if rows:
            parts += [_estimates(TITLES[direction], rows), *_warnings(rows), Text()]
    return Group(*parts, _prompts(found), _positions(found), _sites(found), _explained(found))


def text_comparison(found: TextComparison) -> RenderableType:
    """Token KLs on a text, their quantiles and how often the models agree."""
    title = f"{escape(found.policy)} against {escape(found.reference)} on {found.tokens:,} tokens of text"
    table = _table(title, ("over the tokens of the text",), ("value", "95% interval"))
    table.add_row("mean KL(reference‖policy), nats a token", _value(found.forward), _interval(found.forward))
    table.add_row("mean KL(policy‖reference), nats a token", _value(found.reverse), _interval(found.reverse))
    for level, value in found.quantiles.items():
        name = "largest" if level == 1 else f"{100 * level:g}% quantile"
        table.add_row(f"{name} of KL(reference‖policy)", f"{value:.4g}", "")
    table.add_row(
        "same most likely token",
        f"{100 * found.same_top.value:.2f}%",
        _interval(found.same_top, scale=100, unit="%"),
    )
    table.add_row("RMS Δp of the text's tokens", f"{100 * found.rms_delta_p:.3f}%", "")
    table.add_row("mean Δp (policy − reference)", f"{100 * found.mean_delta_p:+.3f}%", "")
    table.add_row("perplexity, policy", f"{found.perplexity:.4f}", "")
    table.add_row("perplexity, reference", f"{found.ref_perplexity:.4f}", "")
    note = Text(
        f"{found.windows} windows of {found.settings['context_length']} tokens; errors clustered by "
        f"{found.settings['clustered_by']}; {found.seconds:.1f} s",
        style="dim",
    )
    return Group(table, note)


def _heading(found: Comparison) -> Text:
    s = found.settings
    sampled = f"temperature {s['temperature']:g}, top-p {s['top_p']:g}, top-k {s['top_k'] or 'off'}"
    return Text.from_markup(
        f"[bold]{escape(found.policy)}[/] against [bold]{escape(found.reference)}[/]: {len(found.rollouts)} sequences "
        f"of {s['prompts']} prompts, {found.tokens:,} tokens, {found.seconds:.1f} s\n"
        f"[dim]{sampled}, at most {s['max_new_tokens']} new tokens; policy log-probs {s['policy_logprobs']}, "
        f"reference log-probs {s['reference_logprobs']}; errors clustered by prompt[/]"
    )


def _explained(found: Comparison) -> Text:
    return Text(
        "var/k1: variance against k1 on the same samples. n for ±1%: sequences at which the 95% interval would be "
        "±1% of the value. Where models differ is by the exact KL of their next-token distributions, in nats.",
        style="dim",
    )


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _estimates(title: str, rows: list[Row]) -> Table:
    notes = list(_notes(rows))
    columns = ("nats/sequence", "95% interval", "nats/token", "var/k1", "n for ±1%")
    table = _table(title, ("estimator", "level"), columns)
    for row in rows:
        marks = "".join(f" [{n}]" for n, warning in enumerate(notes, 1) if warning in row.per_sequence.warnings)
        table.add_row(
            escape(row.per_sequence.estimator + marks),
            row.per_sequence.level,
            _value(row.per_sequence),
            _interval(row.per_sequence),
            _value(row.per_token),
            _number(row.relative_variance, ".3g"),
            _number(row.sequences_for_one_percent, ",.0f"),
        )
    return table


def _notes(rows: list[Row]) -> Iterator[str]:
    """Every different warning, in the order of the rows."""
    yield from dict.fromkeys(warning for row in rows for warning in row.per_sequence.warnings)


def _warnings(rows: list[Row]) -> Iterator[Text]:
    for number, warning in enumerate(_notes(rows), 1):
        yield Text(f"[{number}] {warning}", style="yellow")


def _prompts(found: Comparison) -> Table:
    table = _table("Prompts where the models differ most", ("prompt",), ("nats/sequence", "sequences"))
    for _, text, mean, count in found.hotspots.top_prompts():
        table.add_row(_clip(text, 60), f"{mean:.3f}", str(count))
    return table


def _positions(found: Comparison) -> Table:
    table = _table("Positions where they differ most", (), ("new token", "nats/token", "sequences"))
    for position, mean, count in found.hotspots.top_positions():
        table.add_row(str(position + 1), f"{mean:.4f}", str(count))
    return table


def _sites(found: Comparison) -> Table:
    left = ("after", "drawn", "policy prefers", "reference prefers")
    table = _table("Tokens where they differ most", left, ("q(drawn)", "p(drawn)", "token KL"))
    for site in found.hotspots.top_sites(8):
        table.add_row(
            _clip(site.context, 40, keep_end=True),
            *(escape(repr(text)) for text in (site.token, site.top, site.ref_top)),
            f"{site.probability:.3f}",
            f"{site.ref_probability:.3f}",
            f"{site.token_kl:.3f}",
        )
    return table


def _value(estimate: Estimate) -> str:
    text = str(estimate)
    return text[: text.index(" ± " if isnan(estimate.stderr) else " nats/")]


def _interval(estimate: Estimate | Share, scale: float = 1.0, unit: str = "") -> str:
    low, high = (scale * bound for bound in estimate.interval())
    if isnan(low):
        return "–"
    digits = _digits(high - low)
    return f"[{low:.{digits}f}{unit}, {high:.{digits}f}{unit}]".replace("[", "\\[")


def _digits(width: float) -> int:
    """Decimals that show an interval to about two digits of its width."""
    return 2 if not isfinite(width) or width <= 0 else min(8, max(2, 1 - floor(log10(width))))


def _number(number: float, form: str) -> str:
    return format(number, form) if isfinite(number) else "–"


def _clip(text: str, width: int, *, keep_end: bool = False) -> str:
    text = " ".join(text.split())
    if len(text) > width:
        text = "…" + text[-width + 1 :] if keep_end else text[: width - 1] + "…"
    return escape(text)


def family_table(table: Exhibit) -> RenderableType:
    """A table that is data already: of estimators, of an experiment."""
    narrow = table.narrow()
    drawn = _table(narrow.title, (), ())
    for name in narrow.columns:
        right = name in narrow.right
        drawn.add_column(name, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in narrow.rows:
        drawn.add_row(*map(escape, row))
    return Group(drawn, Text(table.note, style="dim"))


def experiment(found: Any) -> RenderableType:
    """The tables of an experiment."""
    return Group(*(part for table in found.tables() for part in (family_table(table), Text())))
