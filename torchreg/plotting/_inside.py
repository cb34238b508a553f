"""Outputs of the layers of a network, and the kinks of its units."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from torchreg._utils import restore_torch_state
from torchreg.diagnosis.module_probe import find_bends
from torchreg.nn.links import point_prediction, prediction_column

Positions = NDArray[np.float64]

#: Inputs at which the activations of torch have a kink, by function name; a function of the
#: arguments after the first.
KINKS: dict[str, Callable[..., tuple[float, ...]]] = {
    **{
        name: lambda *args, **options: (0.0,)
        for name in ("abs", "leaky_relu", "prelu", "relu", "rrelu", "selu")
    },
    **dict.fromkeys(("hardsigmoid", "hardswish"), lambda *args, **options: (-3.0, 3.0)),
    **dict.fromkeys(("hardshrink", "softshrink"), lambda lambd=0.5: (-lambd, lambd)),
    "relu6": lambda inplace=False: (0.0, 6.0),
    "hardtanh": lambda min_val=-1.0, max_val=1.0, inplace=False: (min_val, max_val),
    "threshold": lambda threshold, value, inplace=False: (threshold,),
    "clamp": lambda min=None, max=None: tuple(
        bound for bound in (min, max) if isinstance(bound, int | float)
    ),
}


class LayerOutput(NamedTuple):
    """Output of a layer: values of shape (n, units)."""

    name: str
    layer: nn.Module
    values: Tensor


def layer_outputs(module: nn.Module, x: Tensor) -> list[LayerOutput]:
    """Evaluate a copy of a module and record the outputs of its innermost layers.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode.
    x : Tensor of shape (n, n_features)
        In the input units of the module, float64.

    Returns
    -------
    list of LayerOutput
        In the order of the calls; layers without a tensor output are left out.
    """
    module = copy.deepcopy(module)
    outputs: list[LayerOutput] = []

    def watch(name: str) -> Callable[..., None]:
        def after(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim > 0 and len(output) == len(x):
                # (n, ...) -> (n, units); a copy, because the next layer may overwrite it.
                given = output.detach().cpu().reshape(len(x), -1).clone()
                outputs.append(LayerOutput(name, layer, given))

        return after

    for name, layer in module.named_modules():
        if not any(True for _ in layer.children()):
            layer.register_forward_hook(watch(name))
    _evaluate(module, x)
    return outputs


def _evaluate(module: nn.Module, x: Tensor) -> Tensor:
    parameter = next(module.parameters())
    standardizes = getattr(module, "standardize", None) is not None
    with torch.no_grad():
        output: Tensor = module(x.to(parameter.device, None if standardizes else parameter.dtype))
    # (n,) or (n, width) -> (n, width)
    return point_prediction(module, output.reshape(len(x), -1)).cpu()


class _KinkRecorder(TorchFunctionMode):
    """Records the distance of each unit's input to each kink: shape (n,) each."""

    def __init__(self, n_rows: int) -> None:
        super().__init__()
        self.n_rows = n_rows
        self.distances: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # relu, relu_ and Tensor.relu are one function.
        kinks = KINKS.get(getattr(func, "__name__", "").strip("_"))
        options = dict(kwargs or {})
        given = args[0] if args else options.pop("input", None)
        if kinks is not None and isinstance(given, Tensor) and len(given) == self.n_rows:
            # (n, ...) -> (n, units); a copy, because an in-place activation may overwrite it.
            units = given.detach().double().cpu().reshape(self.n_rows, -1).clone().unbind(dim=1)
            places = kinks(*args[1:], **options)
            self.distances += [unit - place for place in places for unit in units]
        return func(*args, **(kwargs or {}))


def distances_to_kinks(module: nn.Module, x: Tensor) -> tuple[Positions, list[Positions]]:
    """Evaluate rows and measure the distance of each unit's input to its kinks.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode.
    x : Tensor of shape (n, n_features)
        In the input units of the module, float64.

    Returns
    -------
    output : ndarray of shape (n, n_outputs)
    distances : list of ndarray of shape (n,)
        One per kink and unit, in the order of the calls.
    """
    with _KinkRecorder(len(x)) as recorder:
        output = _evaluate(module, x)
    return output.double().numpy(), [distance.numpy() for distance in recorder.distances]


class _Output(nn.Module):
    """Selects one of several outputs."""

    def __init__(self, output: int) -> None:
        super().__init__()
        self.output = output

    def forward(self, y: Tensor) -> Tensor:
        """Select a column: shape (n, n_outputs) or (n,) to (n, 1)."""
        return y.reshape(len(y), -1)[:, self.output : self.output + 1]


@restore_torch_state
def kinks_along(module: nn.Module, low: float, high: float, *, output: int) -> Positions:
    """Find the kinks of a network of one feature.

    Parameters
    ----------
    module : nn.Sequential
        Raw units to raw units.
    low, high : float
        Range to search, in the unit of the feature.
    output : int
        Index of the output.

    Returns
    -------
    ndarray of shape (n_bends,)
        In the unit of the feature, ascending.
    """
    column = _Output(prediction_column(module, output))
    one = nn.Sequential(OrderedDict([*module.named_children(), ("output", column)]))
    return np.array(find_bends(one, low, high, next(module.parameters()).dtype))


def kink_lines(module: nn.Module, first: Positions, second: Positions) -> list[Positions]:
    """Find the lines along which the units of a network of two features have kinks.

    Parameters
    ----------
    module : nn.Module
        Two features to any number of outputs.
    first, second : ndarray of shape (n_first,) and (n_second,)
        Axes of a grid, in the units of the features.

    Returns
    -------
    list of ndarray of shape (n_points, 2)
        Polygonal lines in the units of the features.
    """
    from contourpy import contour_generator

    x = torch.from_numpy(np.stack([axis.ravel() for axis in np.meshgrid(first, second)], axis=1))
    lines: list[Positions] = []
    for distance in distances_to_kinks(module, x)[1]:
        # (n_second * n_first,) -> (n_second, n_first)
        table = distance.reshape(len(second), len(first))
        if table.min() < 0 < table.max():
            found: Any = contour_generator(first, second, table).lines(0.0)
            lines += [
                _simplified(line, np.array([np.ptp(first), np.ptp(second)])) for line in found
            ]
    return lines


def _simplified(line: Positions, size: Positions) -> Positions:
    """Remove the points of a polygonal line at which its direction does not change."""
    step = np.diff(line / size, axis=0)
    length = np.linalg.norm(step, axis=1)
    moved = length > 1e-9
    line, step = line[np.append(True, moved)], step[moved] / length[moved, None]
    turn = np.abs(step[:-1, 0] * step[1:, 1] - step[:-1, 1] * step[1:, 0])
    kinks: Positions = line[np.concatenate([[True], turn > 1e-3, [True]])]
    return kinks
