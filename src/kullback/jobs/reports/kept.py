"""The sequences of a comparison as a file beside its report, so that its numbers can be computed again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kullback.documents import Record
from kullback.errors import MissingPackageError
from kullback.jobs.outcomes import Comparison
from kullback.jobs.outputs import ROLLOUTS
from kullback.rollouts import Metadata, Model, law_of, write_rollouts

MOST_KEPT = 1_000_000
"""Tokens: their file has some 90 MB."""


def keep(found: object, beside: Path | None, output: Path | None) -> Sequence[Path]:
    """The file that holds the sequences: in the folder of the run's results, else written beside the report.

    None where there are too many, or nothing to write them with.
    """
    if not isinstance(found, Comparison):
        return ()
    if output is not None:
        return (output / ROLLOUTS,)
    if beside is None or found.tokens > MOST_KEPT:
        return ()
    try:
        write_rollouts(beside, list(found.rollouts), metadata_of(found))
    except MissingPackageError:
        return ()
    return (beside,)


def metadata_of(found: Comparison) -> Metadata:
    """What a comparison's sequences say about themselves, from its settings."""
    s = found.settings
    raw: Record = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    policy = {name: s[name] for name in raw}
    reference = raw if s["reference_logprobs"] == "raw" else policy
    sampler = s.get("sampler")
    laws = {"logprobs": law_of(**policy), "ref_logprobs": law_of(**reference)}
    behavior = None
    if sampler is not None:
        drawn = {name: sampler[name] for name in raw}
        laws["behavior_logprobs"] = law_of(**drawn)
        behavior = Model(sampler["name"], drawn)
    return Metadata(
        policy=Model(found.policy, policy, s.get("dtype")),
        reference=Model(found.reference, reference, s.get("reference_dtype")),
        behavior=behavior,
        law=laws,
    )
