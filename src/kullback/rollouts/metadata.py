"""What a table of rollouts says about itself: the models, the law of every column, a hash of the tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from typing import Any, Literal, Protocol, get_args

import numpy as np

from kullback.errors import InputError, shown
from kullback.rollouts.record import LOGPROB_COLUMNS, Rollout

SCHEMA = 3
"""The version that is written. Version 1 had no metadata: its settings stood in every row. Version 2 knew prompts by
number alone, and had no `missing_end`, `text`, `top` and `extra`."""

Law = Literal["raw", "temperature", "processed", "unknown"]
"""What a log-prob is of: the model's softmax, that of logits over T, what top-k or top-p left of it, or not known."""


@dataclass(frozen=True)
class Model:
    """A model that sampled or scored.

    Attributes:
        name: as users name it, None where not known.
        sampling: how it was sampled, such as temperature, top_p and top_k.
        head_dtype: the dtype in which its logits were computed, None where not known.
    """

    name: str | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)
    head_dtype: str | None = None


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a table of rollouts says about itself.

    Attributes:
        policy, reference, behavior: the models behind the log-probs.
        law: of the log-prob columns; one that is not named here is "unknown".
        quantum: the step to which a log-prob column was rounded; not known for one that is not named.
        token_hash: `hash_tokens` of the rows; the writer sets it.
        schema: the version of the table.
        notes: sentences on how the columns came about that a reader of the numbers should know.

    Raises:
        InputError: a law of a column that has none, a law that is none, or a quantum that is not positive.
    """

    policy: Model | None = None
    reference: Model | None = None
    behavior: Model | None = None
    law: Mapping[str, Law] = field(default_factory=dict)
    quantum: Mapping[str, float] = field(default_factory=dict)
    token_hash: str | None = None
    schema: int = SCHEMA
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (*self.law, *self.quantum):
            if name not in LOGPROB_COLUMNS:
                raise InputError(f"a law or quantum of {name} came, but only {', '.join(LOGPROB_COLUMNS)} have one")
        for name, law in self.law.items():
            if law not in get_args(Law):
                raise InputError(f"the law of {name} is {shown(law)}, but it is one of {', '.join(get_args(Law))}")
        for name, quantum in self.quantum.items():
            if not 0 < quantum < float("inf"):
                raise InputError(f"the quantum of {name} is {quantum:g}, but a rounding step in nats is positive")

    def to_json(self) -> str:
        """The text that a file keeps."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Metadata:
        """What `to_json` wrote; keys that are not known are ignored.

        Raises:
            InputError: another text, or one of a newer schema.
        """
        try:
            record = dict(json.loads(text))
            if (schema := int(record["schema"])) > SCHEMA:
                raise InputError(f"its schema is {schema} and this kullback knows {SCHEMA} at most: upgrade kullback")
            return cls(
                policy=_model(record.get("policy")),
                reference=_model(record.get("reference")),
                behavior=_model(record.get("behavior")),
                law=dict(record.get("law", {})),
                quantum=dict(record.get("quantum", {})),
                token_hash=record.get("token_hash"),
                schema=schema,
                notes=tuple(map(str, record.get("notes", ()))),
            )
        except InputError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError):
            raise InputError("its metadata is not what kullback writes: write the table again") from None


def agreed(first: Metadata, second: Metadata) -> Metadata:
    """What two records of a file both say: a law that differs is not known, nor is what else does."""
    laws = {
        name: first.law.get(name, "unknown") if first.law.get(name) == second.law.get(name) else "unknown"
        for name in (*first.law, *second.law)
    }
    quanta = {name: step for name, step in first.quantum.items() if second.quantum.get(name) == step}
    return replace(
        first,
        law=laws,
        quantum=quanta,
        policy=_both(first.policy, second.policy),
        reference=_both(first.reference, second.reference),
        behavior=_both(first.behavior, second.behavior),
    )


def _both(first: Model | None, second: Model | None) -> Model | None:
    if first == second or first is None or second is None:
        return first if first == second else None
    sampling = {name: value for name, value in first.sampling.items() if second.sampling.get(name) == value}
    same = {
        name: getattr(first, name) for name in ("name", "head_dtype") if getattr(first, name) == getattr(second, name)
    }
    return Model(sampling=sampling, **same)


def law_of(temperature: float = 1.0, top_p: float = 1.0, top_k: float = 0) -> Law:
    """The law of log-probs that these sampling settings were applied to."""
    if top_p < 1 or top_k > 0:
        return "processed"
    return "raw" if temperature == 1 else "temperature"


class Hashed(Protocol):
    """What knows the hash of its tokens: `Metadata`, and `Rollouts`, which computes it where the file has none."""

    @property
    def token_hash(self) -> str | None:
        """64 hexadecimal digits; None where tokens are not known."""
        ...


def same_tokens(mine: Hashed, other: Hashed) -> bool:
    """Whether two tables hold the same tokens in the same order, so that their results can stand side by side.

    False where one of them does not know its tokens.
    """
    return mine.token_hash is not None and mine.token_hash == other.token_hash


class TokenHash:
    """Hash of a stream of rollouts' tokens, row by row.

    BLAKE2b with a digest of 32 bytes over little-endian int64s: for each row the number of prompt tokens, the
    prompt tokens, the number of completion tokens, the completion tokens. A prompt that is not known counts as
    the number −1 and no tokens.
    """

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=32)
        self._known = True
        self._rows = 0

    def update(self, rollout: Rollout) -> None:
        """Add one row."""
        self._rows += 1
        self._known = self._known and rollout.tokens is not None
        for tokens in (rollout.prompt_tokens, rollout.tokens):
            self._hash.update(_int64s([-1] if tokens is None else [len(tokens), *tokens]))

    def hexdigest(self) -> str | None:
        """The hash so far in 64 hexadecimal digits; None where a row's tokens are not known."""
        return self._hash.hexdigest() if self._known and self._rows else None


def hash_tokens(rollouts: Iterable[Rollout]) -> str | None:
    """`TokenHash` of all of them."""
    hashed = TokenHash()
    for rollout in rollouts:
        hashed.update(rollout)
    return hashed.hexdigest()


def _int64s(numbers: Sequence[int]) -> bytes:
    return np.asarray(numbers, dtype="<i8").tobytes()


def _model(record: Any) -> Model | None:
    if record is None:
        return None
    return Model(record.get("name"), dict(record.get("sampling", {})), record.get("head_dtype"))
