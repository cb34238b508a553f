"""Who is who among the units of a layer: dead, always on, saturated, a duplicate, or bending."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchreg.diagnosis.moments import Array
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
#: So far apart on one row, at least, are units of length 1 that are no duplicates for certain:
#: the square of the distance of duplicates is NOT_EXPLAINED, and a bit for rounding.
BEGIN_ALIKE = 1.01 * NOT_EXPLAINED**0.5
#: Units that are compared with each other, at most: the comparison costs their square.
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


#: Of relu it is whether a unit is on.
Slope = Array | NDArray[np.bool_]

#: Slopes that the output tells by itself, which costs a fraction of differentiating.
SLOPE_OF_OUTPUT: dict[str, Callable[[Array], Slope]] = {
    "relu": lambda after: after > 0,
    "sigmoid": lambda after: after * (1 - after),
    "tanh": lambda after: 1 - after * after,
}


def slope_and_output(
    call: Callable[..., Tensor], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Array, Array]:
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
    slope, output : ndarray of shape (n_units, n)
        The size of the slope, whatever its sign.
    """
    given = [_copy(value) for value in args]
    options = {key: _copy(value) for key, value in kwargs.items()}
    if name == "glu":
        # (n, 2k) -> (n, k): the gate, a sigmoid of the second half
        given, options, call = [given[0].chunk(2, dim=-1)[1]], {}, torch.sigmoid
    with torch.enable_grad():
        before = given[0].requires_grad_()
        # A copy, which relu_ and its like may overwrite.
        after = call(before.clone(), *given[1:], **options)
        (slope,) = torch.autograd.grad(after.sum(), before)
    return np.abs(_by_unit(slope)), _by_unit(after)


def slope_from_output(name: str, output: Tensor) -> tuple[Slope, Array]:
    """Read the slope off the output, for an activation of :data:`SLOPE_OF_OUTPUT`.

    Returns
    -------
    slope, output : ndarray of shape (n_units, n)
    """
    after = _by_unit(output)
    return SLOPE_OF_OUTPUT[name](after), after


def _by_unit(values: Tensor) -> Array:
    """Put the numbers of each unit in one place, where numpy runs through them fastest."""
    exact = values.detach().to("cpu", torch.float64).numpy()
    # (n, ...) -> (n, n_units) -> (n_units, n)
    return np.ascontiguousarray(exact.reshape(len(exact), -1).T)


def count_units(name: str, slope: Slope, output: Array) -> dict[str, Any]:
    r"""Count who is who among the units of one call of an activation :math:`\sigma`.

    What tells is the slope :math:`\sigma'(a)` of a unit on all rows, relative to the steepest
    that the activation has. *Dead*: (nearly) 0 for every row. *Saturated*: for an activation
    with floor and ceiling, small for nearly every row. *Always on*: one and the same slope for
    every row, so that the unit is a straight line. *Bending*: none of these. *Duplicates*:
    bending units that are, up to scale and offset, the same as an earlier one.

    Parameters
    ----------
    name : str
        A key of :data:`ACTIVATIONS`.
    slope, output : ndarray of shape (n_units, n)
        One row a unit; the slope without its sign.

    Returns
    -------
    dict
        The fields of :class:`Layer`, but its name.

    Examples
    --------
    >>> output = np.array([[0.0, 0.0], [1.0, 2.0], [0.0, 3.0]])
    >>> counts = count_units("relu", SLOPE_OF_OUTPUT["relu"](output), output)
    >>> counts["n_dead"], counts["n_always_on"], counts["n_bending"]
    (1, 1, 1)
    """
    activation = ACTIVATIONS[name]
    relative = slope if activation.steepest == 1 else slope / activation.steepest
    low, high = np.minimum.reduce(relative, axis=1), np.maximum.reduce(relative, axis=1)
    # What is flat is a line, too.
    flat, line = high <= FLAT, np.subtract(high, low, dtype=np.float64) <= ONE_SLOPE
    n_flat = n_dead = _count(flat)
    n_saturated, straight = 0, line
    if activation.bounded:
        saturated = np.add.reduce(relative <= STEEP, axis=1) / relative.shape[1] >= MOSTLY
        n_saturated, n_dead = _count(saturated), _count(flat & ~saturated)
        straight = line | saturated
    bending = output[~straight] if True in straight.tolist() else output
    return {
        "function": name,
        "bounded": activation.bounded,
        "n_units": len(slope),
        "n_dead": n_dead,
        "n_always_on": _count(line) - n_flat,
        "n_saturated": n_saturated,
        "n_duplicates": _count_duplicates(bending),
        "n_bending": len(bending),
    }


def _count(which: NDArray[np.bool_]) -> int:
    """Count what is true among the units of a layer: for so few, Python is fastest."""
    return sum(which.tolist())


def _copy(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().to("cpu", torch.float64, copy=True)


def _count_duplicates(units: Array) -> int:
    """Count the rows that are scaled and shifted copies of an earlier one."""
    if len(units) < 2:
        return 0
    units = units[:COMPARED]
    centred = units - np.add.reduce(units, axis=1, keepdims=True) / units.shape[1]
    squares = centred * centred
    # Of length 1, duplicates are the same but for their sign: they begin alike. It takes a
    # fraction of the time to see that in a small layer no two do.
    numbers = zip(squares[:, 0].tolist(), np.add.reduce(squares, axis=1).tolist(), strict=True)
    begin = sorted(math.sqrt(first / total) if total else 0.0 for first, total in numbers)
    if all(after - before > BEGIN_ALIKE for before, after in pairwise(begin)):
        return 0
    # By torch, for the reason given in lines.py.
    rows = torch.from_numpy(centred)
    products = (rows @ rows.T).numpy()
    size = products.diagonal()
    # 1 - r^2 <= NOT_EXPLAINED, for the correlation r of each pair
    alike = products * products >= (1 - NOT_EXPLAINED) * size[:, None] * size
    # Each is like itself.
    if np.count_nonzero(alike) == len(size):
        return 0
    places = np.arange(len(size))
    earlier = places[:, None] < places
    return int(np.count_nonzero(np.logical_or.reduce(alike & earlier)))


def as_layer(counts: dict[str, Any], number: int) -> Layer:
    """Give the counts of one activation their place in the order of the calls."""
    return Layer(name=f"hidden layer {number}", **counts)
