"""The estimator's methods that look inside: each one hands the fit to a room below."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from torchreg._estimator.validation import check_given_rows

if TYPE_CHECKING:
    from torchreg.diagnosis.report import Diagnosis


class InspectionMixin:
    """What one can ask a fitted :class:`torchreg.TorchRegressor` about itself."""

    module_: Any
    n_outputs_: int
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

    def report(
        self,
        path: str | os.PathLike[str],
        X: Any,
        y: Any,
        *,
        units: Mapping[str, str] | None = None,
        title: str | None = None,
    ) -> Path:
        """Write a page about the fit: one HTML file that needs no network and no other file.

        It holds the findings of :meth:`diagnose`, the figures of :mod:`torchreg.plotting`, the
        network with its constants, a summary of X and y, and the settings and versions that
        make the fit again. It reads on a phone, in the dark and on paper.

        Parameters
        ----------
        path : str or path
            Where to write, as in ``"report.html"``. A file that is there is replaced, as a
            whole.
        X : array-like, DataFrame, tensor or sparse matrix of shape (n_samples, n_features)
            The rows to show, in the units of ``fit``: those of the fit, or others.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        units : mapping of str to str or None, default=None
            Units by name, as in ``{"flipper_length_mm": "mm", "body_mass_g": "g"}``. What
            names no feature names y, if y has no name of its own.
        title : str or None, default=None
            Of the page.

        Returns
        -------
        Path
            Of the file.

        Raises
        ------
        ImportError
            If matplotlib is missing: ``pip install "torchreg[plot]"``.
        ValueError
            If X or y do not fit those of ``fit``, or ``units`` names what is not there.
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

    def _html_repr(self) -> str:
        """Show scikit-learn's diagram and, once fitted, the network below it."""
        diagram: str = super()._html_repr()  # type: ignore[misc]
        if not hasattr(self, "module_"):
            return diagram
        from torchreg.plotting._labels import labels_of
        from torchreg.reporting import network_html

        labels = labels_of(self, n_outputs=self.n_outputs_)
        return diagram + network_html(self.module_, labels.features, labels.targets)
