"""The fit over one or two features: data, prediction and kinks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array

from torchreg.plotting._axes import (
    FIT,
    legend_above,
    merged,
    new_axes,
    plain,
    require_matplotlib,
    text_color,
)
from torchreg.plotting._inside import kink_lines, kinks_along
from torchreg.plotting._labels import Labels, as_columns, evenly_spaced, labels_of, n_networks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

#: Of more bends, the legend gives the number only.
MAX_LISTED = 3
#: More lines would hide the map.
MAX_LINES = 200


class FitDisplay:
    """A fit over one feature as a curve, over two as a map, with the data and the bends.

    Networks with ReLU-like activations are linear between bends. With one feature, bends are
    circles on the curve and ticks on the axis; with two, thin lines, unless there are more than
    200 of them. A mean of several networks is drawn without bends.

    Parameters
    ----------
    X : ndarray of shape (n_samples, 1) or (n_samples, 2)
        Rows to draw, in the units of the features.
    y : ndarray of shape (n_samples,) or None
        Their targets.
    grid : list of ndarray
        One or two axes, in the units of the features.
    prediction : ndarray of shape (n_grid,) or (n_grid_of_second, n_grid_of_first)
        On the grid, in the unit of y.
    bends : ndarray of shape (n_bends,), list of ndarray of shape (n_points, 2) or None
        Positions of the bends; ``None`` if unknown.
    target : int, default=0
        Index of the output.
    labels : Labels or None, default=None
        Names and units.

    Attributes
    ----------
    points_ : matplotlib artist or None
        The data.
    curve_ : matplotlib Line2D or None
        With one feature.
    map_ : matplotlib QuadContourSet or None
        With two.
    bends_ : matplotlib artist or None
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> from torchreg import TorchRegressor
    >>> from torchreg.nn import MLP
    >>> from torchreg.plotting import FitDisplay
    >>> flipper_mm = np.linspace(170, 230, 100).reshape(-1, 1)
    >>> mass_g = 4000 + 25 * np.abs(flipper_mm[:, 0] - 200)
    >>> reg = TorchRegressor(
    ...     MLP, module__hidden_sizes=[5], optimizer="rprop", max_epochs=300, random_state=0
    ... ).fit(flipper_mm, mass_g)
    >>> display = FitDisplay.from_estimator(
    ...     reg, flipper_mm, mass_g, units={"x0": "mm", "y": "g"}
    ... )
    >>> display.ax_.get_xlabel(), display.ax_.get_ylabel()
    ('x0 (mm)', 'y (g)')
    >>> bool(abs(display.bends - 200).min() < 1)
    True
    """

    def __init__(
        self,
        *,
        X: Array,
        y: Array | None,
        grid: Sequence[Array],
        prediction: Array,
        bends: Any = None,
        target: int = 0,
        labels: Labels | None = None,
    ) -> None:
        self.X = X
        self.y = y
        self.grid = grid
        self.prediction = prediction
        self.bends = bends
        self.target = target
        self.labels = labels

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        target: int = 0,
        units: Mapping[str, str] | None = None,
        grid_resolution: int | None = None,
        subsample: int | None = 1000,
        ax: Axes | None = None,
        point_kwargs: Mapping[str, Any] | None = None,
        curve_kwargs: Mapping[str, Any] | None = None,
        contour_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the fit over the range of X.

        Parameters
        ----------
        estimator : regressor
            Fitted. Bends are drawn for a ``TorchRegressor`` itself; a pipeline around one, or any
            other regressor, is drawn without.
        X : array-like of shape (n_samples, 1) or (n_samples, 2)
            In the units of the features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs) or None, default=None
            Targets of the rows.
        target : int, default=0
            Index of the output to draw.
        units : mapping of str to str or None, default=None
            Units by name, as in ``{"flipper_length_mm": "mm", "body_mass_g": "g"}``.
        grid_resolution : int or None, default=None
            Points per axis; ``None`` is 400 for a curve and 120 for a map.
        subsample : int or None, default=1000
            Number of rows to draw at most, evenly spaced; ``None`` draws all.
        ax, point_kwargs, curve_kwargs, contour_kwargs
            As in :meth:`plot`.

        Returns
        -------
        display : FitDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing.
        ValueError
            If X has more than two features, or ``target`` is out of range.
        """
        require_matplotlib(cls.__name__)
        table = check_array(X, dtype=np.float64, accept_sparse="csr")
        n_features = table.shape[1]
        if n_features > 2:
            raise ValueError(
                f"{cls.__name__} expects one or two features, X has {n_features}. For more, "
                "sklearn.inspection.PartialDependenceDisplay shows some at a time."
            )
        table = table.toarray() if hasattr(table, "toarray") else table
        n_outputs = as_columns(estimator.predict(_like(X, table[:1])), name="y").shape[1]
        if not 0 <= target < n_outputs:
            raise ValueError(f"target expects an output from 0 to {n_outputs - 1}, got {target}.")
        # 1. The axes of the grid, a little wider than the data.
        resolution = grid_resolution or (400, 120)[n_features - 1]
        grid = [_axis(column, resolution) for column in table.T]
        # 2. The bends, which become points of the grid. The mean of several networks has many and
        # is nearly smooth.
        one_network = hasattr(estimator, "module_") and n_networks_of(estimator) == 1
        bends: Any = None
        if one_network and n_features == 1:
            low, high = float(table.min()), float(table.max())
            bends = kinks_along(estimator.module_, low, high, output=target)
            grid = [np.union1d(grid[0], bends)]
        elif one_network:
            bends = kink_lines(estimator.module_, *grid)
        # 3. The prediction.
        points = np.stack([axis.ravel() for axis in np.meshgrid(*grid)], axis=1)
        predicted = as_columns(estimator.predict(_like(X, points)), name="the prediction")
        # 4. The data.
        rows = evenly_spaced(len(table), subsample)
        display = cls(
            X=table[rows],
            y=None if y is None else as_columns(y, name="y")[rows, target],
            grid=grid,
            # (n_grid,) or (n_second * n_first,) -> (n_grid,) or (n_second, n_first)
            prediction=predicted[:, target].reshape([len(axis) for axis in reversed(grid)]),
            bends=bends,
            target=target,
            labels=labels_of(estimator, X, y, units, n_features=n_features, n_outputs=n_outputs),
        )
        styles = {"point_kwargs": point_kwargs, "curve_kwargs": curve_kwargs}
        return display.plot(ax, **styles, contour_kwargs=contour_kwargs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        point_kwargs: Mapping[str, Any] | None = None,
        curve_kwargs: Mapping[str, Any] | None = None,
        contour_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the curve or the map.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to draw on; ``None`` makes a figure.
        point_kwargs : mapping or None, default=None
            Style of the data, for matplotlib's ``plot`` (curve) or ``scatter`` (map).
        curve_kwargs : mapping or None, default=None
            Style of the curve, for ``plot``.
        contour_kwargs : mapping or None, default=None
            Style of the map, for ``contourf``.

        Returns
        -------
        display : FitDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing.
        """
        require_matplotlib(type(self).__name__)
        self.points_: Any = None
        self.curve_: Any = None
        self.map_: Any = None
        self.bends_: Any = None
        ax = new_axes(ax, figsize=(6.4, 4.4))
        if len(self.grid) == 1:
            self._plot_curve(ax, point_kwargs, curve_kwargs)
        else:
            self._plot_map(ax, point_kwargs, contour_kwargs)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _plot_curve(
        self,
        ax: Axes,
        point_kwargs: Mapping[str, Any] | None,
        curve_kwargs: Mapping[str, Any] | None,
    ) -> None:
        (axis,) = self.grid
        labels = self._labels()
        if self.y is not None:
            points = {
                "linestyle": "none",
                "marker": "o",
                "markersize": 4,
                "markeredgewidth": 0,
                "color": text_color(),
                "alpha": 0.4,
                "label": "data",
            }
            (self.points_,) = ax.plot(self.X[:, 0], self.y, **merged(points, point_kwargs))
        curve = {"color": FIT, "linewidth": 2.5, "label": "fit"}
        (self.curve_,) = ax.plot(axis, self.prediction, **merged(curve, curve_kwargs))
        if self.bends is not None and len(self.bends):
            color = self.curve_.get_color()
            (self.bends_,) = ax.plot(
                self.bends,
                np.interp(self.bends, axis, self.prediction),
                linestyle="none",
                marker="o",
                markersize=7,
                markerfacecolor="white",
                markeredgecolor=color,
                markeredgewidth=1.8,
                zorder=3,
                label=self._bends_label(),
            )
            for bend in self.bends:
                ax.axvline(bend, ymax=0.035, color=color, linewidth=1.8)
        ax.set_xlabel(plain(labels.feature(0), at_most=60))
        ax.set_ylabel(plain(labels.target(self.target), at_most=60))
        legend_above(ax)

    def _bends_label(self) -> str:
        unit = self._labels().unit(self._labels().features[0])
        n = len(self.bends)
        if n > MAX_LISTED:
            return f"{n} bends"
        # Three significant digits relative to the range.
        farthest = np.abs(self.grid[0]).max() / np.ptp(self.grid[0])
        digits = 3 + max(0, int(np.ceil(np.log10(farthest))))
        places = ", ".join(f"{bend:.{digits}g}" for bend in self.bends)
        return plain(f"bend{'s' if n > 1 else ''} at {places} {unit}".rstrip(), at_most=60)

    def _plot_map(
        self,
        ax: Axes,
        point_kwargs: Mapping[str, Any] | None,
        contour_kwargs: Mapping[str, Any] | None,
    ) -> None:
        from matplotlib.collections import LineCollection
        from matplotlib.colors import Normalize

        labels = self._labels()
        both = self.prediction if self.y is None else np.append(self.prediction, self.y)
        norm = Normalize(float(np.min(both)), float(np.max(both)))
        options: dict[str, Any] = {"levels": 24, "cmap": "cividis", "norm": norm}
        options |= dict(contour_kwargs or {})
        self.map_ = ax.contourf(*self.grid, self.prediction, **options)
        drawn = bool(self.bends) and len(self.bends) <= MAX_LINES
        if drawn:
            # Many lines are drawn more transparent, because they hide more of the map.
            alpha = 0.25 + 0.5 / (1 + len(self.bends) / 10)
            self.bends_ = LineCollection(list(self.bends), colors="white", alpha=alpha)
            self.bends_.set_linewidth(1.0)
            ax.add_collection(self.bends_, autolim=False)
        if self.y is not None:
            # In the colors of the map: a point contrasts where the fit is wrong.
            points: dict[str, Any] = {"c": self.y, "cmap": self.map_.get_cmap(), "norm": norm}
            points |= {"s": 26, "edgecolors": "white", "linewidths": 0.7}
            self.points_ = ax.scatter(*self.X.T, **points | dict(point_kwargs or {}))
        words = ["points: data"] * (self.y is not None) + ["lines: bends"] * drawn
        ax.set_title(", ".join(words), fontsize="medium", loc="left")
        bar = ax.figure.colorbar(self.map_, ax=ax)
        bar.set_label(plain(labels.target(self.target), at_most=60))
        ax.set_xlim(self.grid[0][0], self.grid[0][-1])
        ax.set_ylim(self.grid[1][0], self.grid[1][-1])
        ax.set_xlabel(plain(labels.feature(0), at_most=60))
        ax.set_ylabel(plain(labels.feature(1), at_most=60))

    def _labels(self) -> Labels:
        return self.labels or labels_of(None, n_features=len(self.grid), n_outputs=self.target + 1)


def _axis(column: Array, resolution: int) -> Array:
    low, high = float(column.min()), float(column.max())
    # The axis of a constant feature gets a margin of 2 % of its value.
    margin = 0.02 * (high - low) or max(abs(low), 1.0) * 0.02
    return np.linspace(low - margin, high + margin, resolution)


def _like(X: Any, points: Array) -> Any:
    """Convert points to the type of X, with its column names."""
    if not hasattr(X, "columns"):
        return points
    # The keyword is `columns` in pandas and `schema` in polars.
    return type(X)(points, **{"columns" if hasattr(X, "iloc") else "schema": list(X.columns)})
