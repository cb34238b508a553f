"""Networks that are a sequence of known layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from torchreg.nn.mlp import ACTIVATIONS, MLP

#: Activation layers, with the name of their function in ``torch.nn.functional``.
ACTIVATION_OF: dict[Any, str] = {
    layer: name for name, layer in ACTIVATIONS.items() if layer is not nn.Identity
}
_LAYERS = {*ACTIVATION_OF, nn.Dropout, nn.Identity, nn.Linear}


def sequential_layers(network: nn.Module) -> list[nn.Module] | None:
    """List the layers of a network whose call is equivalent to calling them in order.

    Parameters
    ----------
    network : nn.Module

    Returns
    -------
    list of nn.Module or None
        ``None`` if the network contains other layers than linear ones, dropout and the activations
        of :class:`torchreg.nn.MLP`, or a layer that works in place or has a hook or a ``forward``
        attribute of its own.

    Examples
    --------
    >>> sequential_layers(nn.Sequential(nn.Tanh(), MLP(5, hidden_sizes=[])))
    [Tanh(), Linear(in_features=5, out_features=1, bias=True)]
    >>> sequential_layers(nn.Sequential(nn.Linear(1, 5), nn.ReLU(inplace=True))) is None
    True
    """
    layers: list[nn.Module] = []
    pending = [network]
    while pending:
        module = pending.pop()
        if not has_default_forward(module):
            return None
        if type(module) is MLP or type(module) is nn.Sequential:
            # Not children(), which omits repetitions of a layer.
            pending += [m for m in reversed(module._modules.values()) if m is not None]
        elif type(module) in _LAYERS and not getattr(module, "inplace", False):
            layers.append(module)
        else:
            return None
    return layers


def has_default_forward(module: nn.Module) -> bool:
    """Check that a module has no forward hooks and no ``forward`` attribute of its own.

    Examples
    --------
    >>> layer = nn.Tanh()
    >>> has_default_forward(layer)
    True
    >>> handle = layer.register_forward_hook(lambda module, args, output: 2 * output)
    >>> has_default_forward(layer)
    False
    """
    own = vars(module)
    return not (own["_forward_hooks"] or own["_forward_pre_hooks"] or "forward" in own)
