"""The schema before this one, in which every row said how it was sampled and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kullback.rollouts.metadata import Law, Metadata, Model, law_of

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_SETTINGS = ("temperature", "top_p", "top_k")
_SAID = ("sampled_from", *_SETTINGS, "policy_logprobs", "reference_logprobs")

OLD_NAMES: Mapping[str, str] = {"prompt_tokens": "prompt"}
"""What columns were called."""


def is_old(schema: pa.Schema) -> bool:
    """Whether this is a file of schema 1."""
    return {"prompt", *_SAID} <= set(schema.names)


def old_metadata(file: pq.ParquetFile) -> Metadata:
    """What the rows of a file of schema 1 say about it, where all of them say the same."""
    # A million rows say the same thing a million times: Arrow finds the one before Python sees them.
    rows = file.read(columns=list(_SAID)).group_by(list(_SAID)).aggregate([]).to_pylist()
    policy, law = _side(rows, "policy")
    reference, ref_law = _side(rows, "reference")
    return Metadata(policy=policy, reference=reference, law={"logprobs": law, "ref_logprobs": ref_law}, schema=1)


def _side(rows: Sequence[Mapping[str, str | float]], role: str) -> tuple[Model | None, Law]:
    """A model with its sampling settings, and the law of its log-probs."""
    kinds = {row[f"{role}_logprobs"] for row in rows}
    drawn = [row for row in rows if row["sampled_from"] == role]
    # A model that was not sampled can still have been scored with the other's settings.
    telling = drawn or [row for row in rows if kinds == {"processed"}]
    settings = {tuple(float(row[name]) for name in _SETTINGS) for row in telling}
    sampling = dict(zip(_SETTINGS, settings.pop(), strict=True)) if len(settings) == 1 else None
    model = None if sampling is None else Model(sampling=sampling)
    if kinds == {"raw"}:
        return model, "raw"
    if kinds == {"processed"} and sampling is not None:
        return model, law_of(sampling["temperature"], sampling["top_p"], sampling["top_k"])
    return model, "unknown"
