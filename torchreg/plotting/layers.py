"""What is in the layers, before the fit and after: activations and parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_array
from torch import nn

from torchreg.engine.start import rebuild_start
from torchreg.plotting._axes import FIT, ink, merged, new_axes, plain, require_matplotlib
from torchreg.plotting._inside import look_inside
from torchreg.plotting._labels import regressor_in, spread_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

BINS = 60

#: A range this many times wider than what most rows need is drawn on a symmetric
#: logarithmic axis: on a linear one, most rows would be a needle at 0.
WIDE = 30.0


class Layer(NamedTuple):
    """A row of the display: the values of a layer, shape (n_values,) each."""

    name: str
    before: Array | None
    after: Array


class _LayerDisplay:
    """What both displays share: a row per layer, a distribution before and one after.

    Parameters
    ----------
    layers : sequence of Layer
        From the input to the output.
    standardized : bool, default=True
        Whether the network sees standardized X and y, so that its values are dimensionless.
    """

    #: What the values are.
    quantity = ""

    def __init__(self, *, layers: Sequence[Layer], standardized: bool = True) -> None:
        self.layers = layers
        self.standardized = standardized

    def plot(
        self,
        ax: Axes | None = None,
        *,
        xscale: str = "auto",
        before_kwargs: Mapping[str, Any] | None = None,
        after_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw a row per layer: an outline for before the fit, a filled shape for after.

        Heights are scaled row by row. Where more than a twentieth of a layer's values are 0,
        as after a ReLU, their share is written beside the row instead of drawn.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw; ``None`` makes a figure.
        xscale : {"auto", "linear", "symlog"}, default="auto"
            ``"auto"`` is linear unless one layer's values are much larger than another's.
        before_kwargs, after_kwargs : mapping or None, default=None
            Passed on to matplotlib's ``plot`` and ``fill_between``.

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
        before_style = merged({"color": ink(), "linewidth": 1.2, "alpha": 0.8}, before_kwargs)
        after_style: dict[str, Any] = {"color": FIT, "alpha": 0.55, "linewidth": 0}
        after_style |= dict(after_kwargs or {})
        for row, layer in enumerate(self.layers):
            foot = n - 1 - row
            ax.axhline(foot, color=ink(), linewidth=0.5, alpha=0.5, zorder=1)
            shape, zeros = _shape(layer.after, edges)
            ax.stairs(foot + 0.8 * shape, edges, baseline=foot, fill=True, zorder=2, **after_style)
            words = [f"{zeros:.0%} are 0"] if zeros else []
            if layer.before is not None:
                shape, zeros_before = _shape(layer.before, edges)
                ax.stairs(foot + 0.8 * shape, edges, baseline=foot, zorder=3, **before_style)
                if zeros_before:
                    words.append(f"{zeros_before:.0%} before")
            ax.annotate(
                ", ".join(words),
                (1, foot + 0.42),
                xycoords=("axes fraction", "data"),
                ha="right",
                fontsize="small",
            )
        if linear_up_to:
            ax.set_xscale("symlog", linthresh=linear_up_to)
        ax.set_xlim(edges[0], edges[-1])
        ax.set_ylim(-0.15, n)
        ax.set_yticks(range(n), [plain(layer.name) for layer in reversed(self.layers)])
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel(f"{self.quantity} (dimensionless)" if self.standardized else self.quantity)
        self._add_legend(ax, before_style, after_style)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _add_legend(self, ax: Axes, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        handles: list[Any] = []
        if any(layer.before is not None for layer in self.layers):
            handles.append(Line2D([], [], **before, label="before the fit"))
        handles.append(Patch(**after, label="after the fit"))
        ax.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=2,
            frameon=False,
            borderaxespad=0.2,
        )

    def _edges(self, xscale: str) -> tuple[Array, float]:
        """Choose bins, and up to where the axis is linear (0: everywhere)."""
        if xscale not in ("auto", "linear", "symlog"):
            raise ValueError(f"xscale expects 'auto', 'linear' or 'symlog', got {xscale!r}.")
        rows = [row for layer in self.layers for row in layer[1:] if row is not None and len(row)]
        largest = np.array([np.abs(row).max() for row in rows] or [1.0])
        low = min([float(row.min()) for row in rows] or [0.0])
        high = max([float(row.max()) for row in rows] or [1.0])
        usual = float(np.median(largest))
        wide = usual > 0 and largest.max() > WIDE * usual
        if xscale == "linear" or (xscale == "auto" and not wide):
            margin = 0.03 * (high - low) or 1.0
            return np.linspace(low - margin, high + margin, BINS + 1), 0.0
        # Bins of one width on the axis as it is drawn.
        linear = usual or 1.0
        first, last = (math.asinh(1.1 * bound / linear) for bound in (low, high))
        return linear * np.sinh(np.linspace(first, last, BINS + 1)), linear


class ActivationDisplay(_LayerDisplay):
    """What flows through a network: the values that each layer gives, before the fit and after.

    Parameters
    ----------
    layers : sequence of Layer
        Name of each layer, and the values that it gives; of the network inside its scaling
        layers. ``before`` is ``None`` where the start is not known.
    standardized : bool, default=True
        Whether X and y are standardized, so that the values are dimensionless.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> from torchreg import TorchRegressor
    >>> from torchreg.plotting import ActivationDisplay
    >>> X = np.linspace(170, 230, 40).reshape(-1, 1)
    >>> reg = TorchRegressor(max_epochs=20, random_state=0).fit(X, abs(X[:, 0] - 200))
    >>> display = ActivationDisplay.from_estimator(reg, X)
    >>> [layer.name for layer in display.layers]
    ['layers.0: Linear', 'layers.1: ReLU', 'layers.2: Linear']
    """

    quantity = "activation"

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        subsample: int | None = 1000,
        xscale: str = "auto",
        ax: Axes | None = None,
        before_kwargs: Mapping[str, Any] | None = None,
        after_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Send rows through the fitted network, and through the one that the fit began with.

        The latter is built again from ``random_state``. Where that is no integer, only the
        fitted network is drawn (unless ``module`` is an instance, which is its own start).

        Parameters
        ----------
        estimator : TorchRegressor, or a pipeline or search around one
            Fitted, and its parameters not changed since.
        X : array-like of shape (n_samples, n_features)
            In the units of its fit.
        subsample : int or None, default=1000
            At most so many rows are sent, evenly spaced; ``None`` sends all.
        xscale, ax, before_kwargs, after_kwargs
            As in :meth:`plot`.

        Returns
        -------
        display : ActivationDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing.
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        """
        require_matplotlib(cls.__name__)
        reg, X = regressor_in(estimator, X)
        layers = activations_of(reg, X, subsample=subsample)
        return cls(layers=layers, standardized=reg.standardize is True).plot(
            ax, xscale=xscale, before_kwargs=before_kwargs, after_kwargs=after_kwargs
        )


