"""Classify the units of a layer: dead, always on, saturated, duplicate or bending."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchreg.diagnosis.activation_slopes import ACTIVATIONS, Activation
from torchreg.diagnosis.duplicates import count_duplicates
from torchreg.diagnosis.record import Layer

#: A slope below this share of the activation's largest slope passes almost no gradient.
FLAT = 0.01
#: A unit is saturated if, for this share of the rows, ...
MOSTLY = 0.95
#: ... its slope is below this share of the largest: tanh beyond ±2.2, where its output is within
#: 3 % of its bounds.
STEEP = 0.05
#: Slopes that differ by less than this share of the largest are equal: the unit is linear.
ONE_SLOPE = 0.02


class _Counts(NamedTuple):
    """Numbers of units of one layer: fields of :class:`Layer`, in their order."""

    n_units: int
    n_dead: int
    n_always_on: int
    n_saturated: int
    n_duplicates: int
    n_bending: int


def count_units(
    numbers: Sequence[int], name: str, slope: Tensor | None, output: Tensor
) -> list[Layer]:
    r"""Count the kinds of units in calls of an activation :math:`\sigma`.

    The classification uses the slope :math:`\sigma'(a)` of a unit on all rows, relative to the
    largest slope of the activation. *Dead*: (nearly) 0 for every row. *Saturated*: for a bounded
    activation, small for nearly every row. *Always on*: the same slope for every row, so that the
    unit is linear. *Bending*: none of these. *Duplicates*: bending units that equal another unit of
    their layer up to scale and offset.

    Parameters
    ----------
    numbers : sequence of int
        Number of each call in the order of all calls.
    name : str
        A key of :data:`torchreg.diagnosis.activation_slopes.ACTIVATIONS`.
    slope : Tensor of shape (n, ...) or (n_layers, n, n_units), or None
        Absolute slope; ``None`` for relu.
    output : Tensor of that shape
        Output of one call, with rows along the first dimension, or of several calls.

    Examples
    --------
    >>> output = torch.tensor([[0.0, 1.0, 0.0], [0.0, 2.0, 3.0]])
    >>> (layer,) = count_units([1], "relu", None, output)
    >>> layer.n_dead, layer.n_always_on, layer.n_bending
    (1, 1, 1)
    """
    activation = ACTIVATIONS[name]
    if len(numbers) == 1:
        # (n, ...) -> (1, n, n_units)
        output = output.flatten(1)[None]
        slope = None if slope is None else slope.flatten(1)[None]
    return [
        Layer(f"hidden layer {number}", name, activation.bounded, *counts)
        for number, counts in zip(numbers, _count(activation, slope, output), strict=True)
    ]


@np.errstate(invalid="ignore", over="ignore")
def _count(activation: Activation, slope: Tensor | None, output: Tensor) -> list[_Counts]:
    """Count the units of several layers of shape (n_layers, n, n_units)."""
    output = _to_numpy_dtype(output)
    low, high = output.amin(dim=1).numpy(), output.amax(dim=1).numpy()
    saturated = np.zeros(low.shape, dtype=bool)
    if slope is None:
        on = high > 0
        flat, linear = ~on, (low > 0) == on
    else:
        slope = _to_numpy_dtype(slope) / activation.steepest
        least, most = slope.amin(dim=1).numpy(), slope.amax(dim=1).numpy()
        # A flat unit is linear, too.
        flat, linear = most <= FLAT, most - least <= ONE_SLOPE
        if activation.bounded:
            saturated = (slope <= STEEP).sum(dim=1).numpy() >= MOSTLY * slope.shape[1]
    bending = ~(linear | saturated)
    # (5, n_layers, n_units) -> (5, n_layers) -> n_layers of 5
    kinds = np.stack([flat & ~saturated, linear, flat, saturated, bending])
    counts = np.add.reduce(kinds, axis=2, dtype=int).T.tolist()
    duplicates = count_duplicates(output, bending)
    return [
        _Counts(kinds.shape[2], n_dead, n_linear - n_flat, n_saturated, n_duplicates, n_bending)
        for (n_dead, n_linear, n_flat, n_saturated, n_bending), n_duplicates in zip(
            counts, duplicates, strict=True
        )
    ]


def _to_numpy_dtype(values: Tensor) -> Tensor:
    """Copy to the CPU, in a dtype that NumPy has: not bfloat16."""
    values = values.detach().cpu()
    return values.to(torch.float32) if values.itemsize < 4 else values
