"""One process as a group of its own, for functions that exchange with others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def one_process(*, exchanging: bool) -> Iterator[None]:
    """For as long as it lasts torch.distributed has a group of this process alone, if one is asked for."""
    import torch.distributed as processes

    if not exchanging or not processes.is_available() or processes.is_initialized():
        yield
        return
    try:
        store = vars(processes)["HashStore"]()  # Exported, though not by its stubs.
        processes.init_process_group("gloo", store=store, rank=0, world_size=1)
    except (RuntimeError, ValueError):
        # Then the call itself says what it lacks.
        yield
        return
    try:
        yield
    finally:
        processes.destroy_process_group()
