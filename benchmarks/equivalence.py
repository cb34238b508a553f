"""Compare predictions of two revisions on forty fits, to verify that a refactoring changes none.

Usage: ``python benchmarks/equivalence.py --against REVISION``. Each revision runs in a separate
process from its own checkout. Predictions agree where the largest difference is at most 1e-10
standard deviations of y in float64, and 1e-5 in float32. The fits use only the public interface.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from torchreg import TorchRegressor
from torchreg.nn import MLP, TabularMLP

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


def rows(n: int = 150, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return five columns of different units, and a y that is nonlinear in three of them."""
    rng = np.random.default_rng(seed)
    X = rng.normal([200, 0, 1e6, -3, 0.5], [14, 1, 1e5, 0.01, 0.2], size=(n, 5))
    z = (X - [200, 0, 1e6, -3, 0.5]) / [14, 1, 1e5, 0.01, 0.2]
    return X, 4200 + 800 * np.abs(z[:, 0]) + 300 * z[:, 1] * z[:, 2] + 50 * rng.normal(size=n)


class Residual(nn.Module):
    """A user-defined module that is not a sequence of layers."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.first = nn.Linear(in_features, 16)
        self.last = nn.Linear(16 + in_features, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the outputs: shape (n, in_features) to (n, out_features)."""
        return self.last(torch.cat([x, torch.tanh(self.first(x))], dim=1))


def with_dropout() -> nn.Module:
    """Build a network that uses random numbers in training."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))


def with_batch_norm(in_features: int, out_features: int) -> nn.Module:
    """Build a network whose buffers change in training."""
    return nn.Sequential(
        nn.Linear(in_features, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, out_features)
    )


def fits() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield name, parameters and arguments of ``fit`` of each fit."""
    small: dict[str, Any] = {"module": MLP, "module__hidden_sizes": [8], "max_epochs": 30}
    weight = np.random.default_rng(1).uniform(0.2, 2, 150)
    for optimizer in ("adam", "adamw", "sgd", "rprop", "rmsprop", "nadam", "lbfgs"):
        yield f"MLP, {optimizer}", {**small, "optimizer": optimizer}, {}
    losses: dict[str, dict[str, Any]] = {
        "absolute_error": {},
        "huber": {},
        "quantile": {"loss__quantile": [0.1, 0.5, 0.9]},
        "poisson": {},
        "gamma": {},
        "tweedie": {"loss__power": 1.3},
        "gaussian_nll": {},
    }
    for loss, options in losses.items():
        yield f"MLP, {loss}", {**small, "loss": loss, **options}, {}
    for size in (16, 64, None):
        yield f"MLP, batch_size={size}", {**small, "batch_size": size}, {}
    yield "MLP, weights", small, {"sample_weight": weight}
    yield "MLP, weights, batches", {**small, "batch_size": 32}, {"sample_weight": weight}
    yield "MLP, early stopping", {**small, "early_stopping": True, "tol": 1e-3}, {}
    yield "MLP, tol", {**small, "tol": 1e-2, "n_iter_no_change": 3}, {}
    yield "MLP, n_init=4", {**small, "n_init": 4}, {}
    yield "MLP, n_init=4, batches", {**small, "n_init": 4, "batch_size": 32}, {}
    yield "MLP, n_folds=4", {**small, "n_folds": 4}, {}
    yield "MLP, n_folds=4, rprop", {**small, "n_folds": 4, "optimizer": "rprop"}, {}
    yield "MLP, n_folds=3, weights", {**small, "n_folds": 3}, {"sample_weight": weight}
    yield "MLP, float32", {**small, "dtype": "float32"}, {}
    yield "MLP, float32, batches", {**small, "dtype": "float32", "batch_size": 32}, {}
    for schedule in ("cosine", "one_cycle", "reduce_on_plateau"):
        yield f"MLP, {schedule}", {**small, "schedule": schedule, "batch_size": 32}, {}
    yield "MLP, only y standardized", {**small, "standardize": "y", "lr": 1e-3}, {}
    yield "residual module", {"module": Residual, "max_epochs": 30, "batch_size": 32}, {}
    yield "dropout", {"module": with_dropout(), "max_epochs": 20, "batch_size": 32}, {}
    yield "batch normalization", {"module": with_batch_norm, "max_epochs": 20}, {}
    yield "dropout, n_folds=3", {"module": with_dropout(), "max_epochs": 20, "n_folds": 3}, {}
    yield "default", {"max_epochs": 20}, {}
    yield "default, weights", {"max_epochs": 20}, {"sample_weight": weight}
    yield "default, poisson", {"max_epochs": 20, "loss": "poisson"}, {}
    yield "TabularMLP, one network", {"module": TabularMLP, "max_epochs": 20, "n_folds": None}, {}


def predictions() -> dict[str, np.ndarray]:
    """Fit and predict; names end with the dtype of the network."""
    X, y = rows()
    X_new, _ = rows(60, seed=7)
    torch.set_num_threads(1)
    results = {}
    for name, params, arguments in fits():
        reg = TorchRegressor(random_state=0, **params).fit(X, y, **arguments)
        dtype = str(reg.dtype_).removeprefix("torch.")
        results[f"{name} [{dtype}]"] = reg.predict(X_new) / y.std()
    return results


def in_fresh_process(source: Path) -> dict[str, np.ndarray]:
    """Fit with the package in a folder, in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "predictions.npz"
        environment = {**os.environ, "PYTHONPATH": str(source)}
        command = [sys.executable, __file__, "--write", str(file)]
        subprocess.run(command, check=True, env=environment, cwd=folder)
        with np.load(file) as stored:
            return dict(stored)


def at_revision(revision: str, use: Callable[[Path], dict[str, np.ndarray]]) -> Any:
    """Call a function with a temporary checkout of a revision."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", revision, "torchreg"],
            check=True,
            capture_output=True,
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        return use(Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", metavar="REVISION", default="HEAD")
    parser.add_argument("--write", metavar="FILE", help="fit, and write the predictions")
    options = parser.parse_args()
    if options.write:
        np.savez(options.write, **predictions())
        return
    before, after = at_revision(options.against, in_fresh_process), in_fresh_process(ROOT)
    assert before.keys() == after.keys()
    n_different = 0
    for name, expected in before.items():
        difference = float(np.abs(after[name] - expected).max())
        bound = TOLERANCE[name.rpartition("[")[2].rstrip("]")]
        n_different += difference > bound
        print(f"{'differs' if difference > bound else 'agrees ':8} {difference:8.1e}  {name}")
    print(f"{len(before)} fits, {n_different} differ by more than the tolerance.")
    sys.exit(n_different > 0)


if __name__ == "__main__":
    main()
