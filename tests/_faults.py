"""Faults during a second fit. Each function takes a trial and the ``injection`` fixture."""

from __future__ import annotations

import _thread
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from joblib import parallel_config
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_predict
from skorch.callbacks import Callback
from torch import Tensor, nn

from tests._trials import Array, RefitTrial, rows
from torchreg import TorchRegressor
from torchreg.nn import MLP

NAN, INF = float("nan"), float("inf")
REFUSED = (ValueError, TypeError)


# Errors at any call


def error_at_a_call(trial: RefitTrial, injection: Any, error: BaseException) -> None:
    with injection() as counted:
        clone(trial.reg).fit(trial.X, trial.y)
    at = int(trial.rng.integers(1, counted.calls + 1))

    def fit() -> None:
        with injection(error, at=at):
            trial.reg.fit(trial.X, trial.y)

    trial.refit(type(error), fit=fit)


def interrupt_at_a_call(trial: RefitTrial, injection: Any) -> None:
    """Ctrl-C arrives on entry to any function."""
    error_at_a_call(trial, injection, KeyboardInterrupt())


def no_memory_at_a_call(trial: RefitTrial, injection: Any) -> None:
    """Memory is exhausted on entry to any function."""
    error_at_a_call(trial, injection, MemoryError("there is none left"))


def interrupt_at_a_time(trial: RefitTrial, injection: Any) -> None:
    """Ctrl-C arrives as a signal at any time."""
    started = time.perf_counter()
    clone(trial.reg).fit(trial.X, trial.y)
    delay = float(trial.rng.uniform(0, time.perf_counter() - started))
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)

    def fit() -> None:
        timer = threading.Timer(delay, _thread.interrupt_main)
        try:
            timer.start()
            trial.reg.fit(trial.X, trial.y)
            # Let the interrupt arrive inside this function.
            timer.join()
            time.sleep(0.001)
        finally:
            timer.join()

    trial.refit(KeyboardInterrupt, fit=fit)
    signal.signal(signal.SIGINT, kept)


# Errors in code of the user

ERRORS: list[type[BaseException]] = [ValueError, RuntimeError, KeyError, ZeroDivisionError]
ERRORS += [MemoryError, StopIteration, SystemExit, AssertionError, GeneratorExit, OSError]


