"""vLLM: what its engine returns (`RequestOutput`, or ids, text and log-probs), and prompts that it scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from kullback.arrays.bounds import POSITIVE_ALLOWED, SENTINEL
from kullback.errors import InputError
from kullback.rollouts.metadata import Metadata
from kullback.rollouts.readers.checked import LARGEST_ID, at, count, excerpt, listed
from kullback.rollouts.readers.format import Format, Record
from kullback.rollouts.readers.responses import (
    About,
    Drawn,
    Word,
    body_of,
    ids_or_none,
    rollout_of,
    said,
    shared_id,
    top_of,
    vllm_dict,
)
from kullback.rollouts.readers.writers import drawn_by
from kullback.rollouts.record import Rollout


def recognises(record: Record, path: Path) -> bool:
    """Whether there are ids with dicts from ids to log-probs, of an output or of a prompt and no output."""
    if _is_triple(record.get("document")):
        return True
    if any(_is_dicts(at(one, "logprobs")) and isinstance(at(one, "token_ids"), list) for one in _outputs(record)):
        return True
    body = body_of(record)
    return _scored(body) is not None and at(body, "choices", 0, "logprobs") is None


def rollouts(record: Record) -> Iterator[Rollout]:
    """A rollout an output; of the prompt, where its log-probs alone were asked for."""
    if "document" in record:
        yield _of_triple(listed(record["document"], "the document"))
    elif outputs := _outputs(record):
        for place, one in enumerate(outputs):
            yield _of_output(one, f"outputs[{place}]" if "outputs" in record else "the output", record)
    else:
        yield _of_prompt(body_of(record))


def _outputs(record: Record) -> list[Record]:
    """Of a `RequestOutput`, or the record where it is a `CompletionOutput`."""
    found = record.get("outputs")
    if isinstance(found, list):
        return [one for one in found if isinstance(one, dict)]
    return [record] if "token_ids" in record and "logprobs" in record and "choices" not in record else []


def _is_triple(document: object) -> bool:
    """Whether this is [ids, text, dicts], as vLLM's own tests keep its outputs."""
    if not isinstance(document, list | tuple) or len(document) != 3:
        return False
    return isinstance(document[0], list) and isinstance(document[1], str) and _is_dicts(document[2])


def _is_dicts(value: object) -> bool:
    """Whether these are dicts, the keys of the first of which are ids."""
    first = next((one for one in value if one is not None), None) if isinstance(value, list | tuple) else None
    return isinstance(first, dict) and bool(first) and all(str(key).isdigit() for key in first)


def _of_triple(document: Sequence[object]) -> Rollout:
    ids, shown, dicts = document if len(document) == 3 else (None, None, None)
    if not isinstance(shown, str):
        raise InputError(f"it is {excerpt(document)}, but ids, a text and log-probs are needed")
    tokens = drawn_tokens(ids, dicts, "the log-probs")
    texts = [token.text for token in tokens]
    # The token after the text's last is no part of it: what ended the sequence.
    ended = None not in texts and "".join(map(str, texts[:-1])).strip() == shown.strip() and bool(texts[-1])
    return rollout_of(tokens, About(text=shown, finish="stop" if ended and shown.strip() else None))


def _of_output(output: Record, name: str, request: Record) -> Rollout:
    shown, index = output.get("text"), output.get("index")
    about = About(
        finish=output.get("finish_reason"),
        text=shown if isinstance(shown, str) else None,
        prompt_tokens=ids_or_none(request.get("prompt_token_ids"), "prompt_token_ids"),
        prompt_id=shared_id(request, len(_outputs(request)), "request_id"),
        sample=None if index is None else count(index, f"{name}.index"),
    )
    return rollout_of(drawn_tokens(output.get("token_ids"), output.get("logprobs"), f"{name}.logprobs"), about)


def drawn_tokens(ids: object, dicts: object, name: str) -> list[Drawn]:
    """Ids and their dicts side by side.

    Raises:
        InputError: more of the one than of the other, or a token that is not in its dict.
    """
    numbers = ids_or_none(ids, "token_ids") or []
    places = listed(dicts, name)
    if len(numbers) != len(places):
        raise InputError(f"there are {len(numbers)} token ids, but {name} has {len(places)} places")
    return [_token(number, one, f"{name}[{i}]") for i, (number, one) in enumerate(zip(numbers, places, strict=True))]


