"""Time of small fits next to a busy process, and of two fits at a time.

A small step on two threads waits for the slower one, which takes long if the second core is busy.
Each competitor has its own default number of threads.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from _competitors import fit_mlp_regressor, fit_torchreg
from _eager import Fit, Task, fit_eager_loop
from _harness import begin, interleave, number, synthetic, table
from sklearn.model_selection import cross_val_score

from torchreg import TorchRegressor
from torchreg.nn import MLP

TASK = Task((100,), 10, batch_size=200)
FITS: dict[str, Callable[[np.ndarray, np.ndarray, Task, int], Fit]] = {
    "torchreg": fit_torchreg,
    "hand-written loop": fit_eager_loop,
    "MLPRegressor": fit_mlp_regressor,
}
NOTES = """\
{rows:,} × 8, 100 ReLU, batches of 200, Adam, 10 epochs. Median seconds of {rounds} interleaved
rounds, alone and while another process keeps one core busy; *slowdown* is their ratio."""
NESTED = """\
Ten such fits in `cross_val_score(TorchRegressor(...), cv=10)`: median seconds of {rounds} rounds.
The best ratio of two at a time is 0.5."""


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy with another process."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    run = begin("threads", __doc__)
    rounds = run.pick(7, 1)
    X, y = synthetic(run.pick(2_000, 1_000), 8)
    competitors = {name: partial(fit, X, y, TASK) for name, fit in FITS.items()}
    alone = interleave(competitors, rounds)
    with busy_core():
        shared = interleave(competitors, rounds)
    rows = [
        [
            name,
            number(alone[name].median),
            number(shared[name].median),
            f"{shared[name].median / alone[name].median:.2f}",
        ]
        for name in FITS
    ]

    reg = TorchRegressor(
        module=MLP, module__hidden_sizes=[100], batch_size=200, max_epochs=100, random_state=0
    )

    def search(n_jobs: int, seed: int) -> float:
        return cross_val_score(reg, X, y, cv=10, n_jobs=n_jobs).mean()

    nested = interleave(
        {f"n_jobs={n}": partial(search, n) for n in (1, 2)}, run.pick(5, 1), warm_up=1
    )
    once = nested["n_jobs=1"].median
    nested_rows = [[n, number(t.median), f"{t.median / once:.2f}"] for n, t in nested.items()]
    run.report(
        "Small fits on a shared machine",
        NOTES.format(rows=len(X), rounds=rounds),
        table(["", "alone, s", "shared, s", "slowdown"], rows),
        NESTED.format(rounds=run.pick(5, 1)),
        table(["", "seconds", "ratio"], nested_rows),
    )


if __name__ == "__main__":
    main()
