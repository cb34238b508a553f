"""Pending fits of several threads, trained together."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from torchreg.engine.run import Results, fit_networks, set_batcher
from torchreg.engine.spec import FitJob

#: A process that uses less than this share of one core counts as idle.
_IDLE_CPU_SHARE = 0.1


@dataclass(eq=False)
class _PendingFit:
    """The jobs of one thread that waits for their results."""

    jobs: Sequence[FitJob]
    #: Whether its thread checks the timeouts, on behalf of all pending fits.
    checks_timeout: bool = False
    #: Whether it is in a batch, or was cancelled.
    is_flushed: bool = False
    #: The batch that its thread has to train.
    batch: Sequence[_PendingFit] = ()
    #: Set when there is a result, or a batch to train.
    ready: threading.Event = field(default_factory=threading.Event)
    #: Set when its thread may return the result.
    released: threading.Event = field(default_factory=threading.Event)
    result: Results | BaseException | None = None


class FitBatcher:
    """Collects fits from several threads, and trains them together.

    A thread is *running* while it may still submit a fit: it is registered, and its fit is neither
    pending nor in training. A batch of all pending fits is flushed as soon as no thread is running,
    or no fit has arrived for ``IDLE_TIMEOUT_S`` (``BUSY_TIMEOUT_S`` while the process computes),
    because a running thread may wait for a lock that the thread of a pending fit holds.

    No fit waits forever: it is in a batch, whose thread trains and waits for nothing, or the first
    of the pending fits checks the timeouts. Only that one does, because hundreds of threads that
    wake up for it would slow down the training. Each fit is trained once, because it is added to
    a batch under the lock.

    When a batch is done, all its threads count as running before any of them returns, so that the
    next fit of the first waits for those of the others. They return a few at a time, the next as
    soon as one submits a fit or is unregistered, because hundreds of threads that compute in Python
    at once slow each other down. If none has returned for ``IDLE_TIMEOUT_S``, all return.
    """

    #: Seconds since the last arrival after which fits are flushed if the process is idle.
    IDLE_TIMEOUT_S = 0.2
    #: Seconds since the last arrival after which fits are flushed even if the process computes.
    BUSY_TIMEOUT_S = 2.0
    #: Threads that return from a batch at once.
    MAX_RELEASED = max(2, os.cpu_count() or 1)

    #: Trains a batch.
    train = staticmethod(fit_networks)

    def __init__(self) -> None:
        #: Reentrant, and the only lock: joblib aborts an unused call in the finalizer of
        #: its generator, which the garbage collector may run while this thread holds the lock.
        self.lock = threading.RLock()
        self.n_running = 0
        self._pending: list[_PendingFit] = []
        self._in_training: set[_PendingFit] = set()
        #: With a result that was not returned yet.
        self._finished: deque[_PendingFit] = deque()
        self._last_release = 0.0
        self._last_arrival = 0.0
        self._cpu_at_arrival = 0.0
        self._cancel_event = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether all fits have been cancelled."""
        return self._cancel_event.is_set()

    @property
    def n_pending(self) -> int:
        """The number of threads whose fits wait for a batch."""
        return len(self._pending)

    def bind_thread(self) -> None:
        """Submit the fits of the calling thread to this batcher from now on."""
        set_batcher(self)

    def register(self) -> None:
        """Add one running thread."""
        with self.lock:
            self.n_running += 1

    def unregister(self) -> None:
        """Remove one running thread: its task has ended, or waits for others to end."""
        with self.lock:
            self._stop_running()

    def fit(self, jobs: Sequence[FitJob]) -> Results:
        """Submit fits, and wait for their results.

        Parameters
        ----------
        jobs : sequence of FitJob

        Returns
        -------
        list of FitResult or Exception
            One per job.

        Raises
        ------
        KeyboardInterrupt
            If the batcher was cancelled.
        """
        pending = _PendingFit(jobs)
        with self.lock:
            if self.cancelled:
                raise KeyboardInterrupt
            pending.checks_timeout = not self._pending
            self._pending.append(pending)
            self._last_arrival, self._cpu_at_arrival = time.monotonic(), time.process_time()
            self._stop_running()
        self._wait_until_ready(pending)
        if pending.batch and pending.result is None:
            self._train(pending.batch)
        self._wait_until_released(pending)
        result = pending.result
        assert result is not None
        if not isinstance(result, BaseException):
            return result
        try:
            raise result
        finally:
            # The error refers to this frame, which must not refer to the error.
            del result, pending

    def cancel(self) -> None:
        """End all pending fits with ``KeyboardInterrupt``, and ask the trainings to end."""
        with self.lock:
            self._cancel_event.set()
            unfinished = [*self._pending, *self._in_training]
            self._pending = []
            self._set_results(unfinished, [KeyboardInterrupt() for _ in unfinished])
            self._release(len(self._finished))

    def _stop_running(self) -> None:
        """Count one running thread less, which may complete a batch. The lock is held."""
        self.n_running -= 1
        if self._pending and self.n_running <= 0:
            self._flush(self._pending[-1])
        self._release(1)

    def _wait_until_ready(self, pending: _PendingFit) -> None:
        """Wait for a result or a batch; flush all pending fits if they have timed out."""
        timeout = self.IDLE_TIMEOUT_S
        while not pending.ready.wait(timeout if pending.checks_timeout else None):
            with self.lock:
                if self.cancelled:
                    raise KeyboardInterrupt
                if not pending.is_flushed and self._timed_out():
                    self._flush(pending)
                pending.checks_timeout = not pending.is_flushed
                left = self._last_arrival + self.IDLE_TIMEOUT_S - time.monotonic()
            timeout = left if left > 0 else self.IDLE_TIMEOUT_S

    def _wait_until_released(self, pending: _PendingFit) -> None:
        while not pending.released.wait(self.IDLE_TIMEOUT_S):
            with self.lock:
                if pending.released.is_set():
                    return
                if time.monotonic() - self._last_release >= self.IDLE_TIMEOUT_S:
                    self._finished.remove(pending)
                    return

    def _timed_out(self) -> bool:
        waited = time.monotonic() - self._last_arrival
        used = time.process_time() - self._cpu_at_arrival
        is_idle = used < _IDLE_CPU_SHARE * waited
        return waited >= (self.IDLE_TIMEOUT_S if is_idle else self.BUSY_TIMEOUT_S)

    def _flush(self, leader: _PendingFit) -> None:
        """Make a batch of all pending fits, which the leader's thread trains. The lock is held."""
        leader.batch, self._pending = self._pending, []
        self._in_training.update(leader.batch)
        for pending in leader.batch:
            pending.is_flushed = True
        leader.ready.set()

    def _train(self, batch: Sequence[_PendingFit]) -> None:
        results: Sequence[Results | BaseException]
        try:
            jobs = [job for pending in batch for job in pending.jobs]
            each = iter(self.train(jobs, self._cancel_event))
            results = [[next(each) for _ in pending.jobs] for pending in batch]
        except BaseException as error:
            # It ends the whole search, as it would without batches.
            results = [error] * len(batch)
        with self.lock:
            self.n_running += len(batch)
            self._set_results(batch, results)
            self._release(self.MAX_RELEASED)

    def _set_results(
        self, fits: Sequence[_PendingFit], results: Sequence[Results | BaseException]
    ) -> None:
        """Set results, except of fits that were cancelled. The lock is held."""
        for pending, result in zip(fits, results, strict=True):
            pending.is_flushed = True
            pending.batch = ()  # The leader's batch contains the leader: a reference cycle.
            if pending.result is None:
                pending.result = result
            self._in_training.discard(pending)
            self._finished.append(pending)
            pending.ready.set()

    def _release(self, n: int) -> None:
        """Let some threads return their results. The lock is held."""
        for _ in range(min(n, len(self._finished))):
            self._finished.popleft().released.set()
            self._last_release = time.monotonic()
