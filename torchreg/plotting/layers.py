"""Activations and parameters of the layers, before and after the fit."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from sklearn.utils import check_array
from torch import nn

from torchreg._utils import restore_torch_state, spawn_seeds
from torchreg.engine.build import rebuild_initial_network
from torchreg.nn import Ensemble
from torchreg.nn.links import columns_per_output
from torchreg.plotting._axes import require_matplotlib
from torchreg.plotting._inside import layer_outputs
from torchreg.plotting._labels import evenly_spaced, n_networks_of, regressor_in
from torchreg.plotting._rows import Array, Layer, LayerDisplay, pool_layers

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class ActivationDisplay(LayerDisplay):
    """Activations of each layer, before and after the fit.

    Parameters
    ----------
    layers : sequence of Layer
        Name and output values of each layer inside the scaling layers. ``before`` is ``None``
        where the initial network is not known.
    standardized : bool, default=True
        Whether X and y are standardized, so that the values are dimensionless.
    n_networks : int, default=1
        Number of networks. The networks of ``n_folds`` have the same layers: a row shows a layer
        of all of them.

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
    @restore_torch_state
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
        """Evaluate rows with the fitted network and with the initial network.

        The initial network is built again from ``random_state``. Only the fitted network is drawn
        if ``random_state`` is no integer (unless ``module`` is an instance, which is its own
        initial network), or if the network is initialized from the training rows, as
        :class:`torchreg.nn.TabularMLP` is.

        Parameters
        ----------
        estimator : TorchRegressor, or a pipeline or search around one
            Fitted, with parameters unchanged since.
        X : array-like of shape (n_samples, n_features)
            In the units of its fit.
        subsample : int or None, default=1000
            Number of rows to evaluate at most, evenly spaced; ``None`` takes all.
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
    """Weights and biases of each layer, before and after the fit.

    Parameters
    ----------
    layers : sequence of Layer
        Name and values of each parameter. ``before`` is ``None`` where the initial network is
        not known.
    standardized : bool, default=True
        Whether X and y are standardized, so that the values are dimensionless.
    n_networks : int, default=1
        Number of networks. The networks of ``n_folds`` have the same layers: a row shows a layer
        of all of them.

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
    @restore_torch_state
    def from_estimator(
        cls,
        estimator: Any,
        *,
        xscale: str = "auto",
        ax: Axes | None = None,
        before_kwargs: Mapping[str, Any] | None = None,
        after_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the fitted and the initial parameters.

        The initial parameters are drawn again from ``random_state``; see
        :meth:`ActivationDisplay.from_estimator`.

        Parameters
        ----------
        estimator : TorchRegressor, or a pipeline or search around one
            Fitted, with parameters unchanged since.
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
    """Evaluate rows with the fitted and the initial network; see `ActivationDisplay`."""
    table = check_array(X, dtype=np.float64, accept_sparse="csr")
    table = table[evenly_spaced(table.shape[0], subsample)]
    x = torch.tensor(table.toarray() if hasattr(table, "toarray") else table)
    after = _named_outputs(reg, reg.module_, x)
    initial_network, before = _initial_network(reg), None
    if initial_network is not None:
        scaled = nn.Sequential()
        for name, layer in reg.module_.named_children():
            scaled.add_module(name, initial_network if name == "network" else layer)
        before = _named_outputs(reg, scaled, x)
    return pool_layers(
        Layer(name, before[index][1] if before and len(before) == len(after) else None, values)
        for index, (name, values) in enumerate(after)
    )


def parameters_of(reg: Any) -> list[Layer]:
    """List the fitted and the initial parameters; see `ParameterDisplay`."""
    initial_network = _initial_network(reg)
    initial = {} if initial_network is None else dict(initial_network.named_parameters())
    layers = []
    for name, parameter in reg.module_.network.named_parameters():
        size = " × ".join(map(str, parameter.shape))
        before = _flat(initial[name]) if name in initial else None
        layers.append(Layer(f"{_name_in_network(name, reg)} ({size})", before, _flat(parameter)))
    return pool_layers(layers)


def _initial_network(reg: Any) -> nn.Module | None:
    """Rebuild the initial network of a fit, or those of all folds; ``None`` if unknown."""
    seed = int(reg.random_state) if isinstance(reg.random_state, Integral) else None
    params = reg._fitted_params()
    options = {
        name.removeprefix("module__"): value
        for name, value in params.items()
        if name.startswith("module__")
    }
    rebuild = partial(
        rebuild_initial_network,
        params["module"],
        options,
        in_features=reg.n_features_in_,
        out_features=reg.n_outputs_ * columns_per_output(reg.module_),
    )
    network = reg.module_.network
    if not isinstance(network, Ensemble):
        # With `n_init`, the kept network has its own seed.
        seed_of_kept = getattr(reg, "_origin", {}).get("start_seed", seed)
        return rebuild(network, seed=None if seed is None else seed_of_kept)
    if seed is None or len(network.members) != params["n_folds"]:
        return None
    seeds = spawn_seeds(seed, params["n_folds"])
    starts = [rebuild(one, seed=k) for one, k in zip(network.members, seeds, strict=True)]
    found = [initial_network for initial_network in starts if initial_network is not None]
    return Ensemble(found) if len(found) == len(starts) else None


def _name_in_network(name: str, reg: Any) -> str:
    """Strip the position of a network in the ensemble from the name of a layer or parameter."""
    if not isinstance(reg.module_.network, Ensemble):
        return name
    return name.split(".", maxsplit=2)[2]


def _named_outputs(reg: Any, module: nn.Module, x: torch.Tensor) -> list[tuple[str, Array]]:
    """List names and outputs of the layers inside the scaling layers."""
    return [
        (f"{name}: {kind}" if name else kind, _flat(layer.values))
        for layer in layer_outputs(module, x)
        if layer.name.partition(".")[0] == "network"
        for name, kind in [
            (_name_in_network(layer.name.partition(".")[2], reg), type(layer.layer).__name__)
        ]
    ]


def _flat(values: torch.Tensor) -> Array:
    # (any shape) -> (n_values,)
    flat: Array = values.detach().cpu().double().reshape(-1).numpy()
    return flat[np.isfinite(flat)]
