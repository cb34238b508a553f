"""The reference: a hand-written training loop with torch's optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "rprop": torch.optim.Rprop,
}


@dataclass(frozen=True)
class Task:
    """Settings that all competitors share; ``batch_size=None`` is a full batch.

    The learning rate is torch's default: 1e-3 for Adam, as in scikit-learn, and 1e-2 for Rprop.
    """

    hidden: tuple[int, ...]
    epochs: int
    optimizer: str = "adam"
    batch_size: int | None = None

    @property
    def lr(self) -> float:
        return {"adam": 1e-3, "rprop": 1e-2}[self.optimizer]


class Fit(NamedTuple):
    """Mean squared error of the last epoch in standardized units, and dtype of the network."""

    loss: float
    dtype: str


def standardize(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale X and y to mean 0 and standard deviation 1."""
    return (X - X.mean(axis=0)) / X.std(axis=0), (y - y.mean()) / y.std()


def build_network(n_columns: int, hidden: Sequence[int]) -> nn.Sequential:
    """Build linear layers with ReLU between them and torch's initial weights."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise((n_columns, *hidden)):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear((n_columns, *hidden)[-1], 1))


def fit_eager_loop(X: np.ndarray, y: np.ndarray, task: Task, seed: int) -> Fit:
    """Train in float32 on standardized data; batches are slices of the permuted tensors."""
    torch.manual_seed(seed)
    x = torch.as_tensor(X, dtype=torch.float32)
    t = torch.as_tensor(y, dtype=torch.float32).reshape(-1, 1)  # (n,) -> (n, 1)
    network = build_network(x.shape[1], task.hidden)
    optimizer = OPTIMIZERS[task.optimizer](network.parameters())
    loss_function = nn.MSELoss()
    total = 0.0
    for epoch in range(task.epochs):
        last = epoch == task.epochs - 1
        total = 0.0
        for x_batch, t_batch in _batches(x, t, task.batch_size):
            optimizer.zero_grad()
            loss = loss_function(network(x_batch), t_batch)
            loss.backward()
            optimizer.step()
            if last:
                total += loss.item() * len(x_batch)
    return Fit(total / len(x), "float32")


def _batches(x: Tensor, t: Tensor, batch_size: int | None) -> list[tuple[Tensor, Tensor]]:
    if batch_size is None or batch_size >= len(x):
        return [(x, t)]
    order = torch.randperm(len(x))
    return list(zip(x[order].split(batch_size), t[order].split(batch_size), strict=True))
