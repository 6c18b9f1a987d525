"""Results of Harbor's trials: conversations turn by turn, with ids and the sampler's log-probs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kullback.rollouts.placing import name_of_tokens
from kullback.rollouts.readers.format import Format
from kullback.rollouts.readers.turns import Turn, conversations
from kullback.rollouts.readers.values import Fields, checked, ids, numbers, same_length
from kullback.rollouts.record import Rollout

TURNS = ("prompt_token_ids", "completion_token_ids", "logprobs")
"""Of a conversation: for each a list with an entry for every turn."""


def _recognises(record: Mapping[str, Any], path: Path) -> bool:
    result = record.get("agent_result")
    return isinstance(result, Mapping) and bool(result.get("rollout_details"))


def _rollouts(record: Mapping[str, Any]) -> Iterator[Rollout]:
    trial = Fields(record)
    said = {name: trial.text(name) for name in ("task_name", "trial_name") if name in trial}
    reward = _reward(trial)
    for detail in trial.part("agent_result").parts("rollout_details"):
        whole = conversations(_turns(detail))
        for number, one in enumerate(whole):
            yield Rollout(
                behavior_logprobs=one.logprobs,
                prompt_tokens=one.prompt,
                tokens=one.tokens,
                mask=one.mask,
                # Sequences of one conversation are no independent draws.
                prompt_id=said.get("task_name", name_of_tokens(whole[0].prompt)),
                reward=reward,
                extra={**said, "turn": number} if len(whole) > 1 else said,
            )


def _turns(detail: Fields) -> list[Turn]:
    columns = {name: detail.listed(name) for name in TURNS}
    same_length(**{detail.name(name): column for name, column in columns.items()})
    turns = []
    for number, (prompt, tokens, logprobs) in enumerate(zip(*columns.values(), strict=True)):
        names = [f"{detail.name(name)}[{number}]" for name in TURNS]
        turns.append(Turn(ids(names[0], prompt), ids(names[1], tokens), numbers(names[2], logprobs)))
        same_length(**{names[1]: tokens, names[2]: logprobs})
    return turns


def _reward(trial: Fields) -> float | None:
    """The one that Harbor calls reward."""
    result = trial.maybe(trial.part, "verifier_result")
    rewards = None if result is None else result.maybe(result.part, "rewards")
    return None if rewards is None else rewards.maybe(rewards.number, "reward")


FORMAT = Format(
    name="harbor",
    written_by="Harbor (result.json of a trial)",
    containers=("json", "jsonl"),
    recognises=_recognises,
    rollouts=checked(_rollouts),
)
