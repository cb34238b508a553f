"""Replay a program's kernels as one CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor

from torchreg.engine.capture.codegen import Program
from torchreg.engine.data import Batch

#: Runs before the capture, in which CUDA libraries initialize themselves.
_WARM_UP = 3


def build_cuda_graph(program: Program, batch: Batch) -> Program | None:
    """Capture a program in a CUDA graph.

    On a GPU a small step takes as long as its kernel launches; a graph needs a single launch.
    The warm-up and the capture run the program, so buffers such as those of batch normalization
    change.

    Parameters
    ----------
    program : Program
        Runs on the current CUDA device.
    batch : Batch
        Of the shape that every batch will have.

    Returns
    -------
    Program or None
        ``None`` if the program cannot be captured, or if there is no CUDA device.
    """
    try:
        weight = None if batch.weight is None else batch.weight.clone()
        static = Batch(batch.x.clone(), batch.t.clone(), weight)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.inference_mode():
            for _ in range(_WARM_UP):
                program(*static)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph), torch.inference_mode():
            loss = program(*static)
    except (AssertionError, RuntimeError):
        return None

    def replay(x: Tensor, t: Tensor, weight: Tensor | None) -> Tensor:
        # A graph reads from the memory that it read from during its capture.
        for buffer, value in zip(static, (x, t, weight), strict=True):
            if buffer is not None and value is not None:
                buffer.copy_(value)
        graph.replay()
        return loss

    return replay
