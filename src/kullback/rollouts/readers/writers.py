"""Who wrote a response in OpenAI's shape, and which law its log-probs follow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kullback.rollouts.metadata import Law, Metadata, Model
from kullback.rollouts.readers.checked import at
from kullback.rollouts.readers.format import Record


@dataclass(frozen=True, kw_only=True)
class Writer:
    """A server by what its responses alone have.

    Attributes:
        name: for people.
        law: of its log-probs, unless it was started otherwise.
        ids: what its responses' ids look like.
        keys: that its responses or their choices have.
    """

    name: str
    law: Law
    ids: str
    keys: frozenset[str] = frozenset()


LLAMA_CPP_PYTHON = Writer(
    name="llama-cpp-python", law="raw", ids=r"(chat)?cmpl-[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}"
)
VLLM = Writer(
    name="vLLM",
    law="raw",
    ids=r"(chat)?cmpl-([0-9a-f]{16}|[0-9a-f]{32})",
    keys=frozenset({"prompt_logprobs", "prompt_token_ids", "kv_transfer_params", "stop_reason", "token_ids"}),
)
WRITERS = (LLAMA_CPP_PYTHON, VLLM)
"""llama-cpp-python takes log-probs from the model's logits before anything is applied to them; vLLM does so by default
(`--logprobs-mode raw_logprobs`)."""


def writer_of(body: Record) -> Writer | None:
    """Who wrote a response; None where it could be any of several."""
    own = body.get("id")
    choice = at(body, "choices", 0)
    keys = {*body, *(choice if isinstance(choice, Mapping) else ())}
    for writer in WRITERS:
        if (isinstance(own, str) and re.fullmatch(writer.ids, own)) or keys & writer.keys:
            return writer
    return None


def law_of_response(body: Record) -> Metadata:
    """What a response says of what drew its tokens."""
    writer, model = writer_of(body), body.get("model")
    return drawn_by("unknown" if writer is None else writer.law, model if isinstance(model, str) else None)


def drawn_by(law: Law, model: str | None = None, sampling: Mapping[str, float] | None = None) -> Metadata:
    """The metadata of a sampler's log-probs."""
    known = Model(name=model, sampling=sampling or {}) if model is not None or sampling else None
    return Metadata(behavior=known, law={"behavior_logprobs": law})
