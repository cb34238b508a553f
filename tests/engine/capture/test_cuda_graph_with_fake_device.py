"""A program in a CUDA graph, with a stand-in for the device, which machines for tests lack."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from torchreg.engine.capture.cuda_graph import build_cuda_graph
from torchreg.engine.data import Batch


class Program:
    """Writes where it wrote first, as kernels in a graph do, and counts its runs."""

    def __init__(self) -> None:
        self.loss = torch.zeros(())
        self.runs = 0
        self.arguments: tuple[Any, ...] = ()

    def __call__(self, x: Tensor, t: Tensor, weight: Tensor | None) -> Tensor:
        self.runs += 1
        self.arguments = (x, t, weight)
        factor = 1.0 if weight is None else weight
        return self.loss.copy_(((x - t).square().sum(dim=1) * factor).sum())


def stand_in(monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
    """Let a graph repeat the program on the memory that it saw last while it was captured."""

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


def batch(seed: int, *, weighted: bool) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x, t = torch.rand(5, 2, generator=generator), torch.rand(5, 1, generator=generator)
    return Batch(x, t, torch.rand(5, generator=generator) if weighted else None)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_replay_sees_the_values_of_the_batch_that_came(
    weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program()
    stand_in(monkeypatch, program)
    replay = build_cuda_graph(program, batch(0, weighted=weighted))
    assert replay is not None
    for seed in (1, 2, 1):
        came = batch(seed, weighted=weighted)
        loss = float(replay(*came))
        assert loss == float(Program()(*came))


def test_the_batch_that_a_graph_was_captured_with_keeps_its_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program, first = Program(), batch(0, weighted=True)
    stand_in(monkeypatch, program)
    replay = build_cuda_graph(program, first)
    assert replay is not None
    replay(*batch(1, weighted=True))
    for kept, expected in zip(first, batch(0, weighted=True), strict=True):
        assert torch.equal(kept, expected)


def test_without_a_cuda_device_there_is_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*args: Any) -> None:
        raise RuntimeError("no CUDA device")

    monkeypatch.setattr(torch.cuda, "Stream", absent)
    assert build_cuda_graph(Program(), batch(0, weighted=False)) is None


def test_what_cannot_be_captured_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def synchronizes(*args: Any) -> Tensor:
        raise RuntimeError("operation not permitted when stream is capturing")

    stand_in(monkeypatch, Program())
    assert build_cuda_graph(synchronizes, batch(0, weighted=False)) is None
