"""A server on loopback for what a real one cannot be asked for: to be busy, slow, cut off, or to lie."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch

from kullback.models import Sampling

VOCAB, END = 128, 0


def table(seed: int, scale: float = 1.0) -> np.ndarray:
    """Log-probs of the next token by the last one, (VOCAB, VOCAB)."""
    logits = np.random.default_rng(seed).normal(size=(VOCAB, VOCAB)) * scale
    logits[:, END] += 2.0
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits.astype(np.float32).astype(np.float64)


@dataclass
class Local:
    """The same law in this process, with whole distributions."""

    law: np.ndarray
    name: str = "local"
    context: int = 1 << 20
    vocab: int = VOCAB
    dtype: str = "float32"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def vocabulary(self) -> dict[str, int]:
        return {}

    def encode(self, prompt: Any) -> list[int]:
        return encoded(prompt)

    def decode(self, tokens: Sequence[int], *, special: bool = True) -> str:
        return "".join(map(chr, tokens))

    def next_logits(self, prompts: Any, completions: Any) -> torch.Tensor:
        before = [[*p, *c][len(p) - 1 + t] for p, c in zip(prompts, completions, strict=True) for t in range(len(c))]
        return torch.tensor(self.law[before], dtype=torch.float32)

    def logprobs(self, prompts: Any, completions: Any, sampling: Sampling, *, drawn: bool) -> list[np.ndarray]:
        rows = [[*p, *c] for p, c in zip(prompts, completions, strict=True)]
        return [
            np.array([self.law[row[i - 1], row[i]] for i in range(len(p), len(row))])
            for row, p in zip(rows, prompts, strict=True)
        ]


@dataclass
class Fake:
    """How a fake server answers; a number of a fault is how many requests have it before it goes away.

    Attributes:
        law: of its model.
        most_words: what it allows, as vLLM's --max-logprobs; −1 for the vocabulary.
        statuses: to answer with first, one a request.
        slow, cut: requests that are slow, and cut off in the middle.
        cut_off: likely words that it lists where all are asked for; 0 for all.
        stale, positive, shifted, generated, endless, raw_logits, gridded, elsewhere: the ways it lies.
        echoes_key: whether its refusals repeat the key that came.
    """

    law: np.ndarray = field(default_factory=lambda: table(1))
    most_words: int = -1
    processed: bool = False
    scores: bool = True
    statuses: list[int] = field(default_factory=list)
    slow: int = 0
    cut: int = 0
    stale: bool = False
    positive: bool = False
    shifted: bool = False
    generated: bool = False
    cut_off: int = 0
    endless: bool = False
    chooses: bool = False
    gridded: bool = False
    elsewhere: bool = False
    echoes_key: bool = False
    other_tokens: bool = False
    other_template: bool = False
    dialect: str = "vLLM"
    keys: list[str | None] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    url: str = ""


def encoded(prompt: Any, template: str = "<u>") -> list[int]:
    """ASCII codes; messages behind a mark."""
    text = prompt if isinstance(prompt, str) else "".join(f"{template}{one['content']}" for one in prompt)
    return [ord(letter) % VOCAB for letter in text]


def law_at(fake: Fake, last: int, body: dict[str, Any] | None = None) -> np.ndarray:
    """Log-probs after a token, at a request's temperature, cut to its top k."""
    row = fake.law[last].copy()
    if body is not None:
        row /= body.get("temperature", 1.0)
        if body.get("top_k"):
            row[row < np.sort(row)[-body["top_k"]]] = -np.inf
        row -= np.log(np.exp(row).sum())
    gridded: np.ndarray = np.round(row * 16) / 16 if fake.gridded else row
    return gridded


def listed(row: np.ndarray, token: int, words: int) -> dict[str, dict[str, Any]]:
    """vLLM's dict of a place: the token, and the likely words."""
    likely = range(VOCAB) if words == -1 else map(int, np.argsort(-row)[:words])
    numbers = row.clip(-9999.0).tolist()
    return {str(one): {"logprob": numbers[one], "rank": 1} for one in dict.fromkeys([token, *likely])}


