"""Losses by name, class, instance or function: values, weights, minimizers, errors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional

from torchreg import TorchRegressor
from torchreg.losses import Loss, PinballLoss, TweedieDeviance, build_loss, probe_loss
from torchreg.nn import MLP

Array = np.ndarray
Statistic = Callable[[Array, Array], float]


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


#: Predictions and targets from 0 to 1, of 30 rows and 2 outputs.
PAIR = (
    torch.randn(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    torch.rand(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
)
rng = np.random.default_rng(0)
X = rng.normal(size=(40, 2))
Y = 1 / (1 + np.exp(-X[:, 0] + 0.3 * rng.normal(size=40)))


def built(loss: Any, **options: Any) -> Any:
    return probe_loss(build_loss(loss, options), 2)


# Values


@pytest.mark.parametrize("delta", [0.1, 1.0, 2.5])
def test_the_huber_loss_is_quadratic_up_to_delta_and_linear_beyond(delta: float) -> None:
    residual = np.linspace(-5, 5, 201)
    size = np.abs(residual)
    expected = np.where(size <= delta, residual**2 / 2, delta * (size - delta / 2))
    target = torch.zeros(201, 1, dtype=torch.float64)
    values = built("huber", delta=delta).function(torch.from_numpy(residual)[:, None], target)
    np.testing.assert_allclose(values[:, 0], expected, rtol=1e-14)


@EVERY
def test_the_mean_loss_is_that_of_torch(loss: Any) -> None:
    by_name = {"squared_error": nn.MSELoss, "absolute_error": nn.L1Loss, "huber": nn.HuberLoss}
    theirs: Any = by_name.get(loss, loss) if isinstance(loss, str) else loss
    if isinstance(loss, nn.HuberLoss):
        theirs = nn.HuberLoss(delta=0.3)
    expected = float((theirs() if isinstance(theirs, type) else theirs)(*PAIR).mean())
    assert float(built(loss).mean(*PAIR, None)) == pytest.approx(expected, rel=1e-12)


LINKED = ["poisson", "gamma", TweedieDeviance(1.3), PinballLoss([0.1, 0.9]), "gaussian_nll"]


@pytest.mark.parametrize("loss", [*EVERY_KIND, *LINKED], ids=kind_name)
@pytest.mark.parametrize("batch_size", [None, 40])
def test_a_fit_with_integer_weights_is_equivalent_to_repeated_rows(
    loss: Any, batch_size: int | None
) -> None:
    counts = np.arange(40) % 3
    reg = TorchRegressor(
        nn.Linear,
        loss=loss,
        standardize="X",
        batch_size=batch_size,
        max_epochs=9,
        lr=0.05,
        random_state=0,
    )
    weighted = reg.fit(X, Y, sample_weight=counts).predict(X)
    reg.set_params(batch_size=None)
    repeated = reg.fit(X.repeat(counts, axis=0), Y.repeat(counts)).predict(X)
    np.testing.assert_allclose(weighted, repeated, rtol=1e-9)


# Minimizers


def weighted_mean(y: Array, weight: Array) -> float:
    return float(np.average(y, weights=weight))


def weighted_quantile(level: float) -> Statistic:
    def quantile(y: Array, weight: Array) -> float:
        order = np.argsort(y)
        index = np.searchsorted(np.cumsum(weight[order]), level * weight.sum())
        return float(y[order][index])

    return quantile


def m_estimate(delta: float) -> Statistic:
    """Huber's estimate of location, for a delta in standard deviations of y."""

    def estimate(y: Array, weight: Array) -> float:
        variance = weighted_mean((y - weighted_mean(y, weight)) ** 2, weight)
        bend = delta * np.sqrt(variance)

        def total(location: float) -> float:
            size = np.abs(y - location)
            loss = np.where(size <= bend, size**2 / 2, bend * (size - bend / 2))
            return float(weight @ loss)

        return float(minimize_scalar(total, bounds=(y.min(), y.max()), options={"xatol": 1e-6}).x)

    return estimate


