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
from hypothesis import given as for_all
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from torchreg.engine.capture import Program, Recorder, compile_trace

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
    preallocate: bool = False,
) -> tuple[Program, list[Tensor]]:
    """Record one gradient; give the program, and where it writes."""
    with Recorder() as recorder:
        loss, gradients = differentiate(function, parameters, *rows)
    out = [torch.full_like(p, torch.nan).detach() for p in parameters.values()]
    program = compile_trace(
        recorder.calls,
        inputs={} if whole else dict(zip(("x", "t", "weight"), rows, strict=True)),
        constants=[row for row in rows if row is not None] if whole else [],
        stable=[*parameters.values(), *stable],
        loss=loss,
        gradients=gradients,
        out=out,
        preallocate=preallocate,
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


def uses_again_what_it_activated(
    p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight
) -> Tensor:
    h = x @ p["a"] + p["b"]
    y = torch.relu(h)
    z = torch.sigmoid(y)
    prediction = y @ p["c"] + h.sum(1, keepdim=True) + y.mean(1, keepdim=True) * z[:, :1]
    return squares(prediction + (z * z).sum(1, keepdim=True), t, weight)


def works_in_place_behind_views(
    p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight
) -> Tensor:
    h = x @ p["a"]
    view, columns = h.view(-1), h[:, 1:3]
    y = torch.tanh(view.view(6, 4)) + columns.sum(1, keepdim=True)
    same = y.view(y.shape).detach() * 0.5 + y.t().t()
    same.relu_()
    return squares(same @ p["c"] + view[:6, None] * p["d"][0], t, weight)


def reads_one_memory_twice(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
    h = torch.tanh(x @ p["a"])
    square, double = h * h, h + h
    turned = (h.t() * square.t()).t()
    return squares((turned / (1 + double * h)) @ p["c"] - h[:, :1], t, weight)


def has_thin_products(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
    """With products of few columns, whose order in memory is read by a view behind a sum."""
    h = (x[:, :, None] * p["b"]).reshape(18, 4) @ p["a"].t()[:, :2]
    many = torch.bmm(h.view(2, 9, 2), p["d"].view(1, 2, 2).expand(2, 2, 2)) + p["c"][0]
    return squares(torch.tanh(many).view(6, 6).sum(1, keepdim=True), t, weight)


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
    uses_again_what_it_activated,
    works_in_place_behind_views,
    reads_one_memory_twice,
    has_thin_products,
    differentiates_twice,
]


@pytest.mark.parametrize("preallocate", [False, True])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_a_program_gives_the_gradients_of_autograd_for_new_rows_and_new_parameters(
    function: Function,
    whole: bool,
    weighted: bool,
    preallocate: bool,
    parameters: dict[str, nn.Parameter],
) -> None:
    x, t, weight = batch()
    rows: tuple[Weight, ...] = (x, t, weight if weighted else None)
    program, out = written(function, parameters, *rows, whole=whole, preallocate=preallocate)
    for _ in range(3):
        with torch.no_grad():
            for p in parameters.values():
                p.add_(numbers(*p.shape), alpha=0.3)
        if not whole:
            x, t, weight = batch()
            rows = (x, t, weight if weighted else None)
        loss, gradients = differentiate(function, parameters, *rows)
        given = [value for value in (*parameters.values(), *rows) if value is not None]
        before = [value.detach().clone() for value in given]
        with torch.inference_mode():
            torch.testing.assert_close(program(*rows), loss.detach(), rtol=1e-12, atol=1e-12)
        assert all(map(torch.equal, given, before))
        for found, expected in zip(out, gradients, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("preallocate", [False, True])
def test_what_a_program_returned_is_not_overwritten_by_the_next_call(
    preallocate: bool,
    parameters: dict[str, nn.Parameter],
) -> None:
    def loss_of_each(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
        return ((torch.tanh(x @ p["a"]) @ p["c"] - t) ** 2).mean(1)

    rows = batch()
    with Recorder() as recorder, torch.no_grad():
        losses = loss_of_each(parameters, *rows)
    program = compile_trace(
        recorder.calls,
        inputs=dict(zip(("x", "t", "weight"), rows, strict=True)),
        constants=[],
        stable=[*parameters.values()],
        loss=losses,
        gradients=[],
        out=[],
        preallocate=preallocate,
    )
    with torch.inference_mode():
        first = program(*rows)
        kept = first.clone()
        second = program(*batch())
    assert torch.equal(first, kept) and not torch.equal(first, second)
    torch.testing.assert_close(first, losses)


#: Instructions of random programs: each takes a value, and what two numbers choose.
Steps = list[tuple[int, int, int]]
UNARY: list[Callable[[Tensor], Tensor]] = [
    *[torch.tanh, torch.sigmoid, torch.relu, torch.neg, functional.softplus, functional.elu],
    *[functional.silu, functional.gelu, functional.leaky_relu, torch.sin],
    *[lambda v: v**2 * 0.1, lambda v: v / 3, lambda v: v * 2, lambda v: v - 1],
    lambda v: functional.layer_norm(v, v.shape[-1:]),
]
BINARY: list[Callable[[Tensor, Tensor], Tensor]] = [
    *[torch.add, torch.sub, torch.mul, torch.maximum, lambda a, b: a / (b * b + 1)],
    lambda a, b: torch.where(a > 0, b, a),
    lambda a, b: torch.add(a, b, alpha=0.5),
]
IN_PLACE: list[Callable[[Tensor], Any]] = [
    *[Tensor.relu_, Tensor.sigmoid_, Tensor.tanh_, lambda v: v.mul_(1.5), lambda v: v.add_(0.3)],
    lambda v: v[:, :1].mul_(0.5),
]
VIEWS: list[Callable[[Tensor], Tensor]] = [
    *[lambda v: v.t().t(), lambda v: v.view(v.shape), lambda v: v.detach() * 0.5 + v],
    lambda v: v.reshape(-1, 2).reshape(v.shape),
    lambda v: (v.t() * 2).t(),
    lambda v: torch.cat([v, v * 2], 1)[:, ::2],
    lambda v: v[:, :1] * v,
    lambda v: v - v.mean(0, keepdim=True),
    lambda v: v * v.sum(1, keepdim=True) * 0.1,
    lambda v: v + v.sum() * 0.01,
]


@for_all(
    steps=st.lists(st.tuples(*[st.integers(0, 10**6)] * 3), min_size=2, max_size=14),
    whole=st.booleans(),
    weighted=st.booleans(),
    n=st.sampled_from([4, 6, 40]),
    preallocate=st.booleans(),
)
def test_a_program_repeats_whatever_is_composed_of_views_sums_and_work_in_place(
    steps: Steps, whole: bool, weighted: bool, n: int, preallocate: bool
) -> None:
    def function(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
        values = [x @ p["a"] + p["b"], functional.linear(x, p["a"].t(), p["d"])]
        for kind, one, other in steps:
            value = values[one % len(values)]
            if kind % 5 == 0:
                value = UNARY[other % len(UNARY)](value)
            elif kind % 5 == 1:
                value = BINARY[other % len(BINARY)](value, values[other % len(values)])
            elif kind % 5 == 2:
                value = value.clone()
                IN_PLACE[other % len(IN_PLACE)](value.view(value.shape))
            elif kind % 5 == 3:
                value = VIEWS[other % len(VIEWS)](value)
            else:
                value = value @ p["e"] if other % 2 else p["d"].expand(n, 4)
            values.append(value)
        outputs = [(0.1 + 0.05 * k) * v.mean(1, keepdim=True) for k, v in enumerate(values)]
        errors = ((torch.tanh(sum(outputs)) - t) ** 2)[:, 0]
        return errors.mean() if weight is None else errors @ weight / n

    GENERATOR.manual_seed(n)
    shapes = {"a": (3, 4), "b": (4,), "d": (4,), "e": (4, 4)}
    parameters = {name: nn.Parameter(numbers(*shape) / 2) for name, shape in shapes.items()}

    def draw() -> tuple[Weight, ...]:
        return numbers(n, 3), numbers(n, 1), numbers(n).abs() if weighted else None

    rows = draw()
    program, out = written(function, parameters, *rows, whole=whole, preallocate=preallocate)
    for _ in range(2):
        with torch.no_grad():
            for p in parameters.values():
                p.add_(numbers(*p.shape), alpha=0.2)
        rows = rows if whole else draw()
        given = [value for value in (*parameters.values(), *rows) if value is not None]
        kept = [value.detach().clone() for value in given]
        loss, gradients = differentiate(function, parameters, *rows)
        with torch.inference_mode():
            torch.testing.assert_close(program(*rows), loss.detach(), rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(out, list(gradients), rtol=1e-8, atol=1e-10)
        assert all(map(torch.equal, given, kept))


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


@pytest.mark.parametrize("preallocate", [True, False])
def test_gradients_of_many_networks_may_be_parts_of_the_rows_of_a_matrix(preallocate: bool) -> None:
    """Large products are written there at once; the numbers are those of autograd in any case."""
    GENERATOR.manual_seed(0)
    shapes = {"a": (3, 8, 64), "b": (3, 1, 64), "c": (3, 64, 64), "d": (3, 64, 1)}
    p = {name: nn.Parameter(numbers(*shape)) for name, shape in shapes.items()}
    x, t = numbers(3, 5, 8), numbers(3, 5, 1)

    def loss_of(p: dict[str, Any], x: Tensor, t: Tensor) -> Tensor:
        h = torch.relu(torch.bmm(x, p["a"]) + p["b"])
        return ((torch.bmm(torch.tanh(torch.bmm(h, p["c"])), p["d"]) - t) ** 2).mean()

    with Recorder() as recorder:
        loss = loss_of(p, x, t)
        gradients = torch.autograd.grad(loss, list(p.values()))
    matrix = torch.zeros(3, sum(q[0].numel() for q in p.values()), dtype=x.dtype)
    parts = matrix.split([q[0].numel() for q in p.values()], dim=1)
    out = [part.view(q.shape) for part, q in zip(parts, p.values(), strict=True)]
    program = compile_trace(
        recorder.calls,
        inputs={"x": x, "t": t, "weight": None},
        constants=[],
        stable=[*p.values()],
        loss=loss,
        gradients=gradients,
        out=out,
        preallocate=preallocate,
    )
    x, t = numbers(3, 5, 8), numbers(3, 5, 1)
    with torch.inference_mode(), Recorder() as recorder:
        program(x, t, None)
    (copies,) = (call for call in recorder.calls if call.name == "_foreach_copy_")
    # Of the four gradients one is a large product.
    assert len(copies.args[0]) == 3
    expected = torch.autograd.grad(loss_of(p, x, t), list(p.values()))
    for came, gradient in zip(out, expected, strict=True):
        torch.testing.assert_close(came, gradient, rtol=1e-12, atol=1e-12)


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
from torchreg.nn import MLP
X = np.linspace(0, 1, 40).reshape(20, 2)
reg = TorchRegressor(MLP, max_epochs=20, random_state=0, verbose=1).fit(X, X[:, 0])
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("The steps were captured once and repeated.\n")
