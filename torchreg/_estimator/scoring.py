"""The ``score`` method: the explained share of the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin

from torchreg._estimator.dataset import Features, convert_numbers, to_tensor
from torchreg._estimator.params import nested_parameters
from torchreg._serialization import Unserialized
from torchreg.losses import build_loss
from torchreg.losses.scores import r2


class ScoreMixin(RegressorMixin, BaseEstimator):
    """Adds ``score`` to a regressor with a loss."""

    def _with_loss(self) -> Any:
        """Return the estimator with the parameters ``loss`` and ``loss__*``."""
        return self

    def score(self, X: Features, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        r"""Compute the share of the loss that the predictions explain: 1 is perfect.

        .. math:: D^2 = 1 - \frac{\sum_i w_i\, \ell(y_i, \hat y_i)}{\sum_i w_i\, \ell(y_i, c)}

        where the constant c is the best one for these rows. For ``"squared_error"``, ``"huber"``,
        ``"gaussian_nll"``, losses of torch and functions it is :math:`R^2`, as for all regressors
        of scikit-learn. ``"absolute_error"`` and ``"quantile"`` estimate a quantile: their score
        is :math:`D^2` of the pinball loss of the predicted level. The score of ``"poisson"``,
        ``"gamma"`` and ``"tweedie"`` is :math:`D^2` of their deviance, as for scikit-learn's
        ``TweedieRegressor``. Give a search over several losses one ``scoring``, because these
        scores cannot be compared with one another.

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
        owner = self._with_loss()
        prediction = _to_numpy(self.predict(X), name="y")
        y = _to_numpy(y, name="y")
        weight = _to_numpy(sample_weight, name="sample_weight")
        if isinstance(owner.loss, Unserialized):
            return r2(y, prediction, weight)
        loss = build_loss(owner.loss, nested_parameters(owner._nested, "loss"))
        return loss.score(y, prediction, weight)


def _to_numpy(values: Any, *, name: str) -> Any:
    """Convert objects, and arrays of other libraries; other lists, tables and ``None`` stay."""
    if hasattr(values, "device") and not isinstance(values, np.ndarray):
        return to_tensor(values, name=name).numpy()
    return convert_numbers(values, name=name)
