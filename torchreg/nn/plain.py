"""Networks that are nothing but known layers, one after the other."""

from __future__ import annotations

from torch import nn

from torchreg.nn.mlp import MLP

#: Layers that call one activation and do nothing else: the name of its function in torch.
ACTIVATION_OF: dict[type[nn.Module], str] = {
    nn.ELU: "elu",
    nn.GELU: "gelu",
    nn.LeakyReLU: "leaky_relu",
    nn.ReLU: "relu",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
    nn.Softplus: "softplus",
    nn.Tanh: "tanh",
}
_LAYERS = {*ACTIVATION_OF, nn.Dropout, nn.Identity, nn.Linear}


def sequential_layers(network: nn.Module) -> list[nn.Module] | None:
    """List the layers of a plain network in their order.

    What such a network does is known without calling it, and to call its layers one after the
    other is to call it.

    Parameters
    ----------
    network : nn.Module

    Returns
    -------
    list of nn.Module or None
        ``None`` if there is anything in it but linear layers, the activations of
        :class:`torchreg.nn.MLP` and dropout; if one of them overwrites its input, has a hook,
        or a ``forward`` of its own.

    Examples
    --------
    >>> sequential_layers(nn.Sequential(nn.Tanh(), MLP(5, hidden_sizes=[])))
    [Tanh(), Linear(in_features=5, out_features=1, bias=True)]
    >>> sequential_layers(nn.Sequential(nn.Linear(1, 5), nn.ReLU(inplace=True))) is None
    True
    """
    layers: list[nn.Module] = []
    return layers if _append_layers(network, layers) else None


def has_default_forward(module: nn.Module) -> bool:
    """Tell whether a call of a module is its class's ``forward`` and nothing else.

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


def _append_layers(network: nn.Module, layers: list[nn.Module]) -> bool:
    kind, own = type(network), vars(network)
    if not has_default_forward(network):
        return False
    if kind is MLP or kind is nn.Sequential:
        return all(_append_layers(layer, layers) for layer in own["_modules"].values())
    layers.append(network)
    return kind in _LAYERS and not own.get("inplace", False)


def is_plain(network: nn.Module, *, in_features: int, out_features: int) -> bool:
    """Tell whether a network is plain, on the CPU, and takes and gives so many columns.

    Examples
    --------
    >>> is_plain(MLP(3, hidden_sizes=[5]), in_features=3, out_features=1)
    True
    >>> is_plain(MLP(3, hidden_sizes=[5]), in_features=2, out_features=1)
    False
    """
    layers = sequential_layers(network)
    if layers is None:
        return False
    width = in_features
    for layer in layers:
        if isinstance(layer, nn.Linear):
            n_outputs, n_inputs = layer.weight.shape
            if n_inputs != width or layer.weight.device.type != "cpu":
                return False
            width = n_outputs
    return width == out_features