def _token(number: int, value: object, name: str) -> Drawn:
    plain = _plain(value)
    if plain is not None and number in plain:
        return Drawn(logprob=plain[number], id=number, text=_text(value, number), top=cast(dict[Word, float], plain))
    words = vllm_dict(value, name)
    mine = [(found, shown) for key, found, shown in words if key == number]
    if not mine or mine[0][0] is None:
        raise InputError(f"{name} has no log-prob of the token {number} that was drawn there")
    return Drawn(
        logprob=mine[0][0], id=number, text=mine[0][1], top=top_of(((k, v) for k, v, _ in words if v is not None), name)
    )


def _plain(value: object) -> dict[int, float] | None:
    """A place's words where all are as they should be, in a tenth of the time that naming each takes; else None."""
    if not isinstance(value, dict):
        return None
    numbers: list[Any] = [one.get("logprob") if isinstance(one, dict) else one for one in value.values()]
    if not all(type(key) is str and key.isascii() and key.isdigit() and len(key) < 11 for key in value):
        return None
    if not all(type(one) is float and one <= POSITIVE_ALLOWED for one in numbers):
        return None
    found = {int(key): one for key, one in zip(value, numbers, strict=True) if one > SENTINEL}
    return (
        found if len(found) == sum(one > SENTINEL for one in numbers) and max(found, default=0) <= LARGEST_ID else None
    )


def _text(value: object, number: int) -> str | None:
    shown = at(value, str(number), "decoded_token")
    return shown if isinstance(shown, str) else None


def _scored(body: Record) -> object:
    """The dicts of a prompt that was scored."""
    for path in (("prompt_logprobs",), ("choices", 0, "prompt_logprobs")):
        if _is_dicts(found := at(body, *path)):
            return found
    return None


def _of_prompt(body: Record) -> Rollout:
    dicts = listed(_scored(body), "prompt_logprobs")
    ids = body.get("prompt_token_ids") or at(body, "choices", 0, "prompt_token_ids")
    numbers: Sequence[int | None] = ids_or_none(ids, "prompt_token_ids") or [_only_id(one) for one in dicts]
    first = 0 if numbers and numbers[0] is not None else 1
    tokens = prompt_tokens(numbers, dicts)
    return rollout_of(tokens[first:], About(extra={**said(body, "model"), "scored": "prompt"}))


def prompt_tokens(numbers: Sequence[int | None], dicts: Sequence[object]) -> list[Drawn]:
    """A prompt's ids and the dicts of its places side by side; the first token has no log-prob.

    Raises:
        InputError: more of the one than of the other, or a token that is not in its dict.
    """
    if len(numbers) != len(dicts):
        raise InputError(f"prompt_token_ids has {len(numbers)} ids and prompt_logprobs {len(dicts)} places")
    return [
        Drawn(logprob=None, id=number) if place == 0 else _token(number or 0, dicts[place], f"prompt_logprobs[{place}]")
        for place, number in enumerate(numbers)
    ]


def _only_id(value: object) -> int | None:
    """The id of a place that names one alone, which is then the prompt's."""
    if value is None:
        return None
    words = vllm_dict(value, "prompt_logprobs")
    if len(words) != 1:
        raise InputError(
            f"prompt_logprobs names {len(words)} ids at a place, but not which one was in the prompt: ask the server "
            "with return_token_ids=true, or prompt_logprobs=0"
        )
    return words[0][0]


def metadata(record: Record) -> Metadata:
    """The law that vLLM follows by default, whatever temperature or filter it samples with: the model's own."""
    return drawn_by("raw")


FORMAT = Format(
    name="vllm",
    written_by="vLLM: its engine's outputs, and prompts that its server scored",
    containers=("json", "jsonl"),
    recognises=recognises,
    rollouts=rollouts,
    metadata=metadata,
)
