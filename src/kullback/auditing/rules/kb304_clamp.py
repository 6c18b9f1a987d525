"""KB304 clamp: a clamp biases the value and stops the gradient."""

from __future__ import annotations

from math import isfinite

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
kld = torch.clamp(ratio - kl - 1, min=-10, max=10)  # k3 binds from ℓ = −2.6 on
"""


def _find(report: Audited) -> str:
    form = report.form
    if form is None or form.formula is None or not form.clamped:
        return ""
    ends = []
    if isfinite(form.below.at):
        ends.append(f"below ℓ = {form.below.at:.3g}" + f" (constant {form.below.value:.4g})" * form.below.flat)
    if isfinite(form.above.at):
        ends.append(f"above ℓ = {form.above.at:.3g}" + f" (constant {form.above.value:.4g})" * form.above.flat)
    gradient = ", and its derivative is zero there" if form.below.flat or form.above.flat else ""
    return f"it is {form.formula.name} only up to a clamp: it leaves the formula {' and '.join(ends)}{gradient}"


RULE = Rule(
    code="KB304",
    slug="clamp",
    group="numerics",
    title="A clamp biases the value and stops the gradient",
    checks="Where one token's formula becomes constant.",
    why=(
        "Where a clamp binds the value is too small and the derivative zero: the tokens that are furthest "
        "from the reference are the ones that are not pulled back."
    ),
    example=EXAMPLE,
    instead="Clamp the gradient's norm instead, or keep the clamp and log how often it binds.",
    references=("https://github.com/OpenRLHF/OpenRLHF/issues/525",),
    find=_find,
    severity="warn",
)
