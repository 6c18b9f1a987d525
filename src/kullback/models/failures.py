"""What goes wrong in other people's libraries while a model is loaded, as one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kullback.errors import KullbackError, ModelError
from kullback.models.language_model import LanguageModel
from kullback.models.quiet import quiet


@contextmanager
def one_sentence(name: str, what: str, advice: str) -> Iterator[None]:
    """What transformers, peft or a reader of files raises, as a ModelError; what they print is not for the user."""
    try:
        with quiet():
            yield
    except KullbackError:
        raise
    except ImportError as error:
        raise ModelError(f"{name} needs a package that is not installed ({_reason(error)}): install it") from error
    except Exception as error:  # a file can be wrong in as many ways as there are readers
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise ModelError(f"{name} does not fit the device's memory: pass another device or dtype") from error
        raise ModelError(f"{name} {what} ({_reason(error)}): {advice}") from error


def tried(model: LanguageModel) -> LanguageModel:
    """A model whose forward pass works.

    Raises:
        ModelError: it does not: what it was quantised with does not run here, or its parts do not fit together.
    """
    with one_sentence(
        model.name, "could not compute a first pass", "try another device, dtype or version of its parts"
    ):
        _ = model.vocab  # asked of the model itself, by a pass over one token
    return model


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"it is not known what {error} is"
    reason = " ".join(str(error).split()).rstrip(".:") or type(error).__name__
    return reason if len(reason) <= 200 else f"{reason[:200]}…"
