"""KB001 raises: the function cannot be called."""

from __future__ import annotations

from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, estimator):  # needs settings={'estimator': 'k3'}
    ...
"""

RULE = Rule(
    code="KB001",
    slug="raises",
    group="call",
    title="The function cannot be called",
    checks="Whether a first call on four short sequences returns.",
    why="A KL term that raises on ordinary log-probs stops a training run, or was never called.",
    example=EXAMPLE,
    instead=(
        "Give the missing parameters with settings=… (--set NAME=VALUE), or map arrays with names=… (--map "
        "PARAMETER=COLUMN)."
    ),
    references=("`kullback audit --help`",),
    stops=True,
)
