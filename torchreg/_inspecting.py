"""The estimator's methods that look inside: each one hands the fit to a room below."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from torchreg._checks import check_given_rows
from torchreg.diagnosis.findings import diagnose
from torchreg.diagnosis.record import FitSummary
from torchreg.diagnosis.report import Diagnosis


class InspectionMixin:
    """What one can ask a fitted :class:`torchreg.TorchRegressor` about itself."""

    module_: Any
    fit_summary_: dict[str, Any]
    loss_curve_: list[float]
    validation_loss_curve_: list[float] | None
    best_epoch_: int

    def diagnose(self, X: ArrayLike | None = None, y: ArrayLike | None = None) -> Diagnosis:
        """Say what went on inside: what is wrong with a fit, why, and what to try.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or None, default=None
            Rows to look at, in the units of ``fit``. ``None`` takes the numbers that were noted
            of the training rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs) or None, default=None
            Their targets.

        Returns
        -------
        torchreg.diagnosis.Diagnosis
            Its findings, the worst first. It prints as text, shows as HTML in a notebook, and
            has ``to_frame()`` and ``to_dict()``; ``"dead-units" in diagnosis`` asks for a code.

        Raises
        ------
        ValueError
            If X or y do not fit those of ``fit``, or y comes without X.
        sklearn.exceptions.NotFittedError
            If ``fit`` was not called.

        Examples
        --------
        >>> import numpy as np
        >>> from torchreg import TorchRegressor
        >>> flipper_mm = np.linspace(170, 230, 100).reshape(-1, 1)
        >>> mass_g = 4000 + 25 * np.abs(flipper_mm[:, 0] - 195)
        >>> reg = TorchRegressor(module__hidden_sizes=[10], optimizer="rprop", random_state=0)
        >>> print(reg.fit(flipper_mm, mass_g).diagnose())
        Nothing to worry about: 31 parameters, 100 rows; best epoch 200 of 200; R2 = ...
        """
        check_is_fitted(self)
        x, t = check_given_rows(self, X, y, method="diagnose")
        return diagnose(
            self.module_,
            FitSummary.from_dict(self.fit_summary_),
            losses=self.loss_curve_,
            validation=self.validation_loss_curve_,
            kept_epoch=self.best_epoch_,
            feature_names=[str(name) for name in getattr(self, "feature_names_in_", [])],
            x=x,
            y=t,
        )
