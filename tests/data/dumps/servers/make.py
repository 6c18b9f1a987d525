"""Makes the files beside it with the models of those who write such files.

pip install openai==3.57.0 huggingface_hub==2.4.0; python tests/data/dumps/servers/make.py
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from huggingface_hub import TextGenerationOutput, TextGenerationStreamOutput
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseCompletedEvent, ResponseTextDeltaEvent

HERE = Path(__file__).parent
TOKENS = [("Red", -0.25), (" and", -1.5), (" blue", -0.125)]
OTHERS = [("Green", -2.0), (" or", -0.75), (" black", -2.5)]


def content(tops: bool) -> list[dict[str, object]]:
    def one(text: str, logprob: float) -> dict[str, object]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    pairs = zip(TOKENS, OTHERS, strict=True)
    return [{**one(*mine), "top_logprobs": [one(*mine), one(*other)] if tops else []} for mine, other in pairs]


USAGE = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
ABOUT = {"id": "chatcmpl-Ab3dEf", "created": 1, "model": "some-model"}


def chat() -> ChatCompletion:
    message = {"role": "assistant", "content": "Red and blue"}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": {"content": content(tops=True)}}
    return ChatCompletion.model_validate({**ABOUT, "object": "chat.completion", "choices": [choice], "usage": USAGE})


def chat_chunks() -> list[ChatCompletionChunk]:
    pieces = [
        {"index": 0, "delta": {"content": one["token"]}, "logprobs": {"content": [one]}, "finish_reason": None}
        for one in content(tops=False)
    ]
    choices = [*pieces, {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]
    whole = {**ABOUT, "object": "chat.completion.chunk"}
    return [ChatCompletionChunk.model_validate({**whole, "choices": [choice]}) for choice in choices]


def completion() -> Completion:
    logprobs = {
        "tokens": [text for text, _ in TOKENS],
        "token_logprobs": [number for _, number in TOKENS],
        "top_logprobs": [dict([mine, other]) for mine, other in zip(TOKENS, OTHERS, strict=True)],
        "text_offset": [0, 3, 7],
    }
    choices = [
        {"index": index, "finish_reason": "length", "text": "Red and blue", "logprobs": logprobs} for index in (0, 1)
    ]
    return Completion.model_validate({**ABOUT, "id": "cmpl-Ab3dEf", "object": "text_completion", "choices": choices})


def response(digits: int, status: str = "completed") -> Response:
    part = {"type": "output_text", "text": "Red and blue", "annotations": [], "logprobs": content(tops=False)}
    for one in part["logprobs"]:
        one["logprob"] = round(one["logprob"], digits)
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    usage = {"input_tokens": 5, "output_tokens": 4, "total_tokens": 9}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return Response.model_construct(
        **{"id": "resp_1", "object": "response", "created_at": 1, "model": "some-model", "status": status},
        **{"output": [item], "temperature": 1.0, "top_p": 1.0, "text": {"format": {"type": "text"}}},
        usage={**usage, **details},
    )


def response_events() -> list[object]:
    deltas = [
        ResponseTextDeltaEvent.model_validate(
            {
                **{"type": "response.output_text.delta", "content_index": 0, "output_index": 0, "item_id": "msg_1"},
                **{
                    "sequence_number": i,
                    "delta": one["token"],
                    "logprobs": [{**one, "logprob": one["logprob"] - 1e-7}],
                },
            }
        )
        for i, one in enumerate(content(tops=False))
    ]
    done = ResponseCompletedEvent.model_construct(
        type="response.completed", sequence_number=3, response=response(6).model_dump()
    )
    return [*deltas, done]


def token(number: int, text: str, logprob: float) -> dict[str, object]:
    return {"id": number, "text": text, "logprob": logprob, "special": text.startswith("<")}


def tgi() -> TextGenerationOutput:
    tokens = [token(7, "Red", -0.25), token(8, " and", -1.5), token(2, "</s>", -0.125)]
    details = {
        **{"finish_reason": "eos_token", "generated_tokens": 3, "seed": 1, "tokens": tokens},
        "prefill": [{"id": 4, "text": "Say", "logprob": None}, {"id": 5, "text": " it", "logprob": -3.0}],
        "top_tokens": [[one, token(9, "x", -4.0)] for one in tokens],
    }
    return TextGenerationOutput.parse_obj({"generated_text": "Red and", "details": details})


def tgi_events() -> list[TextGenerationStreamOutput]:
    tokens = [token(7, "Red", -0.25), token(8, " and", -1.5)]
    end = {"generated_text": "Red and", "details": {"finish_reason": "length", "generated_tokens": 2, "seed": 1}}
    events = [{"index": i + 1, "token": one, "generated_text": None, "details": None} for i, one in enumerate(tokens)]
    return [TextGenerationStreamOutput.parse_obj(one) for one in (events[0], {**events[1], **end})]


def write(name: str, value: object) -> None:
    (HERE / name).write_text(json.dumps(value, indent=1) + "\n")


def write_stream(name: str, events: list[object]) -> None:
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    (HERE / name).write_text("".join([*lines, "data: [DONE]\n\n"]))


if __name__ == "__main__":
    write("chat.json", chat().model_dump())
    write_stream("chat.txt", [chunk.model_dump() for chunk in chat_chunks()])
    write("completions.json", completion().model_dump())
    write("response.json", response(6).model_dump())
    write_stream("response.txt", [event.model_dump() for event in response_events()])
    write("tgi.json", asdict(tgi()))
    write_stream("tgi.txt", [asdict(event) for event in tgi_events()])
