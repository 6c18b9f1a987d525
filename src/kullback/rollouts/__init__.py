"""Rollouts: the table of token log-probs, one row a sequence, that crosses between rooms on disk."""

from kullback.rollouts.table import Rollout, RolloutWriter, count_tokens, read_rollouts, to_sequences, write_rollouts

__all__ = ["Rollout", "RolloutWriter", "count_tokens", "read_rollouts", "to_sequences", "write_rollouts"]
