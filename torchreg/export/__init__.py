"""Export of fitted networks: graphs for other runtimes, and scripts.

:mod:`~torchreg.export.graph` converts a module to a program of ``torch.export``,
:mod:`~torchreg.export.onnx` converts such a program to an ONNX file, and
:mod:`~torchreg.export.agreement` checks that both give the predictions of ``predict`` before they
are returned or written. :mod:`torchreg.export.script` writes a training script. This package works
on modules and plain records, and knows no estimator.
"""

from torchreg.export.agreement import ReferenceOutputs, sample_rows
from torchreg.export.graph import Source, checked_program
from torchreg.export.onnx import Labels, label, write_onnx

__all__ = [
    "Labels",
    "ReferenceOutputs",
    "Source",
    "checked_program",
    "label",
    "sample_rows",
    "write_onnx",
]
