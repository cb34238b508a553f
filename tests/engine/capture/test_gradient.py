"""Both lanes, captured and eager, give the same fit, for a zoo of modules and losses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests._zoo import ACTIVATIONS, ARGUMENTS, ZOO, Body, center_target
from torchreg import TorchRegressor
from torchreg.engine.capture import gradient
from torchreg.losses import LOSSES
from torchreg.nn import MLP

Array = np.ndarray
CAPTURED = "The steps were captured once and repeated."


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
    table: tuple[Array, Array, Array],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[TorchRegressor, TorchRegressor]]:
    """Fit twice, captured and eagerly, and see that it was so."""

    def fit(*, weighted: bool = False, **options: Any) -> tuple[TorchRegressor, TorchRegressor]:
        X, y, weight = table
        y = y if center_target(options.get("loss")) else np.exp(y)
        settings: dict[str, Any] = {"optimizer": "sgd", "lr": 0.02, "dtype": "float64"}
        settings |= {"max_epochs": 24, "random_state": 0, "verbose": 1, **options}
        fits = []
        for lane in (CAPTURED, "The steps ran eagerly, because this test asks for it."):
            with monkeypatch.context() as patch:
                if lane != CAPTURED:
                    patch.setattr(
                        gradient, "find_capture_blocker", lambda *_: "this test asks for it"
                    )
                fits.append(
                    TorchRegressor(**{"module": MLP, **settings}).fit(
                        X, y, weight if weighted else None
                    )
                )
            assert capsys.readouterr().out.splitlines()[-1] == lane
        return fits[0], fits[1]

    return fit


def assert_same(
    one: TorchRegressor, other: TorchRegressor, X: Array, *, tolerance: float = 1e-9
) -> None:
    close: dict[str, float] = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(one.loss_curve_, other.loss_curve_, **close)
    np.testing.assert_allclose(one.predict(X), other.predict(X), **close)
    first, second = one.module_.state_dict(), other.module_.state_dict()
    assert list(first) == list(second)
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], **close, equal_nan=True, msg=name)


@pytest.mark.parametrize("batch_size", [None, 6], ids=["whole", "batches"])
@pytest.mark.parametrize("kind", ACTIVATIONS, ids=lambda kind: kind.__name__)
def test_every_activation_gives_the_same_fit_in_both_lanes(
    kind: type[nn.Module], batch_size: int | None, both: Any, table: tuple[Array, ...]
) -> None:
    def build() -> nn.Module:
        return Body(kind(**ARGUMENTS.get(kind, {})))

    assert_same(*both(module=build, batch_size=batch_size), table[0])


@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "unweighted"])
@pytest.mark.parametrize("batch_size", [None, 6], ids=["whole", "batches"])
@pytest.mark.parametrize("name", ZOO)
def test_every_module_of_the_zoo_gives_the_same_fit_in_both_lanes(
    name: str, batch_size: int | None, weighted: bool, both: Any, table: tuple[Array, ...]
) -> None:
    # Only standardizing y leaves the integer column as it is.
    options = {"standardize": "y" if name == "embedding" else True, "batch_size": batch_size}
    assert_same(*both(module=ZOO[name], weighted=weighted, **options), table[0])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop", "rprop", "lbfgs"])
@pytest.mark.parametrize("batch_size", [None, 6], ids=["whole", "batches"])
def test_every_optimizer_of_our_own_gives_the_same_fit_in_both_lanes(
    optimizer: str, batch_size: int | None, both: Any, table: tuple[Array, ...]
) -> None:
    fits = both(module=lambda: Body(nn.Tanh()), optimizer=optimizer, batch_size=batch_size, lr=None)
    assert_same(*fits, table[0], tolerance=1e-7)


def mean_over_all(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).abs().mean() ** 2


class Learned(nn.Module):
    """A loss with a number of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return torch.log1p(((prediction - target) / self.scale) ** 2)


@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "unweighted"])
@pytest.mark.parametrize("batch_size", [None, 6], ids=["whole", "batches"])
@pytest.mark.parametrize("loss", [*LOSSES, nn.SmoothL1Loss, mean_over_all, Learned])
def test_every_loss_gives_the_same_fit_in_both_lanes(
    loss: Any, batch_size: int | None, weighted: bool, both: Any, table: tuple[Array, ...]
) -> None:
    options = {"loss": loss, "batch_size": batch_size, "weighted": weighted}
    assert_same(*both(module=partial(Body, nn.Tanh()), **options), table[0])


@pytest.mark.parametrize("batch_size", [None, 6], ids=["whole", "batches"])
@pytest.mark.parametrize("name", ["built-in", "layer norm", "GRU", "residual"])
def test_in_float32_both_lanes_agree_to_its_rounding(
    name: str, batch_size: int | None, both: Any, table: tuple[Array, ...]
) -> None:
    fits = both(module=ZOO[name], batch_size=batch_size, dtype="float32")
    assert_same(*fits, table[0], tolerance=2e-5)


def test_early_stopping_and_a_warm_start_go_the_same_way_in_both_lanes(
    both: Any, table: tuple[Array, ...]
) -> None:
    options = {"module": ZOO["batch norm and dropout"], "batch_size": 6, "early_stopping": True}
    one, other = both(**options, n_iter_no_change=3, max_epochs=60, warm_start=True)
    assert one.n_iter_ == other.n_iter_ and one.best_epoch_ == other.best_epoch_
    assert_same(one, other, table[0])
    X, y, weight = table
    assert_same(one.fit(X, y, weight), other.fit(X, y, weight), X)
