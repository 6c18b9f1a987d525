"""Records in the shapes of servers' responses, small enough to compute by hand.

Those in `data/dumps/servers` are made by the models of `openai` 3.57.0 and `huggingface_hub` 2.4.0 (`make.py` there);
those of vLLM, SGLang, llama.cpp and llama-cpp-python are written here, in the shapes that their servers send.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kullback.rollouts.readers import (
    cassettes,
    llama_server,
    openai_chat,
    openai_completions,
    openai_responses,
    sglang,
    tgi,
    vllm,
)

DUMPS = Path(__file__).parent / "data" / "dumps" / "servers"
FORMATS = [
    module.FORMAT
    for module in (
        cassettes,
        llama_server,
        openai_chat,
        openai_completions,
        openai_responses,
        sglang,
        tgi,
        vllm,
    )
]


def document(name: str) -> dict[str, Any]:
    """A file made by its writer's models."""
    found = json.loads((DUMPS / name).read_text())
    assert isinstance(found, dict)
    return found


def stream(name: str) -> dict[str, Any]:
    """The events of such a file, as their container gives them."""
    lines = (DUMPS / name).read_text().splitlines()
    return {"events": [json.loads(line[6:]) for line in lines if line.startswith("data: {")]}


def cassette(*bodies: dict[str, Any]) -> dict[str, Any]:
    return {"interactions": [{"request": {"method": "POST"}, "response": body} for body in bodies]}


VLLM_WORDS = [
    {"7": {"logprob": -0.25, "rank": 1, "decoded_token": "Red"}, "9": {"logprob": -2.0, "rank": 2}},
    {"9": {"logprob": -0.5, "rank": 1}, "8": {"logprob": -1.5, "rank": 2, "decoded_token": " and"}},
    {"2": {"logprob": -0.125, "rank": 1, "decoded_token": "</s>"}, "9": {"logprob": -4.0, "rank": 2}},
]
TRIPLE = {"document": [[7, 8, 2], "Red and", VLLM_WORDS]}
OUTPUTS = {
    "request_id": "cmpl-1",
    "prompt_token_ids": [4, 5],
    "outputs": [
        {"index": 0, "text": "Red and", "token_ids": [7, 8, 2], "logprobs": VLLM_WORDS, "finish_reason": "stop"},
        {"index": 1, "text": "Red", "token_ids": [7], "logprobs": VLLM_WORDS[:1], "finish_reason": "length"},
    ],
}
SCORED = {
    "id": "cmpl-0123456789abcdef",
    "choices": [{"index": 0, "text": "!", "logprobs": None, "finish_reason": "length"}],
    "prompt_logprobs": [None, {"7": {"logprob": -0.25}}, {"8": {"logprob": -1.5}}],
}
"""A prompt that was scored: the one token that was generated has no log-prob."""

ECHO = {
    "id": "cmpl-0123456789abcdef",
    "choices": [
        {
            "index": 0,
            "text": "Say it Red and",
            "finish_reason": "length",
            "logprobs": {
                "tokens": ["Say", " it", " Red", " and"],
                "token_logprobs": [None, -3.0, -0.25, -1.5],
                "top_logprobs": [None, {" it": -3.0, " so": -0.5}, None, {" and": -1.5}],
                "text_offset": [0, 3, 6, 10],
            },
        }
    ],
    "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4},
}
LLAMA_PYTHON = {
    "id": "cmpl-2d1f0e1c-7a8b-4c3d-9e0f-123456789abc",
    "object": "text_completion",
    "choices": [
        {
            "index": 0,
            "text": " Red and",
            "finish_reason": "stop",
            "logprobs": {
                "tokens": [" Red", " and"],
                "token_logprobs": [-0.25, -1.5],
                "top_logprobs": [{" Red": -0.25}, {" and": -1.5, " or": -1.0}],
                "text_offset": [3, 7],
            },
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}
"""llama-cpp-python: the end token has no log-prob, and is not counted."""

SGLANG = {
    "text": "Red and",
    "output_ids": [7, 8, 2],
    "meta_info": {
        "id": "a1",
        "finish_reason": {"type": "stop", "matched": 2},
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "input_token_logprobs": [[None, 4, None], [-3.0, 5, None]],
        "output_token_logprobs": [[-0.25, 7, "Red"], [-1.5, 8, " and"], [-0.125, 2, None]],
        "output_top_logprobs": [[[-0.25, 7, None], [-2.0, 9, None]], [[-1.5, 8, None]], None],
    },
}
LLAMA_OLD = {
    "content": " to be",
    "stopped_eos": True,
    "completion_probabilities": [
        {"content": " to", "probs": [{"prob": 0.75, "tok_str": " to"}, {"prob": 0.25, "tok_str": " so"}]},
        {"content": " be", "probs": [{"prob": 0.5, "tok_str": " so"}, {"prob": 0.5, "tok_str": " be"}]},
    ],
}
LLAMA_NEW = {
    "content": "Red and",
    "stop_type": "limit",
    "tokens_predicted": 2,
    "completion_probabilities": [
        {
            "id": 7,
            "token": "Red",
            "bytes": [82, 101, 100],
            "logprob": -0.25,
            "top_logprobs": [{"id": 9, "token": "x", "bytes": [120], "logprob": -2.0}],
        },
        {"id": 8, "token": " and", "bytes": None, "logprob": -1.5, "top_logprobs": []},
    ],
}


def sglang_stream(*, cumulative: bool) -> dict[str, Any]:
    """The response in two chunks, each with all that came, or with what is new."""
    drawn = SGLANG["meta_info"]["output_token_logprobs"]  # type: ignore[index]
    pieces = [drawn[:1], drawn if cumulative else drawn[1:]]
    texts = ["Red", "Red and" if cumulative else " and"]
    return {
        "events": [
            {"text": text, "meta_info": {"id": "a1", "finish_reason": None, "output_token_logprobs": piece}}
            for text, piece in zip(texts, pieces, strict=True)
        ]
    }


RECORDS: dict[str, dict[str, Any]] = {
    "chat": document("chat.json"),
    "chat stream": stream("chat.txt"),
    "completions": document("completions.json"),
    "echo": ECHO,
    "llama-cpp-python": LLAMA_PYTHON,
    "responses": document("response.json"),
    "responses stream": stream("response.txt"),
    "cassette": cassette({"parsed_body": document("response.json")}),
    "tgi": document("tgi.json"),
    "tgi stream": stream("tgi.txt"),
    "vllm triple": TRIPLE,
    "vllm outputs": OUTPUTS,
    "vllm scored": SCORED,
    "sglang": SGLANG,
    "sglang stream": sglang_stream(cumulative=True),
    "llama-server old": LLAMA_OLD,
    "llama-server new": LLAMA_NEW,
}
