"""Tasks of ``joblib.Parallel``, and the calls that they belong to."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any


class TaskError(Exception):
    """The traceback of an error in a worker thread, as the cause of the error that is raised."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class Task:
    """A function that a worker thread runs, and its result.

    Parameters
    ----------
    function : callable
    callback : callable or None
        Called with the task when it has finished.
    call : ParallelCall
        The call that it belongs to.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        callback: Callable[[Task], object] | None,
        call: ParallelCall,
    ) -> None:
        self.function: Callable[[], Any] | None = function
        self.callback, self.call = callback, call
        self.result: Any = None
        self.error: BaseException | None = None
        #: Whether a thread runs it, or it was cancelled.
        self.claimed = False
        self.done = threading.Event()

    def run(self) -> None:
        """Run the function, and store its result or error."""
        assert self.function is not None
        try:
            self.result = self.function()
        except BaseException as error:
            if error.__cause__ is None:
                error.__cause__ = TaskError(traceback.format_exc())
            self.error = error.with_traceback(None)

    def finish(self) -> None:
        """Mark the task as done, and call its callback."""
        self.function = None
        self.done.set()
        if self.callback is not None:
            self.callback(self)

    def get(self) -> Any:
        """Wait until the task is done; return its result or raise its error."""
        self.done.wait()
        if self.error is not None:
            raise self.error
        return self.result


class ParallelCall:
    """One call of ``joblib.Parallel``.

    Parameters
    ----------
    limit : int
        The number of its tasks that may run at once.
    depth : int
        How many calls it is nested in.
    """

    def __init__(self, limit: int, depth: int) -> None:
        self.limit, self.depth = limit, depth
        self.queue: deque[Task] = deque()
        self.n_running = 0
        self.unfinished: set[Task] = set()
        self.failed = False
        #: Whether the calling thread waits for the tasks, and is not counted as active.
        self.is_waiting = False
        #: An error in a callback.
        self.error: BaseException | None = None
        #: Set when all submitted tasks have finished, or one has failed.
        self.done = threading.Event()
        self.done.set()
