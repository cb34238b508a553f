"""A gradient that was written down is the gradient that autograd computes."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from torchreg.engine.capture import Program, write_down
from torchreg.engine.recorder import Recorder

Weight = Tensor | None
Function = Callable[..., Tensor]
GENERATOR = torch.Generator()


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    return numbers(6, 3), numbers(6, 1), numbers(6).abs()


@pytest.fixture
def parameters() -> dict[str, nn.Parameter]:
    """Of a network with 3 inputs and 4 hidden units, and some more."""
    GENERATOR.manual_seed(0)
    shapes = {"a": (3, 4), "b": (4,), "c": (4, 1), "d": (4,), "unused": (2, 3)}
    return {name: nn.Parameter(numbers(*shape)) for name, shape in shapes.items()}


def differentiate(
    function: Function, parameters: dict[str, nn.Parameter], *rows: Weight
) -> tuple[Tensor, Sequence[Tensor]]:
    loss = function(parameters, *rows)
    gradients = torch.autograd.grad(
        loss, list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    return loss, gradients


def written(
    function: Function,
    parameters: dict[str, nn.Parameter],
    *rows: Weight,
    whole: bool = False,
    stable: Sequence[Tensor] = (),
) -> tuple[Program, list[Tensor]]:
    """Record one gradient; give the program, and where it writes."""
    with Recorder() as recorder:
        loss, gradients = differentiate(function, parameters, *rows)
    out = [torch.full_like(p, torch.nan).detach() for p in parameters.values()]
    program = write_down(
        recorder.calls,
        inputs={} if whole else dict(zip(("x", "t", "weight"), rows, strict=True)),
        constants=[row for row in rows if row is not None] if whole else [],
        stable=[*parameters.values(), *stable],
        loss=loss,
        gradients=gradients,
        out=out,
    )
    return program, out


def operations(program: Program, *rows: Any) -> list[str]:
    """Name what a program does when it is called."""
    with torch.inference_mode(), Recorder() as recorder:
        program(*rows)
    return [call.name for call in recorder.calls]


def squares(prediction: Tensor, t: Tensor, weight: Weight) -> Tensor:
    errors = ((prediction - t) ** 2)[:, 0]
    return errors.mean() if weight is None else errors @ weight / len(errors)


def plain(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
    return squares(torch.tanh(x @ p["a"] + p["b"]) @ p["c"], t, weight)


def works_in_place(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
    h = x @ p["a"]
    h += p["b"]
    h = h.sigmoid_().clone()
    h[:, 1:3].mul_(2).sub_(0.5)
    h[:, 0] = h[:, 3].clone() * p["d"][0]
    return squares(h @ p["c"], t, weight)


def writes_in_place_to_what_it_made(
    p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight
) -> Tensor:
    mask = torch.zeros(4, dtype=x.dtype)
    mask[1] = 3.0
    mask.add_(p["d"].detach().sin())
    return squares(x @ p["a"] * mask @ p["c"], t, weight)


def returns_tuples(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
    h = x @ p["a"]
    best, which = h.max(dim=1, keepdim=True)
    left, right = h.split([1, 3], dim=1)
    low, _ = torch.sort(right * p["d"][1:], dim=1)
    return squares(best + left * low.sum(1, keepdim=True) + 0.1 * which, t, weight)


def views_parameters(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
    a, b = p["a"][:, :2], p["b"].view(2, 2)
    h = x @ a @ b + p["d"].view(2, 2)[1].expand(len(x), 2)
    return squares(h @ p["c"][::2], t, weight)


def transposes(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
    h = (p["a"].t() @ x.t()).t().t().t()
    return squares(functional.linear(h + p["d"], p["c"].t().t().t()), t, weight)


def shares_a_gradient(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
    return squares((x @ p["a"] + p["b"] + p["d"]) @ p["c"], t, weight)


def has_expanded_gradients(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
    return squares(x[:, :1] * p["b"].sum() + p["d"].view(2, 2).mean(), t, weight)


def has_odd_numbers(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
    h = x @ p["a"] + p["b"]
    h = torch.where(h > 0, h, -torch.inf).exp() + torch.full_like(h, torch.nan).nan_to_num(2.0)
    return squares(h.to(torch.float32).clamp(max=9).to(x.dtype) @ p["c"], t, weight)


def is_complex(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
    return squares((torch.fft.fft(x @ p["a"]) * (1 - 2j)).abs() @ p["c"], t, weight)


def differentiates_twice(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
    z = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(torch.tanh(z @ p["a"]).sum(), z, create_graph=True)
    return squares(slope.sum(1, keepdim=True) * p["d"][0], t, weight)


FUNCTIONS = [
    plain,
    works_in_place,
    writes_in_place_to_what_it_made,
    returns_tuples,
    views_parameters,
    transposes,
    shares_a_gradient,
    has_expanded_gradients,
    has_odd_numbers,
    is_complex,
    differentiates_twice,
]


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_a_program_gives_the_gradients_of_autograd_for_new_rows_and_new_parameters(
    function: Function, whole: bool, weighted: bool, parameters: dict[str, nn.Parameter]
) -> None:
    x, t, weight = batch()
    rows: tuple[Weight, ...] = (x, t, weight if weighted else None)
    program, out = written(function, parameters, *rows, whole=whole)
    for _ in range(3):
        with torch.no_grad():
            for p in parameters.values():
                p.add_(numbers(*p.shape), alpha=0.3)
        if not whole:
            x, t, weight = batch()
            rows = (x, t, weight if weighted else None)
        loss, gradients = differentiate(function, parameters, *rows)
        with torch.inference_mode():
            torch.testing.assert_close(program(*rows), loss.detach(), rtol=1e-12, atol=1e-12)
        for found, expected in zip(out, gradients, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_of_a_parameter_that_is_not_used_the_gradient_is_zero(
    parameters: dict[str, nn.Parameter],
) -> None:
    rows = batch()
    program, out = written(plain, parameters, *rows)
    with torch.inference_mode():
        program(*rows)
    assert torch.equal(out[-1], torch.zeros(2, 3, dtype=torch.float64))
    assert all(bool(gradient.any()) for gradient in (out[0], out[1], out[2]))


def test_a_program_draws_what_autograd_draws_from_the_same_generator(
    parameters: dict[str, nn.Parameter],
) -> None:
    def draws(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
        h = functional.dropout(x @ p["a"], 0.5) + torch.rand(4, dtype=x.dtype)
        return squares(functional.rrelu(h, training=True) @ p["c"], t, weight)

    rows = batch()
    with torch.random.fork_rng():
        for whole in (True, False):
            program, out = written(draws, parameters, *rows, whole=whole)
            torch.manual_seed(5)
            expected = [differentiate(draws, parameters, *rows) for _ in range(3)]
            torch.manual_seed(5)
            for loss, gradients in expected:
                with torch.inference_mode():
                    torch.testing.assert_close(program(*rows), loss.detach())
                torch.testing.assert_close(out, list(gradients))
            assert expected[0][0] != expected[1][0]


def test_what_follows_from_the_whole_batch_alone_is_computed_once(
    parameters: dict[str, nn.Parameter],
) -> None:
    def function(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
        ramp = torch.arange(3, dtype=x.dtype) * 2
        return squares((x.sin() + ramp) @ p["a"] @ p["c"], t.cos(), weight)

    rows = batch()
    program, _ = written(function, parameters, *rows, whole=True)
    assert {"sin", "cos", "arange"}.isdisjoint(operations(program, *rows))
    program, _ = written(function, parameters, *rows)
    assert {"sin", "cos"} <= set(operations(program, *rows))
    assert "arange" not in operations(program, *rows)


def test_what_is_written_to_in_place_is_made_anew_in_every_call(
    parameters: dict[str, nn.Parameter],
) -> None:
    def function(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
        total, copy = torch.zeros(6, 1, dtype=x.dtype), x.clone()
        view = total.view(3, 2)
        view.add_(1.0)
        copy[:, 0] += 1.0
        return squares(copy @ p["a"] @ p["c"] + total, t, weight)

    rows = batch()
    program, _ = written(function, parameters, *rows, whole=True)
    assert {"zeros", "clone"} <= set(operations(program, *rows))
    with torch.inference_mode():
        losses = [float(program(*rows)) for _ in range(4)]
    expected = float(function(parameters, *rows).detach())
    assert losses == pytest.approx([expected] * 4, rel=1e-12)


def test_a_buffer_is_updated_in_every_call(parameters: dict[str, nn.Parameter]) -> None:
    count = torch.zeros((), dtype=torch.float64)

    def function(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
        count.add_(1)
        return plain(p, x, t, weight) * count

    rows = batch()
    program, _ = written(function, parameters, *rows, whole=True, stable=[count])
    base = float(plain(parameters, *rows).detach())
    with torch.inference_mode():
        losses = [float(program(*rows)) for _ in range(3)]
    assert losses == pytest.approx([2 * base, 3 * base, 4 * base])
    assert float(count) == 4


def test_what_no_gradient_needs_is_left_out_and_transposes_cancel(
    parameters: dict[str, nn.Parameter],
) -> None:
    def function(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
        (x @ p["a"]).cosh().sum()
        return squares((x @ p["a"]).t().t() @ p["c"], t, weight)

    rows = batch()
    done = operations(written(function, parameters, *rows)[0], *rows)
    assert "cosh" not in done and "detach" not in done
    # One transposed factor for each of three products of the backward pass, at most.
    assert done.count("t") <= 3


@pytest.mark.parametrize("whole", [True, False])
def test_a_program_keeps_no_activation_alive(
    whole: bool, parameters: dict[str, nn.Parameter]
) -> None:
    made: list[weakref.ref[Tensor]] = []

    def function(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
        h = torch.tanh(x @ p["a"])
        prediction = h @ p["c"]
        made.extend([weakref.ref(h), weakref.ref(prediction)])
        return squares(prediction, t, weight)

    program, out = written(function, parameters, *batch(), whole=whole)
    gc.collect()
    assert [ref() for ref in made] == [None, None]
    assert callable(program) and len(out) == len(parameters)


def test_recording_and_repeating_do_not_import_dynamo() -> None:
    script = """
import sys
import numpy as np
from torchreg import TorchRegressor
X = np.linspace(0, 1, 40).reshape(20, 2)
reg = TorchRegressor(max_epochs=20, random_state=0, verbose=1).fit(X, X[:, 0])
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("The steps were captured once and repeated.\n")
