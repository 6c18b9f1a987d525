"""Backends and worlds that tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import array_api_strict
import jax
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

PARENT = settings.get_profile("ci" if "CI" in os.environ else "default")
settings.register_profile(
    "patient",
    parent=PARENT,
    max_examples=50,
    deadline=None,
    suppress_health_check=[*PARENT.suppress_health_check, HealthCheck.too_slow],
)
settings.load_profile("patient")  # a busy machine is no fault of the code

jax.config.update("jax_enable_x64", True)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
torch.set_num_threads(1)
os.environ.pop("COLUMNS", None)  # tables are as wide as where there is no terminal


@dataclass(frozen=True)
class Backend:
    """An array library: how to make its arrays."""

    name: str
    array: Callable[[np.ndarray], Any]


def _read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.setflags(write=False)
    return x


@pytest.fixture(autouse=True)
def _compiler_stays_on() -> Iterator[None]:
    """`kullback audit` turns torch's compiler off for its process, which is that of the tests here."""
    before = os.environ.get("TORCHDYNAMO_DISABLE")
    yield
    if before is None:
        os.environ.pop("TORCHDYNAMO_DISABLE", None)


collect_ignore_glob = ["data/*", "llama_server.py"]
"""Dumps and what made them, and a script that runs as a server."""

BACKENDS = (
    Backend("numpy", lambda x: x.copy()),
    Backend("numpy-read-only", _read_only),
    Backend("array-api-strict", lambda x: array_api_strict.asarray(x)),
    Backend("torch", lambda x: torch.from_numpy(x.copy())),
    Backend("jax", lambda x: jax.numpy.asarray(x)),
)


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param


def host(x: Any) -> np.ndarray:
    """Any backend's array as NumPy."""
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
