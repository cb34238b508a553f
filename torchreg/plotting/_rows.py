"""The drawing of activations and parameters: one row per layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from torchreg.plotting._axes import (
    FIT,
    legend_above,
    merged,
    new_axes,
    plain,
    require_matplotlib,
    text_color,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

BINS = 60

#: A range this many times wider than that of the median row gets a symmetric logarithmic axis:
#: on a linear axis most rows would be a single bar at 0.
WIDE_RANGE = 30.0


class Layer(NamedTuple):
    """A row of the display: values of a layer before and after the fit, shape (n_values,) each."""

    name: str
    before: Array | None
    after: Array


def pool_layers(layers: Iterable[Layer]) -> list[Layer]:
    """Concatenate the values of layers with the same name in several networks.

    Examples
    --------
    >>> one, other = np.zeros(2), np.ones(1)
    >>> pool_layers([Layer("bias", None, one), Layer("bias", None, other)])
    [Layer(name='bias', before=None, after=array([0., 0., 1.]))]
    """
    rows: dict[str, list[Layer]] = {}
    for layer in layers:
        rows.setdefault(layer.name, []).append(layer)
    found = []
    for name, of_all in rows.items():
        before = [layer.before for layer in of_all if layer.before is not None]
        known = len(before) == len(of_all)
        after = np.concatenate([layer.after for layer in of_all])
        found.append(Layer(name, np.concatenate(before) if known else None, after))
    return found


class LayerDisplay:
    """Base class: one row per layer, with distributions before and after the fit.

    Parameters
    ----------
    layers : sequence of Layer
        From the input to the output.
    standardized : bool, default=True
        Whether X and y are standardized, so that the values are dimensionless.
    n_networks : int, default=1
        Number of networks with the same layers that the values come from.
    """

    #: Name of the plotted quantity.
    quantity = ""

    def __init__(
        self, *, layers: Sequence[Layer], standardized: bool = True, n_networks: int = 1
    ) -> None:
        self.layers = layers
        self.standardized = standardized
        self.n_networks = n_networks

    def plot(
        self,
        ax: Axes | None = None,
        *,
        xscale: str = "auto",
        before_kwargs: Mapping[str, Any] | None = None,
        after_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw one row per layer: an outline before the fit, a filled shape after it.

        Each row has its own height scale. Where more than 5 % of a layer's values are 0, as after
        a ReLU, their share is written below its name and not drawn.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to draw on; ``None`` makes a figure.
        xscale : {"auto", "linear", "symlog"}, default="auto"
            ``"auto"`` is linear unless one layer's values are much larger than another's.
        before_kwargs, after_kwargs : mapping or None, default=None
            Passed to matplotlib's ``plot`` and ``fill_between``.

        Returns
        -------
        display
            With ``ax_`` and ``figure_``.

        Raises
        ------
        ImportError
            If matplotlib is missing.
        """
        require_matplotlib(type(self).__name__)
        n = len(self.layers)
        ax = new_axes(ax, figsize=(6.4, 1.3 + 0.62 * n))
        edges, linear_up_to = self._edges(xscale)
        before_style = merged(
            {"color": text_color(), "linewidth": 1.2, "alpha": 0.8}, before_kwargs
        )
        after_style: dict[str, Any] = {"color": FIT, "alpha": 0.55, "linewidth": 0}
        after_style |= dict(after_kwargs or {})
        names = []
        for row, layer in enumerate(self.layers):
            baseline = n - 1 - row
            ax.axhline(baseline, color=text_color(), linewidth=0.5, alpha=0.5, zorder=1)
            shape, zeros = _shape(layer.after, edges)
            ax.stairs(
                baseline + 0.8 * shape, edges, baseline=baseline, fill=True, zorder=2, **after_style
            )
            words = f"\n{zeros:.0%} are 0" if zeros else ""
            if layer.before is not None:
                shape, zeros = _shape(layer.before, edges)
                ax.stairs(
                    baseline + 0.8 * shape, edges, baseline=baseline, zorder=3, **before_style
                )
                words += f", before {zeros:.0%}" if zeros and words else ""
            names.append(plain(layer.name) + words)
        if linear_up_to:
            ax.set_xscale("symlog", linthresh=linear_up_to)
        ax.set_xlim(edges[0], edges[-1])
        ax.set_ylim(-0.15, n)
        ax.set_yticks(range(n), names[::-1])
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel(self._label())
        self._add_legend(ax, before_style, after_style)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _label(self) -> str:
        what, unit = self.quantity, " (dimensionless)" if self.standardized else ""
        if self.n_networks > 1:
            # Two lines, because a long label does not fit a narrow figure.
            return f"{what}s of {self.n_networks} networks\n{unit.strip()}".strip()
        return what + unit

    def _add_legend(self, ax: Axes, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        handles: list[Any] = []
        if any(layer.before is not None for layer in self.layers):
            handles.append(Line2D([], [], **before, label="before the fit"))
        handles.append(Patch(**after, label="after the fit"))
        legend_above(ax, handles)

    def _edges(self, xscale: str) -> tuple[Array, float]:
        """Choose bin edges, and the bound up to which the axis is linear (0: everywhere)."""
        if xscale not in ("auto", "linear", "symlog"):
            raise ValueError(f"xscale expects 'auto', 'linear' or 'symlog', got {xscale!r}.")
        rows = [row for layer in self.layers for row in layer[1:] if row is not None and len(row)]
        largest = np.array([np.abs(row).max() for row in rows] or [1.0])
        low = min([float(row.min()) for row in rows] or [0.0])
        high = max([float(row.max()) for row in rows] or [1.0])
        usual = float(np.median(largest))
        wide = usual > 0 and largest.max() > WIDE_RANGE * usual
        if xscale == "linear" or (xscale == "auto" and not wide):
            margin = 0.03 * (high - low) or 1.0
            return np.linspace(low - margin, high + margin, BINS + 1), 0.0
        # Bins of equal width on the drawn axis.
        linear = usual or 1.0
        first, last = (math.asinh(1.1 * bound / linear) for bound in (low, high))
        if first == last:
            first, last = first - 1, last + 1
        return linear * np.sinh(np.linspace(first, last, BINS + 1)), linear


def _shape(values: Array, edges: Array) -> tuple[Array, float]:
    """Return counts per bin, scaled to a maximum of 1, and the share of zeros if it is large."""
    zeros = float(np.mean(values == 0)) if len(values) else 0.0
    if zeros <= 0.05 or len(values) < 20:
        zeros = 0.0
    counts = np.histogram(values[values != 0] if zeros else values, edges)[0]
    return counts / max(counts.max(), 1), zeros
