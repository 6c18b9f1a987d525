"""`traces.jsonl` of verifiers, as prime-rl and the Environments Hub write it: an episode a line, up to three laws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kullback.errors import InputError
from kullback.rollouts.metadata import Law, Metadata, Model, law_of
from kullback.rollouts.readers.format import Format
from kullback.rollouts.readers.values import Fields, checked, same_length, scalars
from kullback.rollouts.record import Finish, Rollout

COLUMNS = {"behavior_logprobs": "logprobs", "logprobs": "trainer_logprobs", "ref_logprobs": "reference_logprobs"}
"""The log-probs of a rollout, and what they are called in a node."""

CUT = ("max_turns", "max_input_tokens", "max_output_tokens", "max_total_tokens", "compaction_failed")
"""Conditions that stop a trace before its end."""


PENALTIES = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_p": 0.0}
"""Settings that change the law in ways that have no name, and the values that change nothing."""


def _recognises(record: Mapping[str, Any], path: Path) -> bool:
    traces = record.get("traces")
    return isinstance(traces, list) and all(isinstance(t, Mapping) and isinstance(t.get("nodes"), list) for t in traces)


def _rollouts(record: Mapping[str, Any]) -> Iterator[Rollout]:
    episode = Fields(record)
    said: dict[str, Any] = {"prompt_id": _group(episode), "step": _step(episode)}
    environment = episode.maybe(episode.part, "env")
    named = {} if environment is None else {"environment": _name(environment)}
    for trace in episode.parts("traces"):
        agent = trace.maybe(trace.part, "agent")
        if agent is not None and agent.maybe(agent.get, "trainable") is False:
            continue  # of another model, which the run does not train
        whose = {} if agent is None else {"agent": agent.maybe(agent.text, "name")}
        metrics = trace.maybe(trace.part, "metrics")
        extra = scalars({**named, **whose, **({} if metrics is None else metrics.rest())})
        yield from _trace(trace, {**said, "extra": extra})


def _trace(trace: Fields, said: Mapping[str, Any]) -> Iterator[Rollout]:
    """The nodes of a trace one after another, so that those which branches share count once."""
    nodes = trace.parts("nodes")
    trained = _trained(nodes)
    ids = [node.maybe(node.ids, "token_ids") or [] for node in nodes]
    masks = [_mask(node, tokens) for node, tokens in zip(nodes, ids, strict=True)]
    mask = np.concatenate([mask & one for mask, one in zip(masks, trained, strict=True)]) if nodes else np.zeros(0)
    if not mask.any():
        return
    start = int(mask.argmax())
    tokens = [token for one in ids for token in one]
    columns: dict[str, Any] = {name: _spread(nodes, masks, trained, field) for name, field in COLUMNS.items()}
    yield Rollout(
        **{name: column[start:] for name, column in columns.items() if column is not None},
        **said,
        prompt_tokens=tokens[:start],
        tokens=tokens[start:],
        mask=mask[start:],
        reward=_reward(trace),
        finish=_finish(trace),
    )


def _mask(node: Fields, tokens: Sequence[int]) -> np.ndarray:
    mask = node.maybe(node.mask, "mask")
    if mask is None:
        return np.zeros(len(tokens), dtype=bool)
    same_length(**{node.name("token_ids"): tokens, node.name("mask"): mask})
    return mask


def _spread(nodes: list[Fields], masks: list[np.ndarray], trained: list[bool], field: str) -> np.ndarray | None:
    """A column that has a number for each True of a node's mask, as one for each token; None where no node has it."""
    compact = [node.maybe(node.numbers, field) for node in nodes]
    if all(column is None or not len(column) for column in compact):
        return None
    spread = []
    for node, mask, counts, column in zip(nodes, masks, trained, compact, strict=True):
        wide = np.full(len(mask), np.nan)
        if column is not None and len(column) == mask.sum():
            wide[mask] = column
        elif counts and (column is not None or mask.any()):
            found = 0 if column is None else len(column)
            raise InputError(f"{node.name(field)} has {found} numbers, but its mask counts {int(mask.sum())} tokens")
        spread.append(wide)
    return np.concatenate(spread)


