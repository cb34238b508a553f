"""Errors stay in their task, nothing waits forever, and the next search works."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed, parallel_config
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from torch import nn

from tests._deadline import within
from torchreg import TorchRegressor
from torchreg.nn import MLP

Array = np.ndarray
ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
X = 200 + 10 * RNG.normal(size=(24, 3))
Y = 4000 + 20 * X[:, 0] + RNG.normal(size=24)


def network(**options: Any) -> TorchRegressor:
    given = {"module__hidden_sizes": (3,), "module__activation": "tanh", "max_epochs": 2}
    return TorchRegressor(**{"module": MLP, **given, "random_state": 0, **options})


class Calls(RegressorMixin, BaseEstimator):
    """Fits a network inside a function, which gets the number of the task."""

    def __init__(self, what: Any = None, number: int = 0) -> None:
        self.what, self.number = what, number

    def __sklearn_clone__(self) -> Calls:
        return Calls(self.what, self.number)

    def fit(self, X: Array, y: Array) -> Calls:
        self.reg_ = network()
        if self.what is None:
            self.reg_.fit(X, y)
        else:
            self.what(self.number, lambda: self.reg_.fit(X, y))
        return self

    def predict(self, X: Array) -> Any:
        return self.reg_.predict(X) if hasattr(self.reg_, "module_") else np.zeros(len(X))


def search(what: Any, n: int = 4, **options: Any) -> GridSearchCV:
    grid = {"number": list(range(n))}
    return GridSearchCV(Calls(what), grid, cv=KFold(2), refit=False, **options)


def scores(search: GridSearchCV, **config: Any) -> Array:
    with parallel_config(backend="torchreg", **config):
        return search.fit(X, Y).cv_results_["mean_test_score"]


EXPECTED = float(np.mean(cross_val_score(network(), X, Y, cv=KFold(2))))


@pytest.fixture(autouse=True)
def next_search_works(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check that the next search works, and that the filters of warnings are restored."""
    filters = list(warnings.filters)
    yield
    monkeypatch.undo()
    np.testing.assert_allclose(scores(search(None, 2)), EXPECTED)
    assert list(warnings.filters) == filters


# Errors


def refuses(number: int, fit: Callable[[], Any]) -> None:
    if number == 2:
        raise ValueError("number 2 is refused")
    fit()


@within(30)
@pytest.mark.filterwarnings("ignore:One or more of the test scores:UserWarning")
def test_an_error_in_one_task_leaves_the_others_alone(sizes: list[int]) -> None:
    with pytest.warns(FitFailedWarning, match="number 2 is refused"):
        found = scores(search(refuses, error_score=np.nan))
    np.testing.assert_allclose(found, [EXPECTED, EXPECTED, np.nan, EXPECTED])
    assert sizes == [6]


@within(30)
@pytest.mark.filterwarnings("ignore:One or more of the test scores:UserWarning")
def test_an_error_in_one_training_leaves_the_others_alone(sizes: list[int]) -> None:
    class Breaks(nn.Linear):
        def __init__(self, in_features: int, out_features: int, breaks: bool) -> None:
            super().__init__(in_features, out_features)
            self.breaks = breaks

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.breaks and self.training:
                raise ValueError("this module breaks")
            return super().forward(x)

    reg = TorchRegressor(Breaks, max_epochs=2, random_state=0, module__breaks=False)
    both = GridSearchCV(reg, {"module__breaks": [False, True]}, cv=2, refit=False)
    with pytest.warns(FitFailedWarning, match="this module breaks"):
        found = scores(both)
    np.testing.assert_allclose(found, [cross_val_score(reg, X, Y, cv=2).mean(), np.nan])
    assert sizes == [4]


@within(30)
def test_error_score_raise_raises_with_the_traceback_of_the_task() -> None:
    with pytest.raises(ValueError, match="number 2 is refused") as caught:
        scores(search(refuses, error_score="raise"))
    assert "in refuses" in str(caught.value.__cause__)


@within(30)
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, MemoryError])
def test_an_error_that_is_no_failed_fit_ends_the_search(error: type[BaseException]) -> None:
    def fails(number: int, fit: Callable[[], Any]) -> None:
        if number == 1:
            raise error
        fit()

    with pytest.raises(error):
        scores(search(fails, error_score="raise"))


