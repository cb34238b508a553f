"""Units that are scaled and shifted copies of others of their layer.

Centered and of length 1, copies are equal up to their sign. Angles between their components along
a few directions tell most units apart, so that few pairs have to be compared.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Two units are duplicates if at most this share of one's variance is not explained by the other:
#: far above rounding in float32 (1e-14), far below the difference of bends at neighbouring rows.
UNEXPLAINED = 1e-8
#: Angles of duplicates along some directions, in radians, differ by about as much as the
#: duplicates themselves at length 1. The factor allows for rounding in float32, which counts for
#: more in units that have small components along these directions.
ANGLE_TOLERANCE = 3 * UNEXPLAINED**0.5
#: Units of a layer that are compared with each other, at most.
MAX_COMPARED = 512

Array = NDArray[Any]
Which = NDArray[np.bool_]
Places = NDArray[np.intp]


@np.errstate(invalid="ignore", over="ignore", divide="ignore")
def count_duplicates(units: Tensor, bending: Which) -> list[int]:
    """Count in each of several layers the units that are copies of another unit before them.

    Parameters
    ----------
    units : Tensor of shape (n_layers, n, n_units)
    bending : ndarray of bool of shape (n_layers, n_units)
        Units to be compared.
    """
    if bending.shape[1] > MAX_COMPARED:
        bending = bending & (bending.cumsum(axis=1) <= MAX_COMPARED)
    n_layers, n_units = bending.shape
    # (4, n) @ (n_layers, n, n_units) -> (n_layers, 4, n_units) -> (4, n_bending)
    projected = _directions(units.shape[1], units.dtype) @ units
    components = projected.numpy().swapaxes(0, 1)[:, bending]
    # Ratios of components depend on neither scale nor sign.
    first, *others = np.arctan(components[1:] / components[0], dtype=np.float64)
    # An angle is within half a turn: shifted by more, units of two layers are never close.
    first += 4 * math.pi * bending.nonzero()[0]
    order = first.argsort()
    # (n_layers, n_units) -> (n_layers * n_units,)
    places, first = np.flatnonzero(bending)[order], first[order]
    others = [angle[order] for angle in others]
    is_copy = np.zeros(len(places), dtype=bool)
    # Compare each unit with its neighbour in this order, then with the one before it, ...
    left = np.arange(1, len(places))
    for step in range(1, len(places)):
        # NaN is close to nothing.
        left = left[first[left] - first[left - step] <= ANGLE_TOLERANCE]
        if not len(left):
            break
        near = left
        for angle in others:
            near = near[np.abs(angle[near] - angle[near - step]) <= ANGLE_TOLERANCE]
        if len(near):
            is_copy[near] = _are_copies(units.numpy(), places[near], places[near - step])
        left = left[(left > step) & ~is_copy[left]]
    counts: list[int] = np.bincount(places[is_copy] // n_units, minlength=n_layers).tolist()
    return counts


@lru_cache(maxsize=8)
def _directions(n: int, dtype: torch.dtype) -> Tensor:
    """Return directions orthogonal to a constant, so that offsets do not matter."""
    waves = np.sin(np.outer(np.sqrt([1.0, 2.0, 3.0, 5.0]), np.arange(1.0, n + 1)))
    return torch.from_numpy(waves - waves.mean(axis=1, keepdims=True)).to(dtype)


def _are_copies(units: Array, some: Places, others: Places) -> Which:
    """Whether units, numbered through all layers, are copies of others."""
    layer, column = np.divmod([some, others], units.shape[2])
    # (2, n_pairs, n)
    pairs = units[layer, :, column].astype(np.float64)
    pairs -= pairs.mean(axis=2, keepdims=True)
    product = np.add.reduce(pairs[0] * pairs[1], axis=1)
    of_one, of_other = np.add.reduce(pairs * pairs, axis=2)
    # 1 - r^2 <= UNEXPLAINED, for their correlation r
    copies: Which = product * product >= (1 - UNEXPLAINED) * of_one * of_other
    return copies
