"""The last net: whatever ends a command is one sentence and a status, and the traceback is there for who asks."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence

from kullback.cli.screen import fail, prepare_streams, silence, tell
from kullback.errors import KullbackError, MissingPackageError

DEBUG = "KULLBACK_DEBUG"
"""The environment variable that ``--debug`` sets, which has tracebacks printed."""


UNWRITTEN = (errno.EPIPE, errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EBADF)
"""Of stdout: nobody reads it, it is full, too large, its terminal has gone, or it is closed."""


EXTRAS = {
    "torch": "torch",
    "triton": "triton",
    "transformers": "hf",
    "tokenizers": "hf",
    "safetensors": "hf",
    "pyarrow": "hf",
    "datasets": "datasets",
    "peft": "peft",
    "gguf": "gguf",
    "accelerate": "quantised",
    "torchao": "quantised",
    "bitsandbytes": "quantised",
    "matplotlib": "report",
    "jax": "jax",
    "httpx2": "servers",
    "tenacity": "servers",
}
"""By package, the extra that installs it."""


def run(app: Callable[[], object]) -> None:
    """Run the command line.

    Raises:
        SystemExit: always, with 0, or what a command ended with; 1 where nobody reads stdout, 2 after an error.
    """
    prepare_streams()
    _refuse_blanks(sys.argv[1:])
    try:
        app()
    except SystemExit as ended:
        _end(ended.code)
    except KeyboardInterrupt:
        fail("stopped")
    except OSError as error:
        if isinstance(error, KullbackError):
            _fail(error)
        _unwritten(error)
    except Exception as error:
        _fail(error)
    _end(0)


def _refuse_blanks(words: Sequence[str]) -> None:
    """Leave if a word of the command line is blank: ``--output "$OUT"`` without OUT would write to this folder."""
    for before, word in zip(["", *words], words, strict=False):
        option, is_given, value = word.partition("=") if word.startswith("--") else (before, "=", word)
        if is_given and not value.strip():
            where = f"after {option} " if option.startswith("--") else ""
            fail(f"a blank word came {where}on the command line: write a value (a variable of the shell may be empty)")


def _end(code: str | int | None) -> None:
    """Leave, once it is sure that all was written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _unwritten(error)
    sys.exit(code)


def _unwritten(error: OSError) -> None:
    """Leave, silently where the reader of a pipe has gone, as `head` does."""
    if error.filename is not None or error.errno not in UNWRITTEN:
        _fail(error)
    silence(sys.stdout)
    if error.errno == errno.EPIPE:
        sys.exit(1)
    fail(f"stdout cannot be written ({error.strerror}): nothing more is shown")


def _fail(error: Exception) -> None:
    """One sentence: its own, or for what nobody foresaw its kind, its words and the way to more."""
    if os.environ.get(DEBUG):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in EXTRAS:
        package = str(error.name).partition(".")[0]
        fail(str(MissingPackageError(package, EXTRAS[package])))
    if isinstance(error, KullbackError):
        fail(str(error))
    words = " ".join(str(error).split())[:300] or "no words"
    tell(
        f"kullback: {type(error).__name__}: {words}: nobody foresaw this; kullback --debug … shows where it happened",
        style="red",
    )
    sys.exit(2)
