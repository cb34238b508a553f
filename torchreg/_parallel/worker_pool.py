"""The threads that run the tasks of a search."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from torchreg._parallel.fit_batcher import FitBatcher
from torchreg._parallel.tasks import ParallelCall, Task

#: The largest number of active threads. Threads that wait in a nested call do not count.
MAX_WORKERS = 256


class _ThreadState(threading.local):
    """State of the calling thread."""

    pool: WorkerPool | None = None


_thread = _ThreadState()


def _reset_thread_state() -> None:
    """Detach a forked process from its pool, whose threads it does not have."""
    global _thread
    _thread = _ThreadState()


if hasattr(os, "register_at_fork"):  # Not on Windows.
    os.register_at_fork(after_in_child=_reset_thread_state)


def current_pool() -> WorkerPool | None:
    """Return the pool that the calling thread is a worker of."""
    return _thread.pool


class WorkerPool:
    """The threads of an outermost call of ``joblib.Parallel``, and of all calls nested in it.

    *Active* are the threads that run a task, and the thread of the outermost call while it submits
    tasks; not those that wait in a nested call for its tasks. As long as fewer than ``max_workers``
    are active, a queued task is given to a thread, the most deeply nested first. So every task
    runs in the end: an active thread finishes its task, or waits for deeper tasks, which run first.

    Active threads are registered with the batcher: before a task is given to a thread, so
    that the batcher never counts zero running threads while a fit may still arrive. For the same
    reason the thread that finishes the last task of a call registers the thread that waits for
    the call, before it unregisters itself.

    Parameters
    ----------
    max_workers : int, default=256
        The largest number of active threads.
    """

    #: Seconds that :meth:`shutdown` waits for tasks that do not end.
    SHUTDOWN_TIMEOUT_S = 2.0

    def __init__(self, max_workers: int = MAX_WORKERS) -> None:
        self.batcher = FitBatcher()
        self.n_active = 0
        self._max_workers = max_workers
        self._lock = self.batcher.lock
        self._calls: list[ParallelCall] = []
        self._threads: list[threading.Thread] = []
        self._idle_queue: SimpleQueue[Task | None] = SimpleQueue()
        self._n_idle = 0

    def limit_workers(self, max_workers: int) -> None:
        """Lower the number of active threads."""
        with self._lock:
            self._max_workers = min(self._max_workers, max_workers)

    def open_call(self, limit: int, depth: int) -> ParallelCall:
        """Begin a call; see :class:`ParallelCall`."""
        call = ParallelCall(limit, depth)
        with self._lock:
            self._calls.append(call)
        return call

    def close_call(self, call: ParallelCall) -> None:
        """End a call, and cancel its tasks that do not run yet."""
        with self._lock:
            if call in self._calls:
                self._calls.remove(call)
            call.queue.clear()
            # Not only the queue: an interrupt may arrive between the queue and the thread.
            cancelled = [task for task in call.unfinished if self._claim(task)]
        for task in cancelled:
            self._cancel(task)

    def submit(
        self,
        call: ParallelCall,
        function: Callable[[], Any],
        callback: Callable[[Task], object] | None,
    ) -> Task:
        """Queue a task, and start it if fewer threads are active than allowed."""
        task = Task(function, callback, call)
        with self._lock:
            call.queue.append(task)
            call.unfinished.add(task)
            if not call.failed:
                call.done.clear()
            self._start_ready_tasks()
        if self.batcher.cancelled:
            self.close_call(call)
        return task

    def activate(self) -> None:
        """Count the calling thread as active while it submits tasks."""
        with self._lock:
            self.n_active += 1
            self.batcher.register()

    def deactivate(self) -> None:
        """Stop counting the calling thread as active."""
        with self._lock:
            self.n_active -= 1
            self._start_ready_tasks()
            self.batcher.unregister()

    def begin_wait(self, call: ParallelCall) -> None:
        """Stop counting the calling thread as active while it waits for the tasks of a call."""
        with self._lock:
            if not call.done.is_set():
                call.is_waiting = True
                self.deactivate()

    def end_wait(self, call: ParallelCall) -> None:
        """Count the calling thread as active again, whether the call is done or not."""
        with self._lock:
            if call.is_waiting:
                call.is_waiting = False
                self.activate()

    def shutdown(self) -> None:
        """Cancel all tasks that do not run yet and all pending fits, and join the threads."""
        try:
            self.batcher.cancel()
            with self._lock:
                calls, threads = list(self._calls), list(self._threads)
            for call in calls:
                self.close_call(call)
                call.done.set()
        finally:
            self._idle_queue.put(None)
        deadline = time.monotonic() + self.SHUTDOWN_TIMEOUT_S
        for thread in threads:
            # A thread cannot be joined if an interrupt arrived while it was being started.
            with suppress(RuntimeError):
                thread.join(max(0.0, deadline - time.monotonic()))

    def _claim(self, task: Task) -> bool:
        """Claim a task; return whether it was unclaimed. The lock is held."""
        claimed, task.claimed = task.claimed, True
        return not claimed

    def _next_task(self) -> Task | None:
        """Take the next task from its queue. The lock is held."""
        if self.n_active >= self._max_workers or self.batcher.cancelled:
            return None
        ready = [call for call in self._calls if call.queue and call.n_running < call.limit]
        if not ready:
            return None
        call = max(ready, key=lambda call: call.depth)
        call.n_running += 1
        self.n_active += 1
        return call.queue.popleft()

    def _start_ready_tasks(self) -> None:
        while (task := self._next_task()) is not None:
            self.batcher.register()
            if self._n_idle:
                self._n_idle -= 1
                self._idle_queue.put(task)
            else:
                self._spawn_worker(task)

    def _spawn_worker(self, task: Task) -> None:
        """Start a thread; if the system allows no more, leave the task to existing threads."""
        name = f"torchreg-{len(self._threads)}"
        thread = threading.Thread(target=self._work, args=(task,), name=name, daemon=True)
        self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError:
            self._threads.pop()
            task.call.n_running -= 1
            self.n_active -= 1
            self.batcher.unregister()
            if not task.call.n_running:
                raise
            task.call.queue.appendleft(task)
            self._max_workers = max(1, self.n_active)

    def _work(self, task: Task | None) -> None:
        """Run tasks until the pool is shut down."""
        _thread.pool = self
        self.batcher.bind_thread()
        while task is not None:
            with self._lock:
                claimed = self._claim(task)
            if claimed and not self.batcher.cancelled:
                task.run()
                self._finish(task)
            elif claimed:
                self._cancel(task)
            task = self._next_after(task)
        self._idle_queue.put(None)  # For the next idle thread: shutdown puts only one.

    def _finish(self, task: Task) -> None:
        """Finish a task, whose callback may submit the next one of its call."""
        call = task.call
        try:
            task.finish()
        except BaseException as error:
            call.error = error
        with self._lock:
            call.unfinished.discard(task)
            call.failed |= task.error is not None or call.error is not None
            if call.failed or not call.unfinished:
                self.end_wait(call)
                call.done.set()

    def _cancel(self, task: Task) -> None:
        task.error = KeyboardInterrupt()
        self._finish(task)

    def _next_after(self, task: Task) -> Task | None:
        """Return the next queued task, or wait for one."""
        with self._lock:
            task.call.n_running -= 1
            self.n_active -= 1
            following = self._next_task()
            if following is not None:
                return following
            self._n_idle += 1
            self.batcher.unregister()
        del task
        return self._idle_queue.get()
