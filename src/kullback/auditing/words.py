"""The words of reports: every phrase about a target, a number or a fact is made here and nowhere else."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from kullback.targets import (
    FORWARD_KL,
    REVERSE_KL,
    STATEWISE_FORWARD_KL,
    STATEWISE_JENSEN_SHANNON,
    STATEWISE_REVERSE_KL,
    ZERO,
    Target,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kullback.auditing.expectations import Weight
    from kullback.auditing.formula import Form
    from kullback.auditing.identification import Distance, Identification
    from kullback.auditing.options import Credit, Options, Placement, Sampler
    from kullback.auditing.repairs import Repair
    from kullback.auditing.report import Audited
    from kullback.auditing.weighting import Weighting

LEGEND = "q is the policy, p the reference, μ what drew the samples; ℓ = log q − log p and r = p/q of one token; nats."

FOOTNOTES = {
    "statewise": "token by token, with the prefixes drawn from the policy and held fixed",
    "sampled_": "the same over the prefixes of whatever drew the samples",
    "kl_gap": "KL(q‖p) − KL(p‖q), whose gradient k3 in the reward has for one token",
    "jeffreys": "KL(q‖p) + KL(p‖q)",
    "pearson_chi2": "the mean of (p/q − 1)² under q",
    "cross_entropy": "the mean of −log p under q",
}
"""Words of reports that not every reader knows."""

PLACES: dict[Placement, str] = {
    "loss": "in the loss",
    "reward": "in the reward",
    "bonus": "as a bonus",
    "metric": "as a metric",
}
CREDITS: dict[Credit, str] = {
    "return": "every token credited with the sequence's return",
    "reward_to_go": "every token credited with its reward-to-go",
    "own_token": "every token credited with its own penalty only",
}
SAMPLES: dict[Sampler, str] = {
    "on_policy": "the policy",
    "off_policy": "another policy",
    "from_reference": "the reference",
}
NOT_AUDITED = "Not audited."
NOTHING_FOUND = "Nothing was found against it."
LENGTHS = {"sum": "sum", "mean": "mean", "other": "neither sum nor mean"}

_PER: dict[Weight, str] = {
    "sequence": "",
    "length": " per token (each sequence divided by its own length)",
    "width": " per padded position",
    "words": " per word of the vocabulary",
    "cells": " per padded position and word of the vocabulary",
}
_DIVISORS: dict[Weight, str] = {
    "length": "its own length",
    "width": "the padded width",
    "words": "the size of the vocabulary",
    "cells": "the padded width and the size of the vocabulary",
}
_SHORT_DIVISORS: dict[Weight, str] = {
    "sequence": "",
    "length": " / its length",
    "width": " / padded width",
    "words": " / vocabulary",
    "cells": " / (padded width × vocabulary)",
}

LOSS_OBJECTIVES = (REVERSE_KL, FORWARD_KL, STATEWISE_REVERSE_KL, STATEWISE_FORWARD_KL)


def name(target: Target) -> str:
    """A target: formula and name."""
    return "0" if target is ZERO else f"{target.formula} ({target.name})"


def times(scale: float) -> str:
    """A scale before a target; nothing for 1."""
    if scale == 1.0:
        return ""
    return "−" if scale == -1.0 else f"{scale:.6g} × ".replace("-", "−")


def percent(error: float) -> str:
    """A relative error."""
    if not isfinite(error):
        return "without bound"
    if error < 1e-6:
        return "0%"
    return f"{100 * error:.3g}%" if error < 10 else f"a factor of {error:.3g}"


def one_token_formula(form: Form | None) -> str | None:
    """One token's formula, by its name in the family; None where it has none."""
    if form is None or form.formula is None:
        return None
    text = f"{times(form.scale)}{form.formula.name}: {form.formula.text}"
    return text + (f", times the {form.weighted_by}'s probability of the token" if form.weighted_by else "")


def importance_ratio(seen: Weighting) -> str:
    """Which ratio q/μ a function uses, how it is clipped, and whether gradients flow through it."""
    clip = f", clipped to [{seen.low:.3g}, {seen.high:.3g}]" if seen.low > 0 or isfinite(seen.high) else ""
    flow = {True: ", detached", False: ", differentiated", None: ""}[seen.detached]
    return f"{seen.ratio} ratio{clip}{flow}"


