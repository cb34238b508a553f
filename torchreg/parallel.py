"""The joblib backend whose tasks train their networks together."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from joblib.parallel import FallbackToBackend, ParallelBackendBase, SequentialBackend

from torchreg._parallel.fit_batcher import is_training
from torchreg._parallel.tasks import ParallelCall, Task
from torchreg._parallel.worker_pool import MOST, WorkerPool, current_pool

#: Seconds between two looks of the thread that waits for its tasks. A wait without an end hears no
#: Ctrl-C on Windows.
_LOOK_S = 0.1
#: Bytes of data that the tasks in flight are given together, at most, where ``n_jobs`` leaves their
#: number open: each may copy its rows, and hold them until all are there.
_DATA = 2**30


class _WarningFilters:
    """What the filters of warnings were before the first of several searches.

    Tasks copy and put back the filters, which all threads share, in one another's midst.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_searches = 0

    def keep(self) -> None:
        """Remember them, if no other search runs."""
        with self._lock:
            if not self._n_searches:
                self._kept = warnings.catch_warnings()
                self._kept.__enter__()
            self._n_searches += 1

    def put_back(self) -> None:
        """Put them back, after the last of the searches."""
        with self._lock:
            self._n_searches -= 1
            if not self._n_searches:
                self._kept.__exit__(None, None, None)


_filters = _WarningFilters()


class TorchregBackend(ParallelBackendBase):
    """Runs tasks in threads, and trains together the networks that they fit.

    For ``joblib.parallel_config(backend="torchreg")``. Each fit of a
    :class:`~torchreg.TorchRegressor` inside a task waits until every task in flight has come to
    one, or has ended; then networks of one architecture are trained as one stack. Everything else
    in a task runs as it would in a thread of joblib's.

    Parameters
    ----------
    nesting_level : int or None, default=None
        How many calls of ``joblib.Parallel`` there are around.
    **options : dict
        As every backend of joblib.

    Notes
    -----
    ``n_jobs`` is the number of tasks in flight at once. ``None``, as scikit-learn's ``n_jobs``
    is unless it is set, and negative numbers are as many as there are, up to 256: a task waits
    for most of its time, and the more fits wait, the more are trained together. They are fewer
    where the data of all of them together would be more than a gibibyte, since each holds its
    rows. Tasks inside tasks belong to the same meeting, and count as they do; the task around
    them, which waits for them, does not.

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

    default_n_jobs = MOST
    uses_threads = True
    supports_sharedmem = True
    supports_retrieve_callback = True

    def __init__(self, nesting_level: int | None = None, **options: Any) -> None:
        super().__init__(nesting_level=nesting_level, **options)
        self._crew: WorkerPool | None = None
        self._call: ParallelCall | None = None
        self._outermost = False
        self._is_open = False
        self._submits = False

    def effective_n_jobs(self, n_jobs: int | None = None) -> int:
        """Give the number of tasks in flight at once.

        Raises
        ------
        ValueError
            If it is 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs=0 was given; expected None, or a number other than 0.")
        return MOST if n_jobs is None or n_jobs < 0 else min(n_jobs, MOST)

    def configure(self, n_jobs: int | None = None, parallel: Any = None, **options: Any) -> int:
        """Get ready for a call of ``joblib.Parallel``, and give the number of tasks in flight."""
        limit = self.effective_n_jobs(n_jobs)
        self._is_open = limit == MOST
        if limit == 1 or is_training():
            # A callback cannot wait for other fits: they may wait for what its training holds.
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if self._call is not None:
            # Another call uses this one: that which was given to parallel_config, as a rule.
            raise FallbackToBackend(TorchregBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        crew = current_pool()
        self._outermost = crew is None
        self._crew = WorkerPool(limit) if crew is None else crew
        self._call = self._crew.open(limit, depth=self.nesting_level or 0)
        return limit

    def get_nested_backend(self) -> tuple[ParallelBackendBase, int | None]:
        """Give the backend of calls inside a task: such a one, at the same meeting."""
        return TorchregBackend(nesting_level=(self.nesting_level or 0) + 1), None

    def start_call(self) -> None:
        """Hear that tasks are going to be submitted."""
        if self._outermost and self._crew is not None:
            self._submits = True
            self._crew.come()
            _filters.keep()

    def stop_call(self) -> None:
        """Hear that all tasks have ended, or will not be waited for."""
        if self._submits and self._crew is not None:
            self._submits = False
            _filters.put_back()
            self._crew.go()

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Task], object] | None = None
    ) -> Task:
        """Run a task in a thread, as soon as there is room for it."""
        crew, call = self._crew, self._call
        if crew is None or call is None:  # The call was aborted just now.
            raise KeyboardInterrupt
        n_bytes = _bytes_given(func)
        if self._is_open and n_bytes:
            crew.restrict(max(2, _DATA // n_bytes))
        return crew.submit(call, func, callback)

    #: Its name before joblib 1.4.
    apply_async = submit

    def retrieve_result_callback(self, out: Task) -> Any:
        """Give the result of a task that has ended, or raise its error."""
        return out.get()

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Let the calling thread wait for its tasks.

        joblib looks for results every hundredth of a second; hundreds of tasks that do so keep
        a core busy. So all results are waited for here, where they are wanted as a list.
        """
        crew, call = self._crew, self._call
        assert crew is not None
        assert call is not None
        crew.begin_to_wait(call)
        try:
            streams = getattr(self.parallel, "return_generator", False)
            if not streams and self.parallel.timeout is None:
                while not call.over.wait(_LOOK_S):
                    continue
            if call.error is not None:
                raise call.error
            if crew.meeting.ended:
                raise KeyboardInterrupt
            yield
        finally:
            crew.end_to_wait(call)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Drop what has not begun; the outermost call ends the meeting and all its tasks."""
        if self._outermost and self._crew is not None:
            # Before stop_call, after which no task is to change the filters of warnings.
            self._crew.end()
        self.stop_call()
        self.terminate()
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)

    def terminate(self) -> None:
        """End the call, and with the outermost one its threads."""
        crew, call = self._crew, self._call
        self._crew = self._call = None
        if crew is not None and call is not None:
            crew.close(call)
            if self._outermost:
                crew.end()


def _bytes_given(batch: Any) -> int:
    """Count the bytes of the arrays and tables that joblib's tasks are called with."""
    total = 0
    for _, args, kwargs in getattr(batch, "items", ()):
        for value in (*args, *kwargs.values()):
            size = getattr(value, "size", 0)  # Of a DataFrame or a sparse matrix, too.
            total += getattr(value, "nbytes", 8 * size if isinstance(size, int) else 0)
    return total
