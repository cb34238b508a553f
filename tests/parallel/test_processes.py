"""An estimator works alike in forked, spawned and joblib's processes and in many threads."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.model_selection import GridSearchCV

from tests._faults import Until
from torchreg import TorchRegressor
from torchreg.nn import MLP

Array = np.ndarray
ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
X = 200 + 10 * RNG.normal(size=(60, 3))
Y = 4000 + 20 * X[:, 0] + RNG.normal(size=60)

#: Start methods that import torch again, which takes seconds.
SLOW_METHODS = ["forkserver", "spawn"]

#: Fits on two threads of torch, which a fork does not have, and then in other processes. The
#: table and the network are so large that torch uses both threads.
SCRIPT = """
import multiprocessing, sys
import numpy as np, torch
from torchreg import TorchRegressor
from torchreg.nn import MLP

torch.set_num_threads(2)
rng = np.random.default_rng(0)
X = rng.normal(size=(1000, 50))
y = X[:, 0] + rng.normal(size=1000)
large = TorchRegressor(
    MLP, module__hidden_sizes=(300, 300), max_epochs=2, batch_size=None, random_state=0
)
# Its networks train in one stack per thread, which round differently.
small = TorchRegressor(max_epochs=1, n_folds=4, dtype="float64", random_state=0)

def answers(reg):
    return [reg.predict(X), small.fit(X, y).predict(X), large.fit(X, y).predict(X)]

if __name__ == "__main__":
    here = answers(large.fit(X, y))
    for _ in range(2):
        with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
            there = pool.apply(answers, (large,))
        for mine, theirs in zip(here, there, strict=True):
            np.testing.assert_allclose(theirs, mine, rtol=1e-9, atol=1e-9)
    assert torch.get_num_threads() == 2
"""


@pytest.mark.parametrize(
    "method", ["fork", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_METHODS)]
)
def test_a_process_of_any_start_method_gives_the_same_after_torch_has_started_threads(
    method: str, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, "-W", "error", str(script), method]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_fork_can_draw_random_numbers_while_another_thread_fits() -> None:
    begun, end = threading.Event(), threading.Event()
    busy = TorchRegressor(
        module=MLP, module__dropout=0.5, max_epochs=10**6, callbacks=[Until(begun, end)]
    )
    worker = threading.Thread(target=busy.fit, args=(X, Y))
    worker.start()
    assert begun.wait(timeout=60)
    hanging = []
    for number in range(15):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            torch.rand(1)
            os.write(writing, b"drawn")
            os._exit(0)
        os.close(writing)
        if not select.select([reading], [], [], 60)[0]:
            hanging.append(number)
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
    end.set()
    worker.join()
    assert not hanging


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_a_search_in_two_workers_gives_the_result_of_one(backend: str) -> None:
    reg = TorchRegressor(
        module=MLP, module__dropout=0.2, batch_size=16, max_epochs=5, random_state=0
    )
    grid = {"lr": [0.001, 0.01], "module__hidden_sizes": [(3,), (5,)]}
    alone = GridSearchCV(reg, grid, cv=2).fit(X, Y)
    with parallel_config(backend=backend):
        together = GridSearchCV(reg, grid, cv=2, n_jobs=2).fit(X, Y)
    scores = "mean_test_score"
    np.testing.assert_array_equal(together.cv_results_[scores], alone.cv_results_[scores])
    np.testing.assert_array_equal(together.predict(X), alone.predict(X))
