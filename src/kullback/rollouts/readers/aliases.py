"""What trainers and servers call the columns of a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache

from kullback.errors import InputError

ALIASES: Mapping[str, tuple[str, ...]] = {
    "logprobs": (
        "log_probs",
        "logps",
        "policy_logprobs",
        "policy_log_probs",
        "policy_logps",
        "per_token_logps",
        "old_log_probs",
        "old_log_prob",
        "old_logprobs",
        "old_per_token_logps",
        "prev_logprobs",
        "trainer_logprobs",
        "train_logprobs",
        "action_log_probs",
        "actor_log_probs",
    ),
    "ref_logprobs": (
        "ref_log_probs",
        "ref_log_prob",
        "ref_logprob",
        "ref_logps",
        "ref_per_token_logps",
        "reference_logprobs",
        "reference_log_probs",
        "reference_policy_logprobs",
        "base_action_log_probs",
        "base_logprobs",
    ),
    "behavior_logprobs": (
        "behaviour_logprobs",
        "rollout_log_probs",
        "rollout_logprobs",
        "inference_logprobs",
        "generation_logprobs",
        "generation_log_probs",
        "sampling_logprobs",
        "sampling_per_token_logps",
        "sampler_logprobs",
        "vllm_logprobs",
        "vllm_log_probs",
    ),
    "mask": (
        "response_mask",
        "response_masks",
        "loss_mask",
        "loss_masks",
        "token_mask",
        "token_loss_mask",
        "completion_mask",
        "action_mask",
    ),
    "length": ("response_length", "response_lengths", "completion_length", "completion_lengths"),
    "tokens": ("token_ids", "response_ids", "response_tokens", "completion_ids", "output_ids", "responses"),
    "prompt_tokens": ("prompt_ids", "prompt_token_ids", "prompts"),
    "prompt_mask": (),
    "sample_mask": ("sample_loss_mask", "sample_masks"),
    "token_kl": (),
    "ref_mass": (),
    "prompt_id": ("prompt_idx", "prompt_index", "group", "group_id", "group_index", "uid"),
    "sample": ("sample_idx", "sample_index", "rollout_idx", "completion_idx"),
    "step": ("global_step", "global_steps", "training_step"),
    "reward": ("rewards", "score", "scores"),
    "finish": ("finish_reason", "finish_reasons", "stop_reason", "status"),
    "text": ("response", "completion", "output", "generated_text"),
}
"""Their names by ours; `length` and `prompt_mask` say how far a padded row goes, `sample_mask` whether it counts at
all. Among them are those of verl's DataProto, TRL's batches,
OpenRLHF's and SkyRL's experiences, slime's samples, NeMo-RL's and prime-rl's records."""


def names_in(names: Mapping[str, object]) -> dict[str, str]:
    """Which name of a record holds each of our columns.

    Raises:
        InputError: two names for one column, where it is not said which of them is meant.
    """
    spelt = spellings(names)
    found = {ours: _name_of(ours, [spelt.get(name, name) for name in theirs], names) for ours, theirs in _SPELT.items()}
    return {ours: name for ours, name in found.items() if name is not None}


def spellings(names: Mapping[str, object]) -> dict[str, str]:
    """How names are spelt: each by itself, and logProbs by log_probs where that is not there as well."""
    known = [name for name in names if isinstance(name, str)]  # YAML has others
    return {_snake(name): name for name in known} | {name: name for name in known}


@cache
def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


_SPELT = {ours: (ours, *theirs) for ours, theirs in ALIASES.items()}


def _name_of(ours: str, known: Sequence[str], record: Mapping[str, object]) -> str | None:
    present = [name for name in dict.fromkeys(known) if name in record and record[name] is not None]
    if len(present) < 2:
        return present[0] if present else None
    # `--map` put the values of one of their names under ours.
    if ours in record and any(record[name] is record[ours] for name in present[1:]):
        return ours
    if ours in ("tokens", "text", "reward", "finish", "sample"):
        return ours if ours in record else None  # what no number of the estimate hangs on
    lines = " or ".join(f"--map {ours}={name}" for name in present)
    raise InputError(f"{' and '.join(present)} are both names for {ours}: say which is meant with {lines}")
