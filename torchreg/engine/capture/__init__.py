"""Record a training step, compile it to a straight-line program and replay it.

A step of a small network spends most of its time in Python and autograd, not in arithmetic. Its
operations are the same in every step, so they are recorded once:

1. :class:`EagerGradient` computes loss and gradients of a batch with autograd (``gradient.py``).
2. :class:`Recorder`, a dispatch mode, lists the ATen calls of one such step (``recorder.py``).
3. ``TraceGraph`` names their tensors, drops calls whose results are constant, and refuses calls
   that depend on values (``trace.py``).
4. :func:`compile_trace` writes the rest as the source of one Python function, with gradients
   written to their destination and memory reused (``codegen.py``; ``ops.py`` lists what
   operations allow, ``numpy_kernels.py`` which products NumPy computes faster;
   ``relu_gradient.py`` computes the gradients of a ReLU layer of a stack in fewer passes).
5. :class:`CompiledGradient` runs the next step both ways, and replays the function if both agree
   (``gradient.py``); on a GPU as a CUDA graph (``cuda_graph.py``).

A step stays eager if it changes Python state, prints or has hooks (``python_state.py``), or if it
cannot be compiled; ``CompiledGradient.capture_blocker`` says why.
"""

from torchreg.engine.capture.codegen import Program, compile_trace
from torchreg.engine.capture.gradient import (
    WORTH_CAPTURING,
    CompiledGradient,
    EagerGradient,
    EagerLoss,
)
from torchreg.engine.capture.python_state import find_capture_blocker, snapshot_python_state
from torchreg.engine.capture.recorder import Call, NotCapturableError, Recorder, storage_id
from torchreg.engine.capture.tensors import all_close, restore_tensors

__all__ = [
    "WORTH_CAPTURING",
    "Call",
    "CompiledGradient",
    "EagerGradient",
    "EagerLoss",
    "NotCapturableError",
    "Program",
    "Recorder",
    "all_close",
    "compile_trace",
    "find_capture_blocker",
    "restore_tensors",
    "snapshot_python_state",
    "storage_id",
]
