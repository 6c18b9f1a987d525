"""NeMo Gym: rollouts, responses and messages whose turns carry the ids and log-probs that the sampler gave them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kullback.rollouts.metadata import Metadata, Model
from kullback.rollouts.placing import name_of_tokens
from kullback.rollouts.readers.format import Format
from kullback.rollouts.readers.turns import Turn, conversations
from kullback.rollouts.readers.values import Fields, checked, same_length
from kullback.rollouts.record import Finish, Rollout

IDS, LOGPROBS = "generation_token_ids", "generation_log_probs"


def _items(record: Mapping[str, Any]) -> object:
    """Where the turns are: a rollout has a response, a response an output; messages stand on their own."""
    held = record.get("response")
    held = held if isinstance(held, Mapping) else record
    return held.get("output", record.get("messages"))


def _recognises(record: Mapping[str, Any], path: Path) -> bool:
    items = _items(record)
    return isinstance(items, list) and any(isinstance(one, Mapping) and IDS in one for one in items)


def _rollouts(record: Mapping[str, Any]) -> Iterator[Rollout]:
    row = Fields(record)
    response = row.part("response") if "response" in row else row
    turns = [_turn(item) for item in response.parts("output" if "output" in response else "messages") if IDS in item]
    whole = conversations(turns)
    group = row.maybe(row.key, "_ng_task_index")
    for number, one in enumerate(whole):
        yield Rollout(
            behavior_logprobs=one.logprobs,
            prompt_tokens=one.prompt,
            tokens=one.tokens,
            mask=one.mask,
            # Sequences of one conversation are no independent draws.
            prompt_id=name_of_tokens(whole[0].prompt) if group is None and len(whole) > 1 else group,
            sample=row.maybe(row.whole, "_ng_rollout_index"),
            reward=row.maybe(row.number, "reward"),
            finish=_finish(response) if number == len(whole) - 1 else "unknown",
            extra=_extra(row, response, number if len(whole) > 1 else None),
        )


def _turn(item: Fields) -> Turn:
    turn = Turn(item.ids("prompt_token_ids"), item.ids(IDS), item.numbers(LOGPROBS))
    same_length(**{item.name(IDS): turn.tokens, item.name(LOGPROBS): turn.logprobs})
    return turn


def _finish(response: Fields) -> Finish:
    """What the response says, not its items, which NeMo Gym calls completed in any case."""
    if "incomplete_details" in response:
        reason = response.part("incomplete_details")
        return "length" if reason.maybe(reason.text, "reason") == "max_output_tokens" else "unknown"
    return "end" if response.maybe(response.get, "status") == "completed" else "unknown"


def _extra(row: Fields, response: Fields, turn: int | None) -> dict[str, int | float | str]:
    """The numbers and texts of a rollout; those of a response on its own are its settings."""
    kept = {} if row is response else row.rest()
    return kept if turn is None else {**kept, "turn": turn}


def _metadata(record: Mapping[str, Any]) -> Metadata:
    row = Fields(record)
    response = row.part("response") if "response" in row else row
    sampling = {name: response.number(name) for name in ("temperature", "top_p") if name in response}
    model = response.maybe(response.text, "model")
    return Metadata(behavior=Model(model, sampling)) if model or sampling else Metadata()


FORMAT = Format(
    name="nemo-gym",
    written_by="NeMo Gym (rollouts, responses, messages)",
    containers=("jsonl", "json"),
    recognises=_recognises,
    rollouts=checked(_rollouts),
    metadata=_metadata,
)