def pinball(prediction: Tensor, target: Tensor, level: float = 0.5) -> Tensor:
    residual = target - prediction
    return torch.maximum(level * residual, (level - 1) * residual)


#: Losses with their options, the statistic that minimizes them, and a tolerance relative to the
#: standard deviation of y.
MINIMIZERS: list[tuple[Any, dict[str, Any], Statistic, float]] = [
    ("squared_error", {}, weighted_mean, 1e-4),
    ("absolute_error", {}, weighted_quantile(0.5), 1e-4),
    ("huber", {"loss__delta": 0.2}, m_estimate(0.2), 1e-3),
    ("huber", {}, m_estimate(1.0), 1e-3),
    (pinball, {"loss__level": 0.75}, weighted_quantile(0.75), 1e-4),
    ("poisson", {}, weighted_mean, 1e-6),
    ("gamma", {}, weighted_mean, 1e-6),
    *(("tweedie", {"loss__power": q}, weighted_mean, 1e-6) for q in (1, 1.5, 1.9, 2, 3)),
]


@pytest.mark.parametrize(("loss", "options", "statistic", "tolerance"), MINIMIZERS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_constant_with_the_smallest_loss_is_the_statistic_it_estimates(
    loss: Any, options: dict[str, Any], statistic: Statistic, tolerance: float, weighted: bool
) -> None:
    # An odd number of skewed targets, and weights with a unique weighted median.
    rng = np.random.default_rng(0)
    y, weight = 4200 + 800 * rng.exponential(size=51), rng.uniform(0.1, 3, size=51)
    weight = weight if weighted else np.ones(51)
    settings: dict[str, Any] = {"optimizer": "rprop", "max_epochs": 300}
    if tolerance == 1e-6:
        settings = {"optimizer": "lbfgs", "max_epochs": 20}
    # The bias is the only parameter that matters.
    reg = TorchRegressor(nn.Linear, loss=loss, random_state=0, **settings, **options)
    reg.fit(np.zeros((51, 1)), y, sample_weight=weight if weighted else None)
    expected = statistic(y, weight)
    assert reg.predict([[0.0]])[0] == pytest.approx(expected, abs=tolerance * y.std())


# Kinds


def test_a_loss_instance_is_not_changed() -> None:
    loss = nn.SmoothL1Loss(beta=0.5)
    TorchRegressor(module=MLP, loss=loss, max_epochs=2).fit(X, Y, sample_weight=np.arange(40))
    assert (loss.reduction, loss.beta) == ("mean", 0.5)


def test_the_buffers_of_a_loss_are_cast_to_the_dtype_of_the_network() -> None:
    for dtype in ("float32", "float64"):
        loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0]))
        reg = TorchRegressor(MLP, loss=loss, standardize="X", dtype=dtype, max_epochs=2).fit(X, Y)
        assert reg.dtype_ == getattr(torch, dtype)
        assert loss.pos_weight.dtype == torch.float32


def test_names_classes_and_instances_with_the_same_options_are_equivalent() -> None:
    options: dict[str, Any] = {"max_epochs": 10, "random_state": 0}
    by_class = TorchRegressor(module=MLP, loss=nn.HuberLoss, loss__delta=0.3, **options).fit(X, Y)
    by_instance = TorchRegressor(module=MLP, loss=nn.HuberLoss(delta=0.3), **options).fit(X, Y)
    by_name = TorchRegressor(module=MLP, loss="huber", loss__delta=0.3, **options).fit(X, Y)
    other = TorchRegressor(module=MLP, loss="huber", **options).fit(X, Y)
    np.testing.assert_array_equal(by_class.predict(X), by_instance.predict(X))
    np.testing.assert_array_equal(by_class.predict(X), by_name.predict(X))
    assert (by_class.predict(X) != other.predict(X)).any()


