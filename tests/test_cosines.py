"""Cosines and sines of float32 are NumPy's, and are what torch computes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from torchreg.engine.capture.codegen import write_down
from torchreg.engine.capture.cosines import faster_cosine
from torchreg.engine.capture.recorder import Call, Recorder

ANGLES = torch.linspace(-300, 300, 5_001)


def call_of(name: str, x: Tensor) -> Call:
    return Call(getattr(torch.ops.aten, name).default, (x,), {}, getattr(torch, name)(x))


@pytest.mark.parametrize("name", ["cos", "sin"])
@pytest.mark.parametrize("layout", ["dense", "turned", "every other"])
def test_they_are_right_to_two_spacings_of_one(name: str, layout: str) -> None:
    x = {
        "dense": ANGLES,
        "turned": ANGLES[:5_000].view(50, 100).t(),
        "every other": ANGLES[::2],
    }[layout]
    function = faster_cosine(call_of(name, x))
    assert function is not None
    exact = torch.tensor([getattr(math, name)(a) for a in x.reshape(-1).tolist()])
    place = torch.empty_like(x)
    for result in (function(x), function(x, out=place), place):
        assert float((result.reshape(-1) - exact).abs().max()) <= 2 * torch.finfo(x.dtype).eps


@pytest.mark.parametrize("x", [ANGLES.double(), ANGLES.half(), ANGLES.to("meta")], ids=str)
def test_those_of_other_numbers_are_torchs(x: Tensor) -> None:
    assert faster_cosine(call_of("cos", x)) is None


def test_other_functions_are_torchs() -> None:
    assert faster_cosine(call_of("tanh", ANGLES)) is None


@pytest.mark.parametrize("stays", [False, True])
def test_a_program_with_cosines_gives_the_gradient_of_each_new_step(stays: bool) -> None:
    frequency = torch.linspace(0.5, 2, 4).requires_grad_()
    x = torch.linspace(-1, 1, 9).reshape(9, 1)

    def network(x: Tensor) -> Any:
        return (torch.cos(x * frequency).sum(dim=1) * torch.sin(x[:, 0])).mean()

    with Recorder() as recorder:
        loss = network(x)
        gradients = torch.autograd.grad(loss, [frequency])
    out = [torch.full_like(frequency, torch.nan).detach()]
    program = write_down(
        recorder.calls,
        inputs={"x": x},
        constants=[],
        stable=[frequency],
        loss=loss,
        gradients=gradients,
        out=out,
        stays=stays,
    )
    for step in range(3):
        x = x + step
        loss = network(x)
        (gradient,) = torch.autograd.grad(loss, [frequency])
        with torch.inference_mode(), Recorder() as calls:
            torch.testing.assert_close(program(x, x, None), loss.detach())
        torch.testing.assert_close(out[0], gradient)
        assert {"cos", "sin"}.isdisjoint(call.name for call in calls.calls)
        with torch.no_grad():
            frequency += 0.1
