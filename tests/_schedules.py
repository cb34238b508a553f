"""A small table of numbers, and regressors that train for a few epochs."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from torchreg import TorchRegressor

Array = np.ndarray
Table = tuple[Array, Array]
EPOCHS = 12
N = 50


def table_of_numbers() -> Table:
    """Return standardized X and a nonlinear y."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 3))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.1 * rng.normal(size=N)


def net(in_features: int, out_features: int) -> nn.Module:
    return nn.Sequential(nn.Linear(in_features, 5), nn.Tanh(), nn.Linear(5, out_features))


def quick(schedule: Any, optimizer: Any = "adam", **params: Any) -> TorchRegressor:
    settings: dict[str, Any] = {"max_epochs": EPOCHS, "random_state": 0, "standardize": False}
    settings |= {"batch_size": None, "dtype": "float64"}
    return TorchRegressor(net, schedule=schedule, optimizer=optimizer, **{**settings, **params})


def rates_of(reg: TorchRegressor) -> list[float]:
    """Return the learning rate of each epoch."""
    return [row["lr"] for row in reg.history_]
