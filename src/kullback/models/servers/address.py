"""Where a server is, and which of its models is meant: ``http://host:port/v1#MODEL``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from kullback.errors import ModelError

KEY = "KULLBACK_API_KEY"
"""The environment variable that a server's key is read from, and the only place."""


@dataclass(frozen=True)
class Address:
    """A server's base URL and a model of it.

    Attributes:
        base: up to the version, as ``http://127.0.0.1:8000/v1``, without a slash at its end.
        model: as the server calls it; "" where it is to say which one it has.
    """

    base: str
    model: str = ""

    @property
    def root(self) -> str:
        """The base without its version, where servers have what OpenAI's API lacks."""
        return self.base.removesuffix("/v1")

    @property
    def local(self) -> bool:
        """Whether it is on this machine."""
        return (urlsplit(self.base).hostname or "") in ("localhost", "127.0.0.1", "::1")

    def __str__(self) -> str:
        return f"{self.base}#{self.model}" if self.model else self.base


def is_address(name: str) -> bool:
    """Whether a model's name is a server's URL."""
    return name.startswith(("http://", "https://"))


def address_of(name: str) -> Address:
    """A URL as an address.

    Raises:
        ModelError: no host, a key in it, or a query, none of which is shown.

    Example:
        >>> address_of("http://127.0.0.1:8000/v1#small").model
        'small'
    """
    try:
        parts = urlsplit(name)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ModelError("a URL came that cannot be read: name a server as http://host:port/v1#MODEL") from None
    # Neither is shown in any of these sentences: they are where people write keys.
    if parts.username is not None or parts.password is not None:
        raise ModelError(f"a URL with a user or a password came: leave them out and set {KEY} in the environment")
    if parts.query:
        raise ModelError(f"a URL with a ? came: leave what follows out; a key is set as {KEY} in the environment")
    if not host:
        raise ModelError(f"{name} names no host: name a server as http://host:port/v1#MODEL")
    shown = f"[{host}]" if ":" in host else host
    where = f"{parts.scheme}://{shown}{'' if port is None else f':{port}'}"
    return Address(f"{where}{parts.path.rstrip('/') or '/v1'}", parts.fragment)


def headers() -> dict[str, str]:
    """What goes with every request: the key, if the environment has one."""
    key = os.environ.get(KEY, "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}
