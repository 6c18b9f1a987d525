"""KB003 needs-gpu: the function runs only on a GPU."""

from __future__ import annotations

from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    return (logprobs.cuda() - ref_logprobs.cuda()).sum()
"""

RULE = Rule(
    code="KB003",
    slug="needs-gpu",
    group="call",
    title="The function runs only on a GPU",
    checks="Whether a call on CPU tensors raises an error that names a GPU.",
    why="What cannot run on a CPU cannot be held against exact arithmetic, here or in a project's CI.",
    example=EXAMPLE,
    instead="Take the device from the inputs: logprobs.device.",
    references=("docs/audit.md",),
    stops=True,
)
