"""What a thread waits for, made of as little as possible: a search makes hundreds of them."""

from __future__ import annotations

from contextlib import suppress
from threading import Lock

#: Seconds for which somebody who begins tasks lets the last one alone.
HEAD_START_S = 2e-3
#: After so many more that were not done with by then than were, nobody is waited for.
_IN_VAIN = 16


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


class HeadStart:
    """Lets what has just begun get done with, before the next one is begun.

    Two threads that compute in Python at the same time are slower than one after the other: each
    operation of the one lets the other in. What takes longer is not waited for, and where that is
    so as a rule, nothing is.
    """

    def __init__(self) -> None:
        self._done = Signal()
        self._n_in_vain = 0

    def begin(self) -> None:
        """Hear that something has begun."""
        self._done = Signal()

    def end(self) -> None:
        """Hear that all that has begun is done with."""
        self._done.set()

    def wait(self) -> None:
        """Let it get done with."""
        if self._n_in_vain < _IN_VAIN:
            in_time = self._done.wait(HEAD_START_S)
            self._n_in_vain = max(0, self._n_in_vain - 1) if in_time else self._n_in_vain + 1
