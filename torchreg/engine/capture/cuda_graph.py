"""A program whose kernels a CUDA device launches all at once."""

from __future__ import annotations

import torch
from torch import Tensor

from torchreg.engine.capture.codegen import Program
from torchreg.engine.data.tables import Batch

#: Runs before a graph is captured, in which libraries set themselves up.
_WARM_UP = 3


def graphed(program: Program, batch: Batch) -> Program | None:
    """Capture a program in a CUDA graph.

    A small step on a GPU takes as long as the launches of its kernels; a graph needs one.
    Buffers that the program changes, such as those of batch normalization, are changed by
    the runs that this takes.

    Parameters
    ----------
    program : Program
        Runs on the current CUDA device.
    batch : Batch
        Of the shape that every batch will have.

    Returns
    -------
    Program or None
        ``None`` where it cannot be captured, or there is no such device.
    """
    try:
        weight = None if batch.weight is None else batch.weight.clone()
        fixed = Batch(batch.x.clone(), batch.t.clone(), weight)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.inference_mode():
            for _ in range(_WARM_UP):
                program(*fixed)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph), torch.inference_mode():
            loss = program(*fixed)
    except (AssertionError, RuntimeError):
        return None

    def replay(x: Tensor, t: Tensor, weight: Tensor | None) -> Tensor:
        # A graph reads where it read when it was captured.
        for place, came in zip(fixed, (x, t, weight), strict=True):
            if place is not None and came is not None:
                place.copy_(came)
        graph.replay()
        return loss

    return replay
