"""Language models: loading them by name, sampling from them and scoring what was sampled."""

from kullback.errors import MissingPackageError

try:
    import torch  # noqa: F401
    import transformers  # noqa: F401
except ImportError as error:
    raise MissingPackageError(error.name or "torch", "hf") from None

from kullback.models.loading import BUILTIN_PROMPTS, LanguageModel, check_vocabulary, load
from kullback.models.sampling import Sampling, sample
from kullback.models.scoring import Scores, score

__all__ = [
    "BUILTIN_PROMPTS",
    "LanguageModel",
    "Sampling",
    "Scores",
    "check_vocabulary",
    "load",
    "sample",
    "score",
]
