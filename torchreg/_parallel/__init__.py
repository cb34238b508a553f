"""The joblib backend: worker threads, their tasks, and the batcher of pending fits.

Under ``joblib.parallel_config(backend="torchreg")``, a :class:`WorkerPool` runs the tasks of a
search in threads. A fit inside a task does not train at once. ``fit_networks`` hands it to the
pool's :class:`FitBatcher`, where its thread blocks. The batcher flushes, that is, one of the
blocked threads trains all pending fits in one call of the engine, which stacks networks of one
architecture, as soon as

1. every task in flight has a pending fit, has ended, or waits for tasks of its own, because then
   no further fit can arrive; or
2. no fit has arrived for a while, because a task may be waiting for a lock that a pending fit
   holds, or may compute for long.

Rule 1 makes the batches as large as the tasks allow, and rule 2 prevents deadlocks. All counters
change under one lock, that of the batcher. Outside of a pool, fits are trained at once.
"""

from torchreg._parallel.fit_batcher import FitBatcher
from torchreg._parallel.tasks import ParallelCall, Task, TaskError
from torchreg._parallel.worker_pool import MAX_WORKERS, WorkerPool, current_pool

__all__ = [
    "MAX_WORKERS",
    "FitBatcher",
    "ParallelCall",
    "Task",
    "TaskError",
    "WorkerPool",
    "current_pool",
]
