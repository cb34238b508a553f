"""Tasks of a search, and what becomes of them."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

from torchreg._parallel.events import Signal


class TaskError(Exception):
    """Where an error happened in the thread of its task: the cause of the error elsewhere."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class Task:
    """Something to run, and what became of it.

    Parameters
    ----------
    function : callable
    callback : callable or None
        Hears of the end, given the task.
    call : ParallelCall
        To which it belongs.
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
        #: Whether a thread runs it, or it was dropped.
        self.taken = False
        self.ended = Signal()

    def run(self) -> None:
        """Run it, whatever comes."""
        assert self.function is not None
        try:
            self.result = self.function()
        except BaseException as error:
            if error.__cause__ is None:
                error.__cause__ = TaskError(traceback.format_exc())
            self.error = error.with_traceback(None)

    def conclude(self) -> None:
        """Tell the end to whoever waits for it."""
        self.function = None
        self.ended.set()
        if self.callback is not None:
            self.callback(self)

    def get(self) -> Any:
        """Wait for its end, and give its result or raise its error."""
        self.ended.wait()
        if self.error is not None:
            raise self.error
        return self.result


class ParallelCall:
    """One call of ``joblib.Parallel``: its tasks, and how many of them may run at once."""

    def __init__(self, limit: int, depth: int) -> None:
        self.limit, self.depth = limit, depth
        self.queue: deque[Task] = deque()
        self.n_running = 0
        self.unfinished: set[Task] = set()
        self.failed = False
        #: Whether who made the call waits for its tasks, and is not at work.
        self.waits = False
        #: What went wrong where no task could tell.
        self.error: BaseException | None = None
        #: All that was submitted has ended, or one task has failed.
        self.over = threading.Event()
        self.over.set()
