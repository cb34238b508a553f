"""What a thread waits for, made of as little as possible: a search makes hundreds of them."""

from __future__ import annotations

from contextlib import suppress
from threading import Lock


class Signal:
    """Something that happens once, and that threads can wait for.

    A ``threading.Event`` is seven objects that Python's search for circles looks into, and each
    wait for one makes more of them; this is two, and a wait is one call. Two threads do not let
    it happen at the same time.

    Examples
    --------
    >>> signal = Signal()
    >>> signal.wait(0.0)
    False
    >>> signal.set(), signal.set(), signal.wait()
    (None, None, True)
    """

    __slots__ = ("_has_happened", "_lock")

    def __init__(self) -> None:
        self._has_happened = False
        self._lock = Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Let it happen, if it has not happened yet."""
        if self._has_happened:
            return
        # First this: an interrupt in between is not to leave anybody waiting.
        with suppress(RuntimeError):
            self._lock.release()
        self._has_happened = True

    def is_set(self) -> bool:
        """Tell whether it has happened."""
        return self._has_happened

    def wait(self, timeout: float = -1) -> bool:
        """Wait, without an end by default; tell whether it has happened."""
        happened = self._lock.acquire(timeout=timeout)
        if happened:
            # For whoever waits besides.
            self._lock.release()
        return happened
