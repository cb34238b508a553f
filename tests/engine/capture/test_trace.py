"""Which operations of a recorded step a program contains, and which steps are refused."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests._capture import GENERATOR, Weight, compile_gradient, normal, operations
from torchreg.engine.capture import NotCapturableError


@pytest.fixture
def parameters() -> dict[str, nn.Parameter]:
    GENERATOR.manual_seed(0)
    return {"a": nn.Parameter(normal(3, 4)), "c": nn.Parameter(normal(4, 1))}


@pytest.fixture
def rows(parameters: dict[str, nn.Parameter]) -> tuple[Tensor, Tensor, Tensor]:
    return normal(6, 3), normal(6, 1), normal(6).abs()


def test_values_that_depend_on_the_full_batch_alone_are_computed_once(
    parameters: dict[str, nn.Parameter], rows: tuple[Tensor, ...]
) -> None:
    def function(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
        ramp = torch.arange(3, dtype=x.dtype) * 2
        return ((x.sin() + ramp) @ p["a"] @ p["c"] - t.cos()).square().mean()

    program, _ = compile_gradient(function, parameters, *rows, full_batch=True)
    assert {"sin", "cos", "arange"}.isdisjoint(operations(program, *rows))
    program, _ = compile_gradient(function, parameters, *rows)
    assert {"sin", "cos"} <= set(operations(program, *rows))
    assert "arange" not in operations(program, *rows)


def test_operations_without_effect_on_loss_and_gradients_are_left_out(
    parameters: dict[str, nn.Parameter], rows: tuple[Tensor, ...]
) -> None:
    def function(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
        (x @ p["a"]).cosh().sum()
        return ((x @ p["a"]).t().t() @ p["c"] - t).square().mean()

    done = operations(compile_gradient(function, parameters, *rows)[0], *rows)
    assert "cosh" not in done and "detach" not in done


@pytest.mark.parametrize("full_batch", [True, False])
def test_a_program_keeps_no_activation_alive(
    full_batch: bool, parameters: dict[str, nn.Parameter], rows: tuple[Tensor, ...]
) -> None:
    made: list[weakref.ref[Tensor]] = []

    def function(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
        h = torch.tanh(x @ p["a"])
        prediction = h @ p["c"]
        made.extend([weakref.ref(h), weakref.ref(prediction)])
        return (prediction - t).square().mean()

    program, _ = compile_gradient(function, parameters, *rows, full_batch=full_batch)
    gc.collect()
    assert [ref() for ref in made] == [None, None]
    assert callable(program)


READS = "the module or the loss looks at values while it runs"
DEPENDS = "the shape of what {} returns depends on values"
REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "item": (lambda h: h * h.sum().item(), READS),
    "branch": (lambda h: h if h.sum() > 0 else -h, READS),
    "comparison": (lambda h: h if torch.equal(h, h + 1) else -h, READS),
    "mask": (lambda h: h + h[h > 0].sum(), DEPENDS.format("index")),
    "nonzero": (lambda h: h + len(torch.nonzero(h > 0)), DEPENDS.format("nonzero")),
    "unique": (lambda h: h + torch.unique(h.detach().round()).sum(), DEPENDS.format("_unique2")),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("full_batch", [True, False])
def test_a_step_that_depends_on_values_is_refused_with_the_reason(
    name: str, full_batch: bool, parameters: dict[str, nn.Parameter], rows: tuple[Tensor, ...]
) -> None:
    function, message = REFUSED[name]

    def loss(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
        return (function(x @ p["a"]) @ p["c"] - t).square().mean()

    with pytest.raises(NotCapturableError) as refused:
        compile_gradient(loss, parameters, *rows, full_batch=full_batch)
    assert str(refused.value) == message
