"""The threads that run the tasks of a search, so that their fits can meet."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from torchreg._parallel.fit_batcher import FitBatcher
from torchreg._parallel.tasks import ParallelCall, Task

#: Tasks in flight, at most: those that wait inside a nested call for its tasks do not count.
MOST = 256
#: Seconds that the end of a search waits for tasks that do not end when they are asked to.
_SHUTDOWN_TIMEOUT_S = 2.0
#: Seconds that it waits for a thread to begin, which may never have been started.
_BEGIN_S = 0.1


class _Here(threading.local):
    """What each thread has by itself."""

    crew: WorkerPool | None = None


_here = _Here()


def _forget() -> None:
    """Let a forked process begin without a crew: its threads are not here."""
    global _here
    _here = _Here()


if hasattr(os, "register_at_fork"):  # Windows knows no fork.
    os.register_at_fork(after_in_child=_forget)


def current_pool() -> WorkerPool | None:
    """Give the crew that the calling thread belongs to."""
    return _here.crew


class _Begun(threading.Event):
    """Heard of by who starts a thread, without waiting for it."""

    def wait(self, timeout: float | None = None) -> bool:
        """Tell whether it is so, at once where no time is given."""
        return True if timeout is None else super().wait(timeout)


class _Worker(threading.Thread):
    """A thread whose start need not take two switches of threads."""

    _started: threading.Event

    def let_start_return_at_once(self) -> None:
        """Do not wait until it runs: who starts it waits for the head start of its task anyway.

        ``threading`` has no other way to say so. Where it does not look here, it waits.
        """
        self._started = _Begun()

    def has_begun(self) -> bool:
        """Tell whether it can be joined; wait a little where it was started just now."""
        return self._started.wait(_BEGIN_S)


class WorkerPool:
    """The threads of an outermost call of ``joblib.Parallel``, and of all calls inside it.

    *At work* are the threads that run a task, and that of the outermost call while it submits;
    not those that wait inside a call for its tasks. As long as fewer than ``most`` are, a task
    that is queued is given to a thread, the deepest first. So each task runs in the end: a thread
    at work ends its task, or waits for deeper ones, which then go first.

    Who is at work is counted in the meeting, from the moment a task is given to a thread: before
    whoever submitted it, or made room for it, leaves. Who waits for a call is counted again by
    the thread that ends its last task, before that one leaves. So the meeting is never seen empty
    while somebody may still come.

    Parameters
    ----------
    most : int
        Threads at work, at most.
    """

    def __init__(self, most: int = MOST) -> None:
        self.meeting = FitBatcher()
        self._most = most
        self._lock = self.meeting.lock
        self._calls: list[ParallelCall] = []
        self._threads: list[_Worker] = []
        self._given: SimpleQueue[Task | None] = SimpleQueue()
        self._n_idle = 0
        self._n_at_work = 0

    def restrict(self, most: int) -> None:
        """Let no more threads be at work than so many."""
        with self._lock:
            self._most = min(self._most, most)

    def open(self, limit: int, depth: int) -> ParallelCall:
        """Begin a call; deeper is what was called inside a task."""
        call = ParallelCall(limit, depth)
        with self._lock:
            self._calls.append(call)
        return call

    def close(self, call: ParallelCall) -> None:
        """End a call; what was not begun will not be."""
        with self._lock:
            if call in self._calls:
                self._calls.remove(call)
            call.queue.clear()
            # Ctrl-C may have come between the queue and the thread.
            dropped = [task for task in call.unfinished if self._take(task)]
        for task in dropped:
            self._drop(task)

    def submit(
        self,
        call: ParallelCall,
        function: Callable[[], Any],
        callback: Callable[[Task], object] | None,
    ) -> Task:
        """Queue a task, and start it if there is room."""
        task = Task(function, callback, call)
        with self._lock:
            call.queue.append(task)
            call.unfinished.add(task)
            if not call.failed:
                call.over.clear()
            self._start_what_may()
        if self.meeting.ended:
            self.close(call)
        if current_pool() is None:
            self.meeting.give_head_start()
        return task

    def come(self) -> None:
        """Count the calling thread as one at work."""
        with self._lock:
            self._n_at_work += 1
            self.meeting.enter()

    def go(self) -> None:
        """Count it no longer."""
        with self._lock:
            self._leave()

    def begin_to_wait(self, call: ParallelCall) -> None:
        """Hear that the calling thread waits for the tasks of its call."""
        with self._lock:
            if not call.over.is_set():
                call.waits = True
                self._leave()

    def end_to_wait(self, call: ParallelCall) -> None:
        """Hear that it does so no longer, be the call over or not."""
        with self._lock:
            self._wake(call)

    def end(self) -> None:
        """Let no further task begin, release all fits that wait, and let the threads go."""
        try:
            self.meeting.end()
            with self._lock:
                calls, threads = list(self._calls), list(self._threads)
            for call in calls:
                self.close(call)
                call.over.set()
        finally:
            self._given.put(None)
        deadline = time.monotonic() + _SHUTDOWN_TIMEOUT_S
        for thread in threads:
            if thread.has_begun():  # Ctrl-C may have come while it was started.
                thread.join(max(0.0, deadline - time.monotonic()))

    def _take(self, task: Task) -> bool:
        """Tell whether nobody has taken a task before. The lock is held."""
        taken, task.taken = task.taken, True
        return not taken

    def _leave(self) -> None:
        self._n_at_work -= 1
        self._start_what_may()
        self.meeting.leave()

    def _wake(self, call: ParallelCall) -> None:
        """Count who waits for a call as one at work, if it was not counted. The lock is held."""
        if call.waits:
            call.waits = False
            self._n_at_work += 1
            self.meeting.enter()

    def _pick(self) -> Task | None:
        """Take the next task from its queue. The lock is held."""
        if self._n_at_work >= self._most or self.meeting.ended:
            return None
        ready = [c for c in self._calls if c.queue and c.n_running < c.limit]
        if not ready:
            return None
        call = max(ready, key=lambda call: call.depth)
        call.n_running += 1
        self._n_at_work += 1
        return call.queue.popleft()

    def _start_what_may(self) -> None:
        while (task := self._pick()) is not None:
            self.meeting.enter()
            if self._n_idle:
                self._n_idle -= 1
                self._given.put(task)
            else:
                self._spawn_worker(task)

    def _spawn_worker(self, task: Task) -> None:
        """Start one thread more; where the system gives none, those that are there must do."""
        name = f"torchreg-{len(self._threads)}"
        thread = _Worker(target=self._work, args=(task,), name=name, daemon=True)
        if current_pool() is None:
            thread.let_start_return_at_once()
        self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError:
            self._threads.pop()
            task.call.n_running -= 1
            self._n_at_work -= 1
            self.meeting.leave()
            if not task.call.n_running:
                raise
            task.call.queue.appendleft(task)
            self._most = max(1, self._n_at_work)

    def _work(self, task: Task | None) -> None:
        """Live as a thread of the crew."""
        _here.crew = self
        self.meeting.bind_thread()
        while task is not None:
            with self._lock:
                mine = self._take(task)
            if mine and not self.meeting.ended:
                task.run()
                self._conclude(task)
            elif mine:
                self._drop(task)
            task = self._next_after(task)
        self._given.put(None)  # So hears the next one, however many they are.

    def _conclude(self, task: Task) -> None:
        """Tell the end of a task, which may submit the next one of its call."""
        call = task.call
        try:
            task.conclude()
        except BaseException as error:
            call.error = error
        with self._lock:
            call.unfinished.discard(task)
            call.failed |= task.error is not None or call.error is not None
            if call.failed or not call.unfinished:
                self._wake(call)
                call.over.set()

    def _drop(self, task: Task) -> None:
        task.error = KeyboardInterrupt()
        self._conclude(task)

    def _next_after(self, task: Task) -> Task | None:
        """Go on with a queued task, or wait for one."""
        with self._lock:
            task.call.n_running -= 1
            self._n_at_work -= 1
            following = self._pick()
            if following is not None:
                return following
            self._n_idle += 1
            self.meeting.leave()
        del task
        return self._given.get()
