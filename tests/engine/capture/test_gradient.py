"""Captured and eager steps give the same fit, for a zoo of modules and losses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests._capture import CAPTURED, FORCED, assert_same_fit, eager_steps
from tests._zoo import ACTIVATIONS, ARGUMENTS, ZOO, Body, center_target
from torchreg import TorchRegressor
from torchreg.losses import LOSSES
from torchreg.nn import MLP

Array = np.ndarray


@pytest.fixture(scope="module")
def table() -> tuple[Array, Array, Array]:
    """23 rows, which batches of 6 do not divide: 4 columns, the last of small integers."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(23, 4))
    X[:, 3] = rng.integers(0, 5, size=23)
    y = np.sin(X[:, 0]) + X[:, 1] + 0.1 * X[:, 3]
    return X, y, rng.uniform(0.5, 2.0, size=23)


@pytest.fixture
def both(
    table: tuple[Array, Array, Array], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[TorchRegressor, TorchRegressor]]:
    """Fit with captured and with eager steps, and require that they were."""

    def fit(*, weighted: bool = False, **options: Any) -> tuple[TorchRegressor, TorchRegressor]:
        X, y, weight = table
        y = y if center_target(options.get("loss")) else np.exp(y)
        settings: dict[str, Any] = {"optimizer": "sgd", "lr": 0.02, "dtype": "float64"}
        settings |= {"max_epochs": 24, "random_state": 0, "verbose": 1, **options}
        fits = []
        for mode, steps in ((CAPTURED, nullcontext()), (FORCED, eager_steps())):
            with steps:
                reg = TorchRegressor(**{"module": MLP, **settings})
                fits.append(reg.fit(X, y, weight if weighted else None))
            assert capsys.readouterr().out.splitlines()[-1] == mode
        return fits[0], fits[1]

    return fit


@pytest.mark.parametrize("batch_size", [None, 6], ids=["full", "batches"])
@pytest.mark.parametrize("kind", ACTIVATIONS, ids=lambda kind: kind.__name__)
def test_every_activation_gives_the_same_fit_captured_and_eager(
    kind: type[nn.Module], batch_size: int | None, both: Any, table: tuple[Array, ...]
) -> None:
    def build() -> nn.Module:
        return Body(kind(**ARGUMENTS.get(kind, {})))

    assert_same_fit(*both(module=build, batch_size=batch_size), table[0])


@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "unweighted"])
@pytest.mark.parametrize("batch_size", [None, 6], ids=["full", "batches"])
@pytest.mark.parametrize("name", ZOO)
def test_every_module_of_the_zoo_gives_the_same_fit_captured_and_eager(
    name: str, batch_size: int | None, weighted: bool, both: Any, table: tuple[Array, ...]
) -> None:
    # Only standardizing y leaves the integer column as it is.
    options = {"standardize": "y" if name == "embedding" else True, "batch_size": batch_size}
    assert_same_fit(*both(module=ZOO[name], weighted=weighted, **options), table[0])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop", "rprop", "lbfgs"])
@pytest.mark.parametrize("batch_size", [None, 6], ids=["full", "batches"])
def test_every_flat_optimizer_gives_the_same_fit_captured_and_eager(
    optimizer: str, batch_size: int | None, both: Any, table: tuple[Array, ...]
) -> None:
    fits = both(module=lambda: Body(nn.Tanh()), optimizer=optimizer, batch_size=batch_size, lr=None)
    assert_same_fit(*fits, table[0], tolerance=1e-7)


def mean_over_all(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).abs().mean() ** 2


class Learned(nn.Module):
    """A loss with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return torch.log1p(((prediction - target) / self.scale) ** 2)


# The negative log-likelihood of a few batches of six rows runs away.
@pytest.mark.filterwarnings("ignore::torchreg.WorseThanConstantWarning")
@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "unweighted"])
@pytest.mark.parametrize("batch_size", [None, 6], ids=["full", "batches"])
@pytest.mark.parametrize("loss", [*LOSSES, nn.SmoothL1Loss, mean_over_all, Learned])
def test_every_loss_gives_the_same_fit_captured_and_eager(
    loss: Any, batch_size: int | None, weighted: bool, both: Any, table: tuple[Array, ...]
) -> None:
    options = {"loss": loss, "batch_size": batch_size, "weighted": weighted}
    assert_same_fit(*both(module=partial(Body, nn.Tanh()), **options), table[0])


@pytest.mark.parametrize("batch_size", [None, 6], ids=["full", "batches"])
@pytest.mark.parametrize("name", ["built-in", "layer norm", "GRU", "residual"])
def test_in_float32_captured_and_eager_fits_agree_to_rounding(
    name: str, batch_size: int | None, both: Any, table: tuple[Array, ...]
) -> None:
    fits = both(module=ZOO[name], batch_size=batch_size, dtype="float32")
    assert_same_fit(*fits, table[0], tolerance=2e-5)


def test_early_stopping_and_a_warm_start_are_the_same_captured_and_eager(
    both: Any, table: tuple[Array, ...]
) -> None:
    options = {"module": ZOO["batch norm and dropout"], "batch_size": 6, "early_stopping": True}
    one, other = both(**options, n_iter_no_change=3, max_epochs=60, warm_start=True)
    assert one.n_iter_ == other.n_iter_ and one.best_epoch_ == other.best_epoch_
    assert_same_fit(one, other, table[0])
    X, y, weight = table
    assert_same_fit(one.fit(X, y, weight), other.fit(X, y, weight), X)
