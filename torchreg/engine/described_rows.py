"""What there is to say of training rows: their ranges, what lies far away, what is a copy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from torchreg.diagnosis.moments import Array
from torchreg.diagnosis.record import Columns, FarColumn
from torchreg.diagnosis.statistics import spread_out
from torchreg.engine.request import RawRows
from torchreg.engine.rows import Rows, SparseRows, rows_in, width_of
from torchreg.engine.statistics import column_statistics
from torchreg.nn import Standardize, Unstandardize

#: A value beyond this many standard deviations is far. In a normal column one in 10^23 is.
FAR = 10.0
#: Pairs of columns that are compared on all rows, at most.
_COMPARED = 100
#: Two standardized columns are copies if they are nowhere further apart: above what rounding
#: leaves of millimetres and inches in float32, below what a measurement can tell.
SAME = 1e-4

#: Training rows that are sent through the network once more as the fit ends, at most: as many
#: as a batch or four, so that it costs no more than an epoch of a small table ...
LOOKED_AT = 512
#: ... and no more numbers than this, for sparse rows are made dense.
_NUMBERS = 2**18


class DescribedRows(NamedTuple):
    """What there is to say of training rows, whatever is trained on them.

    ``chosen`` are those that are sent through the network as the fit ends.
    """

    n_rows: int
    x: Columns
    y: Columns
    far: list[FarColumn]
    copies: list[tuple[int, int]]
    chosen: Tensor | slice


def describe_rows(module: nn.Sequential, training: RawRows, n_rows: int) -> DescribedRows:
    """Describe training rows.

    Parameters
    ----------
    module : nn.Sequential
        A network between the scaling layers that hold their statistics.
    training : RawRows
        In raw units, as they were trained on.
    n_rows : int
        How many there were before identical ones were merged.
    """
    x, y, weight = training.x, training.y, training.weight
    layers = dict(module.named_children())
    # Where a loss has a link, what scales its predictions may be no mean and spread of y.
    before, after = layers.get("standardize"), layers.get("unstandardize")
    if "link" in layers:
        after = None
    ranges = ranges_of(x, *numbers_of(before, x, weight))
    at_most = min(LOOKED_AT, rows_in(_NUMBERS, width_of(x)))
    chosen = spread_out(n_rows if weight is not None else y.shape[0], at_most, weight)
    return DescribedRows(
        n_rows,
        x=Columns(*(numbers.tolist() for numbers in ranges)),
        y=describe_target(y, *numbers_of(after, y, weight)),
        far=far_columns(x, ranges),
        copies=find_copies(x, chosen, ranges),
        chosen=chosen,
    )


class Ranges(NamedTuple):
    """Numbers of each column, in raw units and float64."""

    mean: Array
    scale: Array
    low: Array
    high: Array


def ranges_of(rows: Rows, mean: Array, scale: Array) -> Ranges:
    """Find the smallest and the largest value of each column, beside mean and scale.

    Parameters
    ----------
    rows : Tensor of shape (n, n_columns) or SparseRows
        Raw units.
    mean, scale : ndarray of shape (n_columns,)
        Of these rows.
    """
    low, high = column_ranges(rows)
    return Ranges(mean, scale, low.numpy(), high.numpy())


def describe_target(y: Tensor, mean: Array, scale: Array) -> Columns:
    """Describe y with its skewness and kurtosis (3 for a normal distribution).

    Parameters
    ----------
    y : Tensor of shape (n, n_outputs)
        Raw units, float64.
    mean, scale : ndarray of shape (n_outputs,)
        Of these rows.
    """
    # One output a row: (n, n_outputs) -> (n_outputs, n)
    values = np.ascontiguousarray(y.numpy().T)
    n_rows = values.shape[1]
    low, high = np.minimum.reduce(values, axis=1), np.maximum.reduce(values, axis=1)
    # Standardized with these rows' own numbers, and before any power is taken; a constant is 0.
    z = values - np.add.reduce(values, axis=1, keepdims=True) / n_rows
    z /= np.where(scale == 0, np.inf, scale)[:, None]
    powers = np.empty((3, *z.shape))
    square = np.multiply(z, z, out=powers[0])
    np.multiply(square, z, out=powers[1])
    np.multiply(square, square, out=powers[2])
    variance, skewness, kurtosis = np.add.reduce(powers, axis=2) / n_rows
    variance[variance == 0] = 1.0
    skewness /= variance * np.sqrt(variance)
    kurtosis /= variance * variance
    return Columns(*(v.tolist() for v in (mean, scale, low, high, skewness, kurtosis)))


def numbers_of(layer: nn.Module | None, rows: Rows, weight: Tensor | None) -> tuple[Array, Array]:
    """Read mean and scale out of a scaling layer or, where there is none, compute them."""
    if isinstance(layer, Standardize | Unstandardize):
        mean, scale = layer.mean.to("cpu", torch.float64), layer.scale.to("cpu", torch.float64)
    else:
        mean, scale = column_statistics(rows, weight)
    return mean.numpy(), scale.numpy()


def column_ranges(rows: Rows) -> tuple[Tensor, Tensor]:
    """Find the smallest and the largest value of each column, in float64."""
    if isinstance(rows, SparseRows):
        values, columns = rows.values.to(torch.float64), rows.columns
        full = torch.bincount(columns, minlength=rows.n_columns) == len(rows)
        bound = torch.where(full, torch.inf, 0.0).to(torch.float64)
        low = bound.scatter_reduce(0, columns, values, "amin")
        return low, (-bound).scatter_reduce(0, columns, values, "amax")
    low, high = torch.aminmax(rows, dim=0)
    return low.to(torch.float64), high.to(torch.float64)


def far_columns(rows: Rows, ranges: Ranges) -> list[FarColumn]:
    """Look closer at the columns whose range says that they have values far away.

    Parameters
    ----------
    rows : Tensor of shape (n, n_columns) or SparseRows
        Raw units.
    ranges : Ranges
        Of these rows.
    """
    mean, scale, low, high = ranges
    reach = FAR * scale
    far = (reach > 0) & (np.maximum(high - mean, mean - low) > reach)
    suspects = far.nonzero()[0].tolist()
    if not suspects:
        return []
    if isinstance(rows, SparseRows):
        return _far_sparse(rows, torch.from_numpy(mean), torch.from_numpy(reach), suspects)
    found = []
    for column in suspects:
        values = _column(rows, column)
        # The median is the commonest value of a column that hardly varies.
        commonest = values.median()
        found.append(
            FarColumn(
                column=column,
                n_far=int(((values - mean[column]).abs() > reach[column]).sum()),
                n_other=int((values != commonest).sum()),
                two_valued=bool(((values == low[column]) | (values == high[column])).all()),
            )
        )
    return found


def _far_sparse(
    rows: SparseRows, mean: Tensor, reach: Tensor, suspects: list[int]
) -> list[FarColumn]:
    """Look at the stored entries only, all columns at once; the commonest value is 0."""
    values, columns = rows.values.to(torch.float64), rows.columns
    is_far = (values - mean[columns]).abs() > reach[columns]
    n_far = torch.bincount(columns[is_far], minlength=rows.n_columns).tolist()
    n_other = torch.bincount(columns[values != 0], minlength=rows.n_columns).tolist()
    bound = torch.full_like(mean, torch.inf)
    smallest = bound.scatter_reduce(0, columns, values, "amin")
    largest = (-bound).scatter_reduce(0, columns, values, "amax")
    one_valued = (smallest == largest).tolist()
    return [FarColumn(c, n_far[c], n_other[c], one_valued[c]) for c in suspects]


def find_copies(rows: Rows, chosen: Tensor | slice, ranges: Ranges) -> list[tuple[int, int]]:
    """Find columns that are copies of others, in the same unit or another.

    Those that look alike on a few rows are compared on all of them.

    Parameters
    ----------
    rows : Tensor of shape (n, n_columns) or SparseRows
        Raw units.
    chosen : Tensor of shape (m,) or slice
        The few rows.
    ranges : Ranges
        Of all rows.

    Returns
    -------
    list of (int, int)
        A column, and a later one that is its copy; each later one is named once.
    """
    # Any two columns of two rows are copies.
    if width_of(rows) < 2 or not _some_range_alike(ranges) or len(sample := rows[chosen]) < 3:
        return []
    mean, scale = torch.from_numpy(ranges.mean), torch.from_numpy(ranges.scale)
    z = (sample.to(torch.float64) - mean) / scale.masked_fill(scale == 0, torch.inf)
    # One number per column: the same for a copy, but for its sign, and 0 for what hardly varies.
    mark = torch.sin(torch.arange(1, len(z) + 1, dtype=torch.float64)) @ z
    low, high = torch.aminmax(z, dim=0)
    mark, order = torch.where(high - low > SAME, mark.abs(), 0.0).sort()
    near = (mark.diff() <= SAME * len(z) ** 0.5) & (mark[:-1] > 0)
    if not bool(near.any()):
        return []
    found: dict[int, int] = {}
    pairs = torch.stack([order[:-1][near], order[1:][near]], dim=1).sort(dim=1).values.tolist()
    alike = [(a, b) for a, b in pairs if _same(z[:, a], z[:, b])]
    for first, second in alike[:_COMPARED]:
        whole = (
            (_column(rows, column) - mean[column]) / scale[column] for column in (first, second)
        )
        if _same(*whole):
            found[second] = found.get(first, first)
    return [(first, second) for second, first in sorted(found.items())]


def _some_range_alike(ranges: Ranges) -> bool:
    """Tell whether two columns span about as many standard deviations, as copies do."""
    varies = ranges.scale > 0
    span = np.sort((ranges.high - ranges.low)[varies] / ranges.scale[varies])
    # At both ends copies differ by SAME at most, and by rounding.
    return bool((span[1:] - span[:-1] <= 3 * SAME).any())


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(torch.minimum((a - b).abs().amax(), (a + b).abs().amax()) <= SAME)


def _column(rows: Rows, column: int) -> Tensor:
    """Make one column dense: shape (n,), float64."""
    if isinstance(rows, Tensor):
        return rows[:, column].to(torch.float64)
    dense = torch.zeros(len(rows), dtype=torch.float64)
    here = rows.columns == column
    dense[rows.rows_of_entries()[here]] = rows.values[here].to(torch.float64)
    return dense
