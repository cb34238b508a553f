"""Neural networks for regression that take and give raw units, the scikit-learn way."""

from torchreg._errors import (
    CheckpointError,
    DivergenceWarning,
    FileError,
    InterruptWarning,
    PrecisionWarning,
    UntrustedError,
    UnwrittenWarning,
)
from torchreg._loading import load
from torchreg.regressor import TorchRegressor

__all__ = [
    "CheckpointError",
    "DivergenceWarning",
    "FileError",
    "InterruptWarning",
    "PrecisionWarning",
    "TorchRegressor",
    "UntrustedError",
    "UnwrittenWarning",
    "load",
]
__version__ = "0.1.0"
