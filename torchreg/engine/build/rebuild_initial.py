"""The network as it was before the fit, built again from the seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from torchreg._utils import with_seed
from torchreg.engine.build.data_init import has_data_init
from torchreg.engine.build.network import build_network, materialize


def rebuild_start(
    module: nn.Module | Callable[..., nn.Module],
    options: Mapping[str, Any],
    fitted: nn.Module,
    *,
    in_features: int,
    out_features: int,
    seed: int | None,
) -> nn.Module | None:
    """Build the network that a fit began with; a fit does not keep it.

    Parameters
    ----------
    module, options : see :func:`torchreg.engine.build.network.build_network`
    fitted : nn.Module
        What became of it, without its scaling layers.
    in_features, out_features : int
        Widths of X and y.
    seed : int or None
        Of the fit. ``None`` is not known, which only matters if ``module`` is no instance.

    Returns
    -------
    nn.Module or None
        ``None`` if it cannot be had: the seed is not known, the network looked at the training
        rows, or what is built is not of the same shape, because the parameters were changed
        after the fit.

    Examples
    --------
    >>> from torchreg import TorchRegressor
    >>> from torchreg.nn import MLP
    >>> reg = TorchRegressor(MLP, optimizer="sgd", lr=1e-30, max_epochs=1, random_state=0)
    >>> fitted = reg.fit([[1.0], [2.0]], [3.0, 5.0]).module_.network
    >>> start = rebuild_start(MLP, {}, fitted, in_features=1, out_features=1, seed=0)
    >>> bool((start.layers[0].weight == fitted.layers[0].weight).all())
    True
    """
    if seed is None and not isinstance(module, nn.Module):
        return None

    def build() -> nn.Module:
        network = build_network(module, options, in_features=in_features, out_features=out_features)
        # Lazy layers draw their weights when the first rows come.
        materialize(network, torch.zeros(4, in_features), out_features)
        return network

    start = with_seed(seed or 0, torch.device("cpu"), build)
    if has_data_init(start):
        return None
    state, became = start.state_dict(), fitted.state_dict()
    same = state.keys() == became.keys() and all(
        state[name].shape == became[name].shape for name in state
    )
    like = next(fitted.parameters())
    return start.to(like.device, like.dtype).eval() if same else None
