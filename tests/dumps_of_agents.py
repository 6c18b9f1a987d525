"""Small dumps of conversations, turn by turn, of the same four sequences."""

from __future__ import annotations

from typing import Any

from dumped_sequences import COMPLETIONS, ENDS, ONE, REWARDS, ROWS, SAMPLER, Dump, finish, prompt


def _output(row: int) -> dict[str, Any]:
    return {
        "type": "message",
        "prompt_token_ids": prompt(row),
        "generation_token_ids": list(COMPLETIONS[row]),
        "generation_log_probs": list(SAMPLER[row]),
    }


NEMO_GYM = Dump(
    format="nemo-gym",
    file="rollouts.jsonl",
    records=[
        {
            "response": {
                "model": "tiny",
                "temperature": None,
                "output": [{"type": "reasoning", "summary": []}, _output(row)],
                "incomplete_details": None if ENDS[row] else {"reason": "max_output_tokens"},
                "status": "completed" if ENDS[row] else "incomplete",
            },
            "reward": REWARDS[row],
            "subtask": "all",
            "_ng_task_index": row // 2,
            "_ng_rollout_index": row % 2,
        }
        for row in ROWS
    ],
    columns=ONE,
    say=lambda row: {
        "prompt_id": row // 2,
        "sample": row % 2,
        "reward": REWARDS[row],
        "finish": finish(row),
        "extra": {"subtask": "all"},
    },
)


def _trajectory(row: int) -> dict[str, Any]:
    metrics = {
        "prompt_token_ids": prompt(row),
        "completion_token_ids": list(COMPLETIONS[row]),
        "logprobs": list(SAMPLER[row]),
    }
    return {
        "schema_version": "ATIF-v1.8",
        "session_id": f"session{row}",
        "trajectory_id": f"trajectory{row}",
        "agent": {"name": "words", "version": "1", "model_name": "tiny"},
        "steps": [
            {"step_id": 1, "source": "user", "message": "a prompt"},
            {"step_id": 2, "source": "agent", "message": "a text", "metrics": metrics, "llm_call_count": 1},
        ],
    }


ATIF = Dump(
    format="atif",
    file="trajectories.jsonl",
    records=[_trajectory(row) for row in ROWS],
    columns=ONE,
    say=lambda row: {"extra": {"session_id": f"session{row}", "trajectory_id": f"trajectory{row}"}},
)

HARBOR = Dump(
    format="harbor",
    file="result.json",
    records=[
        {
            "task_name": "words",
            "agent_result": {
                "rollout_details": [
                    {
                        "prompt_token_ids": [prompt(row)],
                        "completion_token_ids": [list(COMPLETIONS[row])],
                        "logprobs": [list(SAMPLER[row])],
                    }
                    for row in (0, 1)
                ]
            },
            "verifier_result": {"rewards": {"reward": 0.5}},
        }
    ],
    columns=ONE,
    rows=(0, 1),
    say=lambda row: {"prompt_id": "words", "reward": 0.5, "extra": {"task_name": "words"}},
)
