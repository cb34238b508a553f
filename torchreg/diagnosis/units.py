"""Who is who among the units of a layer: dead, always on, saturated, a duplicate, or bending."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchreg._device import inference
from torchreg.diagnosis.record import Layer

#: A slope below this share of the activation's steepest passes next to no gradient.
FLAT = 0.01
#: A unit is saturated if, for this share of the rows, ...
MOSTLY = 0.95
#: ... its slope is below this share of the steepest: tanh beyond ±2.2, where its output is
#: within 3 % of its ceiling.
STEEP = 0.05
#: Slopes that differ by less than this share of the steepest are one slope: a line.
ONE_SLOPE = 0.02
#: Two units are duplicates if this much of one's variance is not explained by the other: far
#: above rounding in float32 (1e-14), far below what two bends at neighbouring rows leave.
NOT_EXPLAINED = 1e-8
#: Centred and of length 1, units are no duplicates for certain if the largest number of one is
#: further than this from that of the other: the square of the distance of duplicates is
#: NOT_EXPLAINED, and a bit is for rounding.
REACH_ALIKE = 1.01 * NOT_EXPLAINED**0.5
#: Units that are compared with each other, at most: many may reach equally far.
COMPARED = 512


@dataclass(frozen=True)
class Activation:
    """What must be known of an activation: whether it has both a floor and a ceiling."""

    steepest: float
    bounded: bool = False


#: The activations of torch, by the name of the function that computes them.
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


#: Slopes that the output tells by itself, which costs a fraction of differentiating. Of relu
#: the sign of the output says all, and no slope is computed.
SLOPE_OF_OUTPUT: dict[str, Callable[[Tensor], Tensor | None]] = {
    "relu": lambda after: None,
    "sigmoid": lambda after: after * (1 - after),
    "tanh": lambda after: 1 - after * after,
}


def slope_and_output(
    call: Callable[..., Tensor], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Differentiate an activation where it is called, in float64; its input stays as it is.

    Parameters
    ----------
    call : callable
        The activation.
    name : str
        Its key in :data:`ACTIVATIONS`.
    args, kwargs : tuple, dict
        How it is called; the first argument has shape (n, ...).

    Returns
    -------
    slope, output : Tensor of shape (n_units, n)
        The size of the slope, whatever its sign.
    """
    with inference(False), torch.enable_grad():
        given = [_copy(value) for value in args]
        options = {key: _copy(value) for key, value in kwargs.items()}
        if name == "glu":
            # (n, 2k) -> (n, k): the gate, a sigmoid of the second half
            given, options, call = [given[0].chunk(2, dim=-1)[1]], {}, torch.sigmoid
        before = given[0].requires_grad_()
        # A copy, which relu_ and its like may overwrite.
        after = call(before.clone(), *given[1:], **options)
        (slope,) = torch.autograd.grad(after.sum(), before)
    return _by_unit(slope).abs(), _by_unit(after)


def slope_from_output(name: str, output: Tensor) -> tuple[Tensor | None, Tensor]:
    """Read the slope off the output, for an activation of :data:`SLOPE_OF_OUTPUT`.

    Returns
    -------
    slope : Tensor of shape (n_units, n) or None
    output : Tensor of shape (n_units, n)
    """
    after = _by_unit(output)
    return SLOPE_OF_OUTPUT[name](after), after


def _by_unit(values: Tensor) -> Tensor:
    """Put the numbers of each unit in one place, where sums run along memory."""
    # (n, ...) -> (n, n_units) -> (n_units, n)
    units = values.flatten(1).T
    return units.to("cpu", torch.float64, memory_format=torch.contiguous_format)


