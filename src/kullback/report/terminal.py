"""Results as rich tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from kullback.compare import Comparison, Row
from kullback.results import Estimate
from kullback.textual import TextComparison

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
            parts += [_estimates(TITLES[direction], rows), *_warnings(rows)]
    parts += [_prompts(found), _positions(found), _sites(found)]
    return Group(*parts)


def text_comparison(found: TextComparison) -> RenderableType:
    """Token KLs on a text, their quantiles and how often the models agree."""
    table = Table(
        title=f"{escape(found.policy)} against {escape(found.reference)} on {found.tokens:,} tokens of text",
        title_justify="left",
    )
    table.add_column("over the tokens of the text")
    table.add_column("value", justify="right")
    table.add_column("95% interval", justify="right")
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


def _estimates(title: str, rows: list[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("estimator")
    for name in ("nats/sequence", "95% interval", "nats/token", "variance / k1", "sequences for ±1%"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            f"{row.per_sequence.estimator} ({row.per_sequence.level})" + (" *" if row.per_sequence.warnings else ""),
            _value(row.per_sequence),
            _interval(row.per_sequence),
            _value(row.per_token),
            _number(row.relative_variance, ".3g"),
            _number(row.sequences_for_one_percent, ",.0f"),
        )
    return table


def _warnings(rows: list[Row]) -> Iterator[Text]:
    seen: dict[str, list[str]] = {}
    for row in rows:
        for warning in row.per_sequence.warnings:
            seen.setdefault(warning, []).append(f"{row.per_sequence.estimator} ({row.per_sequence.level})")
    for warning, names in seen.items():
        yield Text(f"* {', '.join(names)}: {warning}", style="yellow")


def _prompts(found: Comparison) -> Table:
    table = Table(title="Prompts where the models differ most", title_justify="left")
    table.add_column("prompt")
    table.add_column("nats/sequence", justify="right")
    table.add_column("sequences", justify="right")
    for _, text, mean, count in found.hotspots.top_prompts():
        table.add_row(_clip(text, 60), f"{mean:.3f}", str(count))
    return table


def _positions(found: Comparison) -> Table:
    table = Table(title="Positions where they differ most", title_justify="left")
    for name in ("position", "nats/token", "sequences"):
        table.add_column(name, justify="right")
    for position, mean, count in found.hotspots.top_positions():
        table.add_row(str(position), f"{mean:.4f}", str(count))
    return table


def _sites(found: Comparison) -> Table:
    table = Table(title="Tokens where they differ most", title_justify="left")
    for name in ("after", "drawn", "q", "p", "policy prefers", "reference prefers"):
        table.add_column(name, justify="right" if name in ("q", "p", "after") else "left")
    table.add_column("nats", justify="right")
    for site in found.hotspots.top_sites(8):
        table.add_row(
            _clip(site.context, 34, keep_end=True),
            _quote(site.token),
            f"{site.probability:.3f}",
            f"{site.ref_probability:.3f}",
            _quote(site.top),
            _quote(site.ref_top),
            f"{site.token_kl:.3f}",
        )
    return table


def _value(estimate: Estimate) -> str:
    text = str(estimate)
    return text[: text.index(" nats/")]


def _interval(estimate: Estimate, scale: float = 1.0, unit: str = "") -> str:
    low, high = (scale * bound for bound in estimate.interval())
    digits = _digits(high - low)
    return f"[{low:.{digits}f}{unit}, {high:.{digits}f}{unit}]".replace("[", "\\[")


def _digits(width: float) -> int:
    return (
        2
        if not isfinite(width) or width <= 0
        else max(0, min(8, 2 - len(f"{width:.0f}") if width >= 10 else _places(width)))
    )


def _places(width: float) -> int:
    return next(places for places in range(1, 9) if width >= 10.0 ** (1 - places) or places == 8)


def _number(number: float, form: str) -> str:
    return format(number, form) if isfinite(number) else "–"


def _clip(text: str, width: int, *, keep_end: bool = False) -> str:
    text = " ".join(text.split())
    if len(text) > width:
        text = "…" + text[-width + 1 :] if keep_end else text[: width - 1] + "…"
    return escape(text)


def _quote(text: str) -> str:
    return escape(repr(text))
