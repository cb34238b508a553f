"""L-BFGS on one vector is torch's, step for step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from torchreg.optim import LBFGS

Function = Callable[[Tensor], Tensor]


def rosenbrock(params: Tensor) -> Tensor:
    """A curved valley with its bottom, 0, where every parameter is 1."""
    a, b = params[:-1], params[1:]
    return (100 * (b - a**2) ** 2 + (1 - a) ** 2).sum()


def bowl(params: Tensor) -> Tensor:
    """A quadratic whose curvatures differ by a factor of 1000."""
    return (torch.logspace(0, 3, len(params), dtype=params.dtype) * (params - 2) ** 2).sum()


def kinked(params: Tensor) -> Tensor:
    """Not differentiable everywhere, like a loss of ReLU units."""
    return (params - 1).abs().sum() + (params**2).sum() / 2


def descend(function: Function, n_steps: int, *, size: int = 6, **options: Any) -> list[Tensor]:
    """Follow our rule, one row a call."""
    params = torch.linspace(-1.5, 1.2, size, dtype=torch.float64)
    gradient = torch.empty_like(params)

    def evaluate() -> float:
        at = params.clone().requires_grad_()
        value = function(at)
        gradient.copy_(torch.autograd.grad(value, at)[0])
        return float(value.detach())

    rule, path = LBFGS(**options), []
    for _ in range(n_steps):
        rule.step(params, gradient, evaluate(), evaluate)
        path.append(params.clone())
    return path


def descend_with_torch(
    function: Function, n_steps: int, *, size: int = 6, **options: Any
) -> list[Tensor]:
    """Follow torch's class, one row a call."""
    params = torch.linspace(-1.5, 1.2, size, dtype=torch.float64).requires_grad_()
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
def test_each_call_ends_where_that_of_torch_ends(
    function: Function, options: dict[str, Any]
) -> None:
    ours = descend(function, 3, **options)
    theirs = descend_with_torch(function, 3, **options)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("function", [rosenbrock, bowl])
def test_a_smooth_descent_is_the_same_whether_or_not_searches_stop_at_kinks(
    function: Function,
) -> None:
    torch.testing.assert_close(
        descend(function, 3, stop_at_kinks=True), descend(function, 3), rtol=0, atol=0
    )


def test_the_bottom_of_a_curved_valley_is_found() -> None:
    end = descend(rosenbrock, 20, tolerance_grad=1e-12, tolerance_change=1e-15)[-1]
    torch.testing.assert_close(end, torch.ones_like(end), rtol=0, atol=1e-8)


def test_where_the_gradient_is_zero_nothing_moves() -> None:
    params, gradient = torch.ones(3), torch.zeros(3)
    LBFGS().step(params, gradient, 5.0, lambda: pytest.fail("evaluated"))
    assert torch.equal(params, torch.ones(3))


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_from_a_loss_that_is_not_finite_nothing_moves(loss: float) -> None:
    params = torch.ones(3)
    LBFGS().step(params, torch.ones(3), loss, lambda: pytest.fail("evaluated"))
    assert torch.equal(params, torch.ones(3))


def test_a_wall_of_nan_is_walked_around() -> None:
    def walled(params: Tensor) -> Tensor:
        return torch.where((params > 1.3).any(), torch.nan, (params - 0.9).square().sum())

    end = descend(walled, 5, lr=3.0)[-1]
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
def test_an_option_out_of_its_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"The optimizer expects .*{message}"):
        LBFGS(**options)
