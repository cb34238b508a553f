"""Reconstruction of the untrained network from the seed of a fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from torchreg._utils import with_seed
from torchreg.engine.build.initial_state import has_data_init
from torchreg.engine.build.network import build_network, materialize


def rebuild_initial_network(
    module: nn.Module | Callable[..., nn.Module],
    options: Mapping[str, Any],
    fitted: nn.Module,
    *,
    in_features: int,
    out_features: int,
    seed: int | None,
) -> nn.Module | None:
    """Rebuild the network that a fit started from, which the fit does not keep.

    Parameters
    ----------
    module, options : see :func:`torchreg.engine.build.build_network`
    fitted : nn.Module
        The trained network, without its scaling layers.
    in_features, out_features : int
        Widths of X and y.
    seed : int or None
        Seed of the fit, which a module given as an instance does not need.

    Returns
    -------
    nn.Module or None
        ``None`` if the seed is unknown, the network was initialized from the training rows, or
        the parameters of the estimator changed after the fit so that shapes differ.

    Examples
    --------
    >>> from torchreg import TorchRegressor
    >>> from torchreg.nn import MLP
    >>> reg = TorchRegressor(MLP, optimizer="sgd", lr=1e-30, max_epochs=1, random_state=0)
    >>> fitted = reg.fit([[1.0], [2.0]], [3.0, 5.0]).module_.network
    >>> initial = rebuild_initial_network(
    ...     MLP, {}, fitted, in_features=1, out_features=1, seed=0
    ... )
    >>> bool((initial.layers[0].weight == fitted.layers[0].weight).all())
    True
    """
    if seed is None and not isinstance(module, nn.Module):
        return None

    def build() -> nn.Module:
        network = build_network(module, options, in_features=in_features, out_features=out_features)
        # Lazy layers draw their weights in the first forward pass.
        materialize(network, torch.zeros(4, in_features), out_features)
        return network

    initial = with_seed(seed or 0, torch.device("cpu"), build)
    if has_data_init(initial):
        return None
    shapes, fitted_shapes = (
        {name: tensor.shape for name, tensor in network.state_dict().items()}
        for network in (initial, fitted)
    )
    if shapes != fitted_shapes:
        return None
    parameter = next(fitted.parameters())
    return initial.to(parameter.device, parameter.dtype).eval()
