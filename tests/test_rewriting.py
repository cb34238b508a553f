"""What algebra makes of a recorded gradient is the gradient, in fewer passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from torchreg.engine.capture.codegen import Program, write_down
from torchreg.engine.capture.recorder import Call, Recorder
from torchreg.engine.capture.rewriting import rewritten

GENERATOR = torch.Generator()
N_NETWORKS, N_ROWS = 3, 40
Function = Callable[..., Tensor]


def numbers(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=dtype)


@pytest.fixture(autouse=True)
def begin() -> None:
    GENERATOR.manual_seed(0)


def rows(n_inputs: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x = numbers(N_NETWORKS, n_inputs, N_ROWS, dtype=dtype)
    return x, numbers(N_NETWORKS, 1, N_ROWS, dtype=dtype)


def weights(*sizes: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Of layers of these sizes, one after the other."""
    pairs = zip(sizes[1:], sizes, strict=False)
    return [numbers(N_NETWORKS, *pair, dtype=dtype).requires_grad_() for pair in pairs]


def as_it_is(x: Tensor, t: Tensor, A: Tensor, u: Tensor) -> Tensor:
    return (torch.bmm(u, torch.bmm(A, x).relu()) - t).square().mean()


def turned(x: Tensor, t: Tensor, A: Tensor, u: Tensor) -> Tensor:
    hidden = torch.bmm(A, x).mT.relu()
    return (torch.bmm(u, hidden.mT) - t).abs().pow(1.5).mean()


def record(
    function: Function, given: Sequence[Tensor], values: Sequence[Tensor]
) -> tuple[list[Call], Tensor, list[Tensor]]:
    with Recorder() as recorder:
        loss = function(*given, *values)
        gradients = torch.autograd.grad(loss, list(values))
    return recorder.calls, loss, list(gradients)


def passes(calls: Sequence[Call], results: Sequence[Tensor], size: int) -> list[str]:
    """Name the operations of so many numbers or more that the results need."""
    needed, names = {id(tensor) for tensor in results}, []
    for call in reversed(calls):
        if needed & {id(tensor) for tensor in call.results}:
            needed |= {id(tensor) for tensor in call.given}
            largest = max((t.numel() for t in [*call.given, *call.results]), default=0)
            names += [call.name] if largest >= size and not call.is_view else []
    return names[::-1]


def changed(function: Function, given: Sequence[Tensor], values: Sequence[Tensor]) -> bool:
    """Whether anything is rewritten."""
    calls, loss, gradients = record(function, given, values)
    return rewritten(calls, [loss, *gradients]) != calls


def written(
    function: Function, given: list[Tensor], values: list[Tensor]
) -> tuple[Program, list[Tensor]]:
    """Write a step down; beside it, where the program puts its gradients."""
    calls, loss, gradients = record(function, given, values)
    out = [torch.full_like(value, torch.nan).detach() for value in values]
    program = write_down(
        calls,
        inputs={},
        constants=given,
        stable=values,
        loss=loss,
        gradients=gradients,
        out=out,
        stays=True,
    )
    return program, out


@pytest.mark.parametrize("function", [as_it_is, turned])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n_inputs", "n_units"), [(1, 1), (1, 6), (4, 5), (60, 7)])
def test_a_layer_of_relu_units_before_one_output_has_the_gradient_that_autograd_computes(
    n_inputs: int, n_units: int, dtype: torch.dtype, function: Function
) -> None:
    given, values = rows(n_inputs, dtype), weights(n_inputs, n_units, 1, dtype=dtype)
    program, out = written(function, given, values)
    for _ in range(3):
        _, expected_loss, expected = record(function, given, values)
        with torch.inference_mode():
            torch.testing.assert_close(program(*given, None), expected_loss.detach())
        torch.testing.assert_close(out, expected)
        with torch.no_grad():
            for value in values:
                value += numbers(*value.shape, dtype=dtype)


@pytest.mark.parametrize("function", [as_it_is, turned])
@pytest.mark.parametrize(
    ("dtype", "least"),
    [
        (torch.float64, ["bmm", "relu", "bmm", "threshold_backward", "bmm"]),
        (torch.float32, ["bmm", "relu", "bmm", "bmm", "threshold_backward", "bmm"]),
    ],
)
def test_it_takes_a_pass_less_and_with_digits_to_spare_two(
    dtype: torch.dtype, least: list[str], function: Function
) -> None:
    calls, loss, gradients = record(function, rows(4, dtype), weights(4, 5, 1, dtype=dtype))
    results, size = [loss, *gradients], N_NETWORKS * 5 * N_ROWS
    assert sorted(passes(rewritten(calls, results), results, size)) == sorted(least)
    assert len(passes(calls, results, size)) == 7


def two_layers(x: Tensor, t: Tensor, A: Tensor, B: Tensor, u: Tensor) -> Tensor:
    return as_it_is(torch.bmm(A, x).relu(), t, B, u)


def of_tanh(x: Tensor, t: Tensor, A: Tensor, u: Tensor) -> Tensor:
    return (torch.bmm(u, torch.bmm(A, x).tanh()) - t).square().mean()


def with_units_in_the_loss(x: Tensor, t: Tensor, A: Tensor, u: Tensor) -> Tensor:
    hidden = torch.bmm(A, x).relu()
    return (torch.bmm(u, hidden) - t).square().mean() + hidden.mean()


def with_a_bias(x: Tensor, t: Tensor, A: Tensor, u: Tensor, b: Tensor) -> Tensor:
    return (torch.bmm(u, (torch.bmm(A, x) + b).relu()) - t).square().mean()


@pytest.mark.parametrize(
    ("function", "values", "why"),
    [
        (as_it_is, (4, 5, 2), "there are two outputs, so that nothing is the same in all rows"),
        (of_tanh, (4, 5, 1), "the slope of a unit is more than whether there is one"),
        (with_units_in_the_loss, (4, 5, 1), "the units' gradient is a sum"),
    ],
)
def test_other_layers_are_left_as_they_are(
    function: Function, values: tuple[int, ...], why: str
) -> None:
    assert not changed(function, rows(4), weights(*values)), why


def test_what_goes_on_to_further_layers_is_left_as_it_is() -> None:
    assert not changed(two_layers, rows(4), weights(4, 6, 5, 1))
    values = [*weights(4, 5, 1), numbers(N_NETWORKS, 5, 1).requires_grad_()]
    assert not changed(with_a_bias, rows(4), values)


def test_steps_that_write_in_place_are_left_as_they_are() -> None:
    def function(x: Tensor, t: Tensor, A: Tensor, u: Tensor) -> Tensor:
        with torch.no_grad():
            t.mul_(1.0)
        return as_it_is(x, t, A, u)

    assert not changed(function, rows(4), weights(4, 5, 1))
    assert changed(as_it_is, rows(4), weights(4, 5, 1))


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("number", [torch.inf, -torch.inf, torch.nan])
def test_where_a_weight_is_not_finite_the_loss_is_not_either_and_nobody_is_warned(
    number: float, place: int
) -> None:
    given, values = rows(4), weights(4, 5, 1)
    program, _ = written(as_it_is, given, values)
    with torch.no_grad():
        values[place][0, 0, 0] = number
    with torch.inference_mode():
        found = program(*given, None)
    assert not found.isfinite()
