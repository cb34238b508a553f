"""Displays of a fitted regressor, with the interface of scikit-learn's displays.

``from_estimator`` computes the data and draws them; ``plot`` draws them again. The display keeps
the data, and matplotlib's objects as ``ax_`` (or ``axes_``) and ``figure_``. matplotlib comes with
``pip install "torch-regressor[plot]"`` and is imported when a display is drawn.
"""

from torchreg.plotting._labels import Labels
from torchreg.plotting.fit import FitDisplay
from torchreg.plotting.layers import ActivationDisplay, ParameterDisplay
from torchreg.plotting.loss_curve import LossCurveDisplay
from torchreg.plotting.prediction import PredictionDisplay

__all__ = [
    "ActivationDisplay",
    "FitDisplay",
    "Labels",
    "LossCurveDisplay",
    "ParameterDisplay",
    "PredictionDisplay",
]
