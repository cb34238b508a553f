"""L-BFGS takes the steps of torch, except at kinks, and ends when it has converged."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from torchreg import TorchRegressor
from torchreg.nn import MLP
from torchreg.optim import LBFGS

Function = Callable[[Tensor], Tensor]


def rosenbrock(params: Tensor) -> Tensor:
    """A curved valley with its minimum, 0, where every parameter is 1."""
    a, b = params[:-1], params[1:]
    return (100 * (b - a**2) ** 2 + (1 - a) ** 2).sum()


def bowl(params: Tensor) -> Tensor:
    """A quadratic whose curvatures differ by a factor of 1000."""
    return (torch.logspace(0, 3, len(params), dtype=params.dtype) * (params - 2) ** 2).sum()


def kinked(params: Tensor) -> Tensor:
    """Not differentiable everywhere, like a loss of ReLU units."""
    return (params - 1).abs().sum() + (params**2).sum() / 2


class Descent:
    """Our L-BFGS on a function, with its path and all evaluated losses."""

    def __init__(
        self, function: Function, start: list[float] | None = None, **options: Any
    ) -> None:
        default = torch.linspace(-1.5, 1.2, 6, dtype=torch.float64)
        self.params = default if start is None else torch.tensor(start, dtype=torch.float64)
        self.grad, self.function = torch.empty_like(self.params), function
        self.optimizer = LBFGS(**options)
        self.losses: list[float] = []

    def evaluate(self) -> float:
        at = self.params.clone().requires_grad_()
        value = self.function(at)
        self.grad.copy_(torch.autograd.grad(value, at)[0])
        self.losses.append(float(value.detach()))
        return self.losses[-1]

    def path(self, n_steps: int) -> list[Tensor]:
        """Return the parameters after each step."""
        points = []
        for _ in range(n_steps):
            self.optimizer.step(self.params, self.grad, self.evaluate(), self.evaluate)
            points.append(self.params.clone())
        return points


def torch_path(function: Function, n_steps: int, **options: Any) -> list[Tensor]:
    params = torch.linspace(-1.5, 1.2, 6, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.LBFGS([params], line_search_fn="strong_wolfe", **options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = function(params)
        value.backward()
        return value

    path = []
    for _ in range(n_steps):
        optimizer.step(closure)
        path.append(params.detach().clone())
    return path


@pytest.mark.parametrize("function", [rosenbrock, bowl, kinked])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_iter": 5},
        {"history_size": 2},
        {"lr": 0.5, "max_iter": 3},
        {"max_iter": 4, "max_eval": 3},
        {"tolerance_grad": 1e-2},
        {"tolerance_change": 1e-3},
    ],
    ids=str,
)
def test_each_step_ends_where_that_of_torch_ends(
    function: Function, options: dict[str, Any]
) -> None:
    theirs = torch_path(function, 3, **options)
    torch.testing.assert_close(Descent(function, **options).path(3), theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("function", [rosenbrock, bowl])
def test_stopping_at_kinks_does_not_change_the_steps_on_a_smooth_function(
    function: Function,
) -> None:
    stops = Descent(function, stop_at_kinks=True).path(3)
    torch.testing.assert_close(stops, Descent(function).path(3), rtol=0, atol=0)


def test_the_minimum_of_a_curved_valley_is_found() -> None:
    end = Descent(rosenbrock, tolerance_grad=1e-12, tolerance_change=1e-15).path(20)[-1]
    torch.testing.assert_close(end, torch.ones_like(end), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("grad", "loss"), [(0.0, 5.0), (1.0, math.nan), (1.0, math.inf)], ids=str)
def test_parameters_stay_if_the_gradient_is_zero_or_the_loss_is_not_finite(
    grad: float, loss: float
) -> None:
    params = torch.ones(3)
    LBFGS().step(params, torch.full((3,), grad), loss, lambda: pytest.fail("evaluated"))
    assert torch.equal(params, torch.ones(3))


def test_a_region_where_the_loss_is_nan_is_avoided() -> None:
    def partly_nan(params: Tensor) -> Tensor:
        return torch.where((params > 1.3).any(), torch.nan, (params - 0.9).square().sum())

    end = Descent(partly_nan, lr=3.0).path(5)[-1]
    torch.testing.assert_close(end, torch.full_like(end, 0.9), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr > 0, got 0"),
        ({"max_iter": 0}, "max_iter >= 1, got 0"),
        ({"history_size": 0}, "history_size >= 1, got 0"),
        ({"line_search_fn": None}, "line_search_fn='strong_wolfe', got None"),
    ],
)
def test_an_invalid_option_raises_with_the_valid_range(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LBFGS(**options)


# Line search: the first iteration goes along the gradient, with `lr` as its first step length


@given(a=st.floats(0.1, 10), x=st.floats(-3, 3), c=st.floats(-3, 3), lr=st.floats(1e-4, 1e3))
def test_a_step_meets_the_strong_wolfe_conditions(a: float, x: float, c: float, lr: float) -> None:
    def wave(params: Tensor) -> Tensor:
        return (a * params**2 / 2 + c * params.sin()).sum()

    descent = Descent(wave, [x], lr=lr, max_iter=1, max_eval=100)
    loss, grad = descent.evaluate(), float(descent.grad)
    assume(abs(grad) > 1e-3)
    (end,) = descent.path(1)
    t = (x - float(end)) / grad
    assert descent.evaluate() <= loss - 1e-4 * t * grad**2 + 1e-12 * (1 + abs(loss))
    assert abs(float(descent.grad) * grad) <= 0.9 * grad**2


@pytest.mark.parametrize("max_eval", [1, 2, 8])
def test_a_line_search_stops_at_max_eval(max_eval: int) -> None:
    def unbounded(params: Tensor) -> Tensor:
        return -params.exp().sum()

    descent = Descent(unbounded, [0.0], lr=1e-3, max_eval=max_eval)
    descent.path(1)
    assert len(descent.losses) <= max_eval + 1


def roof(kink: float, rise: float) -> Function:
    """Falls with slope -1 up to the kink, then rises."""
    return lambda x: torch.where(x < kink, -x, rise * (x - kink) - kink).sum()


@given(kink=st.floats(1e-3, 10), rise=st.floats(0.95, 50), lr=st.floats(0.1, 100))
def test_a_search_that_stops_at_kinks_ends_within_a_tenth_of_its_first_bracket(
    kink: float, rise: float, lr: float
) -> None:
    assume(lr > kink)
    options: dict[str, Any] = {"lr": lr, "max_iter": 1, "max_eval": 100, "stop_at_kinks": True}
    descent = Descent(roof(kink, rise), [0.0], **options)
    (end,) = descent.path(1)
    assert len(descent.losses) <= 21
    assert abs(float(end) - kink) <= 0.1 * lr or float(end) == 0.0


def test_a_search_that_stops_at_kinks_takes_less_than_half_of_the_evaluations() -> None:
    counts = []
    for stops in (True, False):
        options: dict[str, Any] = {"max_iter": 1, "max_eval": 100, "stop_at_kinks": stops}
        descent = Descent(roof(0.3, 1.5), [0.0], **options)
        descent.path(1)
        counts.append(len(descent.losses) - 1)
    assert 2 * counts[0] <= counts[1]


def test_parameters_stay_where_the_loss_rises_in_all_directions() -> None:
    # The gradient at 0 is that of the left piece.
    descent = Descent(lambda x: torch.where(x > 0, 0.5 * x, -x).sum(), [0.0], stop_at_kinks=True)
    assert descent.path(1)[0] == 0
    assert len(descent.losses) <= 7


# Convergence


def test_an_optimizer_that_has_converged_would_not_move_again() -> None:
    descent = Descent(kinked, stop_at_kinks=True)
    while not descent.optimizer.converged:
        (before,) = descent.path(1)
    assert len(descent.losses) < 200
    assert torch.equal(descent.path(5)[-1], before)
    # The first line search starts with a step of 1 / 2, where the loss rises, all others with 1.
    descent = Descent(lambda x: (-2 * x + 14.25 * x**2 - 7.25 * x**3).sum(), [0.0], max_iter=1)
    assert descent.path(1)[0] == 0 and not descent.optimizer.converged
    assert descent.path(1)[0] == 2


@pytest.mark.parametrize("function", [rosenbrock, kinked, lambda x: x.abs().sum()])
@pytest.mark.parametrize("start", [[1.0, -0.4], [0.3, 0.3]])
def test_a_step_that_moves_has_not_converged(start: list[float], function: Function) -> None:
    descent = Descent(function, start)
    before = descent.params.clone()
    for _ in range(20):
        (after,) = descent.path(1)
        assert not descent.optimizer.converged or torch.equal(before, after)
        before = after


@pytest.fixture(scope="module")
def table() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 1))
    return X, np.abs(X[:, 0]) + 0.1 * rng.normal(size=60)


def quick(max_epochs: int, **params: Any) -> TorchRegressor:
    settings = {"module": MLP, "module__hidden_sizes": [3], "random_state": 0, **params}
    return TorchRegressor(optimizer="lbfgs", max_epochs=max_epochs, **settings)


def test_a_fit_that_has_converged_ends_without_a_warning(
    table: tuple[np.ndarray, np.ndarray],
) -> None:
    X, y = table
    reg = quick(200).fit(X, y)
    assert 1 < reg.n_iter_ < 100
    assert reg.n_iter_ == len(reg.loss_curve_)
    # Fewer and more epochs give the same losses and the same weights.
    longer, shorter = quick(300).fit(X, y), quick(reg.n_iter_ - 1).fit(X, y)
    assert longer.loss_curve_ == reg.loss_curve_
    assert shorter.loss_curve_ == reg.loss_curve_[:-1]
    np.testing.assert_array_equal(shorter.predict(X), reg.predict(X))


@pytest.mark.parametrize("why", ["mini-batches", "random numbers", "buffers"])
def test_a_fit_whose_steps_differ_runs_all_epochs(
    why: str, table: tuple[np.ndarray, np.ndarray]
) -> None:
    def network(in_features: int, out_features: int) -> nn.Module:
        extra = {"random numbers": nn.Dropout(0.1), "buffers": nn.BatchNorm1d(3)}
        layers = [nn.Linear(in_features, 3), extra.get(why, nn.Identity()), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(3, out_features))

    batch_size = 30 if why == "mini-batches" else None
    reg = TorchRegressor(
        network, optimizer="lbfgs", max_epochs=40, batch_size=batch_size, random_state=0
    )
    assert reg.fit(*table).n_iter_ == 40
