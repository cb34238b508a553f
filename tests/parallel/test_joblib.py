"""The backend follows the interface of joblib."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
import torch
from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from sklearn.ensemble import BaggingRegressor
from sklearn.model_selection import GridSearchCV
from sklearn.utils.parallel import Parallel as SklearnParallel
from sklearn.utils.parallel import delayed as sklearn_delayed

from tests._deadline import within
from torchreg import TorchRegressor
from torchreg._parallel import MAX_WORKERS
from torchreg.nn import MLP
from torchreg.parallel import TorchregBackend

Array = np.ndarray
RNG = np.random.default_rng(0)
X = 200 + 10 * RNG.normal(size=(24, 3))
Y = 4000 + 20 * X[:, 0] + RNG.normal(size=24)


class Concurrency:
    """The number of tasks that run at once, and its maximum."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.lock = threading.Lock()

    def task(self, number: int, pause_s: float = 0.02) -> int:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(pause_s)
        with self.lock:
            self.now -= 1
        return number


def fit(number: int) -> Any:
    return TorchRegressor(module=MLP, max_epochs=1, random_state=number).fit(X, Y).predict(X[:1])[0]


@pytest.mark.parametrize(
    ("n_jobs", "expected"),
    [
        (None, MAX_WORKERS),
        (-1, MAX_WORKERS),
        (-2, MAX_WORKERS),
        (1, 1),
        (2, MAX_WORKERS),
        (10_000, MAX_WORKERS),
    ],
)
def test_every_n_jobs_but_one_is_the_maximum(n_jobs: int | None, expected: int) -> None:
    with parallel_config(backend="torchreg"):
        assert effective_n_jobs(n_jobs) == expected
        assert TorchregBackend().effective_n_jobs(n_jobs=n_jobs) == expected


def test_zero_jobs_are_refused() -> None:
    with parallel_config(backend="torchreg"), pytest.raises(ValueError, match="0 was given; exp"):
        Parallel(n_jobs=0)([delayed(fit)(0)])


@within(30)
@pytest.mark.parametrize("where", ["config", "call"])
def test_with_any_n_jobs_all_fits_of_a_search_train_together(
    where: str, sizes: list[int], set_timeouts: Callable[..., None]
) -> None:
    set_timeouts(1000.0, 1000.0)
    config, call = ({"n_jobs": 2}, {}) if where == "config" else ({}, {"n_jobs": 2})
    reg = TorchRegressor(module=MLP, max_epochs=1)
    with parallel_config(backend="torchreg", **config):
        Parallel(**call)(delayed(fit)(number) for number in range(12))
        GridSearchCV(reg, {"lr": [0.01, 0.1]}, cv=3, refit=False, **call).fit(X, Y)
        # Bagging splits its fits into as many tasks as n_jobs says.
        BaggingRegressor(reg, 5, random_state=0, **call).fit(X, Y)
    assert sizes == [12, 6, 5]


def tables() -> dict[str, Any]:
    dense = np.ones((100, 10))
    return {
        "array": dense,
        "tensor": torch.ones(100, 10, dtype=torch.float64),
        "frame": pd.DataFrame(dense),
        "sparse": scipy.sparse.csr_array(dense),
    }


@within(30)
@pytest.mark.parametrize("kind", tables())
def test_fewer_tasks_with_large_data_are_in_flight(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tables()[kind]
    monkeypatch.setattr(TorchregBackend, "max_bytes", 4 * 8000)
    inside = Concurrency()

    def task(data: Any) -> int:
        return inside.task(len(data) if kind != "sparse" else data.shape[0])

    with parallel_config(backend="torchreg"):
        assert Parallel()(delayed(task)(table) for _ in range(12)) == [100] * 12
        assert inside.most == 4
        Parallel(n_jobs=8)(delayed(task)(data=table) for _ in range(24))
    assert inside.most == 4


@within(30)
def test_tasks_of_nested_calls_count_towards_the_tasks_in_flight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TorchregBackend, "max_bytes", 3 * X.nbytes)
    inside = Concurrency()

    def outer(data: Any) -> list[int]:
        return list(Parallel()(delayed(inside.task)(number) for number in range(5)))

    with parallel_config(backend="torchreg"):
        found = Parallel()(delayed(outer)(X) for _ in range(6))
    assert found == [[0, 1, 2, 3, 4]] * 6
    assert inside.most == 3


@within(30)
def test_one_job_runs_in_the_calling_thread() -> None:
    with parallel_config(backend="torchreg"):
        found = Parallel(n_jobs=1)(delayed(threading.get_ident)() for _ in range(3))
    assert found == [threading.get_ident()] * 3


