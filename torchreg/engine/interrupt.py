"""How training hears of Ctrl-C in a thread to which Python delivers none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class _Here(threading.local):
    """What each thread has by itself."""

    asked: Callable[[], bool] | None = None


_here = _Here()


@contextmanager
def interruptible(asked: Callable[[], bool]) -> Iterator[None]:
    """Let the training inside the block end where it is asked to.

    Parameters
    ----------
    asked : callable
        Whether it is to end. Called in the thread that trains, once an epoch.
    """
    before = _here.asked
    _here.asked = asked
    try:
        yield
    finally:
        _here.asked = before


def check_interrupt() -> None:
    """End the training of this thread, if that is asked for; called once an epoch.

    Raises
    ------
    KeyboardInterrupt
        As in the main thread, where Python itself raises it.

    Examples
    --------
    >>> with interruptible(lambda: False):
    ...     check_interrupt()
    """
    if _here.asked is not None and _here.asked():
        raise KeyboardInterrupt
