"""Units that are scaled and shifted copies of others of their layer.

Centred and of length 1, copies are the same but for their sign. Something that tells most units
apart is measured of each first, so that few have to be held against each other.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Two units are duplicates if this much of one's variance is not explained by the other: far
#: above rounding in float32 (1e-14), far below what two bends at neighbouring rows leave.
NOT_EXPLAINED = 1e-8
#: Centred and of length 1, units are no duplicates for certain if the largest number of one is
#: further than this from that of the other: the square of the distance of duplicates is
#: NOT_EXPLAINED, and a bit is for rounding.
REACH_ALIKE = 1.01 * NOT_EXPLAINED**0.5
#: Of what is seen of units along some directions, the angles, in radians, differ between
#: duplicates by about as much as the duplicates themselves do at length 1. The rest is for
#: rounding in float32, which counts for more where little of them is seen.
AIM_ALIKE = 3 * NOT_EXPLAINED**0.5
#: Units of a layer that are compared with each other, at most: many may reach equally far.
COMPARED = 512

#: Numbers of units, which of them, and where.
Array = NDArray[Any]
Which = NDArray[np.bool_]
Places = NDArray[np.intp]


def count_in_lists(units: Tensor, low: list[float], high: list[float], bending: list[int]) -> int:
    """Count those of a few units that are scaled and shifted copies of another before them.

    Parameters
    ----------
    units : Tensor of shape (n_units, n)
    low, high : list of float
        Their ends.
    bending : list of int
        Which are looked at.
    """
    if len(bending) < 2:
        return 0
    offset = units.sum(dim=1, keepdim=True) * (1 / units.shape[1])
    centred = units - offset
    mean, total = offset.flatten().tolist(), (centred * centred).sum(dim=1).tolist()
    # Duplicates reach equally far, next to no others do.
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


@np.errstate(invalid="ignore", over="ignore")
def count_in_small_layers(units: Tensor, bending: Which) -> list[int]:
    """Count in each of several layers of few units what :func:`count_in_lists` counts in one.

    How far units reach tells most of so few apart.

    Parameters
    ----------
    units : Tensor of shape (n_layers, n, n_units)
    bending : ndarray of bool of shape (n_layers, n_units)
        Which are looked at.
    """
    # (n_layers, n, n_units) -> (n_layers, n_units, n), where sums run along memory
    rows = units.mT.to(torch.float64, memory_format=torch.contiguous_format)
    centred = rows - rows.sum(dim=2, keepdim=True) * (1 / rows.shape[2])
    total = (centred * centred).sum(dim=2).numpy()
    reach = centred.abs().amax(dim=2).numpy() / np.sqrt(np.where(total, total, 1.0))
    # 1 at most: so units of two layers are not alike.
    reach += 2 * np.arange(len(reach))[:, None]
    return _count_copies(units, bending, REACH_ALIKE, reach[bending])


@np.errstate(invalid="ignore", over="ignore", divide="ignore")
def count_in_array(units: Tensor, bending: Which) -> list[int]:
    """Count in each of several layers what :func:`count_in_lists` counts in one.

    What is seen of units along a few directions tells nearly all apart.

    Parameters
    ----------
    units : Tensor of shape (n_layers, n, n_units)
    bending : ndarray of bool of shape (n_layers, n_units)
        Which are looked at.
    """
    if bending.shape[1] > COMPARED:
        bending = bending & (bending.cumsum(axis=1) <= COMPARED)
    # (4, n) @ (n_layers, n, n_units) -> (n_layers, 4, n_units) -> (4, n_bending)
    seen = (_directions(units.shape[1], units.dtype) @ units).numpy().swapaxes(0, 1)[:, bending]
    # Neither scale nor sign counts in a ratio.
    first, *others = np.arctan(seen[1:] / seen[0], dtype=np.float64)
    # Within a half turn: with two turns more for each layer, units of two layers are not alike.
    first += 4 * math.pi * bending.nonzero()[0]
    return _count_copies(units, bending, AIM_ALIKE, first, *others)


def _count_copies(
    units: Tensor, bending: Which, alike: float, first: Array, *others: Array
) -> list[int]:
    """Hold the units of each layer against each other that nothing tells apart.

    Parameters
    ----------
    units : Tensor of shape (n_layers, n, n_units)
    bending : ndarray of bool of shape (n_layers, n_units)
        Which are looked at.
    alike : float
        Copies differ by less, in each of the numbers that follow.
    first, *others : ndarray of shape (n_bending,)
        What may tell units apart, of those that are looked at. The first is far from that of
        units of other layers.
    """
    n_layers, n_units = bending.shape
    order = first.argsort()
    # (n_layers, n_units) -> (n_layers * n_units,)
    places, first = np.flatnonzero(bending)[order], first[order]
    keys = [each[order] for each in others]
    is_copy = np.zeros(len(places), dtype=bool)
    # Each is held against its neighbour; then, if that is another, against the one before it, ...
    left = np.arange(1, len(places))
    for step in range(1, len(places)):
        # What is not finite is like nothing.
        left = left[first[left] - first[left - step] <= alike]
        if not len(left):
            break
        near = left
        for each in keys:
            near = near[np.abs(each[near] - each[near - step]) <= alike]
        if len(near):
            is_copy[near] = _are_copies(units.numpy(), places[near], places[near - step])
        left = left[(left > step) & ~is_copy[left]]
    counts: list[int] = np.bincount(places[is_copy] // n_units, minlength=n_layers).tolist()
    return counts


@lru_cache(maxsize=8)
def _directions(n: int, dtype: torch.dtype) -> Tensor:
    """Give directions that are at right angles to a constant, so that no offset counts."""
    waves = np.sin(np.outer(np.sqrt([1.0, 2.0, 3.0, 5.0]), np.arange(1.0, n + 1)))
    return torch.from_numpy(waves - waves.mean(axis=1, keepdims=True)).to(dtype)


def _are_copies(units: Array, some: Places, others: Places) -> Which:
    """Tell which of some units, numbered through all layers, are copies of others."""
    layer, column = np.divmod([some, others], units.shape[2])
    # (2, n_pairs, n)
    pairs = units[layer, :, column].astype(np.float64)
    pairs -= pairs.mean(axis=2, keepdims=True)
    product = np.add.reduce(pairs[0] * pairs[1], axis=1)
    of_one, of_other = np.add.reduce(pairs * pairs, axis=2)
    # 1 - r^2 <= NOT_EXPLAINED, for their correlation r
    copies: Which = product * product >= (1 - NOT_EXPLAINED) * of_one * of_other
    return copies
