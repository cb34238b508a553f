"""Who is who among the units of a layer: dead, always on, saturated, a duplicate, or bending."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchreg.diagnosis.duplicates import count_in_array, count_in_lists, count_in_small_layers
from torchreg.diagnosis.record import Layer
from torchreg.diagnosis.slopes import ACTIVATIONS, Activation

#: A slope below this share of the activation's steepest passes next to no gradient.
FLAT = 0.01
#: A unit is saturated if, for this share of the rows, ...
MOSTLY = 0.95
#: ... its slope is below this share of the steepest: tanh beyond ±2.2, where its output is
#: within 3 % of its ceiling.
STEEP = 0.05
#: Slopes that differ by less than this share of the steepest are one slope: a line.
ONE_SLOPE = 0.02
#: So few units of one layer are counted in Python, which takes less time than as many calls of
#: numpy that have not been at work before.
FEW = 32


class _Counts(NamedTuple):
    """How many units of one layer do what: fields of :class:`Layer`, in their order."""

    n_units: int
    n_dead: int
    n_always_on: int
    n_saturated: int
    n_duplicates: int
    n_bending: int


def count_units(
    numbers: Sequence[int], name: str, slope: Tensor | None, output: Tensor
) -> list[Layer]:
    r"""Count who is who among the units of calls of an activation :math:`\sigma`.

    What tells is the slope :math:`\sigma'(a)` of a unit on all rows, relative to the steepest
    that the activation has. *Dead*: (nearly) 0 for every row. *Saturated*: for an activation
    with floor and ceiling, small for nearly every row. *Always on*: one and the same slope for
    every row, so that the unit is a straight line. *Bending*: none of these. *Duplicates*:
    bending units that are, up to scale and offset, the same as another one of their layer.

    Parameters
    ----------
    numbers : sequence of int
        Place of each call in the order of all calls.
    name : str
        A key of :data:`torchreg.diagnosis.slopes.ACTIVATIONS`.
    slope : Tensor of shape (n, ...) or (n_layers, n, n_units), or None
        Without its sign; ``None`` for relu.
    output : Tensor of that shape
        Of one call, where all but the rows are units, or of as many calls as there are numbers.

    Examples
    --------
    >>> output = torch.tensor([[0.0, 1.0, 0.0], [0.0, 2.0, 3.0]])
    >>> (layer,) = count_units([1], "relu", None, output)
    >>> layer.n_dead, layer.n_always_on, layer.n_bending
    (1, 1, 1)
    """
    activation, several = ACTIVATIONS[name], len(numbers) > 1
    n_units = output.shape[2] if several else output[0].numel()
    if several:
        counts = _count_many(activation, slope, output)
    elif n_units > FEW:
        # (n, ...) -> (1, n, n_units)
        slope = None if slope is None else slope.flatten(1)[None]
        counts = _count_many(activation, slope, output.flatten(1)[None])
    else:
        counts = [_count_few(activation, slope, output)]
    return [
        Layer(f"hidden layer {number}", name, activation.bounded, *each)
        for number, each in zip(numbers, counts, strict=True)
    ]


def _count_few(activation: Activation, slope: Tensor | None, output: Tensor) -> _Counts:
    """Count the units of one layer, of shape (n, ...), in lists."""
    output = _by_unit(output)
    least, most = (values.tolist() for values in _ends(output, dim=1))
    if slope is None:
        low, high = ([float(end > 0) for end in each] for each in (least, most))
    else:
        slope = _by_unit(slope)
        slope = slope if activation.steepest == 1 else slope / activation.steepest
        low, high = (values.tolist() for values in _ends(slope, dim=1))
    flat = [steepest <= FLAT for steepest in high]
    # What is flat is a line, too.
    line = straight = [b - a <= ONE_SLOPE for a, b in zip(low, high, strict=True)]
    n_flat = n_dead = sum(flat)
    n_saturated = 0
    if slope is not None and activation.bounded:
        n_small = (slope <= STEEP).sum(dim=1).tolist()
        saturated = [n >= MOSTLY * slope.shape[1] for n in n_small]
        n_saturated = sum(saturated)
        n_dead = sum(off and not full for off, full in zip(flat, saturated, strict=True))
        straight = [a or b for a, b in zip(line, saturated, strict=True)]
    bending = [unit for unit, is_line in enumerate(straight) if not is_line]
    return _Counts(
        n_units=len(output),
        n_dead=n_dead,
        n_always_on=sum(line) - n_flat,
        n_saturated=n_saturated,
        n_duplicates=count_in_lists(output, least, most, bending),
        n_bending=len(bending),
    )


def _by_unit(values: Tensor) -> Tensor:
    """Put the numbers of each unit in one place, where sums run along memory."""
    # (n, ...) -> (n, n_units) -> (n_units, n)
    units = values.flatten(1).T
    return units.to("cpu", torch.float64, memory_format=torch.contiguous_format)


def _ends(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Give the least and the largest number of each unit: torch takes longer for both at once."""
    return values.amin(dim=dim), values.amax(dim=dim)


@np.errstate(invalid="ignore", over="ignore")
def _count_many(activation: Activation, slope: Tensor | None, output: Tensor) -> list[_Counts]:
    """Count the units of several layers, of shape (n_layers, n, n_units), in arrays."""
    output = output.detach().cpu()
    if output.shape[2] <= FEW:
        # The numbers of each unit in one place: along rows of few units torch takes its time.
        output = output.mT.contiguous().mT
        slope = None if slope is None else slope.mT.contiguous().mT
    if output.itemsize < 4:
        # numpy has no bfloat16.
        output = output.to(torch.float32)
    low, high = (end.numpy() for end in _ends(output, dim=1))
    saturated = np.zeros(low.shape, dtype=bool)
    if slope is None:
        on = high > 0
        flat, line = ~on, (low > 0) == on
    else:
        slope = slope if activation.steepest == 1 else slope / activation.steepest
        least, most = (end.numpy() for end in _ends(slope, dim=1))
        # What is flat is a line, too.
        flat, line = most <= FLAT, most - least <= ONE_SLOPE
        if activation.bounded:
            saturated = (slope <= STEEP).sum(dim=1).numpy() >= MOSTLY * slope.shape[1]
    bending = ~(line | saturated)
    # (5, n_layers, n_units) -> (5, n_layers) -> n_layers of 5
    kinds = np.stack([flat & ~saturated, line, flat, saturated, bending])
    counted = np.add.reduce(kinds, axis=2, dtype=int).T.tolist()
    n_units = kinds.shape[2]
    found = (count_in_array if n_units > FEW else count_in_small_layers)(output, kinds[-1])
    return [
        _Counts(n_units, n_dead, n_line - n_flat, n_saturated, n_duplicates, n_bending)
        for (n_dead, n_line, n_flat, n_saturated, n_bending), n_duplicates in zip(
            counted, found, strict=True
        )
    ]
