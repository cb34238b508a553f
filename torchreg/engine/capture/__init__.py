"""Record a training step, compile it to a straight-line program and replay it."""

from torchreg.engine.capture.codegen import Program, compile_trace
from torchreg.engine.capture.eager import EagerGradient, EagerLoss
from torchreg.engine.capture.gradient import WORTH_CAPTURING, CompiledGradient
from torchreg.engine.capture.python_state import find_capture_blocker, snapshot_python_state
from torchreg.engine.capture.recorder import Call, NotCapturableError, Recorder, storage_id
from torchreg.engine.capture.tensors import all_close, iter_tensors, restore_tensors

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
    "iter_tensors",
    "restore_tensors",
    "snapshot_python_state",
    "storage_id",
]
