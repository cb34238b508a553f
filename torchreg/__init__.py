"""Neural networks for regression with the scikit-learn API, in raw units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from joblib import register_parallel_backend

from torchreg._loading import load
from torchreg._utils import __version__
from torchreg.ensemble import TorchEnsembleRegressor
from torchreg.exceptions import (
    BoundedOutputWarning,
    CallbackWarning,
    CheckpointError,
    DeadUnitsWarning,
    DivergenceWarning,
    EffectivelyLinearWarning,
    ExportError,
    FileError,
    InstallationWarning,
    InterruptWarning,
    NetworkFailedWarning,
    PrecisionWarning,
    UnscaledWarning,
    UnserializedWarning,
    UntrustedError,
    ValidationWarning,
    WorseThanConstantWarning,
)
from torchreg.regressor import TorchRegressor

if TYPE_CHECKING:
    from torchreg.parallel import TorchregBackend

__all__ = [
    "BoundedOutputWarning",
    "CallbackWarning",
    "CheckpointError",
    "DeadUnitsWarning",
    "DivergenceWarning",
    "EffectivelyLinearWarning",
    "ExportError",
    "FileError",
    "InstallationWarning",
    "InterruptWarning",
    "NetworkFailedWarning",
    "PrecisionWarning",
    "TorchEnsembleRegressor",
    "TorchRegressor",
    "UnscaledWarning",
    "UnserializedWarning",
    "UntrustedError",
    "ValidationWarning",
    "WorseThanConstantWarning",
    "__version__",
    "load",
]


def _backend(**options: Any) -> TorchregBackend:
    """Create the backend of ``joblib.parallel_config(backend="torchreg")`` on first use."""
    from torchreg.parallel import TorchregBackend

    return TorchregBackend(**options)


register_parallel_backend("torchreg", _backend)
