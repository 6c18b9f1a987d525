"""Requests to a server: several at a time, again where it was busy or cut off, and one sentence where it fails."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kullback.errors import ModelError
from kullback.models.packages import needed
from kullback.models.servers.address import KEY, Address, headers

BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed."""

LONGEST_WAIT = 60.0
"""Seconds that a server's Retry-After is followed for at most."""

Json = Mapping[str, Any]


class RefusedError(ModelError):
    """What a server does not do: it is there, and answered with a status that says no."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class BusyError(ModelError):
    """A request that may succeed when it is made again."""

    def __init__(self, sentence: str, wait: float = 0.0) -> None:
        super().__init__(sentence)
        self.wait = wait


@dataclass(frozen=True)
class Client:
    """Who asks a server.

    Attributes:
        address: of what.
        timeout: seconds that an answer may take, each time.
        attempts: how often a request is made at most.
        pause: seconds before the second time; each further pause is twice as long, and a random part of it.
        concurrency: requests at a time.
    """

    address: Address
    timeout: float = 120.0
    attempts: int = 5
    pause: float = 0.5
    concurrency: int = 8

    def __getstate__(self) -> dict[str, Any]:
        """Without connections, which are of one process."""
        return {name: value for name, value in vars(self).items() if name != "_connections"}

    def get(self, path: str) -> Json:
        """An answer to a GET; raises as `post`."""
        return self._again("GET", path, None)

    def post(self, path: str, body: Json) -> Json:
        """An answer to a POST.

        Args:
            path: after the base, or after the root where it begins with a slash.
            body: sent as JSON.

        Raises:
            RefusedError: the server does not do this.
            ModelError: it cannot be reached, or fails again and again.
        """
        return self._again("POST", path, body)

    def post_all(self, path: str, bodies: Sequence[Json], *, at_a_time: int | None = None) -> Iterator[Json]:
        """Answers in the order of the bodies, several asked for at a time; raises as `post`, and asks no more then."""
        workers = max(1, min(at_a_time or self.concurrency, self.concurrency, len(bodies) or 1))
        with ThreadPoolExecutor(workers) as pool:
            asked = [pool.submit(self.post, path, body) for body in bodies]
            try:
                for one in asked:
                    yield one.result()
            finally:
                for one in asked:
                    one.cancel()

    @cached_property
    def _connections(self) -> Any:
        """Kept open between requests; they follow no redirect, which could carry the key elsewhere."""
        http = needed("httpx2", "servers")
        limits = http.Timeout(self.timeout, connect=min(10.0, self.timeout))
        # A proxy that the environment names is no way to a server on this machine.
        found = http.Client(timeout=limits, trust_env=not self.address.local)
        weakref.finalize(self, found.close)
        return found

    def _again(self, method: str, path: str, body: Json | None) -> Json:
        tenacity = needed("tenacity", "servers")
        backoff = tenacity.wait_random_exponential(multiplier=self.pause, max=30)

        def wait(state: Any) -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(float(backoff(state)), min(getattr(error, "wait", 0.0), LONGEST_WAIT))

        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(BusyError),
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=wait,
            reraise=True,
        ):
            with attempt:
                found = self._once(method, path, body)
        return found

    def _once(self, method: str, path: str, body: Json | None) -> Json:
        http = needed("httpx2", "servers")
        url = f"{self.address.root if path.startswith('/') else self.address.base + '/'}{path}"
        try:
            answer = self._connections.request(method, url, json=body, headers=headers())
        except http.TimeoutException:
            raise BusyError(f"{self.address} gave no answer in {self.timeout:g} s{self._more()}") from None
        except http.TransportError as error:
            raise BusyError(
                f"{self.address} cannot be reached or hung up ({_short(str(error))}){self._more()}"
            ) from None
        except http.InvalidURL:
            raise ModelError(f"{self.address} is no URL: name a server as http://host:port/v1#MODEL") from None
        return self._read(answer)

    def _read(self, answer: Any) -> Json:
        status = int(answer.status_code)
        if status == 500 and "validation error" in answer.text:  # llama-cpp-python's word for a request that it refuses
            raise RefusedError(f"{self.address} answered {status}: {_message(answer)}", 422)
        if status in BUSY:
            sentence = f"{self.address} answered {status} {self.attempts} times ({_message(answer)}){self._more()}"
            raise BusyError(sentence, _retry_after(answer))
        if status in (401, 403):
            advice = "is wrong" if os.environ.get(KEY) else "is not set"
            raise RefusedError(f"{self.address} answered {status}: {KEY} {advice} in the environment", status)
        if status != 200:
            raise RefusedError(f"{self.address} answered {status}: {_message(answer)}", status)
        try:
            found = answer.json()
        except ValueError:
            raise BusyError(f"{self.address} answered with what is no JSON: is its URL that of an API?") from None
        if not isinstance(found, Mapping):
            return {"list": found}
        return found

    def _more(self) -> str:
        return ": see that it runs and is not too busy; a request that is too large can end a server"


def _message(answer: Any) -> str:
    """What a server says of its refusal, without the key, should it repeat it."""
    found = answer.text
    with suppress(ValueError, AttributeError, TypeError):
        said = answer.json()
        inner = said.get("error", said)
        found = str(inner.get("message", inner) if isinstance(inner, Mapping) else inner)
    return _short(found) or "without a word"


def _short(text: str) -> str:
    key = os.environ.get(KEY, "").strip()
    words = " ".join((text.replace(key, "…") if key else text).split())
    return words if len(words) <= 200 else f"{words[:200]}…"


def _retry_after(answer: Any) -> float:
    """Seconds that a server asks to be left alone; a date is not read, and the pauses are then our own."""
    try:
        return max(0.0, float(answer.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0
