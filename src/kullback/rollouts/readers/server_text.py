"""What servers return where nobody asked for log-probs: known, so that it can be said how to ask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from kullback.errors import InputError
from kullback.rollouts.readers import llama_server, openai_chat, openai_completions, openai_responses, sglang, tgi, vllm
from kullback.rollouts.readers.checked import at
from kullback.rollouts.readers.format import Format, Record
from kullback.rollouts.readers.responses import events
from kullback.rollouts.readers.text_only import NO_END, is_plain, plain, written
from kullback.rollouts.record import Rollout

WITH_LOGPROBS = tuple(
    module.FORMAT for module in (llama_server, openai_chat, openai_completions, openai_responses, sglang, tgi, vllm)
)

TOKENS = ("generation_token_ids", "prompt_token_ids", "token_ids")
"""Of items that a trainer added its own tokens to."""

ADVICE = (
    "ask again with logprobs=true (chat), logprobs=1 (completions), include=['message.output_text.logprobs'] "
    "(Responses), return_logprob=true (SGLang), details=true (TGI) or n_probs=1 (llama.cpp); or write what was asked "
    'and answered a line each, {"prompt": …, "completion": …}, and score that with kullback score, which loses the '
    "tokens that ended them"
)


def recognises(record: Record, path: Path) -> bool:
    """Whether it is a response of a server, or a stream, with a text and without log-probs."""
    bodies: Sequence[object] = events(record) or [at(record, "response", "body") or record]
    if not any(_has_text(body) for body in bodies):
        return False
    return not any(one.recognises(record, path) for one in WITH_LOGPROBS)


def _has_text(body: object) -> bool:
    choice, item = at(body, "choices", 0), at(body, "output", -1)
    if at(body, "object") == "response" and at(item, "content", 0, "type") == "output_text":
        return not any(at(item, name) for name in TOKENS)
    texts = (at(choice, "message", "content"), at(choice, "delta", "content"), at(choice, "text"))
    if any(isinstance(text, str) for text in texts):
        return True
    bare = isinstance(at(body, "generated_text"), str) and at(body, "details", "tokens") is None
    meta = at(body, "meta_info")
    unscored = (
        meta is not None and at(meta, "output_token_logprobs") is None and at(meta, "input_token_logprobs") is None
    )
    stopped = at(body, "tokens_predicted") is not None and at(body, "completion_probabilities") is None
    return bare or (isinstance(at(body, "text"), str) and unscored) or stopped


def rollouts(record: Record) -> Iterator[Rollout]:
    """None: there are no log-probs."""
    raise InputError(f"it has no log-probs: {ADVICE}")


def texts(record: Record) -> Iterator[Rollout]:
    """The answer, where it says what was asked, as llama.cpp's server does."""
    if is_plain(record):
        yield from plain(record)
        return
    prompt, answer = record.get("prompt"), record.get("content")
    if not (isinstance(prompt, str) and isinstance(answer, str)):
        raise InputError(
            "a server's answer does not say what was asked: write a line each with both, "
            '{"prompt": …, "completion": …}, and score that'
        )
    yield written(prompt, answer, missing_end=True)


FORMAT = Format(
    name="server-text",
    written_by="a server that was not asked for log-probs",
    containers=("json", "jsonl", "sse"),
    recognises=recognises,
    rollouts=rollouts,
    advice=ADVICE,
    texts=texts,
    lost=NO_END,
)
