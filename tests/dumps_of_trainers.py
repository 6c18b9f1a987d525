"""Small dumps in the shapes that trainers write, all of the same four sequences, and what a reader is to find in each.

Made by hand after the writers' own code; those in `data/dumps` the writers' own packages made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dumped_sequences import (
    ALL,
    COMPLETIONS,
    ENDS,
    ONE,
    POLICY,
    REFERENCE,
    REWARDS,
    ROWS,
    SAMPLER,
    STEP,
    TWO,
    Dump,
    finish,
    padded,
    prompt,
    tokens,
)
from dumps_of_agents import ATIF, HARBOR, NEMO_GYM


def _trace(row: int) -> dict[str, Any]:
    """A prompt and a completion, the first token of which is of the template: it was not sampled."""
    node = {
        "parent": 0,
        "message": {"role": "assistant", "content": "a text"},
        "sampled": True,
        "token_ids": [3, *COMPLETIONS[row]],
        "mask": [False] + [True] * len(COMPLETIONS[row]),
        "logprobs": list(SAMPLER[row]),
        "trainer_logprobs": list(POLICY[row]),
        "reference_logprobs": list(REFERENCE[row]),
    }
    root = {"token_ids": prompt(row), "mask": [False] * len(prompt(row)), "logprobs": []}
    call = {
        "node": 1,
        "model": "tiny",
        "sampling": {"temperature": 1.0},
        "finish_reason": "stop" if ENDS[row] else "length",
    }
    return {
        "version": 1,
        "agent": {"name": "solver", "trainable": True},
        "nodes": [root, node],
        "calls": [call],
        "rewards": {"share": {"score": 2 * REWARDS[row], "weight": 0.5}},
        "metrics": {"turns": 1},
        "stop_condition": "agent_completed",
    }


def _episode(row: int) -> dict[str, Any]:
    return {
        "id": f"episode{row}",
        "env": {"id": "words"},
        "group": {"id": f"g{row // 2}"},
        "run": {"work": {"step": STEP}},
        "traces": [_trace(row)],
    }


VERIFIERS = Dump(
    format="verifiers",
    file="traces.jsonl",
    records=[_episode(row) for row in ROWS],
    columns=ALL,
    say=lambda row: {
        "prompt_id": f"g{row // 2}",
        "step": STEP,
        "finish": finish(row),
        "reward": REWARDS[row],
        "extra": {"environment": "words", "agent": "solver", "turns": 1},
        "prompt_tokens": [*prompt(row), 3],
    },
)


def _train_sample(row: int) -> dict[str, Any]:
    return {
        "sample_index": row,
        "rollout_position": row,
        "tokens": np.array(tokens(row)),
        "response_lengths": len(COMPLETIONS[row]),
        "total_lengths": len(tokens(row)),
        "loss_masks": np.ones(len(COMPLETIONS[row]), dtype=np.int32),
        "rewards": 0.7,
        "truncated": int(not ENDS[row]),
        "rollout_log_probs": np.array(SAMPLER[row]),
        "log_probs": np.array(POLICY[row]),
        "ref_log_probs": np.array(REFERENCE[row]),
    }


SLIME_TRAIN = Dump(
    format="slime-train",
    file="train_data/6_0.pt",
    records=[
        {
            "format_version": 2,
            "rollout_id": STEP,
            "rank": 0,
            "samples": [_train_sample(row) for row in ROWS],
            "raw_reward": list(REWARDS),
        }
    ],
    columns=ALL,
    say=lambda row: {"step": STEP, "finish": finish(row), "reward": REWARDS[row], "sample": row},
)


def _rollout_sample(row: int) -> dict[str, Any]:
    return {
        "group_index": row // 2,
        "index": row,
        "tokens": tokens(row),
        "response": "a text",
        "response_length": len(COMPLETIONS[row]),
        "reward": REWARDS[row],
        "loss_mask": [1] * len(COMPLETIONS[row]),
        "rollout_log_probs": list(SAMPLER[row]),
        "remove_sample": row == 2,
        "status": "completed" if ENDS[row] else "truncated",
    }


SLIME = Dump(
    format="slime",
    file="rollout_data/6.pt",
    records=[{"rollout_id": STEP, "samples": [_rollout_sample(row) for row in ROWS]}],
    columns=ONE,
    rows=(0, 1, 3),
    say=lambda row: {
        "prompt_id": row // 2,
        "step": STEP,
        "finish": finish(row),
        "reward": REWARDS[row],
        "sample": row,
        "text": "a text",
    },
)

MILES = Dump(
    format="miles",
    file="dashboard_columns/rollout_6.parquet",
    records=[
        {
            "sample_index": row,
            "response_length": len(COMPLETIONS[row]),
            "total_length": len(tokens(row)),
            "tokens": tokens(row),
            "loss_mask": [1] * len(COMPLETIONS[row]),
            "rollout_log_probs": list(SAMPLER[row]),
        }
        for row in ROWS
    ],
    columns=ONE,
    say=lambda row: {"sample": row},
)


def _batched(row: int) -> dict[str, Any]:
    """A row of NeMo-RL: everything but idx with a batch axis of 1, two tokens of padding, the last one left out."""
    before, length = len(prompt(row)), len(tokens(row)) + 2
    columns = {
        "token_ids": [*tokens(row), 0, 0],
        "token_loss_mask": padded([1] * len(COMPLETIONS[row]), before, length, 0),
        "generation_logprobs": padded(SAMPLER[row], before, length),
        "prev_logprobs": padded(POLICY[row], before, length),
        "sample_loss_mask": 0.0 if row == 3 else 1.0,
        "input_lengths": len(tokens(row)),
        "rewards": REWARDS[row],
        "content": ["a prompt", "a text"],
    }
    return {name: [value] for name, value in columns.items()} | {"idx": row}


NEMO_RL = Dump(
    format="nemo-rl",
    file="train_data_step6.jsonl",
    records=[_batched(row) for row in ROWS],
    columns=TWO,
    rows=(0, 1, 2),
    say=lambda row: {"reward": REWARDS[row], "sample": row, "text": "a text"},
)


def _packed(rows: Sequence[int], prefix: str = "inference") -> dict[str, list[Any]]:
    """Sequences one behind another; unmasked positions hold what a trainer leaves there."""
    whole: dict[str, list[Any]] = {name: [] for name in ("ids", "positions", "mask", "sampler", "policy", "reference")}
    for row in rows:
        before, length = len(prompt(row)), len(tokens(row))
        whole["ids"] += tokens(row)
        whole["positions"] += range(length)
        whole["mask"] += [False] * before + [True] * len(COMPLETIONS[row])
        whole["sampler"] += padded(SAMPLER[row], before, length)
        whole["policy"] += padded(POLICY[row], before, length, -4.8)
        whole["reference"] += padded(REFERENCE[row], before, length)
    return whole


def _export(rows: Sequence[int]) -> dict[str, Any]:
    whole = _packed(rows)
    return {
        "schema_version": 1,
        "step": STEP,
        "rank": 0,
        "env_name": "words",
        "token_ids": whole["ids"],
        "position_ids": whole["positions"],
        "loss_mask": whole["mask"],
        "inference_logprobs": whole["sampler"],
        "trainer_logprobs": whole["policy"],
        "mismatch_kl": [None] * len(whole["ids"]),
    }


EXPORTS = Dump(
    format="prime-rl-exports",
    file="token_exports/step_6/rank_0.jsonl",
    records=[_export([0]), _export([1, 2]), _export([3])],
    columns=TWO,
    say=lambda row: {"step": STEP, "extra": {"environment": "words", "rank": 0}},
)


def _sample(row: int) -> dict[str, Any]:
    whole = _packed([row])
    return {
        "token_ids": whole["ids"],
        "mask": whole["mask"],
        "logprobs": whole["sampler"],
        "temperatures": [0.7] * len(whole["ids"]),
        "env_name": "words",
        "ref_logprobs": whole["reference"],
    }


WIRE = Dump(
    format="prime-rl-wire",
    file="samples.jsonl",
    records=[_sample(row) for row in ROWS],
    columns={"behavior_logprobs": SAMPLER, "ref_logprobs": REFERENCE},
    say=lambda row: {"extra": {"environment": "words"}},
)


def _micro_batch(rows: Sequence[int]) -> dict[str, Any]:
    whole = _packed(rows)
    return {
        "input_ids": whole["ids"],
        "loss_mask": whole["mask"],
        "inference_logprobs": whole["sampler"],
        "position_ids": whole["positions"],
        "temperatures": [1.0] * len(whole["ids"]),
        "env_names": ["words"] * len(whole["ids"]),
        "ref_logprobs": whole["reference"],
    }


MICRO_BATCHES = Dump(
    format="prime-rl-wire",
    file="micro_batches.jsonl",
    records=[_micro_batch([0, 1, 2]), _micro_batch([3])],
    columns={"behavior_logprobs": SAMPLER, "ref_logprobs": REFERENCE},
)

BOARD = Dump(
    format="rl-logging-board",
    file="board.jsonl",
    records=[
        {
            "prompt": f"prompt {row // 2}",
            "response": "a text",
            "response_tokens": ["a"] * len(COMPLETIONS[row]) + ["<PAD>"],
            "logprobs": list(POLICY[row]),
            "ref_logprobs": list(REFERENCE[row]),
            "values": [0.5] * len(COMPLETIONS[row]),
            "token_rewards": [0.0] * len(COMPLETIONS[row]),
            "reward": REWARDS[row],
            "step": STEP,
        }
        for row in ROWS
    ],
    columns={"logprobs": POLICY, "ref_logprobs": REFERENCE},
    say=lambda row: {
        "step": STEP,
        "reward": REWARDS[row],
        "text": "a text",
        "extra": {"prompt": f"prompt {row // 2}"},
        "tokens": None,
        "prompt_tokens": None,
    },
)


OPEN_INSTRUCT = Dump(
    format="open-instruct",
    file="run_rollouts_000000.jsonl",
    records=[
        {
            "step": STEP,
            "sample_idx": row,
            "prompt_idx": row // 2,
            "prompt_tokens": prompt(row),
            "response_tokens": list(COMPLETIONS[row]),
            "reward": REWARDS[row],
            "finish_reason": "stop" if ENDS[row] else "length",
            "dataset": "words",
            "logprobs": list(SAMPLER[row]),
        }
        for row in ROWS
    ],
    columns=ONE,
    say=lambda row: {
        "prompt_id": f"6-{row // 2}",
        "step": STEP,
        "sample": row,
        "reward": REWARDS[row],
        "finish": finish(row),
        "extra": {"dataset": "words"},
    },
)


def _wide(rows: Sequence[Sequence[float]], width: int, left: int = 0) -> np.ndarray:
    """Rows in one array, with zeros after them, or before them with `left`."""
    places = [width - len(row) if left else 0 for row in rows]
    return np.array([padded(row, place, width, 0) for row, place in zip(rows, places, strict=True)])


def _batch_of_verl() -> dict[str, Any]:
    """Prompts padded on the left and responses on the right, as a DataProto has them."""
    prompts = [prompt(row) for row in ROWS]
    ones = [[1] * len(row) for row in COMPLETIONS]
    real = np.concatenate([_wide([[1] * len(p) for p in prompts], 4, left=1), _wide(ones, 6)], axis=1)
    return {
        "prompts": _wide(prompts, 4, left=1).astype(int),
        "responses": _wide(COMPLETIONS, 6).astype(int),
        "response_mask": _wide(ones, 6).astype(int),
        "attention_mask": real.astype(int),
        "rollout_log_probs": _wide(SAMPLER, 6),
        "old_log_probs": _wide(POLICY, 6),
        "ref_log_prob": _wide(REFERENCE, 6),
        "token_level_scores": _wide([[0.0] * (len(c) - 1) + [r] for c, r in zip(COMPLETIONS, REWARDS, strict=True)], 6),
        "uid": [f"p{row // 2}" for row in ROWS],
    }


VERL = Dump(
    format="verl",
    file="global_step_6.safe.pt",
    records=[_batch_of_verl()],
    columns=ALL,
    say=lambda row: {"prompt_id": f"p{row // 2}", "reward": REWARDS[row]},
)

SKIPPED = Dump(
    format="verl",
    file="6/0/tq_batch.safe.pt",
    records=[
        {
            "prompts": [np.array(prompt(row)) for row in ROWS],
            "responses": [np.array(row) for row in COMPLETIONS],
            "response_mask": [np.ones(len(row), dtype=int) for row in COMPLETIONS],
            "rollout_log_probs": [np.array(row) for row in SAMPLER],
            "keys": [f"p{row // 2}_{row % 2}_0" for row in ROWS],
            "global_steps": STEP,
        }
    ],
    columns=ONE,
    say=lambda row: {"prompt_id": f"p{row // 2}", "step": STEP, "sample": row % 2, "extra": {}},
)

SKYRL = Dump(
    format="skyrl",
    file="global_step_6_training_input.pkl.safe.pt",
    records=[
        {
            "sequences": _wide([tokens(row) for row in ROWS], 8, left=1).astype(int),
            "attention_mask": _wide([[1] * len(tokens(row)) for row in ROWS], 8, left=1).astype(int),
            "response_mask": _wide([[1] * len(row) for row in COMPLETIONS], 6, left=1).astype(int),
            "loss_mask": _wide([[1.0] * len(row) for row in COMPLETIONS], 6, left=1),
            "rollout_logprobs": _wide(SAMPLER, 6, left=1),
            "action_log_probs": _wide(POLICY, 6, left=1),
            "base_action_log_probs": _wide(REFERENCE, 6, left=1),
            "rewards": _wide([[r] for r in REWARDS], 6, left=1),
            "uids": [f"p{row // 2}" for row in ROWS],
        }
    ],
    columns=ALL,
    say=lambda row: {"prompt_id": f"p{row // 2}", "reward": REWARDS[row]},
)


DUMPS = (
    VERIFIERS,
    SLIME_TRAIN,
    SLIME,
    MILES,
    NEMO_RL,
    EXPORTS,
    WIRE,
    MICRO_BATCHES,
    BOARD,
    NEMO_GYM,
    OPEN_INSTRUCT,
    VERL,
    SKIPPED,
    SKYRL,
    ATIF,
    HARBOR,
)

TEXTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "verl-text": ("6.jsonl", {"input": "a", "output": "b", "gts": None, "score": 1.0, "step": 6, "uid": "p0_0_0"}),
    "trl": (
        "completions_00006.parquet",
        {"step": 6, "prompt": "a", "completion": "b", "reward_len": 0.5, "advantage": 0.1},
    ),
    "areal": (
        "5/100.jsonl",
        {
            "task_id": 100,
            "sample_idx": 0,
            "seqlen": 9,
            "prompt_len": 4,
            "reward": 1.0,
            "prompt": "a",
            "completion": "b",
        },
    ),
    "roll": (
        "rollout_dump_data.step_6.jsonl",
        {"id": ["q0"], "prompt": ["a"], "responses": ["b"], "scores": [1.0], "global_step": [6]},
    ),
    "rl-logging-board-eval": (
        "eval.jsonl",
        {"prompt": "a", "response": "b", "reward": 0.5, "step": 0, "ref_response": "c", "ref_reward": 0.1},
    ),
}
"""What is text alone, by its format."""
