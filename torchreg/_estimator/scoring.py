"""How good predictions are, by the measure that the loss of the fit makes least."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin

from torchreg._estimator.dataset import to_tensor
from torchreg._estimator.params import nested_parameters
from torchreg._serialization.placeholder import Unserialized
from torchreg.losses import PinballLoss, TweedieDeviance, absolute_error, build_loss


class ScoreMixin(RegressorMixin, BaseEstimator):
    """Adds ``score`` to a regressor with a loss."""

    def _with_loss(self) -> Any:
        """Give who has the parameters ``loss`` and ``loss__*``."""
        return self

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        r"""Score predictions by the share of the loss that they explain: 1 is perfect.

        .. math:: D^2 = 1 - \frac{\sum_i w_i\, \ell(y_i, \hat y_i)}{\sum_i w_i\, \ell(y_i, c)}

        with the constant c that is best for these rows. A regressor that estimates the mean
        has the :math:`R^2` of all regressors of scikit-learn: with the losses
        ``"squared_error"``, ``"huber"`` and ``"gaussian_nll"``, and with torch's and one's own.
        ``"absolute_error"`` and ``"quantile"`` estimate a quantile, for which :math:`R^2` says
        little: they have :math:`D^2` of the pinball loss at the level that is predicted.
        ``"poisson"``, ``"gamma"`` and ``"tweedie"`` have :math:`D^2` of their deviance, as
        scikit-learn's ``TweedieRegressor``. A search over several losses compares what it can
        compare if it is given one ``scoring``.

        Parameters
        ----------
        X : array-like, DataFrame, tensor or sparse matrix of shape (n_samples, n_features)
            Features, in the units of ``fit``.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            True targets.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of the rows.

        Returns
        -------
        float
            Dimensionless; the mean over the outputs where there are several.

        Raises
        ------
        ValueError
            If X does not fit the X of ``fit``, or y has values for which the deviance is not
            defined.

        Examples
        --------
        >>> import numpy as np
        >>> from torchreg import TorchRegressor
        >>> X = np.linspace(0, 3, 100).reshape(-1, 1)
        >>> reg = TorchRegressor(loss="poisson", random_state=0).fit(X, np.exp(X[:, 0]))
        >>> bool(reg.score(X, np.exp(X[:, 0])) > 0.99)
        True
        """
        from sklearn.metrics import d2_pinball_score, d2_tweedie_score, r2_score

        owner = self._with_loss()
        loss = owner.loss
        if not isinstance(loss, Unserialized):
            loss = build_loss(loss, nested_parameters(owner._nested, "loss")).function
        if not isinstance(loss, TweedieDeviance | PinballLoss) and loss is not absolute_error:
            prediction = self.predict(X)
            plain = _r2_of_vectors(y, prediction) if sample_weight is None else None
            if plain is not None:
                return plain
            return float(r2_score(y, prediction, sample_weight=sample_weight))
        y, prediction, weight = map(_in_numpy, (y, self.predict(X), sample_weight))
        if isinstance(loss, TweedieDeviance):
            # (n,) or (n, n_outputs) -> n_outputs of (n,)
            columns = zip(*(np.atleast_2d(np.asarray(v).T) for v in (y, prediction)), strict=True)
            options: dict[str, Any] = {"sample_weight": weight, "power": loss.power}
            return float(np.mean([d2_tweedie_score(*pair, **options) for pair in columns]))
        level = loss.link.levels[loss.link.place] if isinstance(loss, PinballLoss) else 0.5
        return float(d2_pinball_score(y, prediction, sample_weight=weight, alpha=level))


def _r2_of_vectors(y: Any, prediction: Any) -> float | None:
    """Compute the R2 of vectors with nothing special in them, with scikit-learn's operations.

    Its checks take twenty times as long for some hundred rows; whatever they might find, or say
    in their words, is left to them: ``None``.
    """
    for values in (y, prediction):
        if type(values) is not np.ndarray or values.dtype != np.float64 or values.ndim != 1:
            return None
    if y.shape != prediction.shape or len(y) < 2:
        return None
    # (n,) -> (n, 1), as there, for sums in the same order
    y, prediction = y.reshape(-1, 1), prediction.reshape(-1, 1)
    with np.errstate(all="ignore"):
        numerator = float(np.sum((y - prediction) ** 2, axis=0)[0])
        denominator = float(np.sum((y - y.mean(axis=0)) ** 2, axis=0)[0])
    if not (math.isfinite(numerator) and math.isfinite(denominator) and denominator):
        return None
    return 1 - numerator / denominator


def _in_numpy(values: Any) -> Any:
    """Bring an array of another library to numpy, which not every score knows to do."""
    if isinstance(values, np.ndarray) or not hasattr(values, "device"):
        return values
    return to_tensor(values, name="y").numpy()
