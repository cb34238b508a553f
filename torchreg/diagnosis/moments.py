"""Mean and standard deviation of columns, which lie in rows.

In numpy, whose calls on a few hundred rows cost a quarter of torch's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Rounding of a mean in float64, as a share of it.
ROUNDING = 4 * float(np.finfo(np.float64).eps)


class Moments(NamedTuple):
    """Mean and standard deviation of each column, in lists: few numbers are all that is left."""

    mean: list[float]
    scale: list[float]

    def of(self, first: int, end: int | None) -> Moments:
        """Pick some of the columns."""
        return Moments(self.mean[first:end], self.scale[first:end])

    def are_finite(self) -> bool:
        """Tell whether all columns can be computed with."""
        return all(map(math.isfinite, self.mean)) and all(map(math.isfinite, self.scale))

    def varies(self) -> list[bool]:
        """Tell of each column whether its scale is more than what rounding leaves of none."""
        return [s > ROUNDING * abs(m) for m, s in zip(self.mean, self.scale, strict=True)]


def moments_of(values: Array) -> Moments:
    """Compute mean and standard deviation of each column; without rows there are no columns."""
    if not len(values):
        return Moments([], [])
    # (n, n_columns) -> (n_columns, n)
    return standardize(values.T.copy())


@np.errstate(invalid="ignore", over="ignore")
def standardize(columns: Array) -> Moments:
    """Standardize columns that lie in rows, in place; one that does not vary becomes 0.

    Where a number is not finite, or its square is not, the moments are not.
    """
    n_rows = columns.shape[1]
    # Around the first number, so that a constant has no spread.
    origin = columns[:, :1].copy()
    columns -= origin
    offset = np.add.reduce(columns, axis=1, keepdims=True) / n_rows
    columns -= offset
    origin += offset
    scale = np.sqrt(np.add.reduce(columns * columns, axis=1) / n_rows).tolist()
    moments = Moments(origin[:, 0].tolist(), scale)
    sizes = zip(scale, moments.varies(), strict=True)
    columns /= np.array([size if varied else np.inf for size, varied in sizes])[:, None]
    return moments