@within(30)
@pytest.mark.parametrize("n_tasks", [0, 1, 30])
@pytest.mark.parametrize("pre_dispatch", ["2*n_jobs", "all", 1, 3])
def test_results_are_in_the_order_of_the_tasks(n_tasks: int, pre_dispatch: Any) -> None:
    def task(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        return number

    with parallel_config(backend="torchreg"):
        found = Parallel(pre_dispatch=pre_dispatch)(delayed(task)(n) for n in range(n_tasks))
    assert found == list(range(n_tasks))


@within(30)
def test_results_can_be_streamed() -> None:
    end = threading.Event()

    def task(number: int) -> int:
        if number:
            assert end.wait(20)
        return number

    with parallel_config(backend="torchreg"):
        results = Parallel(return_as="generator")(delayed(task)(number) for number in range(9))
        assert next(results) == 0
        end.set()
        assert list(results) == list(range(1, 9))
        unordered = Parallel(return_as="generator_unordered")(
            delayed(fit)(number) for number in range(4)
        )
        assert sorted(unordered) == sorted(fit(number) for number in range(4))


@within(30)
def test_a_task_can_fit_between_the_results_of_a_nested_call() -> None:
    def outer(number: int) -> float:
        results = Parallel(return_as="generator")(delayed(fit)(n) for n in range(3))
        return float(sum(result + fit(number) for result in results))

    with parallel_config(backend="torchreg"):
        found = Parallel()(delayed(outer)(number) for number in range(3))
    inner = sum(fit(n) for n in range(3))
    np.testing.assert_allclose(found, [inner + 3 * fit(number) for number in range(3)])


@within(30)
@pytest.mark.filterwarnings("ignore:.*tasks:UserWarning")
def test_an_unused_generator_of_results_can_be_deleted() -> None:
    with parallel_config(backend="torchreg"):
        results = Parallel(return_as="generator")(delayed(fit)(number) for number in range(9))
        next(results)
        del results
        assert Parallel()([delayed(abs)(-1)]) == [1]


@within(30)
def test_the_timeout_of_joblib_is_raised() -> None:
    end = threading.Event()
    with parallel_config(backend="torchreg"), pytest.raises(joblib.parallel.TimeoutError):
        threading.Timer(0.2, end.set).start()
        Parallel(timeout=0.05)([delayed(abs)(-1), delayed(end.wait)(20)])


@within(30)
def test_one_parallel_can_be_called_repeatedly() -> None:
    with parallel_config(backend="torchreg"), Parallel() as parallel:
        for turn in range(3):
            assert parallel(delayed(max)(turn, n) for n in range(3)) == [
                max(turn, n) for n in range(3)
            ]
        with pytest.raises(ZeroDivisionError):
            parallel([delayed(abs)(1), delayed(divmod)(1, 0)])
        assert parallel([delayed(fit)(1)]) == [fit(1)]


@within(30)
def test_the_generator_of_tasks_can_make_parallel_calls() -> None:
    def tasks() -> Iterator[Any]:
        for number in range(3):
            yield delayed(sum)(Parallel()(delayed(abs)(-n) for n in range(number + 1)))

    with parallel_config(backend="torchreg"):
        assert Parallel()(tasks()) == [0, 1, 3]


@within(30)
def test_the_backend_can_be_passed_to_one_call_by_name_or_as_an_instance() -> None:
    for backend in ("torchreg", TorchregBackend()):
        found = Parallel(n_jobs=3, backend=backend)(delayed(fit)(n) for n in range(3))
        assert found == [fit(n) for n in range(3)]


@within(30)
def test_progress_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with parallel_config(backend="torchreg"):
        # All start before the first is done, so that joblib knows their number.
        Parallel(verbose=51)(delayed(time.sleep)(0.1) for _ in range(3))
    printed = capfd.readouterr().out
    assert "Using backend TorchregBackend" in printed
    assert "Done   3 out of   3" in printed


@within(30)
def test_tasks_have_the_configuration_of_scikit_learn() -> None:
    with parallel_config(backend="torchreg"), sklearn.config_context(working_memory=77):
        found = SklearnParallel()(sklearn_delayed(sklearn.get_config)() for _ in range(3))
    assert [config["working_memory"] for config in found] == [77] * 3


def test_the_backend_is_imported_on_first_use() -> None:
    script = (
        "import sys, joblib, torchreg\n"
        "assert 'torchreg.parallel' not in sys.modules\n"
        "with joblib.parallel_config(backend='torchreg'):\n"
        "    assert joblib.Parallel()([joblib.delayed(abs)(-1)]) == [1]\n"
        "assert 'torchreg.parallel' in sys.modules\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "error", "-c", script]
    assert subprocess.run(command, cwd=root, check=False).returncode == 0
