"""Methods of the estimator that inspect a fit: ``diagnose``, ``report`` and the HTML repr."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch import nn

from torchreg._estimator.dataset import Features
from torchreg._estimator.validation import check_optional_data
from torchreg._utils import restore_torch_state

if TYPE_CHECKING:
    from torchreg.diagnosis.report import Diagnosis


class InspectionMixin:
    """Add ``diagnose``, ``report`` and the HTML repr to an estimator."""

    module_: nn.Sequential
    dtype_: torch.dtype
    n_outputs_: int
    n_features_in_: int
    feature_names_in_: NDArray[np.object_]
    fit_summary_: dict[str, Any]
    chosen_params_: dict[str, Any]
    history_: list[dict[str, Any]]
    loss_: float
    loss_curve_: list[float]
    validation_loss_curve_: list[float] | None
    init_losses_: list[float]
    best_epoch_: int
    n_iter_: int

    @restore_torch_state
    def diagnose(self, X: Features | None = None, y: ArrayLike | None = None) -> Diagnosis:
        """Find problems of a fit, their probable causes, and remedies.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or None, default=None
            Rows to inspect, in the units of ``fit``. ``None`` uses the statistics of the training
            rows in ``fit_summary_``.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs) or None, default=None
            Their targets.

        Returns
        -------
        torchreg.diagnosis.Diagnosis
            The findings, most severe first. It prints as text, displays as HTML in a notebook,
            and has ``to_frame()`` and ``to_dict()``; ``"dead-units" in diagnosis`` tests for a
            code.

        Raises
        ------
        ValueError
            If X or y do not match those of ``fit``, or y is given without X.
        sklearn.exceptions.NotFittedError
            If ``fit`` was not called.

        Examples
        --------
        >>> import numpy as np
        >>> from torchreg import TorchRegressor
        >>> from torchreg.nn import MLP
        >>> flipper_mm = np.linspace(170, 230, 100).reshape(-1, 1)
        >>> mass_g = 4000 + 25 * np.abs(flipper_mm[:, 0] - 195)
        >>> reg = TorchRegressor(MLP, module__hidden_sizes=[10], optimizer="rprop", random_state=0)
        >>> print(reg.fit(flipper_mm, mass_g).diagnose())
        Nothing to worry about: 31 parameters, 100 rows; best epoch 200 of 200; R2 = ...
        """
        from torchreg.diagnosis.findings import diagnose
        from torchreg.diagnosis.record import FitSummary

        check_is_fitted(self)
        x, t = check_optional_data(self, X, y, method="diagnose")
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

    @restore_torch_state
    def report(
        self,
        path: str | os.PathLike[str],
        X: Any,
        y: Any,
        *,
        units: Mapping[str, str] | None = None,
        title: str | None = None,
    ) -> Path:
        """Write a report about the fit as one self-contained HTML file.

        It contains scores (of held-out rows, too, if ``fit`` had any), the findings of
        :meth:`diagnose`, the figures of :mod:`torchreg.plotting`, permutation importances and
        partial dependence for 3 to 500 features, the network with its scaling, a summary of X and
        y, and the parameters and versions needed to repeat the fit.

        Parameters
        ----------
        path : str or path
            The file, such as ``"report.html"``; an existing one is replaced.
        X : array-like, DataFrame, tensor or sparse matrix of shape (n_samples, n_features)
            Rows to show, in the units of ``fit``: the training rows, or others.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        units : mapping of str to str or None, default=None
            Units by column, as in ``{"flipper_length_mm": "mm", "body_mass_g": "g"}``. A name that
            is not that of a feature is used for y, if y has no name.
        title : str or None, default=None
            Title of the page.

        Returns
        -------
        Path
            Path of the file.

        Raises
        ------
        ImportError
            If matplotlib is missing: ``pip install "torch-regressor[plot]"``.
        ValueError
            If X or y do not match those of ``fit``, or ``units`` has an unknown name.
        sklearn.exceptions.NotFittedError
            If ``fit`` was not called.

        Examples
        --------
        >>> import tempfile
        >>> from pathlib import Path
        >>> from torchreg import TorchRegressor
        >>> X, y = [[181.0], [186.0], [195.0], [210.0]], [3750.0, 3800.0, 3250.0, 4400.0]
        >>> reg = TorchRegressor(max_epochs=5, random_state=0).fit(X, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = reg.report(Path(folder) / "report.html", X, y, units={"mass": "g"})
        ...     page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
        True
        """
        from torchreg.reporting import write_report

        diagnosis = self.diagnose(X, y)
        return write_report(path, self, X, y, diagnosis=diagnosis, units=units, title=title)

    @restore_torch_state
    def _get_params_html(self, *args: Any, **kwargs: Any) -> Any:
        """Add the fitted network to the parameters in scikit-learn's diagrams."""
        # The next class of the estimator's bases has the method, which a mixin cannot say.
        table = super()._get_params_html(*args, **kwargs)  # type: ignore[misc]
        if hasattr(self, "module_"):
            from torchreg.plotting._labels import labels_of
            from torchreg.reporting import network_html

            labels = labels_of(self, n_outputs=self.n_outputs_)
            html = table._html_repr() + network_html(self.module_, labels.features, labels.targets)
            table._html_repr = lambda: html
        return table
