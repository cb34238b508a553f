"""Threads that share a fitted regressor get the predictions of one thread."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor, nn

from torchreg import TorchRegressor
from torchreg.nn import MLP

Array = np.ndarray
N_THREADS = 16
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)) * [1.0, 100.0, 0.01, 10.0] + [0.0, 1000.0, 5.0, 200.0]
Y = 4000 + 800 * (np.sin(X[:, 0]) + (X[:, 1] - 1000) / 100)
#: Several chunks.
MANY = np.tile(X, (850, 1))[:50_000] + RNG.normal(size=(50_000, 4)) * 1e-3
SIZES = {"one row": X[:1], "few rows": X, "chunks": MANY}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = nn.GRU(1, 5, batch_first=True), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        # (n, 4) -> (n, 4, 1): the columns are the steps
        return self.last(self.cell(x[:, :, None])[0][:, -1])


def normalized() -> nn.Module:
    return nn.Sequential(
        *[nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.LayerNorm(8)],
        nn.Linear(8, 1),
    )


def overwriting() -> nn.Module:
    return nn.Sequential(
        nn.ReLU(inplace=True), nn.Linear(4, 5), nn.ELU(inplace=True), nn.Linear(5, 1)
    )


MODULES: dict[str, Any] = {
    "built-in": None,
    "BatchNorm and Dropout": normalized,
    "GRU": Recurrent,
    "in place": overwriting,
}


@pytest.fixture(autouse=True)
def eager_switching() -> Iterator[None]:
    """Switch threads a hundred times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(before)


def in_threads(works: list[Callable[[], Any]]) -> list[Any]:
    """Call functions in threads that start at the same time, and return their results."""
    barrier = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)
    errors: list[BaseException] = []

    def go(index: int) -> None:
        try:
            barrier.wait()
            results[index] = works[index]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=go, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    return results


def repeat(call: Callable[[], Array], times: int) -> Callable[[], list[Array]]:
    return lambda: [call() for _ in range(times)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODULES)
def test_sixteen_threads_predict_the_same_as_one(name: str, dtype: str, size: str) -> None:
    reg = TorchRegressor(MODULES[name], dtype=dtype, max_epochs=5, random_state=0).fit(X, Y)
    rows, times = SIZES[size], 1 if size == "chunks" else 20
    expected = reg.predict(rows)
    state = {key: value.clone() for key, value in reg.module_.state_dict().items()}
    count = torch.get_num_threads()
    for found in in_threads([repeat(lambda: reg.predict(rows), times)] * N_THREADS):
        for prediction in found:
            np.testing.assert_array_equal(prediction, expected)
    assert torch.get_num_threads() == count
    assert not any(part.training for part in reg.module_.modules())
    for key, value in reg.module_.state_dict().items():
        assert torch.equal(value, state[key])


def test_threads_with_tables_of_many_sizes_get_their_own_rows() -> None:
    reg = TorchRegressor(module=MLP, max_epochs=5, random_state=0).fit(X, Y)
    forms = [
        X[:1],
        X.astype(np.float32),
        X[::-1],
        scipy.sparse.csr_array(X),
        X.tolist(),
        MANY[:20_000],
        torch.from_numpy(X[5:9]),
        np.asfortranarray(X),
    ]
    expected = [reg.predict(rows) for rows in forms]
    works = [repeat(lambda rows=rows: reg.predict(rows), 5) for rows in forms * 2]
    for index, found in enumerate(in_threads(works)):
        for prediction in found:
            np.testing.assert_array_equal(prediction, expected[index % len(forms)])


def test_predictions_do_not_depend_on_fits_in_other_threads() -> None:
    reg = TorchRegressor(normalized, max_epochs=5, random_state=0).fit(X, Y)
    expected = reg.predict(X)
    count, state = torch.get_num_threads(), torch.get_rng_state()

    def fit(seed: int) -> list[Array]:
        other = TorchRegressor(normalized, max_epochs=20, random_state=seed).fit(X, Y)
        return [other.predict(X)]

    alone = [fit(seed)[0] for seed in range(4)]
    works: list[Any] = [repeat(lambda: reg.predict(X), 100)] * 12
    works += [lambda seed=seed: fit(seed) for seed in range(4)]
    results = in_threads(works)
    for found in results[:12]:
        for prediction in found:
            np.testing.assert_array_equal(prediction, expected)
    for seed, found in enumerate(results[12:]):
        np.testing.assert_array_equal(found[0], alone[seed])
    assert torch.get_num_threads() == count
    assert torch.equal(torch.get_rng_state(), state)


class SlowToSwitch(nn.Module):
    """Takes long to leave training mode, as a large network does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.dropout, self.last = nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)

    def train(self, mode: bool = True) -> SlowToSwitch:
        if not mode:
            time.sleep(0.01)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.dropout(self.first(x)))


def test_no_thread_predicts_with_a_module_in_training_mode() -> None:
    reg = TorchRegressor(SlowToSwitch, max_epochs=5, random_state=0).fit(X, Y)
    expected = reg.predict(X)
    for _ in range(3):
        reg.module_.train()
        for found in in_threads([lambda: reg.predict(X)] * N_THREADS):
            np.testing.assert_array_equal(found, expected)
    assert not any(part.training for part in reg.module_.modules())
