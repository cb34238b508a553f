"""True values and residuals against predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torchreg.plotting._axes import FIT, merged, new_panels, plain, require_matplotlib, text_color
from torchreg.plotting._labels import Labels, as_columns, evenly_spaced, labels_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = ("both", "actual_vs_predicted", "residual_vs_predicted")


class PredictionDisplay:
    """True values and residuals against predictions, in the units of y.

    Like :class:`sklearn.metrics.PredictionErrorDisplay`, with both panels in one figure, a column
    of panels for each output, and units on the axes.

    Parameters
    ----------
    y_true, y_pred : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        In the units of y.
    labels : Labels or None, default=None
        Names and units.
    rows : sequence of int, slice or None, default=None
        The rows to draw; ``None`` is all. The scores in the titles use all rows.

    Attributes
    ----------
    scores_ : list of (float, float)
        RMSE in the unit of y, and R2, of each output.
    axes_ : ndarray of matplotlib Axes, of shape (n_panels, n_outputs)
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> from torchreg.plotting import PredictionDisplay
    >>> mass_g = np.array([3000.0, 4000.0, 5000.0])
    >>> display = PredictionDisplay.from_predictions(
    ...     mass_g, mass_g + [90, -90, 90], units={"mass": "g"}
    ... )
    >>> [ax.get_ylabel() for ax in display.axes_[:, 0]]
    ['actual mass (g)', 'actual − predicted (g)']
    """

    def __init__(
        self,
        *,
        y_true: NDArray[np.float64],
        y_pred: NDArray[np.float64],
        labels: Labels | None = None,
        rows: Any = None,
    ) -> None:
        self.y_true = y_true
        self.y_pred = y_pred
        self.labels = labels
        self.rows = rows

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        kind: str = "both",
        units: Mapping[str, str] | None = None,
        subsample: int | None = 1000,
        ax: Any = None,
        scatter_kwargs: Mapping[str, Any] | None = None,
        line_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the predictions of a fitted regressor.

        Parameters
        ----------
        estimator : regressor
            Fitted; also a pipeline or a search.
        X : array-like of shape (n_samples, n_features)
            In the units of its fit.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The true values.
        kind, units, subsample, ax, scatter_kwargs, line_kwargs
            As in :meth:`from_predictions`.

        Returns
        -------
        display : PredictionDisplay
        """
        require_matplotlib(cls.__name__)
        y_pred = as_columns(estimator.predict(X), name="y_pred")
        labels = labels_of(estimator, X, y, units, n_outputs=y_pred.shape[1])
        return cls._drawn(y, y_pred, labels, kind, subsample, ax, scatter_kwargs, line_kwargs)

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        *,
        kind: str = "both",
        units: Mapping[str, str] | None = None,
        subsample: int | None = 1000,
        ax: Any = None,
        scatter_kwargs: Mapping[str, Any] | None = None,
        line_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw given predictions.

        Parameters
        ----------
        y_true, y_pred : array-like of shape (n_samples,) or (n_samples, n_outputs)
            In the units of y.
        kind : {"both", "actual_vs_predicted", "residual_vs_predicted"}, default="both"
            Which panels to draw.
        units : mapping of str to str or None, default=None
            Units by name, as in ``{"body_mass_g": "g"}``.
        subsample : int or None, default=1000
            Number of rows to draw at most, evenly spaced; ``None`` draws all.
        ax : matplotlib Axes, array of them or None, default=None
            Axes to divide, or one per panel; ``None`` makes a figure.
        scatter_kwargs, line_kwargs : mapping or None, default=None
            Passed to matplotlib's ``plot`` for the points and the line of perfect predictions.

        Returns
        -------
        display : PredictionDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing.
        ValueError
            If the shapes differ, or ``kind`` or a name in ``units`` is unknown.
        """
        require_matplotlib(cls.__name__)
        predicted = as_columns(y_pred, name="y_pred")
        labels = labels_of(None, None, y_true, units, n_features=0, n_outputs=predicted.shape[1])
        return cls._drawn(
            y_true, predicted, labels, kind, subsample, ax, scatter_kwargs, line_kwargs
        )

    @classmethod
    def _drawn(
        cls,
        y: Any,
        y_pred: NDArray[np.float64],
        labels: Labels,
        kind: str,
        subsample: int | None,
        ax: Any,
        scatter_kwargs: Mapping[str, Any] | None,
        line_kwargs: Mapping[str, Any] | None,
    ) -> Self:
        y_true = as_columns(y, name="y_true")
        if y_true.shape != y_pred.shape:
            raise ValueError(
                f"y_true and y_pred expect the same shape, got {y_true.shape} and {y_pred.shape}."
            )
        rows = evenly_spaced(len(y_true), subsample)
        display = cls(y_true=y_true, y_pred=y_pred, labels=labels, rows=rows)
        return display.plot(ax, kind=kind, scatter_kwargs=scatter_kwargs, line_kwargs=line_kwargs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        kind: str = "both",
        scatter_kwargs: Mapping[str, Any] | None = None,
        line_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the panels.

        Parameters
        ----------
        ax, kind, scatter_kwargs, line_kwargs
            As in :meth:`from_predictions`.

        Returns
        -------
        display : PredictionDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing.
        ValueError
            If ``kind`` is unknown, or the number of axes is wrong.
        """
        require_matplotlib(type(self).__name__)
        if kind not in KINDS:
            raise ValueError(f"kind expects one of {', '.join(KINDS)}, got {kind!r}.")
        y_true = as_columns(self.y_true, name="y_true")
        y_pred = as_columns(self.y_pred, name="y_pred")
        n_outputs = y_true.shape[1]
        both = kind == "both"
        self.axes_ = new_panels(
            ax,
            1 + both,
            n_outputs,
            figsize=(4.8 * n_outputs, 5.6 if both else 4.2),
            height_ratios=[2.2, 1] if both else None,
        )
        points = merged(
            {
                "linestyle": "none",
                "marker": "o",
                "markersize": 4.5,
                "markeredgewidth": 0,
                "color": FIT,
                "alpha": 0.45,
            },
            scatter_kwargs,
        )
        line = merged(
            {"color": text_color(), "linewidth": 1.2, "linestyle": (0, (5, 3))}, line_kwargs
        )
        rows = slice(None) if self.rows is None else self.rows
        self.scores_ = [_scores(y_true[:, j], y_pred[:, j]) for j in range(n_outputs)]
        for output in range(n_outputs):
            true, predicted = y_true[rows, output], y_pred[rows, output]
            panels = list(self.axes_[:, output])
            if kind != "residual_vs_predicted":
                self._draw_actual(panels.pop(0), output, true, predicted, points, line)
            if kind != "actual_vs_predicted":
                self._draw_residuals(panels.pop(0), output, true, predicted, points, line)
            self._describe(output, both)
        self.figure_ = self.axes_[0, 0].figure
        return self

    def _draw_actual(
        self, ax: Axes, output: int, true: Any, predicted: Any, points: Any, line: Any
    ) -> None:
        low, high = min(true.min(), predicted.min()), max(true.max(), predicted.max())
        ax.plot(predicted, true, **points)
        ax.plot([low, high], [low, high], label="perfect prediction", **line)
        ax.set_ylabel(plain(f"actual {self._labels().target(output)}", at_most=60))
        ax.legend(loc="lower right", frameon=False)

    def _draw_residuals(
        self, ax: Axes, output: int, true: Any, predicted: Any, points: Any, line: Any
    ) -> None:
        ax.plot(predicted, true - predicted, **points)
        ax.axhline(0, **line)
        unit = self._labels().unit(self._labels().targets[output])
        ax.set_ylabel(plain(f"actual − predicted ({unit})" if unit else "actual − predicted"))
        # Symmetric about 0, so that a bias is visible.
        largest = max(abs(bound) for bound in ax.get_ylim())
        ax.set_ylim(-largest, largest)

    def _describe(self, output: int, both: bool) -> None:
        labels = self._labels()
        rmse, r2 = self.scores_[output]
        unit = labels.unit(labels.targets[output])
        first, last = self.axes_[0, output], self.axes_[-1, output]
        first.set_title(plain(f"RMSE {rmse:.4g} {unit}".rstrip() + f", R² {r2:.3f}", at_most=60))
        if both:
            first.tick_params(labelbottom=False)
        last.set_xlabel(plain(f"predicted {labels.target(output)}", at_most=60))

    def _labels(self) -> Labels:
        n_outputs = as_columns(self.y_pred, name="y_pred").shape[1]
        return self.labels or labels_of(None, n_features=0, n_outputs=n_outputs)


def _scores(true: NDArray[np.float64], predicted: NDArray[np.float64]) -> tuple[float, float]:
    """RMSE and R2; R2 is NaN where y is constant."""
    squared = float(np.mean((true - predicted) ** 2))
    variance = float(np.var(true))
    return squared**0.5, 1 - squared / variance if variance > 0 else float("nan")