class ParameterDisplay(_LayerDisplay):
    """Weights and biases of each layer, before the fit and after.

    Parameters
    ----------
    layers : sequence of Layer
        Name of each parameter, and its values. ``before`` is ``None`` where the start is not
        known.
    standardized : bool, default=True
        Whether X and y are standardized, so that the values are dimensionless.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> from torchreg import TorchRegressor
    >>> from torchreg.plotting import ParameterDisplay
    >>> X = np.linspace(170, 230, 40).reshape(-1, 1)
    >>> reg = TorchRegressor(max_epochs=20, random_state=0).fit(X, abs(X[:, 0] - 200))
    >>> display = ParameterDisplay.from_estimator(reg)
    >>> [layer.name for layer in display.layers][:2]
    ['layers.0.weight (100 × 1)', 'layers.0.bias (100)']
    """

    quantity = "parameter"

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        xscale: str = "auto",
        ax: Axes | None = None,
        before_kwargs: Mapping[str, Any] | None = None,
        after_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the parameters of a fitted regressor, and those that it began with.

        The latter are drawn again from ``random_state``; see
        :meth:`ActivationDisplay.from_estimator`.

        Parameters
        ----------
        estimator : TorchRegressor, or a pipeline or search around one
            Fitted, and its parameters not changed since.
        xscale, ax, before_kwargs, after_kwargs
            As in :meth:`plot`.

        Returns
        -------
        display : ParameterDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing.
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        """
        require_matplotlib(cls.__name__)
        reg, _ = regressor_in(estimator)
        return cls(layers=parameters_of(reg), standardized=reg.standardize is True).plot(
            ax, xscale=xscale, before_kwargs=before_kwargs, after_kwargs=after_kwargs
        )


def activations_of(reg: Any, X: Any, *, subsample: int | None) -> list[Layer]:
    """Send rows through a fitted regressor and through its start; see `ActivationDisplay`."""
    table = check_array(X, dtype=np.float64, accept_sparse="csr")
    table = table[spread_out(table.shape[0], subsample)]
    x = torch.tensor(table.toarray() if hasattr(table, "toarray") else table)
    after = _values_given(reg.module_, x)
    start, before = _start_of(reg), None
    if start is not None:
        scaled = nn.Sequential()
        for name, layer in reg.module_.named_children():
            scaled.add_module(name, start if name == "network" else layer)
        before = _values_given(scaled, x)
    return [
        Layer(name, before[index][1] if before and len(before) == len(after) else None, values)
        for index, (name, values) in enumerate(after)
    ]


def parameters_of(reg: Any) -> list[Layer]:
    """List the parameters of a fitted regressor and of its start; see `ParameterDisplay`."""
    start = _start_of(reg)
    began = {} if start is None else dict(start.named_parameters())
    layers = []
    for name, parameter in reg.module_.network.named_parameters():
        size = " × ".join(map(str, parameter.shape))
        before = _flat(began[name]) if name in began else None
        layers.append(Layer(f"{name} ({size})", before, _flat(parameter)))
    return layers


def _start_of(reg: Any) -> nn.Module | None:
    """Build the network that a regressor's fit began with, if that can be done."""
    seed = int(reg.random_state) if isinstance(reg.random_state, Integral) else None
    options = {
        name.removeprefix("module__"): value
        for name, value in reg.get_params(deep=False).items()
        if name.startswith("module__")
    }
    return rebuild_start(
        reg.module,
        options,
        reg.module_.network,
        in_features=reg.n_features_in_,
        out_features=reg.n_outputs_,
        seed=seed,
    )


def _values_given(module: nn.Module, x: torch.Tensor) -> list[tuple[str, Array]]:
    """List the layers inside the scaling layers, with the values that they give."""
    return [
        (f"{name}: {kind}" if name else kind, _flat(layer.given))
        for layer in look_inside(module, x)
        if layer.name.partition(".")[0] == "network"
        for name, kind in [(layer.name.partition(".")[2], type(layer.layer).__name__)]
    ]


def _flat(values: torch.Tensor) -> Array:
    # (any shape) -> (n_values,)
    flat: Array = values.detach().cpu().double().reshape(-1).numpy()
    return flat[np.isfinite(flat)]


def _shape(values: Array, edges: Array) -> tuple[Array, float]:
    """Count values per bin, the fullest bin being 1; and the share of zeros, if it is large."""
    zeros = float(np.mean(values == 0)) if len(values) else 0.0
    if zeros <= 0.05 or len(values) < 20:
        zeros = 0.0
    counts = np.histogram(values[values != 0] if zeros else values, edges)[0]
    return counts / max(counts.max(), 1), zeros
