"""Record of a forward pass through any network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from torchreg.diagnosis.activation_slopes import (
    ACTIVATIONS,
    SLOPE_OF_OUTPUT,
    slope_and_output,
    slope_from_output,
)
from torchreg.diagnosis.hidden_units import count_units
from torchreg.diagnosis.record import Layer
from torchreg.nn import FrozenLinear

#: Functions of torch that multiply rows by weights.
_LINEAR_FUNCTIONS = frozenset({"linear", "bilinear", "conv1d", "conv2d", "matmul", "mm", "addmm"})


class ForwardTrace(NamedTuple):
    """What a forward pass showed.

    Parameters
    ----------
    output : Tensor
        Output of the network.
    first_input : Tensor or None
        Input of the first trainable layer, if it differs from the input of the network.
    last_output : Tensor or None
        Output of the last linear layer, if there is one.
    layers : list of Layer
        Unit counts of each activation.
    """

    output: Tensor
    first_input: Tensor | None
    last_output: Tensor | None
    layers: list[Layer]


def trace_forward(network: nn.Module, x: Tensor) -> ForwardTrace:
    """Evaluate a network and record the calls of linear layers and activations.

    Buffers are restored afterwards.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    x : Tensor of shape (n, n_features)
        In the network's units and dtype, on its device.
    """
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    given = x.clone()
    seen = CallRecorder(given, [m.weight for m in network.modules() if isinstance(m, FrozenLinear)])
    try:
        with seen:
            output = network(given)
    finally:
        for buffer, kept in buffers:
            buffer.copy_(kept)
    return ForwardTrace(output, seen.first_input, seen.last_output, seen.layers)


class CallRecorder(TorchFunctionMode):
    """Intercepts torch functions, so that the network needs no hooks.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
        Input of the network; a tensor of another length is no layer output.
    fixed : sequence of Tensor, default=()
        Weights that are not trained: the scale of their inputs does not matter.

    Attributes
    ----------
    first_input, last_output, layers : Tensor or None, Tensor or None, list of Layer
        See :class:`ForwardTrace`.
    """

    def __init__(self, x: Tensor, fixed: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.fixed = [*map(id, fixed)]
        self.x, self.version, self.n_rows = x, x._version, len(x)
        self.found_linear = False
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
        is_linear = name in _LINEAR_FUNCTIONS
        is_activation = name in ACTIVATIONS and bool(args) and self._is_layer(args[0])
        # In-place activations overwrite their input, which is needed unless the output suffices.
        early = is_activation and name not in SLOPE_OF_OUTPUT
        seen = slope_and_output(func, name, args, kwargs) if early else None
        if is_linear and not self.found_linear:
            self._record_first_input(args)
        output = func(*args, **kwargs)
        if is_activation:
            call = seen or slope_from_output(name, output)
            self.layers += count_units([len(self.layers) + 1], name, *call)
        if is_linear and self._is_layer(output):
            self.last_output = output.detach().clone()
        return output

    def _record_first_input(self, args: tuple[Any, ...]) -> None:
        if any(id(value) in self.fixed for value in args):
            return
        for value in args:
            if self._is_layer(value):
                self.found_linear = True
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
