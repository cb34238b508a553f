"""Axes, colors and text for all displays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Color-blind-safe colors of Okabe and Ito (2008), by their use here.
FIT = "#0072B2"  # blue: the network and its training rows
HELD_OUT = "#D55E00"  # vermilion: validation rows
MARK = "#009E73"  # green: marks

#: Longer text is cut, so that one name cannot fill a figure.
MAX_CHARACTERS = 40


def require_matplotlib(display: str) -> None:
    """Raise an error with the installation command where matplotlib is missing.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    """
    try:
        import matplotlib.pyplot  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{display} draws with matplotlib, which is not installed: "
            'pip install "torch-regressor[plot]"'
        ) from error


def new_axes(ax: Axes | None, *, figsize: tuple[float, float]) -> Axes:
    """Return the user's axes, or those of a new figure."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    _, made = plt.subplots(figsize=figsize, layout="constrained")
    made.spines[["top", "right"]].set_visible(False)
    return made


def new_panels(
    ax: Any,
    n_rows: int,
    n_columns: int,
    *,
    figsize: tuple[float, float],
    height_ratios: Sequence[float] | None = None,
) -> np.ndarray:
    """Return an array of axes: the user's, a division of the user's axes, or a new figure's.

    Returns
    -------
    ndarray of Axes, of shape (n_rows, n_columns)

    Raises
    ------
    ValueError
        If the number of axes is wrong.
    """
    if ax is None:
        import matplotlib.pyplot as plt

        figure = plt.figure(figsize=figsize, layout="constrained")
        grid = figure.add_gridspec(n_rows, n_columns, height_ratios=height_ratios)
    elif isinstance(ax, np.ndarray | list | tuple):
        given = np.asarray(ax, dtype=object)
        if given.size != n_rows * n_columns:
            raise ValueError(
                f"ax expects one axes, or an array of {n_rows * n_columns}, got {given.size}."
            )
        # (n_rows * n_columns,), or any other shape -> (n_rows, n_columns)
        return given.reshape(n_rows, n_columns)
    else:
        figure = ax.figure
        ax.set_axis_off()
        place = ax.get_subplotspec()
        if place is None:
            raise ValueError(
                "ax was placed by hand and cannot be divided: give axes of plt.subplots(), or an "
                f"array of {n_rows * n_columns} axes."
            )
        grid = place.subgridspec(n_rows, n_columns, height_ratios=height_ratios)
    panels = np.empty((n_rows, n_columns), dtype=object)
    for row, column in np.ndindex(n_rows, n_columns):
        above = panels[0, column]
        panels[row, column] = panel = figure.add_subplot(grid[row, column], sharex=above)
        panel.spines[["top", "right"]].set_visible(False)
    return panels


def legend_above(ax: Axes, handles: Sequence[Any] | None = None) -> None:
    """Put a legend above the axes, in one row, where it covers no data."""
    if handles is None:
        handles = ax.get_legend_handles_labels()[0]
    ax.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(handles),
        frameon=False,
        fontsize="small",
        handlelength=1.5,
        columnspacing=1.2,
        borderaxespad=0.2,
    )


def text_color() -> Any:
    """Return the text color of the style in use, for data on light and dark backgrounds."""
    import matplotlib as mpl

    return mpl.rcParams["text.color"]


def plain(text: object, *, at_most: int = MAX_CHARACTERS) -> str:
    r"""Escape text for matplotlib: one line, no formulas, at most ``at_most`` characters.

    Examples
    --------
    >>> plain("price ($)")
    'price (\\$)'
    """
    line = " ".join(str(text).split())
    if len(line) > at_most:
        line = line[: at_most - 1] + "…"
    # matplotlib leaves labels with a leading underscore out of the legend.
    line = f"\u200b{line}" if line.startswith("_") else line
    return line.replace("$", r"\$")


def merged(defaults: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Merge the user's keywords into the defaults, under any of matplotlib's aliases."""
    from matplotlib import cbook
    from matplotlib.lines import Line2D

    return dict(defaults) | dict(cbook.normalize_kwargs(dict(given or {}), Line2D))


def readable_log_ticks(axis: Any, low: float, high: float) -> None:
    """Label a logarithmic axis with a few plain numbers.

    Parameters
    ----------
    axis : matplotlib Axis
        On a logarithmic scale.
    low, high : float
        Range of the axis, above 0.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    decades = math.log10(high / low)
    if decades > 2.5:
        axis.set_major_locator(LogLocator(numticks=7))
        axis.set_minor_formatter(NullFormatter())
    else:
        steps = (1.0, 2.0, 5.0) if decades > 0.8 else None
        axis.set_major_locator(LogLocator(subs=steps) if steps else MaxNLocator(5))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
