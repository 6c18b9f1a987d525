"""Ctrl-C, TERM and HUP at a safe point."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What asks a job to stop: its user, a scheduler, a terminal that was closed."""


@contextmanager
def safe_interrupts() -> Iterator[Callable[[], None]]:
    """Hold the first signal that asks to stop until the yielded function is called, which raises KeyboardInterrupt.

    Raised inside a library, an interrupt can be swallowed (in a destructor or a callback, Python only prints it)
    or tear a file; a second one acts at once. Nothing is changed outside the main thread, nor for a signal that is
    ignored, as shells have it for jobs in the background and `nohup` for HUP, or that the program handles itself.
    """
    asked = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    previous = {number: signal.getsignal(number) for number in ENDING if _ours(number)}
    for number in previous:
        signal.signal(number, note)
    try:
        yield check
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _ours(number: signal.Signals) -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False
    handler = signal.getsignal(number)
    if number == signal.SIGINT:
        return handler not in (signal.SIG_IGN, None)
    return handler is signal.SIG_DFL
