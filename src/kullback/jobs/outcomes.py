"""What comparisons return, and what they have to say to people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kullback.displays import Displayed
from kullback.documents import Cell, Chart, Document, HeatMap, Interval, Note, Number, Record, Table, plain
from kullback.estimation.means import Share
from kullback.estimation.pages import interval_chart
from kullback.estimation.result import Estimate
from kullback.jobs.bracketing import Bracketed
from kullback.jobs.estimates import DIRECTIONS, Row
from kullback.jobs.excerpts import excerpts
from kullback.jobs.hotspots import Hotspots, PositionMean, PromptMean, Site
from kullback.jobs.looks import Key, Look
from kullback.jobs.mismatch import Mismatch
from kullback.jobs.plans import Role
from kullback.rollouts import Rollout, count_tokens

TITLES = {
    "reverse": "KL(policy‖reference), sampled from the policy",
    "forward": "KL(reference‖policy), sampled from the reference",
}

SCHEMA = 1
"""The version of what `Comparison.to_dict` and `TextComparison.to_dict` return."""

RANGES = 8
"""Columns of the heat-map: as many ranges of positions, of the same width."""


@dataclass(frozen=True)
class Comparison(Displayed):
    """What `compare` found.

    Attributes:
        policy, reference: the models' names.
        settings: how they were sampled and scored.
        rows: the estimates, reverse first.
        hotspots: where the models differ most.
        rollouts: every sampled sequence.
        seconds: wall time of sampling and scoring.
        complete: False where the job was stopped before its end.
        notes: sentences on what the models could not give; empty when there is nothing to say.
        words: the text of every sampled token, and of every likely one, by its id.
        mismatch: how far what sampled is from the policy; None where the policy drew for itself.
        brackets: the KL between bounds, by the model that was sampled, where a server gave likely words only.
        looks: the likely words of the sequences that a page shows, where they were asked for.

    Example:
        >>> import kullback as kb
        >>> found = kb.compare(prompts=["The dog", "A bird"], samples=2, max_new_tokens=4)
        >>> found.rows[-1].per_sequence.estimator, len(found.rollouts), found.complete
        ('rao_blackwell_controlled', 4, True)
    """

    policy: str
    reference: str
    settings: Record
    rows: tuple[Row, ...]
    hotspots: Hotspots
    rollouts: tuple[Rollout, ...] = field(repr=False)
    seconds: float
    complete: bool
    notes: tuple[str, ...] = ()
    words: Mapping[int, str] = field(default_factory=dict, repr=False)
    brackets: Mapping[Role, Bracketed] = field(default_factory=dict)
    mismatch: Mismatch | None = None
    looks: Mapping[Key, Look] = field(default_factory=dict, repr=False)

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """Every estimate, in nats a sequence and nats a token."""
        return tuple(e for row in self.rows for e in (row.per_sequence, row.per_token))

    @property
    def tokens(self) -> int:
        """Sampled tokens that count."""
        return count_tokens(self.rollouts)

    def to_dict(self) -> Record:
        """What ``--json`` prints and estimate.json holds."""
        return {
            "schema": SCHEMA,
            "policy": self.policy,
            "reference": self.reference,
            "settings": self.settings,
            "complete": self.complete,
            "sequences": len(self.rollouts),
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "estimates": [record for row in self.rows for record in row.to_dicts()],
            **(
                {"brackets": {DIRECTIONS[role]: one.to_dict() for role, one in self.brackets.items()}}
                if self.brackets
                else {}
            ),
            **({} if self.mismatch is None else {"mismatch": self.mismatch.to_dict()}),
            "differences": plain(self.hotspots.to_dict()),
            **({"notes": list(self.notes)} if self.notes else {}),
        }

    def document(self) -> Document:
        """What it has to say to people."""
        return comparison_document(self)

    def records(self) -> list[Record]:
        """A record for each estimate."""
        return list(self.to_dict()["estimates"])

    def chart(self) -> Chart:
        """Estimates of the KL(policy‖reference) a sequence with their intervals, in the table's order."""
        shown = [row.per_sequence for row in self.rows if row.direction == "reverse"]
        return interval_chart(shown, [f"{one.estimator} ({one.level})" for one in shown])

    def page(self) -> Document:
        """The same with the answer before it, and behind it every prompt and single tokens, for ``--report``."""
        from kullback.jobs.pages import comparison_page  # it reads this module's records

        return comparison_page(self)

    def __str__(self) -> str:
        lines = [f"{self.policy} against {self.reference}, {len(self.rollouts)} sequences"]
        lines += [
            f"  {row.direction} {row.per_sequence.level} {row.per_sequence.estimator}: {row.per_sequence}"
            for row in self.rows
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class TextComparison(Displayed):
    """What `compare_text` found; every number is over the tokens of the text.

    Attributes:
        policy, reference: the models' names.
        forward: mean KL(reference‖policy) a token, what quantisers call KLD, with a clustered error.
        reverse: mean KL(policy‖reference) a token.
        quantiles: of the forward token KL, by probability; 1.0 is the largest.
        same_top: share of tokens at which both models find the same token most likely, of those that both have, with
            its error.
        rms_delta_p: √ mean (q − p)² of the text's own tokens' probabilities.
        mean_delta_p: mean q − p.
        perplexity, ref_perplexity: of the text under each model.
        tokens, windows: how much was scored.
        settings: how.
        seconds: wall time.
        complete: False where the job was stopped before its end.
        notes: sentences on how the models were loaded and what they do not share; empty when there is nothing to say.

    Example:
        >>> import kullback as kb
        >>> found = kb.compare_text("builtin:tuned", "builtin:base", ["The dog went to the lake."])
        >>> found.tokens, found.forward.value > 0, 0 <= found.same_top.value <= 1
        (8, True, True)
    """

    policy: str
    reference: str
    forward: Estimate
    reverse: Estimate
    quantiles: dict[float, float]
    same_top: Share
    rms_delta_p: float
    mean_delta_p: float
    perplexity: float
    ref_perplexity: float
    tokens: int
    windows: int
    settings: Record
    seconds: float
    complete: bool
    notes: tuple[str, ...] = ()

    def to_dict(self) -> Record:
        """What ``--json`` prints and estimate.json holds."""
        records = [
            {**estimate.to_dict(), "direction": direction}
            for direction, estimate in (("forward", self.forward), ("reverse", self.reverse))
        ]
        record = {
            "schema": SCHEMA,
            "policy": self.policy,
            "reference": self.reference,
            "settings": self.settings,
            "complete": self.complete,
            "tokens": self.tokens,
            "windows": self.windows,
            "seconds": round(self.seconds, 3),
            "estimates": records,
            "quantiles": {f"{probability:g}": value for probability, value in self.quantiles.items()},
            "same_top": self.same_top.to_dict(),
            "rms_delta_p": self.rms_delta_p,
            "mean_delta_p": self.mean_delta_p,
            "perplexity": self.perplexity,
            "ref_perplexity": self.ref_perplexity,
            **({"notes": list(self.notes)} if self.notes else {}),
        }
        return dict(plain(record))

    def document(self) -> Document:
        """What it has to say to people."""
        return text_document(self)

    def records(self) -> list[Record]:
        """A record for each direction."""
        return list(self.to_dict()["estimates"])

    def chart(self) -> Chart:
        """Both directions, a token, with their intervals."""
        return interval_chart([self.forward, self.reverse], ["KL(reference‖policy)", "KL(policy‖reference)"])


def comparison_document(found: Comparison) -> Document:
    """Estimates in both directions, where the models differ, and what to be careful about."""
    return Document(
        title=f"{found.policy} against {found.reference}",
        subtitle=_settings(found),
        blocks=(
            *(block for direction in TITLES for block in _estimates(found, direction)),
            *(one.table(f"{TITLES[DIRECTIONS[role]]}, between bounds") for role, one in found.brackets.items()),
            *(() if found.mismatch is None else (found.mismatch.table(),)),
            *(Note(sentence, tone="warning") for sentence in found.notes),
            *_differences(found),
            Note(
                "±: one standard error; it and the interval are for prompts drawn anew from wherever these came. here: "
                "the standard error for these very prompts, as of an evaluation set. Quote rao_blackwell_controlled "
                "where it stands, else rao_blackwell, else k3; k3 (sequence) is shown as a warning. var/k1: "
                "variance against k1 on the same samples, here. n for ±1%: sequences of these prompts at which the 95% "
                "interval here would be ±1% of the value. prompts: how many, with as many samples of each, would do "
                "so for prompts drawn anew. Where models differ is by the exact KL of their next-token distributions, "
                "in nats.",
                tone="quiet",
            ),
        ),
    )


def text_document(found: TextComparison) -> Document:
    """Token KLs on a text, their quantiles and how often the models agree."""
    return Document(
        title=f"{found.policy} against {found.reference} on {found.tokens:,} tokens of text",
        blocks=(
            Table(
                title="",
                note=(
                    f"{found.windows} windows of {found.settings['context_length']} tokens; errors clustered by "
                    f"{found.settings['clustered_by']}; {found.seconds:.1f} s{_cut(found)}{_places(found.settings)}"
                ),
                columns=("over the tokens of the text", "value", "95% interval"),
                rows=(
                    (
                        "mean KL(reference‖policy), nats a token",
                        found.forward.rounded,
                        Interval(*found.forward.interval()),
                    ),
                    (
                        "mean KL(policy‖reference), nats a token",
                        found.reverse.rounded,
                        Interval(*found.reverse.interval()),
                    ),
                    *(
                        (f"{_quantile(level)} of KL(reference‖policy)", Number(value), "")
                        for level, value in found.quantiles.items()
                    ),
                    (
                        "same most likely token" + _shared(found),
                        Number(found.same_top.value, ".2%"),
                        Interval(*found.same_top.interval(), scale=100, unit="%"),
                    ),
                    ("RMS Δp of the text's tokens", Number(found.rms_delta_p, ".3%"), ""),
                    ("mean Δp (policy − reference)", Number(found.mean_delta_p, "+.3%"), ""),
                    ("perplexity, policy", Number(found.perplexity, ".4f"), ""),
                    ("perplexity, reference", Number(found.ref_perplexity, ".4f"), ""),
                ),
                right=("value", "95% interval"),
            ),
            *([Note(f"text: {found.settings['text']}", tone="quiet")] if "text" in found.settings else []),
            *(Note(sentence, tone="warning") for sentence in found.notes),
        ),
    )


def _cut(found: TextComparison) -> str:
    return "; the second half of each is scored, as llama.cpp does" if found.settings["windows"] == "llama.cpp" else ""


def _shared(found: TextComparison) -> str:
    """Of which tokens the most likely one is, where one model has more than the other."""
    shared = found.settings.get("shared_vocab")
    return "" if shared is None else f", of the {shared:,} that both have"


def _quantile(level: float) -> str:
    return "largest" if level == 1 else f"{100 * level:g}% quantile"


def _settings(found: Comparison) -> str:
    s = found.settings
    return (
        f"{len(found.rollouts)} sequences of {s['prompts']} prompts, {found.tokens:,} tokens, {found.seconds:.1f} s\n"
        f"temperature {s['temperature']:g}, top-p {s['top_p']:g}, top-k {s['top_k'] or 'off'}, at most "
        f"{s['max_new_tokens']} new tokens; policy log-probs {s['policy_logprobs']}, reference log-probs "
        f"{s['reference_logprobs']}; errors clustered by prompt"
        f"{_places(s)}"
    )


def _places(settings: Mapping[str, object]) -> str:
    """On what and in which dtype the models ran, as far as they say, on a line of its own."""
    own, others = (
        f"{settings[prefix + 'dtype']} on {settings[prefix + 'device']}" if f"{prefix}dtype" in settings else ""
        for prefix in ("", "reference_")
    )
    if own == others:
        return f"\nboth models in {own}" if own else ""
    parts = [f"{role} in {place}" for role, place in (("policy", own), ("reference", others)) if place]
    return f"\n{', '.join(parts)}"


def _estimates(found: Comparison, direction: str) -> Iterator[Table | Note]:
    """A direction's table, if it was sampled, and every different warning once, in the order of the rows."""
    rows = [row for row in found.rows if row.direction == direction]
    if not rows:
        return
    warnings = list(dict.fromkeys(warning for row in rows for warning in row.per_sequence.warnings))
    right = ("nats/sequence", "95% interval", "here", "nats/token", "var/k1", "n for ±1%", "prompts")
    yield Table(
        title=TITLES[direction],
        note="",
        columns=("estimator", *right),
        rows=tuple(
            (
                _name(row) + _marks(row, warnings),
                row.per_sequence.rounded,
                Interval(*row.per_sequence.interval()),
                _here(row),
                row.per_token.rounded,
                Number(row.relative_variance, ".3g"),
                Number(row.sequences_for_one_percent, ",.0f"),
                Number(row.prompts_for_one_percent, ",.0f"),
            )
            for row in rows
        ),
        right=right,
    )
    for number, warning in enumerate(warnings, 1):
        yield Note(f"[{number}] {warning}", tone="warning")


def _name(row: Row) -> str:
    """The estimator; the level is said where it is not the usual one."""
    return row.per_sequence.estimator + (" (sequence)" if row.per_sequence.level == "sequence" else "")


def _here(row: Row) -> Cell:
    """The error for these prompts, or a dash where there is one sample of each."""
    given = row.per_sequence.given_prompts
    return Number(float("nan") if given is None else given.stderr, ".2g")


def _marks(row: Row, warnings: Sequence[str]) -> str:
    return "".join(f" [{n}]" for n, warning in enumerate(warnings, 1) if warning in row.per_sequence.warnings)


def _differences(found: Comparison) -> Iterator[Table | HeatMap]:
    """Where the models differ, if their token KLs are known."""
    prompts = found.hotspots.top_prompts()
    if prompts:
        yield _prompts(prompts, found.hotspots.texts)
        yield _positions(found.hotspots.top_positions())
        yield from _heat(
            prompts, found.hotspots.texts, [rollout for rollout in found.rollouts if rollout.sampled_from == "policy"]
        )
        yield _sites(found.hotspots.top_sites(8))


def _prompts(means: Sequence[PromptMean], texts: Mapping[int, str]) -> Table:
    right = ("nats/sequence", "sequences")
    shown = excerpts(texts, [mean.prompt_id for mean in means], 60)
    return Table(
        title="Prompts where the models differ most",
        note="",
        columns=("prompt", *right),
        rows=tuple(
            (shown[mean.prompt_id], Number(mean.nats_per_sequence, ".3g"), Number(mean.sequences, ".0f"))
            for mean in means
        ),
        right=right,
    )


def _positions(means: Sequence[PositionMean]) -> Table:
    columns = ("new token", "nats/token", "sequences")
    return Table(
        title="Positions where they differ most",
        note="",
        columns=columns,
        rows=tuple(
            (Number(mean.position + 1, ".0f"), Number(mean.nats_per_token, ".3g"), Number(mean.tokens, ".0f"))
            for mean in means
        ),
        right=columns,
    )


def _heat(means: Sequence[PromptMean], texts: Mapping[int, str], rollouts: Sequence[Rollout]) -> Iterator[HeatMap]:
    """The token KL by prompt and by range of positions."""
    longest = max((rollout.length for rollout in rollouts), default=0)
    if not longest:
        return
    width = -(-longest // RANGES)
    starts = range(0, longest, width)
    values = np.full((len(means), len(starts)), np.nan)
    for row, mean in enumerate(means):
        own = (rollout.token_kl for rollout in rollouts if rollout.prompt_id == mean.prompt_id)
        kls = [kl for kl in own if kl is not None]
        for column, start in enumerate(starts):
            within = np.concatenate([np.empty(0), *(kl[start : start + width] for kl in kls)])
            if within.size:
                values[row, column] = within.mean()
    yield HeatMap(
        title="Token KL by prompt and position",
        note="Mean nats a token, over the new tokens from one number to the other.",
        rows=tuple(excerpts(texts, [mean.prompt_id for mean in means], 40).values()),
        columns=tuple(_range(start + 1, min(start + width, longest)) for start in starts),
        values=values,
        form=".2g",
    )


def _range(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first}–{last}"


def _sites(sites: Sequence[Site]) -> Table:
    right = ("q(drawn)", "p(drawn)", "token KL")
    return Table(
        title="Tokens where they differ most",
        note="",
        columns=("after", "drawn", "policy prefers", "reference prefers", *right),
        rows=tuple(
            (
                _clipped(site.context, 40, keep_end=True),
                repr(site.token),
                repr(site.top),
                repr(site.ref_top),
                Number(site.probability, ".3g"),
                Number(site.ref_probability, ".3g"),
                Number(site.token_kl, ".3g"),
            )
            for site in sites
        ),
        right=right,
    )


def _clipped(text: str, width: int, *, keep_end: bool = False) -> str:
    text = " ".join(text.split())
    if len(text) <= width:
        return text
    return "…" + text[-width + 1 :] if keep_end else text[: width - 1] + "…"
