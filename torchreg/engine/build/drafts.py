"""Untrained networks with which several fits begin: drawn once, and copied for each of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

import numpy as np
from torch import nn

from torchreg.engine.spec.fit_config import FitConfig
from torchreg.nn import MLP

M = TypeVar("M", bound=nn.Module)

#: What a layer holds that is changed in place, and that of it which is copied in ways of its own.
_CONTAINERS = frozenset([dict, set, OrderedDict])
_PARTS = "_parameters", "_buffers", "_modules"
_PLAIN = bool | int | float | str | np.generic | None


def draft_of(config: FitConfig) -> Hashable | None:
    """Say which network a request draws, so that requests of one answer draw the same.

    It holds for the same training rows, the same units and the same seed. Settings of the training
    are no part of it: a search over learning rates draws one network for each fold.

    Parameters
    ----------
    config : FitConfig

    Returns
    -------
    hashable or None
        ``None`` if only its module knows: what a class of the user's does while it is built, it may
        do differently the next time.
    """
    if config.module is not MLP or config.start is not None or config.loss.link is not None:
        return None
    options = {name: _written(value) for name, value in config.module_options.items()}
    if None in options.values():
        return None
    return (config.dtype, config.loss.per_output, *sorted(options.items()))


def _written(value: Any) -> str | None:
    """Write down a number, a text, or a sequence of them; ``None`` for anything else."""
    if isinstance(value, _PLAIN):
        return f"{type(value).__name__} {value!r}"
    if type(value) in (list, tuple):
        items = [_written(item) for item in value]
        return None if None in items else f"{type(value).__name__} {items}"
    return None


class Mould(Generic[M]):
    """Copies a network of known layers, as ``copy.deepcopy`` does in twenty times the time.

    A copy has the empty containers of the original, of which each layer has ten, until it is given
    its own (:func:`give_containers`): those of hundreds of networks that wait to be trained would
    set Python off to search all that there is for circles, which takes as long as the training.

    Parameters
    ----------
    module : nn.Module
        In which no layer and no parameter stands twice, and no layer holds anything but
        parameters, buffers, other layers and settings that are never changed in place. It stays
        as it is as long as it is copied.

    Examples
    --------
    >>> import torch
    >>> layer = nn.Linear(2, 1)
    >>> twin = Mould(layer).cast()
    >>> torch.equal(twin.weight, layer.weight), twin.weight is layer.weight
    (True, False)
    """

    def __init__(self, module: M) -> None:
        own = vars(module)
        self._kind = type(module)
        #: All that it has, in order, in place of which copies are put.
        self._own = dict(own)
        self._filled = [
            (name, value)
            for name, value in own.items()
            if type(value) in _CONTAINERS and name not in _PARTS and value
        ]
        self._parameters = [
            (name, p if p is None else p.detach(), p is not None and p.requires_grad)
            for name, p in module._parameters.items()
        ]
        self._buffers = [*module._buffers.items()]
        self._layers = [
            (name, layer if layer is None else Mould(layer))
            for name, layer in module._modules.items()
        ]

    def cast(self) -> M:
        """Give a copy, of the same class."""
        twin: M = object.__new__(self._kind)
        own = vars(twin)
        own.update(self._own)
        for name, value in self._filled:
            own[name] = value.copy()
        # A parameter owns its memory, or a saved network would hold that of others.
        own["_parameters"] = {
            name: p if p is None else nn.Parameter(p.clone(), learns)
            for name, p, learns in self._parameters
        }
        own["_buffers"] = {n: b if b is None else b.clone() for n, b in self._buffers}
        own["_modules"] = {n: layer if layer is None else layer.cast() for n, layer in self._layers}
        return twin


def give_containers(module: nn.Module) -> None:
    """Give a copy of a :class:`Mould` empty containers of its own, before it is handed out.

    Parameters
    ----------
    module : nn.Module
        Changed in place. In what others hold of its containers, it is not seen any more.

    Examples
    --------
    >>> layer = nn.Linear(2, 1)
    >>> twin = Mould(layer).cast()
    >>> give_containers(twin)
    >>> hook = twin.register_forward_hook(lambda *_: None)
    >>> len(twin._forward_hooks), len(layer._forward_hooks)
    (1, 0)
    """
    layers: list[nn.Module | None] = [module]
    for layer in layers:
        if layer is None:
            continue
        own = vars(layer)
        # They come later in this loop.
        layers += own["_modules"].values()
        for name, value in own.items():
            if type(value) in _CONTAINERS and not value and name not in _PARTS:
                own[name] = type(value)()
