"""Small products of many networks are NumPy's, and are what torch computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from torchreg.engine.capture import Call, Recorder, compile_trace
from torchreg.engine.capture.numpy_kernels import as_larger_products, is_small_product

GENERATOR = torch.Generator()


def numbers(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=GENERATOR.manual_seed(0), dtype=dtype)


def product(a: Tensor, b: Tensor) -> Call:
    return Call(torch.ops.aten.bmm.default, (a, b), {}, torch.bmm(a, b))


def test_rows_or_columns_in_one_piece_are_known_to_numpys_library() -> None:
    a, b = numbers(3, 4, 5), numbers(3, 5, 6)
    parts = numbers(3, 40)[:, 7:27].view(3, 4, 5)
    for first in (a, a.mT.contiguous().mT, parts, a.float().double()):
        assert is_small_product(product(first, b))
    assert is_small_product(product(numbers(3, 1, 5), b))
    assert is_small_product(product(a, numbers(3, 5, 1)))


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        (numbers(2, 4, 10)[:, :, ::2], numbers(2, 5, 6), "neither rows nor columns are one piece"),
        (numbers(2, 4, 5), numbers(2, 5, 1).expand(2, 5, 6), "all columns are one"),
        (numbers(2, 4, 1), numbers(2, 1, 6), "nothing is summed"),
        (numbers(2, 0, 5), numbers(2, 5, 6), "there is no row"),
        (numbers(1, 64, 65), numbers(1, 65, 64), "it is so large that several threads would do it"),
        (numbers(2, 4, 5).half(), numbers(2, 5, 6).half(), "NumPy's library knows no such numbers"),
    ],
)
def test_other_products_are_torchs(a: Tensor, b: Tensor, why: str) -> None:
    assert not is_small_product(product(a, b)), why


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
def test_networks_that_have_the_same_rows_one_after_another_share_a_product(
    tables: list[int], n_products: int
) -> None:
    a, b = numbers(6, 2, 4), numbers(2, 4, 9)[tables]
    result = torch.empty(6, 2, 9, dtype=a.dtype)
    first, second, into = as_larger_products(a, b, result)
    assert len(first) == len(second) == len(into) == n_products
    torch.bmm(first, second, out=into)
    torch.testing.assert_close(result, torch.bmm(a, b))


def test_a_shared_product_is_not_so_large_that_several_threads_would_do_it() -> None:
    a, b = numbers(12, 32, 16), numbers(1, 16, 128).expand(12, 16, 128)
    first, second, into = as_larger_products(a, b, torch.empty(12, 32, 128, dtype=a.dtype))
    assert len(first) == 3
    assert is_small_product(Call(torch.ops.aten.bmm.default, (first, second), {}, into))


@pytest.mark.parametrize("part", ["weights", "result"])
def test_parts_of_rows_that_lie_apart_are_multiplied_network_by_network(part: str) -> None:
    a, b = numbers(6, 2, 4), numbers(1, 4, 9).expand(6, 4, 9)
    result = torch.empty(6, 2, 9, dtype=a.dtype)
    if part == "weights":
        a = numbers(6, 12)[:, 2:10].view(6, 2, 4)
    else:
        result = torch.empty(6, 20, dtype=a.dtype)[:, :18].view(6, 2, 9)
    assert [len(t) for t in as_larger_products(a, b, result)] == [6, 6, 6]


def network(values: dict[str, Tensor], x: Tensor, t: Tensor) -> Tensor:
    hidden = torch.tanh(torch.bmm(x, values["a"]))
    return ((torch.bmm(hidden, values["b"]) - t) ** 2).mean()


def recorded(values: dict[str, Tensor], x: Tensor, t: Tensor, *, whole: bool) -> Any:
    with Recorder() as recorder:
        loss = network(values, x, t)
        gradients = torch.autograd.grad(loss, list(values.values()))
    out = [torch.full_like(value, torch.nan).detach() for value in values.values()]
    program = compile_trace(
        recorder.calls,
        inputs={} if whole else {"x": x, "t": t},
        constants=[x, t] if whole else [],
        stable=list(values.values()),
        loss=loss,
        gradients=gradients,
        out=out,
        preallocate=True,
    )
    return program, out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("whole", [False, True])
def test_a_program_with_small_products_gives_the_gradient_of_each_new_step(
    whole: bool, dtype: torch.dtype
) -> None:
    values = {"a": numbers(3, 2, 4, dtype=dtype), "b": numbers(3, 4, 1, dtype=dtype)}
    values = {name: value.requires_grad_() for name, value in values.items()}
    x, t = numbers(3, 9, 2, dtype=dtype), numbers(3, 9, 1, dtype=dtype)
    program, out = recorded(values, x, t, whole=whole)
    for step in range(3):
        if not whole:
            x, t = x + step, t - step
        loss = network(values, x, t)
        gradients = torch.autograd.grad(loss, list(values.values()))
        with torch.inference_mode():
            torch.testing.assert_close(program(x, t, None), loss.detach())
        torch.testing.assert_close(out, list(gradients))
        with torch.no_grad():
            for value in values.values():
                value += 0.1
    with torch.inference_mode(), Recorder() as recorder:
        program(x, t, None)
    assert "bmm" not in [call.name for call in recorder.calls]