def identity(found: Identification) -> str:
    """What a value or a gradient is, in a line."""
    if found.target is None:
        return (
            f"no named quantity; nearest {name(found.nearest)}, relative error up to {found.relative_error:.2g} "
            f"(cosine down to {found.cosine:.3f})"
        )
    return f"{times(found.scale)}{name(found.target)}{_PER[found.weight]}"


def short(found: Identification) -> str:
    """The same in a few words, for a cell of a table."""
    target = found.named
    if target is None:
        near = found.errors.get("near", found.relative_error)
        return f"none; nearest {found.nearest.name}, off by {percent(near)} near, {percent(found.relative_error)} far"
    about = "" if found.target is not None else "≈ "
    return f"{about}{'0' if target is ZERO else times(found.factor) + target.name}{_SHORT_DIVISORS[found.per]}"


def errors_by_world(found: Identification) -> str:
    """How far a value or a gradient is from the nearest target in every world."""
    undone = "" if found.weight == "sequence" else f", each sequence multiplied back by {_DIVISORS[found.weight]}"
    worlds = ", ".join(f"{percent(error)} {world}" for world, error in found.errors.items())
    return f"to {name(found.nearest)}{undone}: {worlds}"


def range_of_errors(found: Identification) -> str:
    """The smallest and the largest error over the worlds."""
    return f"{percent(min(found.errors.values()))} to {percent(max(found.errors.values()))}"


def for_one_token(found: Identification, of: str = "") -> str:
    """What it is where sequences have one token, at the end of a sentence; nothing where it is no target either."""
    if found.one_token is None:
        return ""
    return f"; for a single token it is {of}{times(found.one_token_scale)}{name(found.one_token)}"


def value_phrase(found: Identification) -> str:
    """What follows "its value is"."""
    if found.within is not None:
        return _where_close(found, found.within)
    if found.target is None:
        return f"none of the named quantities{_nearest(found)}"
    return _exactly(f"{times(found.scale)}{name(found.target)}", found.weight)


def gradient_phrase(found: Identification) -> str:
    """What follows "its gradient in the loss is"."""
    if found.within is not None:
        return _where_close(found, found.within, "that of ")
    if found.target is None:
        alone = for_one_token(found)
        return f"none of the named gradients{_nearest(found)}, cosine {found.cosine:.2f} at worst{alone}"
    what = "zero on average" if found.target is ZERO else f"that of {times(found.scale)}{name(found.target)}"
    return _exactly(what, found.weight)


def _where_close(found: Identification, within: Target, of: str = "") -> str:
    if within is ZERO:
        return "zero on average where the models are close, and not where they are far apart"
    what, missed = f"{times(found.within_scale)}{name(within)}", percent(found.relative_error)
    return f"{of}{what} where the models are close, and misses it by up to {missed} where they are far apart"


def _nearest(found: Identification) -> str:
    low, high = percent(min(found.errors.values(), default=0.0)), percent(found.relative_error)
    undone = (
        "" if found.weight == "sequence" else f" once each sequence is multiplied back by {_DIVISORS[found.weight]}"
    )
    return f"; the nearest is {name(found.nearest)}, off by {low} to {high} in the exact worlds{undone}"


def _exactly(what: str, weight: Weight) -> str:
    if weight == "sequence":
        return f"{what}, exactly"
    return f"{what}, once each sequence is multiplied back by {_DIVISORS[weight]}, which the function divides by"


def instead(options: Options, goal: Target, own: Callable[[str], str], *, off_policy: bool, full: bool = False) -> str:
    """The call of this package that does what a function should, in the user's own names.

    Args:
        options: where the result goes, and what drew the samples.
        goal: the target that is meant.
        own: the user's name for a column.
        off_policy: whether another policy drew the samples.
        full: whether both whole distributions are at hand, and the log-probs of the drawn tokens are not.
    """
    if full and options.placement in ("loss", "metric") and options.sampler == "on_policy" and not off_policy:
        return _from_distributions(options, goal, own)
    q, p, mask, mu = (own(column) for column in ("logprobs", "ref_logprobs", "mask", "behavior_logprobs"))
    drawn = f", behavior_logprobs={mu}" if off_policy else ""
    if options.sampler == "from_reference" and options.placement != "metric":
        drawn = f", behavior_logprobs={p}"
    if options.placement == "loss":
        target = goal if goal in LOSS_OBJECTIVES else REVERSE_KL
        return f"kb.kl_loss({q}, {p}, {mask}, objective=kb.{target!r}{drawn})"
    if options.credited:
        if drawn:
            target = goal if goal in LOSS_OBJECTIVES else REVERSE_KL
            return (
                f"kb.kl_loss({q}, {p}, {mask}, objective=kb.{target!r}{drawn}): in the loss, as a reward has no weight "
                "for samples that the policy did not draw"
            )
        if goal in LOSS_OBJECTIVES and goal is not REVERSE_KL:
            return f"kb.kl_loss({q}, {p}, {mask}, objective=kb.{goal!r}): in the loss, as no penalty follows it"
        sign = "-" if options.placement == "bonus" else ""
        return f"{sign}kb.kl_reward({q}, {p}, {mask}, estimator=kb.K1), credited with the return or the reward-to-go"
    if options.sampler == "from_reference":
        if goal is FORWARD_KL:
            return f"kb.estimate({p}, {q}, {mask}, estimator=kb.K3): KL(p‖q), of which these are the samples"
        return f"kb.estimate({q}, {p}, {mask}, estimator=kb.K3, behavior_logprobs={p})"
    return f"kb.estimate({q}, {p}, {mask}, estimator=kb.K3{drawn})"


