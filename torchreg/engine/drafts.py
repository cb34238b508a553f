"""Untrained networks with which several fits begin: drawn once, and copied for each of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, TypeVar

import numpy as np
from torch import nn

from torchreg.engine.request import Request
from torchreg.nn import MLP

M = TypeVar("M", bound=nn.Module)

_PLAIN = bool | int | float | str | np.generic | None


def draft_of(request: Request) -> Hashable | None:
    """Say which network a request draws, so that requests of one answer draw the same.

    It holds for the same training rows, the same units and the same seed. Settings of the training
    are no part of it: a search over learning rates draws one network for each fold.

    Parameters
    ----------
    request : Request

    Returns
    -------
    hashable or None
        ``None`` if only its module knows: what a class of the user's does while it is built, it may
        do differently the next time.
    """
    if request.module is not MLP or request.start is not None or request.loss.link is not None:
        return None
    options = {name: _written(value) for name, value in request.module_options.items()}
    if None in options.values():
        return None
    return (request.dtype, request.loss.per_output, *sorted(options.items()))


def _written(value: Any) -> str | None:
    """Write down a number, a text, or a sequence of them; ``None`` for anything else."""
    if isinstance(value, _PLAIN):
        return f"{type(value).__name__} {value!r}"
    if type(value) in (list, tuple):
        items = [_written(item) for item in value]
        return None if None in items else f"{type(value).__name__} {items}"
    return None


def copied(module: M) -> M:
    """Copy a network of known layers, as ``copy.deepcopy`` does in ten times the time.

    Parameters
    ----------
    module : nn.Module
        In which no layer and no parameter stands twice, and no layer holds anything but
        parameters, buffers, other layers and settings that are never changed in place.

    Returns
    -------
    nn.Module
        Of the same class.

    Examples
    --------
    >>> import torch
    >>> layer = nn.Linear(2, 1)
    >>> twin = copied(layer)
    >>> torch.equal(twin.weight, layer.weight), twin.weight is layer.weight
    (True, False)
    """
    twin: M = object.__new__(type(module))
    own = vars(twin)
    for name, value in vars(module).items():
        kind = type(value)
        is_container = kind is dict or kind is set or kind is OrderedDict
        own[name] = value.copy() if is_container and value else kind() if is_container else value
    for name, parameter in module._parameters.items():
        if parameter is not None:
            # A parameter owns its memory, or a saved network would hold that of others.
            value = parameter.detach().clone()
            own["_parameters"][name] = nn.Parameter(value, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            own["_buffers"][name] = buffer.clone()
    for name, layer in module._modules.items():
        if layer is not None:
            own["_modules"][name] = copied(layer)
    return twin
