"""A CUDA graph of a program, on a fake device: CPU tensors and a replaced ``torch.cuda``."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from torchreg.engine.capture.cuda_graph import build_cuda_graph
from torchreg.engine.data import Batch


class Program:
    """Writes its loss to the same memory in every call, as kernels in a graph do."""

    def __init__(self) -> None:
        self.loss = torch.zeros(())
        self.arguments: tuple[Any, ...] = ()

    def __call__(self, x: Tensor, t: Tensor, weight: Tensor | None) -> Tensor:
        self.arguments = (x, t, weight)
        factor = 1.0 if weight is None else weight
        return self.loss.copy_(((x - t).square().sum(dim=1) * factor).sum())


def fake_device(monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
    """Make a graph repeat the program on the memory of its last call during the capture."""

    class Stream:
        def wait_stream(self, other: Any) -> None:
            pass

    class Graph:
        def replay(self) -> None:
            program(*program.arguments)

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)


def batch(seed: int, *, weighted: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x, t = torch.rand(5, 2, generator=generator), torch.rand(5, 1, generator=generator)
    return Batch(x, t, torch.rand(5, generator=generator) if weighted else None)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_replay_uses_the_values_of_the_given_batch(
    weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, first = Program(), batch(0, weighted=weighted)
    fake_device(monkeypatch, program)
    replay = build_cuda_graph(program, first)
    assert replay is not None
    for seed in (1, 2, 1):
        given = batch(seed, weighted=weighted)
        assert float(replay(*given)) == float(Program()(*given))
    # The batch of the capture keeps its values.
    assert torch.equal(first.x, batch(0).x) and torch.equal(first.t, batch(0).t)


def test_without_a_cuda_device_there_is_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*args: Any) -> None:
        raise RuntimeError("no CUDA device")

    monkeypatch.setattr(torch.cuda, "Stream", absent)
    assert build_cuda_graph(Program(), batch(0)) is None


def test_a_program_that_synchronizes_has_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def synchronizes(*args: Any) -> Tensor:
        raise RuntimeError("operation not permitted when stream is capturing")

    fake_device(monkeypatch, Program())
    assert build_cuda_graph(synchronizes, batch(0)) is None