def _trained(nodes: list[Fields]) -> list[bool]:
    """Whether a trained branch goes through a node: an attempt at compaction is one once something goes on from it."""
    parents = [_parent(node, number) for number, node in enumerate(nodes)]
    links = [_links(node) for node in nodes]
    accepted = {other for number in range(len(nodes)) for kind, other in links[number] if kind == "compaction"}
    trained = [False] * len(nodes)
    for leaf in set(range(len(nodes))) - set(parents):
        attempt = any(kind == "compaction_attempt" for kind, _ in links[leaf]) and leaf not in accepted
        at: int | None = None if attempt else leaf
        while at is not None and not trained[at]:
            trained[at], at = True, parents[at]
    return trained


def _parent(node: Fields, number: int) -> int | None:
    parent = node.maybe(node.whole, "parent")
    if parent is not None and not 0 <= parent < number:
        raise InputError(f"{node.name('parent')} is {parent}, but a parent stands before its node")
    return parent


def _links(node: Fields) -> list[tuple[str, int | None]]:
    links = node.parts("semantic_parents") if "semantic_parents" in node else []
    return [(link.maybe(link.text, "type") or "", link.maybe(link.whole, "node")) for link in links]


def _name(environment: Fields) -> str | None:
    """The name that a run gives to its environment, or else its id."""
    return environment.maybe(environment.text, "name") or environment.maybe(environment.text, "id")


def _group(episode: Fields) -> int | str | None:
    for name, key in (("group", "id"), ("task", "key")):
        part = episode.maybe(episode.part, name)
        if part is not None and key in part:
            return part.key(key)
    return None


def _step(episode: Fields) -> int | None:
    run = episode.maybe(episode.part, "run")
    work = None if run is None else run.maybe(run.part, "work")
    return None if work is None else work.maybe(work.whole, "step")


def _reward(trace: Fields) -> float | None:
    rewards = trace.maybe(trace.part, "rewards")
    given = [] if rewards is None else [rewards.part(name) for name in rewards.names() if name in rewards]
    if not given:
        return None
    return float(sum(one.number("score") * (one.maybe(one.number, "weight") or 1.0) for one in given))


def _finish(trace: Fields) -> Finish:
    calls = [] if "calls" not in trace else [call for call in trace.parts("calls") if "error" not in call]
    last = calls[-1].maybe(calls[-1].text, "finish_reason") if calls else None
    if last == "length" or trace.maybe(trace.text, "stop_condition") in CUT:
        return "length"
    return "end" if last == "stop" else "unknown"


def _metadata(record: Mapping[str, Any]) -> Metadata:
    """Of the calls: with temperature 1 and no filter every law is raw; else the scorers' is not known."""
    traces = Fields(record).parts("traces")
    calls = [call for trace in traces if "calls" in trace for call in trace.parts("calls")]
    kinds = {(call.maybe(call.text, "model"), tuple(_settings(call).items())) for call in calls}
    if len(kinds) != 1:
        return Metadata()
    model, settings = kinds.pop()
    return Metadata(behavior=Model(model, dict(settings)), law=_laws(dict(settings)))


def _settings(call: Fields) -> dict[str, float]:
    sampling = {} if "sampling" not in call else call.part("sampling").rest()
    telling = {name: value for name, value in sampling.items() if name in ("temperature", "top_p", "top_k", *PENALTIES)}
    return {name: float(value) for name, value in telling.items() if not isinstance(value, str)}


def _laws(settings: Mapping[str, float]) -> dict[str, Law]:
    penalised = any(settings.get(name, neutral) != neutral for name, neutral in PENALTIES.items())
    if "temperature" not in settings or penalised:
        return {}
    law = law_of(settings["temperature"], settings.get("top_p", 1.0), max(settings.get("top_k", 0.0), 0.0))
    return dict.fromkeys(COLUMNS, law) if law == "raw" else {"behavior_logprobs": law}


FORMAT = Format(
    name="verifiers",
    written_by="verifiers and prime-rl (traces.jsonl)",
    containers=("jsonl", "json"),
    recognises=_recognises,
    rollouts=checked(_rollouts),
    metadata=_metadata,
)
