"""What is in the layers, before the fit and after: activations and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from sklearn.utils import check_array
from torch import nn

from torchreg.engine.build import rebuild_initial_network
from torchreg.engine.spec import spawn_seeds
from torchreg.nn import Ensemble
from torchreg.nn.links import numbers_per_output
from torchreg.plotting._axes import require_matplotlib
from torchreg.plotting._inside import look_inside
from torchreg.plotting._labels import n_networks_of, regressor_in, spread_out
from torchreg.plotting._rows import Array, Layer, LayerDisplay, pooled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class ActivationDisplay(LayerDisplay):
    """What flows through a network: the values that each layer gives, before the fit and after.

    Parameters
    ----------
    layers : sequence of Layer
        Name of each layer, and the values that it gives; of the network inside its scaling
        layers. ``before`` is ``None`` where the start is not known.
    standardized : bool, default=True
        Whether X and y are standardized, so that the values are dimensionless.
    n_networks : int, default=1
        How many networks the values are from. Those of ``n_folds`` have the same layers: what
        the same layer has in all of them is one row.

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
    >>> [layer.name for layer in display.layers][-3:]
    ['mlp.layers.2: Linear', 'mlp.layers.3: ReLU', 'mlp.layers.4: Linear']
    >>> print(display.ax_.get_xlabel())
    activations of 8 networks
    (dimensionless)
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
        fitted network is drawn (unless ``module`` is an instance, which is its own start); as
        where the network began from the training rows, which :class:`torchreg.nn.TabularMLP` does.

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
        return cls(
            layers=layers, standardized=reg.standardize is True, n_networks=n_networks_of(reg)
        ).plot(ax, xscale=xscale, before_kwargs=before_kwargs, after_kwargs=after_kwargs)


class ParameterDisplay(LayerDisplay):
    """Weights and biases of each layer, before the fit and after.

    Parameters
    ----------
    layers : sequence of Layer
        Name of each parameter, and its values. ``before`` is ``None`` where the start is not
        known.
    standardized : bool, default=True
        Whether X and y are standardized, so that the values are dimensionless.
    n_networks : int, default=1
        How many networks the values are from. Those of ``n_folds`` have the same layers: what
        the same layer has in all of them is one row.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> from torchreg import TorchRegressor
    >>> from torchreg.nn import MLP
    >>> from torchreg.plotting import ParameterDisplay
    >>> X = np.linspace(170, 230, 40).reshape(-1, 1)
    >>> reg = TorchRegressor(MLP, max_epochs=20, random_state=0).fit(X, abs(X[:, 0] - 200))
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
        return cls(
            layers=parameters_of(reg),
            standardized=reg.standardize is True,
            n_networks=n_networks_of(reg),
        ).plot(ax, xscale=xscale, before_kwargs=before_kwargs, after_kwargs=after_kwargs)


def activations_of(reg: Any, X: Any, *, subsample: int | None) -> list[Layer]:
    """Send rows through a fitted regressor and through its start; see `ActivationDisplay`."""
    table = check_array(X, dtype=np.float64, accept_sparse="csr")
    table = table[spread_out(table.shape[0], subsample)]
    x = torch.tensor(table.toarray() if hasattr(table, "toarray") else table)
    after = _values_given(reg, reg.module_, x)
    start, before = _start_of(reg), None
    if start is not None:
        scaled = nn.Sequential()
        for name, layer in reg.module_.named_children():
            scaled.add_module(name, start if name == "network" else layer)
        before = _values_given(reg, scaled, x)
    return pooled(
        Layer(name, before[index][1] if before and len(before) == len(after) else None, values)
        for index, (name, values) in enumerate(after)
    )


def parameters_of(reg: Any) -> list[Layer]:
    """List the parameters of a fitted regressor and of its start; see `ParameterDisplay`."""
    start = _start_of(reg)
    began = {} if start is None else dict(start.named_parameters())
    layers = []
    for name, parameter in reg.module_.network.named_parameters():
        size = " × ".join(map(str, parameter.shape))
        before = _flat(began[name]) if name in began else None
        layers.append(Layer(f"{_in_its_network(name, reg)} ({size})", before, _flat(parameter)))
    return pooled(layers)


def _start_of(reg: Any) -> nn.Module | None:
    """Build the network that a regressor's fit began with, if that can be done, or all of them."""
    seed = int(reg.random_state) if isinstance(reg.random_state, Integral) else None
    twin = reg._settled()
    options = {
        name.removeprefix("module__"): value
        for name, value in twin.get_params(deep=False).items()
        if name.startswith("module__")
    }
    rebuild = partial(
        rebuild_initial_network,
        twin.module,
        options,
        in_features=reg.n_features_in_,
        out_features=reg.n_outputs_ * numbers_per_output(reg.module_),
    )
    network = reg.module_.network
    if not isinstance(network, Ensemble):
        # Of several networks, the one that was kept was drawn from a seed of its own.
        of_kept = getattr(reg, "_origin", {}).get("start_seed", seed)
        return rebuild(network, seed=None if seed is None else of_kept)
    if seed is None or len(network.members) != twin.n_folds:
        return None
    seeds = spawn_seeds(seed, twin.n_folds)
    starts = [rebuild(one, seed=k) for one, k in zip(network.members, seeds, strict=True)]
    found = [start for start in starts if start is not None]
    return Ensemble(found) if len(found) == len(starts) else None


def _in_its_network(name: str, reg: Any) -> str:
    """Name a layer, or a parameter, of one of several networks as it is named in each of them."""
    if not isinstance(reg.module_.network, Ensemble):
        return name
    return name.split(".", maxsplit=2)[2]


def _values_given(reg: Any, module: nn.Module, x: torch.Tensor) -> list[tuple[str, Array]]:
    """List the layers inside the scaling layers, with the values that they give."""
    return [
        (f"{name}: {kind}" if name else kind, _flat(layer.given))
        for layer in look_inside(module, x)
        if layer.name.partition(".")[0] == "network"
        for name, kind in [
            (_in_its_network(layer.name.partition(".")[2], reg), type(layer.layer).__name__)
        ]
    ]


def _flat(values: torch.Tensor) -> Array:
    # (any shape) -> (n_values,)
    flat: Array = values.detach().cpu().double().reshape(-1).numpy()
    return flat[np.isfinite(flat)]
