"""Neural networks for regression that take and give raw units, the scikit-learn way."""

from torchreg._errors import (
    CheckpointError,
    DeadUnitsWarning,
    DivergenceWarning,
    EffectivelyLinearWarning,
    ExportError,
    FileError,
    InterruptWarning,
    PrecisionWarning,
    UnscaledWarning,
    UntrustedError,
    UnwrittenWarning,
)
from torchreg._loading import load
from torchreg.ensemble import TorchEnsembleRegressor
from torchreg.regressor import TorchRegressor

__all__ = [
    "CheckpointError",
    "DeadUnitsWarning",
    "DivergenceWarning",
    "EffectivelyLinearWarning",
    "ExportError",
    "FileError",
    "InterruptWarning",
    "PrecisionWarning",
    "TorchEnsembleRegressor",
    "TorchRegressor",
    "UnscaledWarning",
    "UntrustedError",
    "UnwrittenWarning",
    "load",
]
__version__ = "0.1.0"
