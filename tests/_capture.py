"""Shared by tests of captured steps: execution modes and compiled functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchreg import TorchRegressor
from torchreg.engine.capture import Program, Recorder, compile_trace

CAPTURED = "The steps were captured once and repeated."
Weight = Tensor | None
Function = Callable[..., Tensor]
GENERATOR = torch.Generator()


def eager(blocker: str) -> str:
    """Return the last line that ``verbose`` prints of a fit with eager steps."""
    return f"The steps ran eagerly, because {blocker}."


FORCED = eager("torch has hooks for all modules")


@contextmanager
def eager_steps() -> Iterator[None]:
    """Make all fits take eager steps: a hook for all modules must be called in each of them."""
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        yield
    finally:
        handle.remove()


def assert_same_fit(
    one: TorchRegressor, other: TorchRegressor, X: np.ndarray, *, tolerance: float = 1e-9
) -> None:
    close: dict[str, float] = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(one.loss_curve_, other.loss_curve_, **close)
    np.testing.assert_allclose(one.predict(X), other.predict(X), **close)
    first, second = one.module_.state_dict(), other.module_.state_dict()
    assert list(first) == list(second)
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], **close, equal_nan=True, msg=name)


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=dtype)


def differentiate(
    function: Function, parameters: dict[str, nn.Parameter], *rows: Weight
) -> tuple[Tensor, Sequence[Tensor]]:
    loss = function(parameters, *rows)
    gradients = torch.autograd.grad(
        loss, list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    return loss, gradients


def compile_gradient(
    function: Function,
    parameters: dict[str, nn.Parameter],
    *rows: Weight,
    full_batch: bool = False,
    stable: Sequence[Tensor] = (),
    out: Sequence[Tensor] | None = None,
    preallocate: bool = False,
) -> tuple[Program, Sequence[Tensor]]:
    """Record and compile the gradient of a function; return the program and where it writes."""
    with Recorder() as recorder:
        loss, gradients = differentiate(function, parameters, *rows)
    if out is None:
        out = [torch.full_like(p, torch.nan).detach() for p in parameters.values()]
    program = compile_trace(
        recorder.calls,
        inputs={} if full_batch else dict(zip(("x", "t", "weight"), rows, strict=True)),
        constants=[row for row in rows if row is not None] if full_batch else [],
        stable=[*parameters.values(), *stable],
        loss=loss,
        gradients=gradients,
        out=out,
        preallocate=preallocate,
    )
    return program, out


def operations(program: Program, *rows: Any) -> list[str]:
    """Name the operations of a program."""
    with torch.inference_mode(), Recorder() as recorder:
        program(*rows)
    return [call.name for call in recorder.calls]


def assert_repeats(
    function: Function,
    parameters: dict[str, nn.Parameter],
    draw: Callable[[], tuple[Weight, ...]],
    *,
    full_batch: bool,
    preallocate: bool = False,
    out: Sequence[Tensor] | None = None,
    tolerance: float = 1e-10,
) -> Program:
    """Require the loss and gradients of autograd from a program, for new rows and parameters."""
    close = {"rtol": tolerance, "atol": tolerance}
    rows = draw()
    program, out = compile_gradient(
        function, parameters, *rows, full_batch=full_batch, preallocate=preallocate, out=out
    )
    for _ in range(3):
        with torch.no_grad():
            for p in parameters.values():
                p.add_(normal(*p.shape, dtype=p.dtype), alpha=0.2)
        rows = rows if full_batch else draw()
        given = [value for value in (*parameters.values(), *rows) if value is not None]
        before = [value.detach().clone() for value in given]
        loss, gradients = differentiate(function, parameters, *rows)
        with torch.inference_mode():
            torch.testing.assert_close(program(*rows), loss.detach(), **close)
        assert all(map(torch.equal, given, before))
        for found, expected in zip(out, gradients, strict=True):
            torch.testing.assert_close(found, expected, **close)
    return program