class Failure:
    """Raises an error at one of its calls."""

    def __init__(self, error: BaseException, at: int) -> None:
        self.error, self.at, self.calls = error, at, 0

    def may_come(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise self.error


class FailingModule(nn.Module):
    def __init__(self, in_features: int, failure: Failure) -> None:
        super().__init__()
        self.linear, self.failure = nn.Linear(in_features, 1), failure

    def forward(self, x: Tensor) -> Tensor:
        self.failure.may_come()
        output: Tensor = self.linear(x)
        return output


class FailingLoss:
    def __init__(self, failure: Failure) -> None:
        self.failure = failure

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        self.failure.may_come()
        return (prediction - target) ** 2


class FailingCallback(Callback):
    def __init__(self, failure: Failure) -> None:
        self.failure = failure

    def on_epoch_end(self, net: Any, **given: Any) -> None:
        self.failure.may_come()

    on_batch_end = on_grad_computed = on_train_end = on_epoch_end


def error_of_the_user(trial: RefitTrial, injection: Any) -> None:
    """A module, a loss or a callback raises an error."""
    error = ERRORS[trial.rng.integers(len(ERRORS))]("the user's")
    failure = Failure(error, at=0)
    place = trial.rng.integers(3)
    if place == 0:
        others = {k: v for k, v in trial.reg.get_params().items() if not k.startswith("module")}
        trial.reg = TorchRegressor(FailingModule, module__failure=failure, **others)
        trial.reg.fit(trial.X[:9], trial.y[:9])
        trial.remember()
    elif place == 1:
        trial.reg.set_params(loss=FailingLoss(failure))
    else:
        trial.reg.set_params(callbacks=[FailingCallback(failure)], max_epochs=8)
    failure.calls, failure.at = 0, int(trial.rng.integers(1, 20))

    def fit() -> None:
        try:
            trial.reg.fit(trial.X, trial.y)
        except BaseException as raised:
            # It is the user's error, or its message contains that of the user's error.
            assert raised is error or "the user's" in str(raised)
            raise
        finally:
            failure.at = 0

    trial.refit(type(error), ValueError, fit=fit)


# Invalid arguments

ENDLESS = 10**30
ABSURD: list[Any] = [-1, 0, 1, 2, 0.5, -0.5, 1e-300, 1e300, NAN, INF, True, None, "", "adam", b"x"]
ABSURD += [[], (), {}, ENDLESS, object(), int, np.float32(0.3), np.int8(3), np.array([1])]
ABSURD += [torch.tensor(1.0), torch.tensor([2]), lambda *_: None, "\x00", -(10**30), 1j]
NESTED = ["module__hidden_sizes", "module__activation", "module__dropout"]
NESTED += ["optimizer__weight_decay", "optimizer__betas", "loss__delta", "callbacks__a__b"]


def absurd_parameters(trial: RefitTrial, injection: Any) -> None:
    """Some parameters have absurd values."""
    names = [name for name in trial.reg.get_params() if "__" not in name and name != "verbose"]
    chosen = trial.rng.choice([*names, *NESTED], size=2, replace=False)
    values = {str(name): ABSURD[trial.rng.integers(len(ABSURD))] for name in chosen}
    if values.get("max_epochs") is ENDLESS:
        # Valid, if the fit may stop early.
        values |= {"tol": 0.5, "n_iter_no_change": 3}
    trial.reg.set_params(**values)
    trial.refit(*REFUSED)


def spoilt_data(trial: RefitTrial, injection: Any) -> None:
    """A value is NaN or too large, or a row is missing."""
    tables = {"X": trial.X.copy(), "y": trial.y.copy(), "sample_weight": np.ones(len(trial.y))}
    name = ("X", "y", "sample_weight")[trial.rng.integers(3)]
    bad = [NAN, INF, -INF, -1.0 if name == "sample_weight" else 1.7e308]
    tables[name].flat[trial.rng.integers(tables[name].size)] = bad[trial.rng.integers(4)]
    if trial.rng.random() < 0.3:
        tables["y"] = tables["y"][:-1]

    def fit() -> None:
        with pytest.raises(REFUSED) as refused:
            trial.reg.fit(**tables)
        raise refused.value

    trial.refit(*REFUSED, fit=fit)
    if name == "X":
        with pytest.raises(ValueError, match=r"X (contains|has) "):
            trial.reg.predict(tables["X"])


def other_shapes(trial: RefitTrial, injection: Any) -> None:
    """Another width, number of outputs, dtype and kind of table."""
    width, n_outputs = int(trial.rng.integers(1, 6)), int(trial.rng.integers(0, 4))
    X, y = rows(trial.rng, width)
    if n_outputs:
        # (n,) -> (n, n_outputs)
        y = y[:, None] * np.arange(1, n_outputs + 1)
    kinds: list[Callable[[Array], Any]] = [
        np.asfortranarray,
        lambda a: scipy.sparse.csr_array(a.astype(np.float64)),
        lambda a: pd.DataFrame(a, columns=[f"c{i}" for i in range(width)]),
        lambda a: a.repeat(2, axis=0)[::-2],
        lambda a: torch.from_numpy(a.astype(np.float32)),
    ]
    dtype = trial.rng.choice(["float64", "float32", "int32", "float16", "uint16"])
    trial.X, trial.y = kinds[trial.rng.integers(len(kinds))](X.astype(dtype)), y
    trial.refit()
    assert trial.reg.predict(trial.X).shape == y.shape
    if width != 3:
        with pytest.raises(ValueError, match=r"expecting \d features"):
            trial.reg.predict(rows(trial.rng)[0])


# Concurrency


def threads(trial: RefitTrial, injection: Any) -> None:
    """Sixteen threads predict while three threads fit clones."""
    reg, X = trial.reg.set_params(callbacks=None), trial.X
    twins = [clone(reg) for _ in range(3)]
    predictions: list[Array] = []
    begin = threading.Barrier(len(twins) + 16)

    def predict() -> None:
        begin.wait()
        predictions.extend(reg.predict(X) for _ in range(10))

    def fit(twin: TorchRegressor) -> None:
        begin.wait()
        twin.fit(X, trial.y)

    workers = [threading.Thread(target=predict) for _ in range(16)]
    workers += [threading.Thread(target=fit, args=(twin,)) for twin in twins[1:]]
    for worker in workers:
        worker.start()
    fit(twins[0])
    for worker in workers:
        worker.join()
    assert len(predictions) == 160
    for prediction in predictions:
        np.testing.assert_array_equal(prediction, trial.old)
    for twin in twins:
        trial.compare(twin)


def search(trial: RefitTrial, injection: Any) -> None:
    """A search with two workers equals a search with one."""
    reg, X, y = clone(trial.reg).set_params(callbacks=None), trial.X, trial.y
    alone = GridSearchCV(reg, {"lr": [0.001, 0.01]}, cv=2).fit(X, y)
    with parallel_config(backend=str(trial.rng.choice(["threading", "multiprocessing"]))):
        together = clone(alone).set_params(n_jobs=2).fit(X, y)
        apart = cross_val_predict(reg, X, y, cv=2, n_jobs=2)
    scores = "mean_test_score"
    np.testing.assert_array_equal(together.cv_results_[scores], alone.cv_results_[scores])
    np.testing.assert_array_equal(together.predict(X), alone.predict(X))
    np.testing.assert_array_equal(apart, cross_val_predict(reg, X, y, cv=2))


class Until(Callback):
    """Sets an event in the first epoch, and stops the fit when another event is set."""

    def __init__(self, begun: threading.Event, end: threading.Event) -> None:
        self.begun, self.end = begun, end

    def on_epoch_end(self, net: Any, **given: Any) -> None:
        self.begun.set()
        if self.end.is_set():
            raise KeyboardInterrupt


def fork(trial: RefitTrial, injection: Any) -> None:
    """A forked process predicts and fits as its parent, in which a thread holds the seed lock."""
    begun, end = threading.Event(), threading.Event()
    busy = TorchRegressor(
        module=MLP, module__dropout=0.5, max_epochs=10**6, callbacks=[Until(begun, end)]
    )
    worker = threading.Thread(target=busy.fit, args=(trial.X, trial.y))
    worker.start()
    assert begun.wait(timeout=30)
    reg = clone(trial.reg).set_params(callbacks=None)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            here = [trial.reg.predict(trial.X), reg.fit(trial.X, trial.y).predict(trial.X)]
            os.write(writing, np.concatenate(here).astype(np.float64).tobytes())
        finally:
            os._exit(0)
    os.close(writing)
    answered, _, _ = select.select([reading], [], [], 60)
    end.set()
    worker.join()
    if not answered:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        received = np.frombuffer(pipe.read())
    assert answered, "the forked process hangs"
    # (2 n,) -> (2, n)
    old, new = received.reshape(2, -1)
    np.testing.assert_array_equal(old, trial.old)
    np.testing.assert_array_equal(new, reg.fit(trial.X, trial.y).predict(trial.X))


FAULTS: list[Callable[[RefitTrial, Any], None]] = [
    interrupt_at_a_call,
    no_memory_at_a_call,
    interrupt_at_a_time,
    error_of_the_user,
    absurd_parameters,
    spoilt_data,
    other_shapes,
    threads,
    search,
    fork,
]
