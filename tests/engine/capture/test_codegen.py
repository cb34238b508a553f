"""A compiled program gives the loss and the gradients of autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given as for_all
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tests._capture import (
    GENERATOR,
    Function,
    Weight,
    assert_repeats,
    compile_gradient,
    differentiate,
    normal,
)
from torchreg.engine.capture import Recorder, compile_trace
from torchreg.engine.capture.numpy_kernels import merge_products
from torchreg.engine.capture.relu_gradient import rewrite_relu_gradients


def batch() -> tuple[Tensor, Tensor, Tensor]:
    return normal(6, 3), normal(6, 1), normal(6).abs()


@pytest.fixture
def parameters() -> dict[str, nn.Parameter]:
    GENERATOR.manual_seed(0)
    shapes = {"a": (3, 4), "b": (4,), "c": (4, 1), "d": (4,), "unused": (2, 3)}
    return {name: nn.Parameter(normal(*shape)) for name, shape in shapes.items()}


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


def has_expanded_gradients(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
    return squares(x[:, :1] * p["b"].sum() + p["d"].view(2, 2).mean(), t, weight)


def has_odd_numbers(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
    h = x @ p["a"] + p["b"]
    h = torch.where(h > 0, h, -torch.inf).exp() + torch.full_like(h, torch.nan).nan_to_num(2.0)
    return squares(h.to(torch.float32).clamp(max=9).to(x.dtype) @ p["c"], t, weight)


def is_complex(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
    return squares((torch.fft.fft(x @ p["a"]) * (1 - 2j)).abs() @ p["c"], t, weight)


def reuses_activations(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
    h = x @ p["a"] + p["b"]
    y = torch.relu(h)
    z = torch.sigmoid(y)
    prediction = y @ p["c"] + h.sum(1, keepdim=True) + y.mean(1, keepdim=True) * z[:, :1]
    return squares(prediction + (z * z).sum(1, keepdim=True), t, weight)


def works_in_place_on_views(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
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
    has_expanded_gradients,
    has_odd_numbers,
    is_complex,
    reuses_activations,
    works_in_place_on_views,
    reads_one_memory_twice,
    differentiates_twice,
]


@pytest.mark.parametrize("preallocate", [False, True])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("full_batch", [True, False])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_a_program_gives_the_gradients_of_autograd_for_new_rows_and_new_parameters(
    function: Function,
    full_batch: bool,
    weighted: bool,
    preallocate: bool,
    parameters: dict[str, nn.Parameter],
) -> None:
    def draw() -> tuple[Weight, ...]:
        x, t, weight = batch()
        return x, t, weight if weighted else None

    assert_repeats(
        function, parameters, draw, full_batch=full_batch, preallocate=preallocate, tolerance=1e-12
    )


@pytest.mark.parametrize("preallocate", [False, True])
def test_the_next_call_does_not_overwrite_a_returned_loss(
    preallocate: bool, parameters: dict[str, nn.Parameter]
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


#: Instructions of random programs: an operation, and two numbers that choose its arguments.
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
    full_batch=st.booleans(),
    weighted=st.booleans(),
    n=st.sampled_from([4, 6, 40]),
    preallocate=st.booleans(),
)
def test_a_program_repeats_whatever_is_composed_of_views_sums_and_work_in_place(
    steps: Steps, full_batch: bool, weighted: bool, n: int, preallocate: bool
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
    parameters = {name: nn.Parameter(normal(*shape) / 2) for name, shape in shapes.items()}

    def draw() -> tuple[Weight, ...]:
        return normal(n, 3), normal(n, 1), normal(n).abs() if weighted else None

    assert_repeats(
        function, parameters, draw, full_batch=full_batch, preallocate=preallocate, tolerance=1e-8
    )


def test_a_program_draws_the_random_numbers_that_autograd_draws(
    parameters: dict[str, nn.Parameter],
) -> None:
    def draws(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
        h = functional.dropout(x @ p["a"], 0.5) + torch.rand(4, dtype=x.dtype)
        return squares(functional.rrelu(h, training=True) @ p["c"], t, weight)

    rows = batch()
    with torch.random.fork_rng():
        for full_batch in (True, False):
            program, out = compile_gradient(draws, parameters, *rows, full_batch=full_batch)
            torch.manual_seed(5)
            expected = [differentiate(draws, parameters, *rows) for _ in range(3)]
            torch.manual_seed(5)
            for loss, gradients in expected:
                with torch.inference_mode():
                    torch.testing.assert_close(program(*rows), loss.detach())
                torch.testing.assert_close(out, list(gradients))
            assert expected[0][0] != expected[1][0]


def test_memory_that_is_changed_in_place_is_new_in_every_call(
    parameters: dict[str, nn.Parameter],
) -> None:
    def function(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
        total, copy = torch.zeros(6, 1, dtype=x.dtype), x.clone()
        view = total.view(3, 2)
        view.add_(1.0)
        copy[:, 0] += 1.0
        return squares(copy @ p["a"] @ p["c"] + total, t, weight)

    rows = batch()
    program, _ = compile_gradient(function, parameters, *rows, full_batch=True)
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
    program, _ = compile_gradient(function, parameters, *rows, full_batch=True, stable=[count])
    base = float(plain(parameters, *rows).detach())
    with torch.inference_mode():
        losses = [float(program(*rows)) for _ in range(3)]
    assert losses == pytest.approx([2 * base, 3 * base, 4 * base])
    assert float(count) == 4


@pytest.mark.parametrize("preallocate", [True, False])
def test_gradients_of_stacked_networks_may_be_columns_of_one_matrix(preallocate: bool) -> None:
    GENERATOR.manual_seed(0)
    shapes = {"a": (3, 8, 64), "b": (3, 1, 64), "c": (3, 64, 64), "d": (3, 64, 1)}
    p = {name: nn.Parameter(normal(*shape)) for name, shape in shapes.items()}

    def loss_of(p: dict[str, Any], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
        h = torch.relu(torch.bmm(x, p["a"]) + p["b"])
        return ((torch.bmm(torch.tanh(torch.bmm(h, p["c"])), p["d"]) - t) ** 2).mean()

    sizes = [q[0].numel() for q in p.values()]
    parts = torch.zeros(3, sum(sizes), dtype=torch.float64).split(sizes, dim=1)
    # (n_networks, n) columns -> (n_networks, the parameter's own shape)
    out = [part.view(q.shape) for part, q in zip(parts, p.values(), strict=True)]
    assert_repeats(
        loss_of,
        p,
        lambda: (normal(3, 5, 8), normal(3, 5, 1), None),
        full_batch=False,
        preallocate=preallocate,
        out=out,
    )


@pytest.mark.parametrize(
    ("tables", "n_products"),
    [
        ([0, 0, 0, 1, 1, 1], 2),
        ([0, 0, 1, 1, 1, 1], 3),
        ([0, 1, 0, 1, 0, 1], 6),
        ([0, 0, 0, 0, 0, 0], 1),
        ([0, 1, 1, 1, 1, 1], 6),
    ],
)
def test_consecutive_networks_with_the_same_rows_share_a_product(
    tables: list[int], n_products: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator) for shape in ((6, 2, 4), (2, 4, 9)))
    out = torch.empty(6, 2, 9)
    merged = merge_products(a, b[tables], out)
    assert [len(tensor) for tensor in merged] == [n_products] * 3
    torch.bmm(merged[0], merged[1], out=merged[2])
    torch.testing.assert_close(out, torch.bmm(a, b[tables]))
    # Parts of rows, as in a matrix of all parameters, cannot be merged.
    parts = torch.empty(6, 20)[:, :18].view(6, 2, 9)
    assert [len(tensor) for tensor in merge_products(a, b[tables], parts)] == [6] * 3


@pytest.mark.parametrize("n_features", [1, 2, 8, 30])
def test_the_gradient_of_a_layer_with_few_inputs_is_that_of_autograd(n_features: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, n_features, generator=generator, dtype=torch.float64)
    weight = torch.randn(40, n_features, generator=generator, dtype=torch.float64)
    weight.requires_grad_()
    with Recorder() as recorder:
        loss = nn.functional.linear(x, weight).square().mean()
        gradients = torch.autograd.grad(loss, [weight])
    out = [torch.empty_like(weight).detach()]
    program = compile_trace(
        recorder.calls, inputs={"x": x}, constants=[], stable=[weight],
        loss=loss, gradients=gradients, out=out,
    )  # fmt: skip
    with torch.inference_mode():
        program(x + 1, x, None)
    (expected,) = torch.autograd.grad(nn.functional.linear(x + 1, weight).square().mean(), [weight])
    torch.testing.assert_close(out, [expected])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_features", [2, 12])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_gradients_of_a_relu_layer_before_one_output_are_those_of_autograd(
    dtype: torch.dtype, n_features: int, is_transposed: bool
) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    weights = [draw(3, 5, n_features).requires_grad_(), draw(3, 1, 5).requires_grad_()]
    x, t = draw(3, n_features, 9), draw(3, 1, 9)

    def loss_of(x: Tensor) -> Tensor:
        z = torch.bmm(weights[0], x)
        hidden = z.mT.relu().mT if is_transposed else z.relu()
        return (torch.bmm(weights[1], hidden) - t).square().mean(dim=(1, 2))

    with Recorder() as recorder:
        loss = loss_of(x)
        gradients = torch.autograd.grad(loss.sum(), weights)
    rewritten = rewrite_relu_gradients(recorder.calls, [loss, *gradients])
    assert len({id(call) for call in recorder.calls} - {id(call) for call in rewritten}) >= 2
    out = [torch.empty_like(weight).detach() for weight in weights]
    program = compile_trace(
        recorder.calls, inputs={"x": x}, constants=[t], stable=weights,
        loss=loss, gradients=gradients, out=out, preallocate=True,
    )  # fmt: skip
    with torch.inference_mode():
        losses = program(x + 1, t, None)
    expected = loss_of(x + 1)
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(out, list(torch.autograd.grad(expected.sum(), weights)))