def _from_distributions(options: Options, goal: Target, own: Callable[[str], str]) -> str:
    """The same where the exact KL of every token can be had."""
    named = next((name for target, name in _DIRECTIONS.items() if target is goal), "")
    direction = f', direction="{named}"' if named else ""
    token_kl = f"kb.vocab.token_kl({own('log_distributions')}, {own('ref_log_distributions')}{direction})"
    if options.placement == "metric" or goal.name.startswith("statewise"):
        return f"({token_kl} * {own('mask')}).sum(-1).mean()"
    target = goal if goal in LOSS_OBJECTIVES else REVERSE_KL
    exact = f", token_kl={token_kl}" if target is REVERSE_KL else ""
    drawn = f"{own('logprobs')}, {own('ref_logprobs')}, {own('mask')}"
    said = "" if own("logprobs") != "logprobs" else ", where logprobs are those of the drawn tokens"
    return f"kb.kl_loss({drawn}, objective=kb.{target!r}{exact}){said}"


_DIRECTIONS = {STATEWISE_FORWARD_KL: "forward", STATEWISE_JENSEN_SHANNON: "jensen_shannon"}
"""What vocab.token_kl calls the targets that are not KL(q‖p)."""


def away(found: Distance) -> str:
    """How far something is from the target that was meant."""
    cosine = f", cosine down to {found.cosine:.3f}".replace("-", "−") if found.cosine < 0.9995 else ""
    return f"{percent(found.least)} to {percent(found.most)}{cosine}"


def repaired(repair: Repair, placement: Placement) -> str:
    """What one change would make of a function."""
    if placement == "metric":
        return f"{repair.change} the value would be {times(repair.value.scale)}{name_or_none(repair.value)}"
    found = repair.gradient
    return (
        f"{repair.change} the gradient would be that of {times(found.scale)}{name_or_none(found)}{_PER[found.weight]}"
    )


def name_or_none(found: Identification) -> str:
    """A target's formula and name, or that there is none."""
    return "no named target" if found.target is None else name(found.target)


def notes(report: Audited) -> Iterator[str]:
    """What is worth a word and is not held against a function."""
    if report.conduct.isolated:
        yield f"of the whole loss, {report.conduct.isolated}"
    if report.paired:
        yield "it takes no reference: p is what drew the samples, which it is compared with"
    if report.handling.broken_by:
        yield (
            f"{report.handling.broken_by} in masked places makes the result no number: "
            "multiplication by the mask keeps it, a selection with where does not"
        )
    if report.handling.mask_types:
        yield f"a mask of type {' or '.join(report.handling.mask_types)} would silently give another result"
    if report.numerics.swallowed == "nan":
        yield f"in float32 it is nan, and not inf, from |ℓ| = {report.numerics.swallowed_from:.3g} nats on"
    surrogate = report.placement == "loss" and report.objective is None and report.options.role == "value"
    if surrogate and report.value.named is None and report.gradient.follows:
        of = f"the gradient is that of {times(report.gradient.scale)}{name_or_none(report.gradient)}"
        if report.whole_loss:
            yield f"the value of the term is no KL, and of a whole loss it does not count: {of}"
        else:
            yield f"as a surrogate, whose value does not count, it is right: {of} (role='surrogate', --role surrogate)"


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return stopped(f"{text[0].upper()}{text[1:]}")


def stopped(text: str) -> str:
    """With a full stop."""
    return text if text.endswith(".") else f"{text}."