def test_a_loss_per_element_per_row_and_a_single_number_are_equivalent() -> None:
    weight = np.arange(1.0, 41.0)
    fits = [
        TorchRegressor(module=MLP, loss=loss, max_epochs=10, random_state=0, batch_size=16)
        .fit(X, np.column_stack([Y, Y**2]), sample_weight=weight)
        .predict(X)
        for loss in (per_element, per_row, single_number)
    ]
    np.testing.assert_allclose(fits[1], fits[0], rtol=1e-9)
    np.testing.assert_allclose(fits[2], fits[0], rtol=1e-9)


# Errors


def detached(prediction: Tensor, target: Tensor) -> Tensor:
    """Cut the loss off its graph, as a computation by NumPy does."""
    return torch.tensor(float((prediction - target).detach().norm()), requires_grad=True)


def of_shape(n: int) -> Loss:
    return Loss(lambda p, t: (p - t.new_zeros(n, 3)).mean(dim=1), "shaped")


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        ("squared", {}, r"Unknown loss 'squared'\. Did you mean 'squared_error'\?"),
        ("hubber", {}, r"Did you mean 'huber'\? Known: 'absolute_error', 'gamma'"),
        ("mse", {}, r"Unknown loss 'mse'.*torch loss class or any callable"),
        ("huber", {"dleta": 1}, r"takes no 'dleta' \(loss__dleta\)\. Did you mean 'delta'\?"),
        ("squared_error", {"delta": 1}, "takes no 'delta'.* It takes none"),
        ("huber", {"delta": 0}, "huber expects a delta above 0, got 0"),
        (nn.SmoothL1Loss, {"bta": 1}, r"SmoothL1Loss takes no 'bta'.* Did you mean 'beta'"),
        (nn.SmoothL1Loss(), {"beta": 1}, "SmoothL1Loss; give the class instead: takes no 'beta'"),
        (per_row, {"power": 3}, "per_row.*'power'"),
        (int, {}, r"expects a name \('absolute_error', .* callable .*got <class"),
        (nn.PoissonNLLLoss, {}, "PoissonNLLLoss expects y as counts.*loss='poisson'"),
        (nn.PoissonNLLLoss(), {}, "PoissonNLLLoss expects y as counts.*loss='poisson'"),
        (nn.GaussianNLLLoss, {}, "GaussianNLLLoss expects .*loss='gaussian_nll'"),
        (nn.BCEWithLogitsLoss, {}, "expects y as classes.*loss='squared_error'.*standardize='X'"),
        (nn.CrossEntropyLoss(), {}, "CrossEntropyLoss expects y as classes"),
        (partial(functional.cross_entropy, label_smoothing=0.1), {}, "cross_entropy expects y as"),
        (of_shape(7), {}, r"'shaped' .* predictions of shape \(3, 1\)"),
        (lambda p, t: ((p - t) ** 2).mean().item(), {}, "return a torch tensor, got float"),
        (lambda p, t: ((p - t) ** 2).detach(), {}, "torch can differentiate"),
        (detached, {}, "'detached' .* no gradient reaches the parameters"),
        (lambda p, t: 0 * (p - t), {}, "derivative is not 0 everywhere"),
        (lambda p, t: ((p - t) ** 2).mean(dim=0), {}, r"one per element; .* shape \(1,\)"),
        (3, {}, "'loss' parameter.*must be an instance of 'str' or a callable"),
    ],
)
def test_invalid_losses_are_refused(loss: Any, options: dict[str, Any], message: str) -> None:
    nested = {f"loss__{name}": value for name, value in options.items()}
    for early_stopping in (False, True):
        reg = TorchRegressor(MLP, loss=loss, max_epochs=2, early_stopping=early_stopping, **nested)
        with pytest.raises((ValueError, TypeError), match=message):
            reg.fit(X, Y)


def test_a_loss_that_ignores_small_residuals_is_accepted() -> None:
    def insensitive(prediction: Tensor, target: Tensor) -> Tensor:
        return functional.relu((prediction - target).abs() - 5)

    TorchRegressor(MLP, loss=insensitive, max_epochs=2).fit(X, Y)
