"""What transformers, torchao and readers of files print while they load, which is not for the user."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

GGUF = "transformers.modeling_gguf_pytorch_utils"
"""Draws a bar of its own, which transformers' switch does not reach."""


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Neither warnings, log lines below errors nor progress bars; what is wrong is refused by name, or raised."""
    words, before = transformers.utils.logging, logging.root.manager.disable
    verbosity = words.get_verbosity()
    words.set_verbosity_error()
    words.disable_progress_bar()
    logging.disable(logging.WARNING)  # torchao lists the kernels that this machine has no use for
    try:
        with warnings.catch_warnings(), _without_bar():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        words.set_verbosity(verbosity)


@contextmanager
def _without_bar() -> Iterator[None]:
    from importlib import import_module

    module = sys.modules.get(GGUF) or import_module(GGUF)
    drawn = getattr(module, "tqdm", None)
    if drawn is None:
        yield
        return
    module.tqdm = lambda rows, **_: rows  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.tqdm = drawn  # type: ignore[attr-defined]
