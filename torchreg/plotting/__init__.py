"""Displays of a fitted regressor, made and used like scikit-learn's own.

``from_estimator`` computes what there is to see, ``plot`` draws it, and the display keeps both:
``ax_`` (or ``axes_``) and ``figure_`` are matplotlib's. matplotlib comes with
``pip install "torchreg[plot]"`` and is imported when a display is drawn.
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
