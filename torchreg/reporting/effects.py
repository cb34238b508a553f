"""What a network of several features learned: permutation importances and partial dependence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.utils import check_array

from torchreg.plotting._axes import FIT, plain, text_color
from torchreg.plotting._labels import Labels, as_columns, evenly_spaced
from torchreg.plotting.fit import _like
from torchreg.reporting.figures import MAX_OUTPUTS, MAX_ROWS, Figure, draw
from torchreg.reporting.render import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

#: Features that are shuffled at most: each takes a prediction.
MAX_FEATURES = 500
#: Bars in a figure of importances, and figures of dependence, at most.
MAX_BARS, MAX_CURVES = 12, 4
#: Shuffles of each column, rows that are averaged, and points of a curve.
N_REPEATS, N_AVERAGED, N_POINTS = 3, 100, 40


def draw_effects(estimator: Any, X: Any, true: Array, labels: Labels) -> Iterator[Figure]:
    """Draw importances of 3 to 500 features, and the dependence on the most important ones."""
    if not 2 < len(labels.features) <= MAX_FEATURES:
        return
    chosen = evenly_spaced(len(true), MAX_ROWS)
    rows = check_array(X, dtype=np.float64, accept_sparse="csr")[chosen]
    rows = rows.toarray() if hasattr(rows, "toarray") else rows

    def predict(points: Array) -> Array:
        with sklearn.config_context(array_api_dispatch=False):
            return as_columns(estimator.predict(_like(X, points)), name="the prediction")

    rises = permutation_importances(predict, rows, true[chosen])
    n_outputs = min(len(labels.targets), MAX_OUTPUTS)
    for output in range(n_outputs):
        name = shorten(labels.targets[output])
        order = np.argsort(-rises[:, output], kind="stable")
        bars = order[:MAX_BARS]
        words = (
            f"Rise of the RMSE where a column is shuffled, which breaks its relation to {name}: "
            f"means of {N_REPEATS} shuffles of {len(rows)} rows. Correlated columns share it."
        )
        if len(bars) < len(order):
            words += f" The {len(bars)} largest of {len(order)}."
        plot = partial(_plot_bars, rises=rises[bars, output], bars=bars, labels=labels, at=output)
        svg = draw(plot, (4.6, 1.2 + 0.3 * len(bars)))
        yield Figure(f"{name}: importances of the features", words, svg)
        curves = {
            int(column): partial_dependence(predict, rows, int(column))
            for column in order[: max(1, MAX_CURVES // n_outputs)]
        }
        means = np.concatenate([mean[:, output] for _, mean in curves.values()])
        words = (
            "Mean prediction where this column is set to each value and the others stay as they "
            "are; marks: deciles of the column."
        )
        for column, (grid, mean) in curves.items():
            plot = partial(
                _plot_curve,
                values=rows[:, column],
                grid=grid,
                mean=mean[:, output],
                limits=(means.min(), means.max()),
                names=(labels.feature(column), labels.target(output)),
            )
            feature = shorten(labels.features[column])
            yield Figure(f"{name} over {feature}", words, draw(plot, (4.6, 3.6)))


def permutation_importances(predict: Callable[[Array], Array], rows: Array, true: Array) -> Array:
    """Compute how much shuffling a column raises each RMSE (Breiman, "Random Forests", 2001).

    Returns an array of shape (n_features, n_outputs), in the units of y.
    """
    rng = np.random.default_rng(0)

    def rmse(points: Array) -> Array:
        # (n_repeats * n, n_outputs) -> (n_repeats, n, n_outputs)
        error = predict(points).reshape(-1, *true.shape) - true
        return np.asarray(np.sqrt(np.mean(error**2, axis=1)).mean(axis=0))

    before, rises = rmse(rows), []
    shuffled = np.tile(rows, (N_REPEATS, 1))
    for column in range(rows.shape[1]):
        shuffled[:, column] = np.concatenate(
            [rng.permutation(v) for v in [rows[:, column]] * N_REPEATS]
        )
        rises.append(rmse(shuffled) - before)
        shuffled[:, column] = np.tile(rows[:, column], N_REPEATS)
    return np.array(rises)


def partial_dependence(
    predict: Callable[[Array], Array], rows: Array, column: int
) -> tuple[Array, Array]:
    """Average predictions over a column (Friedman, "Greedy function approximation", 2001).

    Returns values of the column between its percentiles 1 and 99, or all of few values, and mean
    predictions of shape (n_values, n_outputs).
    """
    grid = np.unique(rows[:, column])
    if len(grid) > N_POINTS:
        low, high = np.quantile(rows[:, column], [0.01, 0.99])
        grid = np.linspace(low, high, N_POINTS)
    averaged = rows[evenly_spaced(len(rows), N_AVERAGED)]
    points = np.repeat(averaged, len(grid), axis=0)
    points[:, column] = np.tile(grid, len(averaged))
    predicted = predict(points)
    # (n_averaged * n_points, n_outputs) -> (n_averaged, n_points, n_outputs)
    return grid, predicted.reshape(len(averaged), len(grid), -1).mean(axis=0)


def _plot_bars(ax: Axes, *, rises: Array, bars: Any, labels: Labels, at: int) -> None:
    ax.barh(range(len(bars)), rises, color=FIT, height=0.7)
    ax.set_yticks(range(len(bars)), [plain(labels.features[bar], at_most=24) for bar in bars])
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(plain(labels.of_target("rise of RMSE", at), at_most=60))


def _plot_curve(
    ax: Axes, *, values: Array, grid: Array, mean: Array, limits: Any, names: tuple[str, str]
) -> None:
    ax.plot(grid, mean, color=FIT, linewidth=2.5, marker="o" if len(grid) <= 10 else None)
    # All curves of an output have the same scale, so that their ranges can be compared.
    ax.update_datalim([(grid[0], limit) for limit in limits])
    ax.autoscale_view()
    deciles = np.quantile(values, np.linspace(0.1, 0.9, 9))
    ax.plot(deciles, np.full(9, 0.02), "|", color=text_color(), transform=ax.get_xaxis_transform())
    ax.set_xlabel(plain(names[0], at_most=60))
    ax.set_ylabel(plain(f"mean prediction of {names[1]}", at_most=60))
