"""Slopes of activations at given inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchreg._utils import inference


@dataclass(frozen=True)
class Activation:
    """Largest slope of an activation, and whether it has upper and lower bounds."""

    steepest: float
    bounded: bool = False


#: Activations of torch, by function name.
ACTIVATIONS: dict[str, Activation] = {
    **{
        name: Activation(1.0)
        for name in (
            "celu",
            "elu",
            "gelu",
            "hardshrink",
            "hardswish",
            "leaky_relu",
            "log_sigmoid",
            "logsigmoid",
            "mish",
            "prelu",
            "relu",
            "relu6",
            "rrelu",
            "selu",
            "silu",
            "softplus",
            "softshrink",
            "tanhshrink",
            "threshold",
        )
    },
    "tanh": Activation(1.0, bounded=True),
    "softsign": Activation(1.0, bounded=True),
    "hardtanh": Activation(1.0, bounded=True),
    "sigmoid": Activation(0.25, bounded=True),
    "hardsigmoid": Activation(1 / 6, bounded=True),
    "glu": Activation(0.25, bounded=True),
}


#: Slopes as functions of the output, which are faster than automatic differentiation. For relu the
#: sign of the output suffices, and no slope is computed.
SLOPE_OF_OUTPUT: dict[str, Callable[[Tensor], Tensor] | None] = {
    "relu": None,
    "sigmoid": lambda after: after * (1 - after),
    "tanh": lambda after: 1 - after * after,
}


def slope_and_output(
    call: Callable[..., Tensor], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Differentiate an activation in float64; its input is not changed.

    Parameters
    ----------
    call : callable
        The activation.
    name : str
        Its key in :data:`ACTIVATIONS`.
    args, kwargs : tuple, dict
        Arguments of the call; the first has shape (n, ...).

    Returns
    -------
    slope, output : Tensor of shape (n, ...)
        ``slope`` is the absolute value; both are on the CPU.
    """
    with inference(False), torch.enable_grad():
        given = [_copy(value) for value in args]
        options = {key: _copy(value) for key, value in kwargs.items()}
        if name == "glu":
            # (n, 2k) -> (n, k): the gate, a sigmoid of the second half
            given, options, call = [given[0].chunk(2, dim=-1)[1]], {}, torch.sigmoid
        before = given[0].requires_grad_()
        # A copy, because in-place activations overwrite it.
        after = call(before.clone(), *given[1:], **options)
        (slope,) = torch.autograd.grad(after.sum(), before)
    return slope.abs(), after.detach()


def slope_from_output(name: str, output: Tensor) -> tuple[Tensor | None, Tensor]:
    """Compute the slope from the output, for an activation of :data:`SLOPE_OF_OUTPUT`.

    Returns
    -------
    slope : Tensor of shape (n, ...) or None
        In float64.
    output : Tensor of shape (n, ...)
        Unchanged.
    """
    slope_of = SLOPE_OF_OUTPUT[name]
    return None if slope_of is None else slope_of(output.to("cpu", torch.float64)), output


def _copy(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().to("cpu", torch.float64, copy=True)
