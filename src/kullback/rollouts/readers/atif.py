"""ATIF, the trajectories of Harbor and others: steps whose metrics carry ids and the sampler's log-probs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kullback.errors import InputError
from kullback.rollouts.metadata import Metadata, Model
from kullback.rollouts.placing import name_of_tokens
from kullback.rollouts.readers.format import Format
from kullback.rollouts.readers.turns import Turn, conversations
from kullback.rollouts.readers.values import Fields, checked, same_length
from kullback.rollouts.record import Rollout

IDS = "completion_token_ids"


def _recognises(record: Mapping[str, Any], path: Path) -> bool:
    return str(record.get("schema_version", "")).startswith("ATIF-v") and isinstance(record.get("steps"), list)


def _rollouts(record: Mapping[str, Any]) -> Iterator[Rollout]:
    yield from _trajectory(Fields(record))


def _trajectory(trajectory: Fields) -> Iterator[Rollout]:
    """What its agent said, the agents that it called included."""
    agents = [step for step in trajectory.parts("steps") if step.maybe(step.text, "source") == "agent"]
    turns = [turn for step in agents if (turn := _turn(step)) is not None]
    if agents and not turns and "subagent_trajectories" not in trajectory:
        raise InputError(
            "no step has metrics.logprobs with metrics.completion_token_ids: the text alone is there; have the agent "
            "ask its server for token ids and log-probs"
        )
    whole = conversations(turns)
    known = {name: trajectory.key(name) for name in ("session_id", "trajectory_id") if name in trajectory}
    for number, one in enumerate(whole):
        yield Rollout(
            behavior_logprobs=one.logprobs,
            prompt_tokens=one.prompt or None,
            tokens=one.tokens,
            mask=one.mask,
            # Sequences of one conversation are no independent draws.
            prompt_id=_group(whole[0].prompt, known) if len(whole) > 1 else None,
            extra={**known, "turn": number} if len(whole) > 1 else known,
        )
    for part in trajectory.parts("subagent_trajectories") if "subagent_trajectories" in trajectory else []:
        yield from _trajectory(part)


def _group(prompt: Sequence[int], known: Mapping[str, int | str]) -> int | str | None:
    """The prompt of a conversation; where its ids are not known, the conversation itself."""
    return name_of_tokens(prompt) if prompt else known.get("trajectory_id", known.get("session_id"))


def _turn(step: Fields) -> Turn | None:
    """What one call gave; None for a step without ids or log-probs."""
    metrics = step.maybe(step.part, "metrics")
    if metrics is None or IDS not in metrics or "logprobs" not in metrics:
        return None
    if (calls := step.maybe(step.whole, "llm_call_count")) is not None and calls > 1:
        raise InputError(
            f"{step.name('llm_call_count')} is {calls}: the metrics of several calls are added up in one step, and "
            "which prompt a token had is not known; write a step for each call"
        )
    prompt = metrics.maybe(metrics.ids, "prompt_token_ids") or []
    turn = Turn(prompt, metrics.ids(IDS), metrics.numbers("logprobs"), not step.maybe(step.get, "is_copied_context"))
    same_length(**{metrics.name(IDS): turn.tokens, metrics.name("logprobs"): turn.logprobs})
    return turn


def _metadata(record: Mapping[str, Any]) -> Metadata:
    row = Fields(record)
    agent = row.maybe(row.part, "agent")
    model = None if agent is None else agent.maybe(agent.text, "model_name")
    return Metadata() if model is None else Metadata(behavior=Model(model))


FORMAT = Format(
    name="atif",
    written_by="Harbor, NeMo Gym and others (ATIF trajectories)",
    containers=("json", "jsonl"),
    recognises=_recognises,
    rollouts=checked(_rollouts),
    metadata=_metadata,
)
