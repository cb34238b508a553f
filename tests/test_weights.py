"""Sample weights: repetition, ratios, and the losses that a fit reports."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchreg import TorchRegressor
from torchreg.nn import MLP

RNG = np.random.default_rng(0)
#: On multiples of 1/8, so that sums are exact.
X = np.round(RNG.normal(size=(60, 3)) * 8) / 8
y = np.round((np.sin(2 * X[:, 0]) + X[:, 1] ** 2 + 0.1 * RNG.normal(size=60)) * 8) / 8
OPTIMIZERS = ["adam", "adamw", "sgd", "rmsprop", "rprop", "lbfgs"]


def quick(**options: Any) -> TorchRegressor:
    settings: dict[str, Any] = {"module": MLP, "module__hidden_sizes": [8], "max_epochs": 40}
    return TorchRegressor(**(settings | {"batch_size": None, "random_state": 0} | options))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("max_epochs", [20, 400])
def test_repeated_rows_equal_integer_weights(optimizer: str, max_epochs: int) -> None:
    weight = np.random.default_rng(1).integers(0, 4, size=len(y))
    reg = quick(optimizer=optimizer, max_epochs=max_epochs)
    weighted = reg.fit(X, y, sample_weight=weight).predict(X)
    repeated = reg.fit(X.repeat(weight, axis=0), y.repeat(weight)).predict(X)
    np.testing.assert_array_equal(weighted, repeated)


def test_a_weight_of_zero_removes_a_row() -> None:
    weight = (np.arange(len(y)) % 3 > 0).astype(float)
    y_spoilt = np.where(weight > 0, y, 1e6)
    for batch_size in (None, 16):
        reg = quick(batch_size=batch_size)
        absent = reg.fit(X[weight > 0], y[weight > 0]).predict(X)
        np.testing.assert_array_equal(reg.fit(X, y_spoilt, sample_weight=weight).predict(X), absent)


def test_only_the_ratios_of_weights_matter() -> None:
    weight = np.random.default_rng(2).uniform(0.1, 3, size=len(y))
    plain = quick().fit(X, y, sample_weight=weight).predict(X)
    for factor in (2.0**-1000, 2.0**1021):
        scaled = quick().fit(X, y, sample_weight=weight * factor).predict(X)
        np.testing.assert_array_equal(scaled, plain)


class Members(nn.Module):
    """Two networks whose outputs are stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 1)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members], dim=1)


@pytest.mark.parametrize("module", [nn.Linear, Members])
@pytest.mark.parametrize("n_init", [1, 2], ids=["single network", "stack"])
@pytest.mark.parametrize("batch_size", [None, 16, 1])
def test_the_loss_of_an_epoch_is_the_weighted_mean_of_all_rows_whatever_the_batches(
    batch_size: int | None, n_init: int, module: Any
) -> None:
    weight = np.random.default_rng(1).uniform(0.1, 3, size=60)
    # The learning rate is so small that the weights do not change.
    options: dict[str, Any] = {"optimizer": "sgd", "lr": 1e-300, "n_init": n_init}
    settings = {"module": module, "batch_size": batch_size, "max_epochs": 20, "dtype": "float64"}
    reg = TorchRegressor(**options, **settings, random_state=0).fit(X, y, sample_weight=weight)
    mean = np.average(y, weights=weight)
    t = (y - mean) / np.average((y - mean) ** 2, weights=weight) ** 0.5
    with torch.no_grad():
        output = reg.module_.network(reg.module_.standardize(torch.from_numpy(X))).numpy()
    # (60, 1) or (60, 2, 1) -> (60, n_members)
    row_losses = ((output.reshape(60, -1) - t[:, None]) ** 2).mean(axis=1)
    expected = np.average(row_losses, weights=weight)
    np.testing.assert_allclose(reg.loss_curve_, expected, rtol=1e-9)
