"""Sending rows through a network, and seeing what its layers do with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from torchreg.diagnosis.record import Layer
from torchreg.diagnosis.slopes import (
    ACTIVATIONS,
    SLOPE_OF_OUTPUT,
    slope_and_output,
    slope_from_output,
)
from torchreg.diagnosis.units import count_units
from torchreg.nn import FrozenLinear

#: The functions of torch in which a row meets weights.
_MEETS_WEIGHTS = frozenset({"linear", "bilinear", "conv1d", "conv2d", "matmul", "mm", "addmm"})


class Seen(NamedTuple):
    """What was seen while rows went through a network.

    Parameters
    ----------
    output : Tensor
        What the network gave.
    first_input : Tensor or None
        What reached the first layer that learns, if that was anything but the rows as they came.
    last_output : Tensor or None
        What the last linear layer gave, if there is one.
    layers : list of Layer
        Of each activation.
    """

    output: Tensor
    first_input: Tensor | None
    last_output: Tensor | None
    layers: list[Layer]


def watch(network: nn.Module, x: Tensor) -> Seen:
    """Send rows through a network, and watch every call; what it leaves changed is put back.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    x : Tensor of shape (n, n_features)
        In the network's units and dtype, on its device.
    """
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    given = x.clone()
    seen = Watch(given, [m.weight for m in network.modules() if isinstance(m, FrozenLinear)])
    try:
        with seen:
            output = network(given)
    finally:
        for buffer, kept in buffers:
            buffer.copy_(kept)
    return Seen(output, seen.first_input, seen.last_output, seen.layers)


class Watch(TorchFunctionMode):
    """Sees what a network calls, without a hook on it: whatever is on it stays as it is.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
        Rows that are sent through; anything of another length is no layer.
    fixed : sequence of Tensor, default=()
        Weights that nobody trains: their layer may see numbers of any size.

    Attributes
    ----------
    first_input, last_output, layers : Tensor or None, Tensor or None, list of Layer
        See :class:`Seen`.
    """

    def __init__(self, x: Tensor, fixed: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.fixed = [*map(id, fixed)]
        self.x, self.version, self.n_rows = x, x._version, len(x)
        self.met_weights = False
        self.first_input: Tensor | None = None
        self.last_output: Tensor | None = None
        self.layers: list[Layer] = []

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # relu, relu_ and Tensor.relu are one function.
        name = getattr(func, "__name__", "").strip("_")
        meets_weights = name in _MEETS_WEIGHTS
        is_activation = name in ACTIVATIONS and bool(args) and self._is_layer(args[0])
        # Some overwrite their input: it is looked at first, unless the output says it all.
        early = is_activation and name not in SLOPE_OF_OUTPUT
        seen = slope_and_output(func, name, args, kwargs) if early else None
        if meets_weights and not self.met_weights:
            self._note_first(args)
        output = func(*args, **kwargs)
        if is_activation:
            call = seen or slope_from_output(name, output)
            self.layers += count_units([len(self.layers) + 1], name, *call)
        if meets_weights and self._is_layer(output):
            self.last_output = output.detach().clone()
        return output

    def _note_first(self, args: tuple[Any, ...]) -> None:
        if any(id(value) in self.fixed for value in args):
            return
        for value in args:
            if self._is_layer(value):
                self.met_weights = True
                if value is not self.x or value._version != self.version:
                    self.first_input = value.detach().clone()
                return

    def _is_layer(self, value: Any) -> bool:
        return (
            isinstance(value, Tensor)
            and value.ndim >= 2
            and value.shape[0] == self.n_rows
            and value.is_floating_point()
            and not isinstance(value, nn.Parameter)
        )