def completion(fake: Fake, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to /v1/completions."""
    prompt, rng = body["prompt"], np.random.default_rng(body.get("seed", 0))
    words = body.get("logprobs")
    tokens: list[int] = []
    numbers, tops = [], []
    for _ in range(body["max_tokens"]):
        last = (tokens or prompt)[-1]
        drawn = law_at(fake, last, body)
        token = int((drawn + rng.gumbel(size=VOCAB)).argmax())
        said = drawn if fake.processed else law_at(fake, last)
        tokens.append(token)
        numbers.append(float(said[token]))
        tops.append(
            {f"token_id:{i}": float(said[i]) for i in np.argsort(-said)[: words or 0] if math.isfinite(said[i])}
        )
        if token == END:
            break
    ended = tokens[-1] == END
    if fake.endless and ended and len(tokens) > 1:
        numbers, tops, texts = numbers[:-1], tops[:-1], tokens[:-1]
    else:
        texts = tokens
    logprobs = {"tokens": [chr(t) for t in texts], "token_logprobs": numbers, "top_logprobs": tops}
    choice: dict[str, Any] = {
        "index": 0,
        "text": "".join(map(chr, texts)),
        "finish_reason": "stop" if ended else "length",
        "logprobs": None if words is None else logprobs,
    }
    if body.get("return_token_ids"):
        choice["token_ids"] = tokens
    if "prompt_logprobs" in body and fake.scores:
        choice["prompt_logprobs"] = scored(fake, prompt, body["prompt_logprobs"])
    return {"object": "text_completion", "model": body["model"], "choices": [choice]}


def scored(fake: Fake, prompt: list[int], words: int) -> list[Any]:
    """prompt_logprobs, with whatever lie is asked for."""
    law = np.roll(fake.law, 1, axis=0) if fake.elsewhere else fake.law
    if fake.stale:
        law = np.roll(law, len(fake.asked), axis=0)
    used = replace(fake, law=law)
    places: list[Any] = [None, *(listed(law_at(used, a), b, words) for a, b in itertools.pairwise(prompt))]
    if fake.cut_off and words == -1:
        kept = [sorted(one, key=lambda word: -one[word]["logprob"])[: fake.cut_off] for one in places[1:]]
        places[1:] = [{word: one[word] for word in words} for one, words in zip(places[1:], kept, strict=True)]
    if fake.positive:
        for one in places[1:]:
            next(iter(one.values()))["logprob"] = 0.0625
    if fake.shifted:
        places = [*places[1:], listed(law_at(used, prompt[-1]), 5, words)]
    return places[1:3] if fake.generated else places


def chosen(fake: Fake, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to vLLM's /inference/v1/generate: a NumPy file in base64, row i of what follows token i."""
    asked = body["sampling_params"]
    places = [law_at(fake, token) for token in body["token_ids"][asked["prompt_logprob_start"] : -1]]
    table = [place[words] for place, words in zip(places, asked["prompt_logprob_token_ids"], strict=True)]
    written = io.BytesIO()
    np.save(written, np.asarray(table, dtype=np.float32))
    return {"prompt_token_id_logprobs": base64.b64encode(written.getvalue()).decode()}


def sglang(fake: Fake, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to SGLang's /generate, from the same law; its lists are [log-prob, id, text]."""
    law, prompt, count = body["sampling_params"], body["input_ids"], body["top_logprobs_num"]
    asked = {"model": "toy", "prompt": prompt, "max_tokens": law["max_new_tokens"], "logprobs": count, "top_k": 0}
    seed = law.get("sampling_seed", 0)
    [one] = completion(fake, {**law, **asked, "return_token_ids": True, "seed": seed})["choices"]
    tops = [[[lp, int(key[9:]), None] for key, lp in top.items()] for top in one["logprobs"]["top_logprobs"]]
    read = scored(fake, prompt, count) if "logprob_start_len" in body else []
    given = [[at and at[str(token)]["logprob"], token, None] for at, token in zip(read, prompt, strict=False)]
    meta = {
        "finish_reason": {"type": one["finish_reason"]},
        "output_token_logprobs": [
            [lp, token, None] for lp, token in zip(one["logprobs"]["token_logprobs"], one["token_ids"], strict=True)
        ],
        "output_top_logprobs": tops,
        "input_token_logprobs": given,
        "input_top_logprobs": [at and [[word["logprob"], int(key), None] for key, word in at.items()] for at in read],
    }
    return {"text": one["text"], "meta_info": meta}


def echoed(fake: Fake, body: dict[str, Any]) -> dict[str, Any]:
    """The answer of completions that know an echo, and neither ids nor prompt_logprobs."""
    plain = {key: value for key, value in body.items() if key not in ("prompt_logprobs", "return_token_ids")}
    found = completion(fake, plain)
    table = found["choices"][0]["logprobs"]
    if table is None:
        return found
    table["top_logprobs"] = [{chr(int(key[9:])): lp for key, lp in top.items()} for top in table["top_logprobs"]]
    if body.get("echo") and not fake.generated:
        prompt = body["prompt"]
        given = [at and at[str(token)]["logprob"] for at, token in zip(scored(fake, prompt, 0), prompt, strict=True)]
        table["tokens"] = [*map(chr, prompt), *table["tokens"]]
        table["token_logprobs"] = [*given, *table["token_logprobs"]]
        table["top_logprobs"] = [None, *({} for _ in prompt[1:]), *table["top_logprobs"]]
    return found


def llama_cpp(fake: Fake, body: dict[str, Any]) -> Any:
    """The answer to llama.cpp's /completion: an object, or for a list of prompts a list in any order."""
    prompts = body["prompt"]
    if not prompts or isinstance(prompts[0], int):
        return _llama_cpp(fake, body, prompts, 0)
    return [_llama_cpp(fake, body, prompt, place) for place, prompt in enumerate(prompts)][::-1]


def _llama_cpp(fake: Fake, body: dict[str, Any], prompt: list[int], index: int) -> dict[str, Any]:
    law = np.roll(fake.law, len(fake.asked) if fake.stale else 1, axis=0) if fake.stale or fake.elsewhere else fake.law
    tokens: list[int] = []
    places = []
    rng = np.random.default_rng([body["seed"], *prompt])
    words = min(body["n_probs"], VOCAB if fake.most_words == -1 else fake.most_words)
    for _ in range(body["n_predict"]):
        at = (tokens or prompt)[-1]
        drawn = law_at(fake, at, body)
        for token, bias in [] if fake.generated else body.get("logit_bias", []):
            drawn[token] += bias
        token = int((drawn + rng.gumbel(size=VOCAB)).argmax())
        said = law_at(replace(fake, law=law), at) if body["n_predict"] == 1 else law_at(fake, at)
        tokens.append(token)
        likely = [{"id": int(i), "token": chr(i), "logprob": float(said[i])} for i in np.argsort(-said)]
        likely = [one for one in likely if math.isfinite(one["logprob"])][:words]
        places.append({"id": token, "token": chr(token), "logprob": float(said[token]), "top_logprobs": likely})
        if token == END:
            break
    ended = tokens[-1] == END
    return {
        "index": index,
        "content": "".join(map(chr, tokens)),
        "tokens_predicted": len(tokens),
        "stop_type": "eos" if ended else "limit",
        "truncated": fake.shifted,
        "completion_probabilities": places,
    }


class Handler(BaseHTTPRequestHandler):
    """One request."""

    fake: Fake
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgement

    def log_message(self, *_: object) -> None:
        """Nothing on the screen."""

    def do_GET(self) -> None:
        """The list of models, and what llama.cpp says of itself."""
        if self.fake.dialect != "llama.cpp":
            return self.answer(200, {"data": [{"id": "toy", "max_model_len": 4096}]})
        if self.path == "/props":
            return self.answer(200, {"default_generation_settings": {"n_ctx": 300}, "eos_token": chr(END)})
        return self.answer(200, {"data": [{"id": "toy"}]})

    def do_POST(self) -> None:
        """Everything else."""
        fake = self.fake
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fake.keys.append(self.headers.get("Authorization"))
        if fake.statuses:
            words = str(self.headers.get("Authorization")) if fake.echoes_key else "not now"
            return self.answer(fake.statuses.pop(0), {"error": {"message": words}})
        if fake.dialect == "llama-cpp-python" and self.path.startswith("/extras/"):
            texts = {"/extras/tokenize": {"tokens": encoded(body.get("input", ""))}}
            return self.answer(200, texts.get(self.path, {"text": "".join(map(chr, body.get("tokens", ())))}))
        if fake.dialect == "llama-cpp-python" and isinstance(body.get("prompt", [0])[0], int):
            return self.answer(500, {"error": {"message": "3 validation errors: Input should be a valid string"}})
        if fake.dialect == "llama.cpp" and (found := self.own(body)) is not None:
            return self.answer(200, found)
        if self.path == "/tokenize":
            mark = "<v>" if fake.other_template else "<u>"
            tokens = encoded(body.get("prompt", body.get("messages")), mark)
            return self.answer(200, {"tokens": tokens[::-1] if fake.other_tokens else tokens, "max_model_len": 4096})
        if self.path == "/detokenize":
            tokens = body["tokens"][::-1] if fake.other_tokens else body["tokens"]
            return self.answer(200, {"prompt": "".join(map(chr, tokens))})
        if self.path == "/inference/v1/generate" and fake.chooses:
            fake.asked.append(body)
            return self.answer(200, chosen(fake, body))
        if self.path != {"SGLang": "/generate", "llama.cpp": "/completion"}.get(fake.dialect, "/v1/completions"):
            return self.answer(404, {"detail": "Not Found"})
        if body.get("prompt_logprobs", 0) not in range(fake.most_words + 1) and fake.most_words != -1:
            return self.answer(400, {"error": {"message": "Requested prompt logprobs exceed the maximum"}})
        return self.complete(body)

    def own(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """What llama.cpp alone has, or calls by other names."""
        if self.path == "/tokenize":
            return {"tokens": encoded(body["content"]) if "content" in body else []}
        if self.path == "/detokenize":
            return {"content": "".join(map(chr, body["tokens"]))}
        if self.path == "/apply-template":
            return {"prompt": "".join(f"<u>{one['content']}" for one in body["messages"])}
        return None

    def complete(self, body: dict[str, Any]) -> None:
        """The answer, or as much of it as a fault leaves."""
        fake = self.fake
        fake.asked.append(body)
        fake.at_once += 1
        fake.most_at_once = max(fake.most_at_once, fake.at_once)
        try:
            if fake.slow:
                fake.slow -= 1
                time.sleep(0.5)
            found = {"SGLang": sglang, "echo": echoed, "llama.cpp": llama_cpp}.get(fake.dialect, completion)(fake, body)
        finally:
            fake.at_once -= 1
        self.answer(200, found)

    def answer(self, status: int, body: Any) -> None:
        """Written, or half of it."""
        fake, raw = self.fake, json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        if status == 429:
            self.send_header("Retry-After", "0.01")
        self.end_headers()
        if fake.cut and self.command == "POST":
            fake.cut -= 1
            self.wfile.write(raw[: len(raw) // 2])
            self.close_connection = True
            return
        self.wfile.write(raw)


class Server(ThreadingHTTPServer):
    """Clients that gave up are part of the tests."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Nothing on the screen."""


@contextmanager
def serving(fake: Fake) -> Iterator[str]:
    """The URL of a fake server while it runs."""
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"fake": fake}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
