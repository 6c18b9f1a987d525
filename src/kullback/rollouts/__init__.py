"""Rollouts: the table of token log-probs, one row a sequence, that crosses between rooms on disk."""

from kullback.rollouts.batch import to_ragged, to_sequences
from kullback.rollouts.columns import Columns
from kullback.rollouts.metadata import SCHEMA, Law, Metadata, Model, TokenHash, hash_tokens, law_of, same_tokens
from kullback.rollouts.parquet import RolloutWriter, write_rollouts
from kullback.rollouts.readers import read_rollouts
from kullback.rollouts.record import LOGPROB_COLUMNS, TOKEN_COLUMNS, Rollout, count_tokens
from kullback.rollouts.table import Rollouts

__all__ = [
    "LOGPROB_COLUMNS",
    "SCHEMA",
    "TOKEN_COLUMNS",
    "Columns",
    "Law",
    "Metadata",
    "Model",
    "Rollout",
    "RolloutWriter",
    "Rollouts",
    "TokenHash",
    "count_tokens",
    "hash_tokens",
    "law_of",
    "read_rollouts",
    "same_tokens",
    "to_ragged",
    "to_sequences",
    "write_rollouts",
]
