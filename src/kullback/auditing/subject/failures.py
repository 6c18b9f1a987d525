"""What stops an audit: the code of the rule that says so, and one sentence."""

from __future__ import annotations

from kullback.errors import remedy

GPU_WORDS = ("cuda", "nvidia", "triton", "hip", "xpu", "rocm")


class CallFailed(Exception):
    """A function that could not be audited."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def failure(error: BaseException) -> CallFailed:
    """What an exception of the function is as a finding."""
    text = " ".join(str(error).split())[:200]
    if not isinstance(error, NameError) and any(word in text.lower() for word in GPU_WORDS):
        return CallFailed("KB003", f"the function needs a GPU: {type(error).__name__}: {text}")
    if "numpy" in text.lower() and "grad" in text.lower():
        text += " (for a function of NumPy arrays pass arrays='numpy', --arrays numpy)"
    elif isinstance(error, NameError):
        text += " (a name that the function uses could not be resolved here)"
    elif command := remedy(error):
        text += f" ({command} brings it)"
    return CallFailed("KB001", f"the function raised {type(error).__name__}: {text or 'without a message'}")
