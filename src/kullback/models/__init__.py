"""Language models: what samples, what scores, and the law that is meant; transformers is one implementation."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from kullback.models.packages import needed as _needed
from kullback.models.pairs import Scores, check_vocabulary, score
from kullback.models.protocols import Completion, DistributionScorer, NextLogits, Prompt, Sampler, Scorer
from kullback.models.randomness import Randomness
from kullback.models.sampling import Sampling
from kullback.models.servers.model import connect
from kullback.models.shipped import BUILTIN_PROMPTS

if TYPE_CHECKING:
    from kullback.models.drawing import sample
    from kullback.models.language_model import LanguageModel
    from kullback.models.loading import load

_NEEDS_TORCH = {
    "LanguageModel": "kullback.models.language_model",
    "load": "kullback.models.loading",
    "sample": "kullback.models.drawing",
}
"""What needs torch and transformers, and where it is: loaded when it is first named."""

__all__ = [
    "BUILTIN_PROMPTS",
    "Completion",
    "DistributionScorer",
    "LanguageModel",
    "NextLogits",
    "Prompt",
    "Randomness",
    "Sampler",
    "Sampling",
    "Scorer",
    "Scores",
    "check_vocabulary",
    "connect",
    "load",
    "sample",
    "score",
]


def __getattr__(name: str) -> object:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module 'kullback.models' has no attribute {name!r}")
    for package in ("torch", "transformers"):
        _needed(package)
    return globals().setdefault(name, getattr(_import_module(_NEEDS_TORCH[name]), name))


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
