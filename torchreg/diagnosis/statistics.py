"""Numbers from a network and rows: what reaches it, what its units do, how straight it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from torchreg.diagnosis.record import Layer, Look
from torchreg.diagnosis.structure import Array, hold_against_lines, moments_of
from torchreg.diagnosis.units import (
    ACTIVATIONS,
    SLOPE_OF_OUTPUT,
    as_layer,
    count_units,
    slope_and_output,
    slope_from_output,
)
from torchreg.nn import AverageMembers, Link

#: The functions of torch in which a row meets weights.
_MEETS_WEIGHTS = frozenset({"linear", "bilinear", "conv1d", "conv2d", "matmul", "mm", "addmm"})
#: Numbers that vary by less than this share of their size show no slope in float32.
TOO_STEADY = 1e-5
#: What rounding in float32 leaves of a line, as a share of its spread, at most.
NO_LINE = 1e-4


class Watch(TorchFunctionMode):
    """Sees what a network calls, without a hook on it: whatever is on it stays as it is.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
        Rows that are sent through; anything of another length is no layer.

    Attributes
    ----------
    first_input : Tensor or None
        What reached the first layer, if that was anything but ``x`` as it came.
    last_output : Tensor or None
        What the last linear layer gave.
    layers : list of Layer
        Of each activation.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
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
            counts = count_units(name, *(seen or slope_from_output(name, output)))
            self.layers.append(as_layer(counts, len(self.layers) + 1))
        if meets_weights and self._is_layer(output):
            self.last_output = output.detach().clone()
        return output

    def _note_first(self, args: tuple[Any, ...]) -> None:
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


def look_inside(
    network: nn.Module, x: Tensor, t: Tensor | None, link: Link | None = None
) -> Look | None:
    """Send rows through a network and note what there is to see; the network stays as it is.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    x : Tensor of shape (n, n_features)
        In the network's units and dtype, on its device.
    t : Tensor of shape (n, n_outputs) or None
        Targets in the units of the network's output.
    link : Link or None, default=None
        What makes predictions of the output; those are held against the targets then.

    Returns
    -------
    Look or None
        ``None`` if there are fewer than two rows, or the outputs are not finite.
    """
    if len(x) < 2:
        return None
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    given = x.clone()
    watch = Watch(given)
    try:
        with torch.no_grad(), watch:
            result = network(given)
    finally:
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)
    with torch.no_grad():
        result = AverageMembers()(result if link is None else link(result))
        # (n,), or (n, width) -> (n, n_outputs)
        result = result if link is None else link.central(result.reshape(len(x), -1))
    # (n,) or (n, n_outputs) -> (n, n_outputs)
    output = _exactly(result).reshape(len(x), -1)
    if not np.isfinite(output).all():
        return None
    core = _exactly(x)
    targets = None if t is None else _exactly(t)
    held = hold_against_lines(core, targets, output)
    reached, input_is_core = held.x, True
    if watch.first_input is not None:
        # (n, ..., n_columns) -> (n * ..., n_columns)
        first = _exactly(watch.first_input).reshape(-1, watch.first_input.shape[-1])
        input_is_core = np.array_equal(first, core)
        reached = held.x if input_is_core else moments_of(first)
    target = held.y
    if targets is not None:
        wanted = _wanted(targets, output, watch.last_output)
        if wanted is not targets:
            target = moments_of(wanted)
    return Look(
        n_rows=len(x),
        input_mean=reached.mean.tolist(),
        input_scale=reached.scale.tolist(),
        input_is_core=input_is_core,
        target_mean=target.mean.tolist(),
        target_scale=target.scale.tolist(),
        output_scale=held.output.scale.tolist(),
        linear_share=held.linear_share,
        layers=watch.layers,
        structure=held.structure,
    )


def spread_out(n_rows: int, at_most: int, weight: Tensor | None = None) -> Tensor | slice:
    """Choose rows at equal distances; with weights, each as often as its weight deserves.

    Parameters
    ----------
    n_rows : int
    at_most : int
        Length of what comes out, or ``n_rows`` where that is smaller.
    weight : Tensor of shape (m,) or None
        Of m distinct rows; ``n_rows`` then counts the rows before they were merged.

    Examples
    --------
    >>> spread_out(9, 3), spread_out(9, 10), spread_out(4, 10, torch.tensor([1.0, 3.0]))
    (tensor([0, 3, 6]), slice(None, 9, None), tensor([0, 1, 1, 1]))
    """
    count = min(n_rows, at_most)
    if weight is None:
        # Every row as it lies costs no copy.
        if count == n_rows:
            return slice(count)
        return torch.from_numpy(np.arange(count) * n_rows // count)
    total = weight.detach().cpu().to(torch.float64).numpy().cumsum()
    places = (np.arange(count) + 0.5) * (total[-1] / count)
    return torch.from_numpy(np.minimum(np.searchsorted(total, places), len(total) - 1))


def _wanted(t: Array, output: Array, last: Tensor | None) -> Array:
    """Find what the last linear layer has to give, if only fixed numbers come after it.

    Where the output is a line in what that layer gave, the line is undone for the targets.
    No rows come out where that layer gives too much of the same to tell.
    """
    if last is None or last.numel() != output.size:
        return t
    # (n, n_outputs), of whatever shape before
    given = _exactly(last).reshape(output.shape)
    if np.array_equal(given, output):
        return t
    centred = given - given.mean(axis=0)
    spread = given.std(axis=0)
    if (spread <= TOO_STEADY * np.abs(given).max(axis=0)).any():
        return t[:0]
    slope = (centred * output).mean(axis=0) / np.square(spread)
    left = output - output.mean(axis=0) - slope * centred
    if not slope.all() or (np.abs(left).max(axis=0) > NO_LINE * output.std(axis=0)).any():
        return t
    undone: Array = (t - output.mean(axis=0)) / slope + given.mean(axis=0)
    return undone


def _exactly(values: Tensor) -> Array:
    exact: Array = values.detach().to("cpu", torch.float64).numpy()
    return exact