def count_units(number: int, name: str, slope: Tensor | None, output: Tensor) -> Layer:
    r"""Count who is who among the units of one call of an activation :math:`\sigma`.

    What tells is the slope :math:`\sigma'(a)` of a unit on all rows, relative to the steepest
    that the activation has. *Dead*: (nearly) 0 for every row. *Saturated*: for an activation
    with floor and ceiling, small for nearly every row. *Always on*: one and the same slope for
    every row, so that the unit is a straight line. *Bending*: none of these. *Duplicates*:
    bending units that are, up to scale and offset, the same as an earlier one.

    Parameters
    ----------
    number : int
        Place in the order of the calls.
    name : str
        A key of :data:`ACTIVATIONS`.
    slope : Tensor of shape (n_units, n) or None
        Without its sign; ``None`` for relu.
    output : Tensor of shape (n_units, n)
        One row a unit.

    Examples
    --------
    >>> output = torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.0, 3.0]])
    >>> layer = count_units(1, "relu", None, output)
    >>> layer.n_dead, layer.n_always_on, layer.n_bending
    (1, 1, 1)
    """
    activation = ACTIVATIONS[name]
    ends = _ends(output)
    if slope is None:
        low, high = ([float(end > 0) for end in each] for each in ends)
    else:
        slope = slope if activation.steepest == 1 else slope / activation.steepest
        low, high = _ends(slope)
    flat = [most <= FLAT for most in high]
    # What is flat is a line, too.
    line = straight = [most - least <= ONE_SLOPE for least, most in zip(low, high, strict=True)]
    n_flat = n_dead = sum(flat)
    n_saturated = 0
    if slope is not None and activation.bounded:
        n_small = (slope <= STEEP).sum(dim=1).tolist()
        saturated = [n >= MOSTLY * slope.shape[1] for n in n_small]
        n_saturated = sum(saturated)
        n_dead = sum(off and not full for off, full in zip(flat, saturated, strict=True))
        straight = [a or b for a, b in zip(line, saturated, strict=True)]
    bending = [unit for unit, is_line in enumerate(straight) if not is_line]
    return Layer(
        name=f"hidden layer {number}",
        function=name,
        bounded=activation.bounded,
        n_units=len(output),
        n_dead=n_dead,
        n_always_on=sum(line) - n_flat,
        n_saturated=n_saturated,
        n_duplicates=_count_duplicates(output, *ends, bending),
        n_bending=len(bending),
    )


def _ends(values: Tensor) -> tuple[list[float], list[float]]:
    """Give the least and the largest number of each unit, in lists: Python counts few fastest."""
    low, high = torch.aminmax(values, dim=1)
    return low.tolist(), high.tolist()


def _copy(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().to("cpu", torch.float64, copy=True)


def _count_duplicates(
    units: Tensor, low: list[float], high: list[float], bending: list[int]
) -> int:
    """Count those of some units that are scaled and shifted copies of another before them.

    Parameters
    ----------
    units : Tensor of shape (n_units, n)
    low, high : list of float
        Their ends.
    bending : list of int
        Which are looked at.
    """
    bending = bending[:COMPARED]
    if len(bending) < 2:
        return 0
    offset = units.sum(dim=1, keepdim=True) * (1 / units.shape[1])
    centred = units - offset
    mean, total = offset.flatten().tolist(), (centred * centred).sum(dim=1).tolist()
    # Duplicates of length 1 are the same but for their sign, and reach equally far. Next to no
    # others do: so few have to be held against each other.
    reach = {
        i: max(high[i] - mean[i], mean[i] - low[i]) / math.sqrt(total[i] or 1) for i in bending
    }
    order = sorted(bending, key=reach.__getitem__)
    n_found = 0
    for place, unit in enumerate(order):
        for other in reversed(order[:place]):
            # What is not finite is like nothing.
            if not reach[unit] - reach[other] <= REACH_ALIKE:
                break
            product = float((centred[unit] * centred[other]).sum())
            # 1 - r^2 <= NOT_EXPLAINED, for their correlation r
            if product * product >= (1 - NOT_EXPLAINED) * total[unit] * total[other]:
                n_found += 1
                break
    return n_found
