"""The joblib backend that trains the networks of different tasks together."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from joblib.parallel import FallbackToBackend, ParallelBackendBase, SequentialBackend

from torchreg._parallel import (
    MAX_WORKERS,
    ParallelCall,
    Task,
    WorkerPool,
    current_pool,
)
from torchreg.engine.run import is_training

#: Seconds after which a wait is repeated. On Windows Ctrl-C does not interrupt an endless wait.
_WAIT_S = 0.1


class _WarningFilters:
    """Restores the filters of warnings after the last of several concurrent searches.

    All threads share the filters, and tasks that copy and restore them interleave.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_searches = 0

    def save(self) -> None:
        """Save the filters, if no other search runs."""
        with self._lock:
            if not self._n_searches:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
            self._n_searches += 1

    def restore(self) -> None:
        """Restore the filters, if no other search runs."""
        with self._lock:
            self._n_searches -= 1
            if not self._n_searches:
                self._saved.__exit__(None, None, None)


_filters = _WarningFilters()


class TorchregBackend(ParallelBackendBase):
    """joblib backend that runs tasks in threads and trains their networks together.

    Use it with ``joblib.parallel_config(backend="torchreg")``. Each fit of a
    :class:`~torchreg.TorchRegressor` inside a task waits until every other task has reached a fit
    or has ended; then networks of one architecture are trained as one stack. Everything else in a
    task runs as in joblib's threading backend.

    Parameters
    ----------
    nesting_level : int or None, default=None
        The number of enclosing calls of ``joblib.Parallel``.
    **options : dict
        Passed to joblib's base class.

    Notes
    -----
    All tasks are in flight at once, up to 256, whatever ``n_jobs`` is, because a task mostly
    waits, and more fits at a time make larger stacks. The number is lowered so that the data passed
    to the tasks in flight take at most one gibibyte, because each task may copy its rows. Nested
    calls share the threads; a task that waits for its nested tasks does not count. ``n_jobs=1``
    runs one task after another in the calling thread.

    Examples
    --------
    >>> import joblib, numpy as np
    >>> from sklearn.model_selection import GridSearchCV
    >>> from torchreg import TorchRegressor
    >>> flipper_mm = np.linspace(170, 230, 60).reshape(-1, 1)
    >>> mass_g = 4000 + 25 * np.abs(flipper_mm[:, 0] - 195)
    >>> search = GridSearchCV(TorchRegressor(random_state=0), {"lr": [1e-7, 0.1]}, cv=3)
    >>> with joblib.parallel_config(backend="torchreg"):
    ...     search.fit(flipper_mm, mass_g).best_params_
    {'lr': 0.1}
    """

    default_n_jobs = MAX_WORKERS
    uses_threads = True
    supports_sharedmem = True
    supports_retrieve_callback = True

    #: Bytes of data that are passed to all tasks in flight, at most.
    max_bytes = 2**30

    def __init__(self, nesting_level: int | None = None, **options: Any) -> None:
        super().__init__(nesting_level=nesting_level, **options)
        self._pool: WorkerPool | None = None
        self._call: ParallelCall | None = None
        self._owns_pool = False
        self._is_submitting = False

    def effective_n_jobs(self, n_jobs: int | None = None) -> int:
        """Return the number of tasks in flight.

        It does not depend on the number of processors that ``n_jobs`` asks for: a limit of two
        would make stacks of two fits, each as slow as a stack of all.

        Raises
        ------
        ValueError
            If ``n_jobs`` is 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs=0 was given; expected None, or a number other than 0.")
        return 1 if n_jobs == 1 else MAX_WORKERS

    def configure(self, n_jobs: int | None = None, parallel: Any = None, **options: Any) -> int:
        """Prepare a call of ``joblib.Parallel``, and return the number of tasks in flight."""
        limit = self.effective_n_jobs(n_jobs)
        if limit == 1 or is_training():
            # A callback must not wait for fits that may wait for the end of its training.
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if self._call is not None:
            # This instance already serves another call: parallel_config shares it.
            raise FallbackToBackend(TorchregBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        pool = current_pool()
        self._owns_pool = pool is None
        self._pool = WorkerPool(limit) if pool is None else pool
        self._call = self._pool.open_call(limit, depth=self.nesting_level or 0)
        return limit

    def get_nested_backend(self) -> tuple[ParallelBackendBase, int | None]:
        """Return the backend of calls inside a task, which share the pool."""
        return TorchregBackend(nesting_level=(self.nesting_level or 0) + 1), None

    def start_call(self) -> None:
        """Prepare the submission of tasks."""
        if self._owns_pool and self._pool is not None:
            self._is_submitting = True
            self._pool.activate()
            _filters.save()

    def stop_call(self) -> None:
        """Clean up after the last task."""
        if self._is_submitting and self._pool is not None:
            self._is_submitting = False
            _filters.restore()
            self._pool.deactivate()

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Task], object] | None = None
    ) -> Task:
        """Run a task in a thread, as soon as one is available."""
        pool, call = self._pool, self._call
        if pool is None or call is None:  # The call was aborted by an interrupt.
            raise KeyboardInterrupt
        n_bytes = _n_bytes_of_arguments(func)
        if n_bytes:
            pool.limit_workers(max(2, self.max_bytes // n_bytes))
        return pool.submit(call, func, callback)

    #: The name before joblib 1.4.
    apply_async = submit

    def retrieve_result_callback(self, out: Task) -> Any:
        """Return the result of a task that is done, or raise its error."""
        return out.get()

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Wait for the tasks of this call.

        joblib polls for results every 10 ms, and hundreds of nested calls that poll keep a core
        busy. So this waits for all results, unless they are streamed.
        """
        pool, call = self._pool, self._call
        assert pool is not None
        assert call is not None
        pool.begin_wait(call)
        try:
            streams = getattr(self.parallel, "return_generator", False)
            if not streams and self.parallel.timeout is None:
                while not call.done.wait(_WAIT_S):
                    continue
            if call.error is not None:
                raise call.error
            if pool.batcher.cancelled:
                raise KeyboardInterrupt
            yield
        finally:
            pool.end_wait(call)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel queued tasks; the outermost call also cancels pending fits and trainings."""
        if self._owns_pool and self._pool is not None:
            # Before stop_call, after which no task may change the filters of warnings.
            self._pool.shutdown()
        self.stop_call()
        self.terminate()
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)

    def terminate(self) -> None:
        """End the call; the outermost call also ends the threads."""
        pool, call = self._pool, self._call
        self._pool = self._call = None
        if pool is not None and call is not None:
            pool.close_call(call)
            if self._owns_pool:
                pool.shutdown()


def _n_bytes_of_arguments(batch: Any) -> int:
    """Count the bytes of the arrays and tables in the arguments of joblib's tasks."""
    total = 0
    for _, args, kwargs in getattr(batch, "items", ()):
        for value in (*args, *kwargs.values()):
            size = getattr(value, "size", 0)  # DataFrames and sparse matrices have one, too.
            total += getattr(value, "nbytes", 8 * size if isinstance(size, int) else 0)
    return total
