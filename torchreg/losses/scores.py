"""Scores of predictions in raw units: 1 is perfect, 0 is that of the best constant."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def r2(y: Any, prediction: Any, sample_weight: Any = None) -> float:
    """Compute the coefficient of determination, as scikit-learn does."""
    found = _r2_of_vectors(y, prediction) if sample_weight is None else None
    if found is not None:
        return found
    from sklearn.metrics import r2_score

    return float(r2_score(y, prediction, sample_weight=sample_weight))


def d2_pinball(y: Any, prediction: Any, sample_weight: Any, level: float) -> float:
    """Compute the explained share of the pinball loss of a level."""
    from sklearn.metrics import d2_pinball_score

    return float(d2_pinball_score(y, prediction, sample_weight=sample_weight, alpha=level))


def d2_tweedie(y: Any, prediction: Any, sample_weight: Any, power: float) -> float:
    """Compute the explained share of the Tweedie deviance, averaged over the outputs."""
    from sklearn.metrics import d2_tweedie_score

    # (n,) or (n, n_outputs) -> n_outputs of (n,)
    columns = zip(*(np.atleast_2d(np.asarray(v).T) for v in (y, prediction)), strict=True)
    options: dict[str, Any] = {"sample_weight": sample_weight, "power": power}
    return float(np.mean([d2_tweedie_score(*pair, **options) for pair in columns]))


def _r2_of_vectors(y: Any, prediction: Any) -> float | None:
    """Compute the R2 of finite float64 vectors with scikit-learn's operations, else ``None``.

    The checks of ``r2_score`` take twenty times as long for a few hundred rows.
    """
    for values in (y, prediction):
        if type(values) is not np.ndarray or values.dtype != np.float64 or values.ndim != 1:
            return None
    if y.shape != prediction.shape or len(y) < 2:
        return None
    # (n,) -> (n, 1), as in scikit-learn, for sums in the same order
    y, prediction = y.reshape(-1, 1), prediction.reshape(-1, 1)
    with np.errstate(all="ignore"):
        numerator = float(np.sum((y - prediction) ** 2, axis=0)[0])
        denominator = float(np.sum((y - y.mean(axis=0)) ** 2, axis=0)[0])
    if not (math.isfinite(numerator) and math.isfinite(denominator) and denominator):
        return None
    return 1 - numerator / denominator
