"""Tables of rollouts that were written by the schema before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kullback as kb
from kullback.rollouts import SCHEMA, Metadata, Model, hash_tokens

OLD = Path(__file__).parent / "data" / "rollouts_schema_1.parquet"
"""Written by the code of schema 1: three rows of the policy at temperature 0.8, one of the reference."""


def old_rows() -> Iterator[kb.Rollout]:
    for i in range(4):
        steps = np.arange(i + 1, dtype=np.float32)
        yield kb.Rollout(
            logprobs=-1 - steps / 4,
            ref_logprobs=-2 - steps / 8,
            prompt_id=i // 2,
            prompt_tokens=[7, 8 + i],
            tokens=[10 * i + k for k in range(i + 1)],
            mask=np.ones(i + 1, bool),
            token_kl=steps / 16,
            ref_mass=1 - steps / 64,
            sampled_from="policy" if i < 3 else "reference",
        )


def test_files_of_schema_1_are_read(tmp_path: Path) -> None:
    back = kb.read_rollouts(OLD)
    assert list(back) == list(old_rows())
    assert back.law == {"logprobs": "processed", "ref_logprobs": "raw"}
    assert back.metadata == Metadata(
        policy=Model(sampling={"temperature": 0.8, "top_p": 0.9, "top_k": 5}),
        reference=Model(sampling={"temperature": 1.0, "top_p": 1.0, "top_k": 0}),
        law={"logprobs": "processed", "ref_logprobs": "raw"},
        schema=1,
    )
    assert back.token_hash == hash_tokens(old_rows())
    kb.write_rollouts(tmp_path / "new.parquet", back)
    new = kb.read_rollouts(tmp_path / "new.parquet")
    assert new.metadata == replace(back.metadata, schema=SCHEMA, token_hash=back.token_hash)
    assert list(new) == list(back)


@pytest.mark.parametrize(
    ("rows", "changes", "laws", "known"),
    [
        (4, {"policy_logprobs": ["raw", "processed", "raw", "raw"]}, ("unknown", "raw"), (True, True)),
        (4, {"temperature": [0.8, 0.7, 0.8, 1.0]}, ("unknown", "raw"), (False, True)),
        (3, {}, ("processed", "raw"), (True, False)),
        (3, {"reference_logprobs": ["processed"] * 3}, ("processed", "processed"), (True, True)),
        (3, {"top_p": [1.0] * 3, "top_k": [0] * 3}, ("temperature", "raw"), (True, False)),
    ],
    ids=["laws differ", "settings differ", "one sampler", "both processed", "temperature alone"],
)
def test_what_rows_of_schema_1_do_not_agree_on_is_not_known(
    rows: int, changes: dict[str, Any], laws: tuple[str, str], known: tuple[bool, bool], tmp_path: Path
) -> None:
    changed = pq.read_table(OLD).slice(0, rows)
    for name, values in changes.items():
        changed = changed.set_column(changed.schema.get_field_index(name), name, pa.array(values))
    pq.write_table(changed, tmp_path / "old.parquet")
    back = kb.read_rollouts(tmp_path / "old.parquet")
    assert tuple(back.law.values()) == laws
    assert (back.metadata.policy is not None, back.metadata.reference is not None) == known