@within(30)
def test_an_error_in_the_generator_of_tasks_ends_the_call() -> None:
    def tasks() -> Iterator[Any]:
        yield delayed(network().fit)(X, Y)
        raise ValueError("no further task")

    with parallel_config(backend="torchreg"), pytest.raises(ValueError, match="no further"):
        Parallel()(tasks())


@within(30)
@pytest.mark.filterwarnings("ignore:One or more of the test scores:UserWarning")
def test_an_error_in_a_nested_search_ends_only_that_search() -> None:
    inner = search(None, error_score="raise").set_params(refit=True)
    outer = GridSearchCV(inner, {"estimator__what": [None, refuses]}, cv=KFold(2), refit=False)
    with pytest.warns(FitFailedWarning, match="number 2 is refused"):
        np.testing.assert_allclose(scores(outer), [EXPECTED, np.nan])


# Waiting


@within(30)
def test_a_batch_does_not_wait_for_tasks_that_wait_for_its_results(sizes: list[int]) -> None:
    fitted = threading.Event()

    def never(number: int, fit: Callable[[], Any]) -> None:
        if number < 2:
            assert fitted.wait(20)
        else:
            fit()
            fitted.set()

    found = scores(search(never))
    np.testing.assert_allclose(found[2:], EXPECTED)
    assert sizes == [4]


@within(30)
def test_tasks_that_share_a_lock_are_fitted_one_after_another(
    sizes: list[int], set_timeouts: Callable[..., None]
) -> None:
    set_timeouts(0.02, 2.0)
    lock = threading.Lock()

    def locked(number: int, fit: Callable[[], Any]) -> None:
        with lock:
            fit()

    np.testing.assert_allclose(scores(search(locked, 2)), EXPECTED)
    assert sizes == [1] * 4


@within(30)
def test_all_tasks_are_in_flight_at_once() -> None:
    together = threading.Barrier(8)

    def waits(number: int, fit: Callable[[], Any]) -> None:
        together.wait(20)
        fit()

    np.testing.assert_allclose(scores(search(waits)), EXPECTED)


@within(60)
def test_at_most_256_tasks_are_in_flight(
    sizes: list[int], set_timeouts: Callable[..., None]
) -> None:
    set_timeouts(1000.0, 1000.0)
    np.testing.assert_allclose(scores(search(None, 150)), EXPECTED)
    assert sizes == [256, 44]


@within(30)
def test_one_task_gives_the_bits_of_a_fit_without_the_backend(sizes: list[int]) -> None:
    with parallel_config(backend="torchreg"):
        (found,) = Parallel()([delayed(network().fit)(X, Y)])
    np.testing.assert_array_equal(found.predict(X), network().fit(X, Y).predict(X))
    assert sizes == [1]


# Other threads


@within(30)
def test_other_threads_can_fit_during_a_search(sizes: list[int]) -> None:
    end, predictions = threading.Event(), []

    def fits() -> None:
        while not end.is_set():
            predictions.append(network().fit(X, Y).predict(X))

    threads = [threading.Thread(target=fits) for _ in range(2)]
    for thread in threads:
        thread.start()
    np.testing.assert_allclose(scores(search(None, 8)), EXPECTED)
    end.set()
    for thread in threads:
        thread.join()
    for prediction in predictions:
        np.testing.assert_array_equal(prediction, predictions[0])
    assert sum(sizes) == 16


@within(30)
def test_a_fit_in_a_thread_that_a_task_starts_is_not_batched(sizes: list[int]) -> None:
    def elsewhere(number: int, fit: Callable[[], Any]) -> None:
        thread = threading.Thread(target=fit)
        thread.start()
        thread.join()

    np.testing.assert_allclose(scores(search(elsewhere)), EXPECTED)
    assert sizes == []


@within(30)
@pytest.mark.parametrize("backend", ["threading", "sequential", "torchreg"])
def test_a_task_can_use_any_backend(backend: str) -> None:
    def uses(number: int, fit: Callable[[], Any]) -> None:
        fit()
        with parallel_config(backend=backend):
            found = Parallel(n_jobs=2)(delayed(network().fit)(X, Y) for _ in range(3))
        np.testing.assert_allclose(found[0].predict(X), found[2].predict(X), rtol=1e-6)

    np.testing.assert_allclose(scores(search(uses)), EXPECTED)


