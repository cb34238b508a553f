"""Losses by name, class, instance or function: what they are, estimate, and weigh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import mean_absolute_error, mean_squared_error
from torch import Tensor, nn
from torch.nn import functional

from torchreg import TorchRegressor
from torchreg.losses import build_loss, probe_loss
from torchreg.nn import MLP

Array = np.ndarray
Function = Callable[[Tensor, Tensor], Tensor]


def per_element(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target) ** 4


def per_row(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).pow(4).mean(dim=1)


def single_number(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).pow(4).mean()


# Losses of torch that compare an input with a target of the same shape. Targets from 0 to
# 1 suit them all.
TORCH_LOSSES: list[Any] = [
    nn.L1Loss,
    nn.MSELoss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.PoissonNLLLoss,
    nn.BCEWithLogitsLoss,
    nn.SoftMarginLoss,
    nn.MultiLabelSoftMarginLoss,
]
EVERY_KIND: list[Any] = [
    "squared_error",
    "absolute_error",
    "huber",
    *TORCH_LOSSES,
    nn.SmoothL1Loss(beta=0.5),
    nn.HuberLoss(reduction="sum", delta=0.3),
    per_element,
    per_row,
    single_number,
    functional.mse_loss,
]


def kind_name(loss: Any) -> str:
    return loss if isinstance(loss, str) else getattr(loss, "__name__", repr(loss))


EVERY = pytest.mark.parametrize("loss", EVERY_KIND, ids=kind_name)


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    """Predictions and targets from 0 to 1, of 30 rows and 2 outputs."""
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(30, 2, dtype=torch.float64, generator=generator)
    return prediction, torch.rand(30, 2, dtype=torch.float64, generator=generator)


@pytest.fixture(scope="module")
def table() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2))
    return X, 1 / (1 + np.exp(-X[:, 0] + 0.3 * rng.normal(size=40)))


def built(loss: Any, **options: Any) -> Any:
    return probe_loss(build_loss(loss, options), 2)


# Values


def test_squared_and_absolute_error_are_those_of_scikit_learn(pair: tuple[Tensor, Tensor]) -> None:
    prediction, target = pair
    weight = torch.rand(30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight /= weight.mean()
    for name, metric in (
        ("squared_error", mean_squared_error),
        ("absolute_error", mean_absolute_error),
    ):
        for w in (None, weight):
            theirs = metric(target, prediction, sample_weight=w)
            assert float(built(name).mean(prediction, target, w)) == pytest.approx(
                theirs, rel=1e-12
            )


@pytest.mark.parametrize("delta", [0.1, 1.0, 2.5])
def test_hubers_loss_is_quadratic_up_to_delta_and_linear_beyond(delta: float) -> None:
    residual = np.linspace(-5, 5, 201)
    size = np.abs(residual)
    expected = np.where(size <= delta, residual**2 / 2, delta * (size - delta / 2))
    target = torch.zeros(201, 1, dtype=torch.float64)
    values = built("huber", delta=delta).function(torch.from_numpy(residual)[:, None], target)
    np.testing.assert_allclose(values[:, 0], expected, rtol=1e-14)


@EVERY
def test_a_loss_is_the_mean_over_the_rows_of_what_torch_gives(
    loss: Any, pair: tuple[Tensor, Tensor]
) -> None:
    by_name = {
        "squared_error": nn.MSELoss(),
        "absolute_error": nn.L1Loss(),
        "huber": nn.HuberLoss(),
    }
    if isinstance(loss, str):
        theirs: Any = by_name[loss]
    elif isinstance(loss, type):
        theirs = loss()
    elif isinstance(loss, nn.HuberLoss):
        theirs = nn.HuberLoss(delta=0.3)
    else:
        theirs = loss
    expected = float(theirs(*pair).mean())
    assert float(built(loss).mean(*pair, None)) == pytest.approx(expected, rel=1e-12)


@EVERY
def test_integer_weights_in_a_loss_are_repeated_rows(
    loss: Any, pair: tuple[Tensor, Tensor]
) -> None:
    prediction, target = pair
    counts = torch.arange(30) % 4
    weight = counts.double() / counts.double().mean()
    weighted = built(loss).mean(prediction, target, weight)
    repeated = built(loss).mean(
        prediction.repeat_interleave(counts, dim=0), target.repeat_interleave(counts, dim=0), None
    )
    assert float(weighted) == pytest.approx(float(repeated), rel=1e-12)


@EVERY
@pytest.mark.parametrize("batch_size", [None, 40])
def test_a_fit_with_integer_weights_is_a_fit_with_repeated_rows(
    loss: Any, batch_size: int | None, table: tuple[Array, Array]
) -> None:
    X, y = table
    counts = np.arange(40) % 3
    reg = TorchRegressor(
        nn.Linear,
        loss=loss,
        standardize="X",
        batch_size=batch_size,
        max_epochs=10,
        lr=0.05,
        random_state=0,
    )
    weighted = reg.fit(X, y, sample_weight=counts).predict(X)
    reg.set_params(batch_size=None)
    repeated = reg.fit(X.repeat(counts, axis=0), y.repeat(counts)).predict(X)
    np.testing.assert_allclose(weighted, repeated, rtol=1e-9)


@EVERY
def test_every_kind_of_loss_is_brought_down(loss: Any, table: tuple[Array, Array]) -> None:
    X, y = table
    reg = TorchRegressor(module=MLP, loss=loss, standardize="X", max_epochs=30, random_state=0).fit(
        X, y
    )
    assert reg.loss_ < reg.loss_curve_[0]
    assert np.isfinite(reg.predict(X)).all()


# Minimizers


def constant_fit(y: Array, weight: Array | None = None, **options: Any) -> Any:
    """Fit a network whose only working parameter is the bias."""
    settings: dict[str, Any] = {"optimizer": "rprop", "max_epochs": 300, "random_state": 0}
    reg = TorchRegressor(nn.Linear, **settings, **options)
    X = np.zeros((len(y), 1))
    return reg.fit(X, y, sample_weight=weight).predict(X[:1])[0]


@pytest.fixture(scope="module")
def skewed() -> tuple[Array, Array]:
    """An odd number of skewed targets, and weights with a unique weighted median."""
    rng = np.random.default_rng(0)
    return 4200 + 800 * rng.exponential(size=51), rng.uniform(0.1, 3, size=51)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_constant_with_the_least_squared_error_is_the_mean(
    weighted: bool, skewed: tuple[Array, Array]
) -> None:
    y, weight = skewed
    w = weight if weighted else None
    assert constant_fit(y, w, loss="squared_error") == pytest.approx(
        np.average(y, weights=w), abs=1e-4 * y.std()
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_the_constant_with_the_least_absolute_error_is_the_median(
    weighted: bool, skewed: tuple[Array, Array]
) -> None:
    y, weight = skewed
    w = weight if weighted else np.ones(len(y))
    order = np.argsort(y)
    median = y[order][np.searchsorted(np.cumsum(w[order]), w.sum() / 2)]
    fitted = constant_fit(y, w if weighted else None, loss="absolute_error")
    assert fitted == pytest.approx(median, abs=1e-4 * y.std())
    assert abs(median - y.mean()) > 0.1 * y.std()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("delta", [0.2, 1.0])
def test_the_constant_with_the_least_huber_loss_is_hubers_m_estimate(
    delta: float, weighted: bool, skewed: tuple[Array, Array]
) -> None:
    y, weight = skewed
    w = weight if weighted else np.ones(len(y))
    mean = np.average(y, weights=w)
    bend = delta * np.sqrt(np.average((y - mean) ** 2, weights=w))

    def total(location: float) -> float:
        size = np.abs(y - location)
        loss = np.where(size <= bend, size**2 / 2, bend * (size - bend / 2))
        return float(w @ loss)

    solved = minimize_scalar(total, bounds=(y.min(), y.max()), options={"xatol": 1e-6})
    fitted = constant_fit(y, w if weighted else None, loss="huber", loss__delta=delta)
    assert fitted == pytest.approx(solved.x, abs=1e-3 * y.std())


def test_a_loss_of_ones_own_gives_its_own_minimizer(skewed: tuple[Array, Array]) -> None:
    y, _ = skewed

    def pinball(prediction: Tensor, target: Tensor, level: float = 0.5) -> Tensor:
        residual = target - prediction
        return torch.maximum(level * residual, (level - 1) * residual)

    # 51 values: the quantile of level 0.75 is the 39th, for 0.75 * 51 = 38.25.
    fitted = constant_fit(y, loss=pinball, loss__level=0.75)
    assert fitted == pytest.approx(np.sort(y)[38], abs=1e-4 * y.std())


# Kinds


def test_a_loss_instance_is_left_as_it_was(table: tuple[Array, Array]) -> None:
    loss = nn.SmoothL1Loss(beta=0.5)
    TorchRegressor(module=MLP, loss=loss, max_epochs=2).fit(*table, sample_weight=np.arange(40))
    assert (loss.reduction, loss.beta) == ("mean", 0.5)


def test_a_loss_with_numbers_of_its_own_computes_in_the_dtype_of_the_network(
    table: tuple[Array, Array],
) -> None:
    X, y = table
    for dtype in ("float32", "float64"):
        loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0]))
        reg = TorchRegressor(module=MLP, loss=loss, standardize="X", dtype=dtype, max_epochs=2).fit(
            X, y
        )
        assert reg.dtype_ == getattr(torch, dtype)
        assert loss.pos_weight.dtype == torch.float32


def test_the_options_of_a_class_and_those_of_its_instance_mean_the_same(
    table: tuple[Array, Array],
) -> None:
    X, y = table
    options: dict[str, Any] = {"max_epochs": 10, "random_state": 0}
    by_class = TorchRegressor(module=MLP, loss=nn.HuberLoss, loss__delta=0.3, **options).fit(X, y)
    by_instance = TorchRegressor(module=MLP, loss=nn.HuberLoss(delta=0.3), **options).fit(X, y)
    by_name = TorchRegressor(module=MLP, loss="huber", loss__delta=0.3, **options).fit(X, y)
    other = TorchRegressor(module=MLP, loss="huber", **options).fit(X, y)
    np.testing.assert_array_equal(by_class.predict(X), by_instance.predict(X))
    np.testing.assert_array_equal(by_class.predict(X), by_name.predict(X))
    assert (by_class.predict(X) != other.predict(X)).any()


def test_per_element_per_row_and_a_single_number_are_the_same_loss(
    table: tuple[Array, Array],
) -> None:
    X, y = table
    y = np.column_stack([y, y**2])
    weight = np.arange(1.0, 41.0)
    fits = [
        TorchRegressor(module=MLP, loss=loss, max_epochs=10, random_state=0, batch_size=16)
        .fit(X, y, sample_weight=weight)
        .predict(X)
        for loss in (per_element, per_row, single_number)
    ]
    np.testing.assert_allclose(fits[1], fits[0], rtol=1e-9)
    np.testing.assert_allclose(fits[2], fits[0], rtol=1e-9)
