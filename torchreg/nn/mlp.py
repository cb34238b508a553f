"""The multilayer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any

from torch import Tensor, nn

from torchreg._utils import did_you_mean

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "identity": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


class MLP(nn.Module):
    r"""Multilayer perceptron: linear layers with activations between them.

    .. math:: h_0 = x, \quad h_{l+1} = \sigma(W_l h_l + b_l), \quad f(x) = W_L h_L + b_L

    Parameters
    ----------
    in_features : int
        Number of columns of the input.
    out_features : int, default=1
        Number of outputs.
    hidden_sizes : sequence of int, default=(100,)
        Sizes of the hidden layers; ``()`` is a linear model.
    activation : str or callable, default="relu"
        One of ``"relu"``, ``"tanh"``, ``"silu"``, ``"gelu"``, ``"elu"``, ``"leaky_relu"``,
        ``"sigmoid"``, ``"softplus"``, ``"identity"``, or a callable that builds a module,
        such as ``nn.ReLU``.
    dropout : float, default=0.0
        Probability of setting a hidden unit to 0 during training, from 0 to less than 1; see
        Srivastava et al., JMLR 15 (2014).

    Raises
    ------
    ValueError, TypeError
        If a size is not a positive integer, the activation is unknown, or the dropout is out of
        range.

    Examples
    --------
    >>> MLP(1, hidden_sizes=[5])
    MLP(
      (layers): Sequential(
        (0): Linear(in_features=1, out_features=5, bias=True)
        (1): ReLU()
        (2): Linear(in_features=5, out_features=1, bias=True)
      )
    )
    """

    def __init__(
        self,
        in_features: int,
        out_features: int = 1,
        hidden_sizes: Sequence[int] = (100,),
        activation: str | Callable[[], nn.Module] = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if isinstance(hidden_sizes, Integral):
            hidden_sizes = (int(hidden_sizes),)
        if not isinstance(hidden_sizes, Iterable) or isinstance(hidden_sizes, str):
            raise TypeError(f"MLP expects hidden_sizes like (100, 100), got {hidden_sizes!r}.")
        sizes = [in_features, *hidden_sizes, out_features]
        for size in sizes:
            if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
                raise ValueError(f"MLP expects layer sizes of 1 or more, got {sizes}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"MLP expects a dropout from 0 to less than 1, got {dropout!r}.")
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(int(size) for size in sizes[:-1]):
            layers += [nn.Linear(fan_in, fan_out), _build_activation(activation)]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear(int(sizes[-2]), int(sizes[-1])))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs: shape (n, in_features) to (n, out_features)."""
        outputs: Tensor = self.layers(x)
        return outputs


def _build_activation(activation: str | Callable[[], nn.Module]) -> nn.Module:
    build: Any = activation if callable(activation) else ACTIVATIONS.get(activation)
    if build is None:
        raise ValueError(
            f"Unknown activation {activation!r}."
            f"{did_you_mean(str(activation), ACTIVATIONS)} A callable such as nn.ReLU works too."
        )
    try:
        built = None if isinstance(build, nn.Module) else build()
    except TypeError:
        built = None
    if not isinstance(built, nn.Module):
        raise TypeError(
            "MLP expects an activation by name or a callable that builds a module, like "
            f"nn.ReLU (the class, not an instance), got {activation!r}."
        )
    return built


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