@within(30)
def test_two_threads_can_search_at_once(sizes: list[int]) -> None:
    found: list[Any] = [None, None]

    def run(index: int) -> None:
        found[index] = scores(search(None))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(found, EXPECTED)
    assert sum(sizes) == 16


@within(30)
def test_a_search_in_a_callback_runs_one_fit_after_another(sizes: list[int]) -> None:
    from skorch.callbacks import Callback

    found = []

    class Searches(Callback):
        def on_train_begin(self, net: Any, **given: Any) -> None:
            found.append(cross_val_score(network(module__dropout=0.5), X, Y, cv=2))

    regs = [network(module__dropout=0.5, callbacks=[Searches()]) for _ in range(3)]
    with parallel_config(backend="torchreg"):
        Parallel()(delayed(reg.fit)(X, Y) for reg in regs)
    assert len(found) == 3
    assert sizes == [3]


# Global state


@within(30)
def test_warnings_are_those_without_the_backend() -> None:
    short = GridSearchCV(network(tol=1e-12), {"lr": [0.001, 0.01]}, cv=3, refit=False)
    with warnings.catch_warnings(record=True) as alone:
        warnings.simplefilter("always")
        short.fit(X, Y)
    with warnings.catch_warnings(record=True) as together:
        warnings.simplefilter("always")
        scores(short)
    assert Counter(str(w.message) for w in together) == Counter(str(w.message) for w in alone)
    assert {w.category for w in together} == {ConvergenceWarning}


@within(30)
def test_threads_gradient_mode_and_generators_are_restored() -> None:
    with torch.no_grad():
        before = torch.get_num_threads(), torch.get_rng_state(), np.random.get_state()[1]
        scores(GridSearchCV(network(module__dropout=0.5), {"lr": [0.1, 0.2]}, cv=2))
        after = torch.get_num_threads(), torch.get_rng_state(), np.random.get_state()[1]
        assert not torch.is_grad_enabled()
    assert before[0] == after[0]
    assert torch.equal(before[1], after[1])
    np.testing.assert_array_equal(before[2], after[2])


INTERRUPTED = """
import os, signal, sys, threading, time
import numpy as np
from joblib import Parallel, delayed, parallel_config
from sklearn.model_selection import GridSearchCV, cross_val_score
from torchreg import TorchRegressor
from torchreg._parallel import FitBatcher
from torchreg.nn import MLP

rng = np.random.default_rng(0)
X = rng.normal(size=(30, 3))
y = X[:, 0] + rng.normal(size=30)
train, armed = FitBatcher.train, threading.Event()

def interrupt():
    if armed.is_set():
        armed.clear()
        os.kill(os.getpid(), signal.SIGINT)

def fit_networks(jobs, halt=None):
    interrupt()
    return train(jobs, halt)

FitBatcher.train = staticmethod(fit_networks)
reg = TorchRegressor(module=MLP, max_epochs=5, random_state=0)

def search(**options):
    return GridSearchCV(reg, {"lr": [0.001, 0.01, 0.1]}, cv=3, **options)

def sleep(number):
    if number == 3:
        interrupt()
    time.sleep(0.1)

def submitting():
    for number in range(20):
        if number == 10:
            interrupt()
        yield delayed(reg.fit)(X, y)

expected = search().fit(X, y).cv_results_["mean_test_score"]
for work in [
    lambda: search().fit(X, y),
    lambda: cross_val_score(search(), X, y, error_score=np.nan),
    lambda: Parallel()(delayed(sleep)(number) for number in range(20)),
    lambda: Parallel()(submitting()),
    lambda: list(Parallel(return_as="generator")(submitting())),
]:
    armed.set()
    try:
        with parallel_config(backend="torchreg"):
            work()
    except KeyboardInterrupt:
        print("interrupted", end=" ")
    with parallel_config(backend="torchreg"):
        found = search().fit(X, y).cv_results_["mean_test_score"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    deadline = time.monotonic() + 10
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    print(threading.active_count())
"""


def test_ctrl_c_ends_a_search_at_any_point_and_the_next_one_works() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", INTERRUPTED],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["interrupted 1"] * 5, done.stderr
    assert done.stderr == ""
