"""Ctrl-C at a safe point."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def safe_interrupts() -> Iterator[Callable[[], None]]:
    """Hold the first Ctrl-C until the yielded function is called, which then raises KeyboardInterrupt.

    Raised inside a library, an interrupt can be swallowed (in a destructor or a callback, Python only prints it)
    or tear a file; a second Ctrl-C acts at once. Nothing is changed outside the main thread, or where interrupts are
    ignored, as shells have it for jobs in the background.
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

    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored or threading.current_thread() is not threading.main_thread():
        yield check
        return
    previous = signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, previous)
