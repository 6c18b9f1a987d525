"""Arrays by name: NumPy's .npz. One record with all of them; no object is unpickled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kullback.errors import FileError
from kullback.rollouts.readers.containers.found import Broken, Found
from kullback.rollouts.readers.containers.tensors import DAMAGED, check_archive


def records(path: Path) -> Iterator[Found]:
    """One record: the arrays by name.

    Raises:
        FileError: the file cannot be read, is damaged, too large, or holds objects.
    """
    check_archive(path)
    try:
        with np.load(path, allow_pickle=False) as held:
            found = {name: held[name] for name in held.files}
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise FileError(
                f"{path} holds arrays of Python objects, which could run code when they are opened: "
                "save arrays of numbers (padded, with a mask, or flat with their lengths)"
            ) from None
        raise FileError(f"{path} is damaged ({error}): write it again") from None
    except (*DAMAGED, MemoryError, SyntaxError) as error:
        raise FileError(f"{path} is damaged ({error}): write it again") from None
    yield "", found if found else Broken("the archive holds no array")
