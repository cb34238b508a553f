"""Neural networks for regression that take and give raw units, the scikit-learn way."""

from torchreg._errors import DivergenceWarning, InterruptWarning, PrecisionWarning
from torchreg.regressor import TorchRegressor

__all__ = ["DivergenceWarning", "InterruptWarning", "PrecisionWarning", "TorchRegressor"]
__version__ = "0.1.0"
