"""What there is to say of training rows: their ranges, what lies far away, what is a copy."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from torchreg.diagnosis.record import Columns, FarColumn
from torchreg.diagnosis.statistics import spread_out
from torchreg.engine.data import (
    Rows,
    SparseRows,
    compute_column_statistics,
    count_columns,
    rows_per_chunk,
)
from torchreg.engine.spec import RawData
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


class RowSummary(NamedTuple):
    """What there is to say of training rows, whatever is trained on them.

    ``chosen`` are those that are sent through the network as the fit ends.
    """

    n_rows: int
    x: Columns
    y: Columns
    far: list[FarColumn]
    copies: list[tuple[int, int]]
    chosen: Tensor | slice


def summarize_rows(module: nn.Sequential, training: RawData, n_rows: int) -> RowSummary:
    """Describe training rows.

    Parameters
    ----------
    module : nn.Sequential
        A network between the scaling layers that hold their statistics.
    training : RawData
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
    # Plain lists from here on: for a few columns, a call of numpy costs more than a loop.
    of_x = Columns(*numbers_of(before, x, weight), *column_ranges(x))
    of_y = describe_target(y, *numbers_of(after, y, weight), *column_ranges(y))
    at_most = min(LOOKED_AT, rows_per_chunk(_NUMBERS, count_columns(x)))
    chosen = spread_out(n_rows if weight is not None else y.shape[0], at_most, weight)
    far, copies = outlier_columns(x, of_x), duplicate_columns(x, chosen, of_x)
    return RowSummary(n_rows, of_x, of_y, far, copies, chosen)


def describe_target(
    y: Tensor, mean: list[float], scale: list[float], low: list[float], high: list[float]
) -> Columns:
    """Describe y with its skewness and kurtosis (3 for a normal distribution).

    Parameters
    ----------
    y : Tensor of shape (n, n_outputs)
        Raw units, float64.
    mean, scale, low, high : list of float
        Of these rows.
    """
    # One output a row: (n, n_outputs) -> (n_outputs, n)
    values = np.ascontiguousarray(y.numpy().T)
    n_rows = values.shape[1]
    # Standardized with these rows' own numbers, and before any power is taken; a constant is 0.
    z = values - np.add.reduce(values, axis=1, keepdims=True) / n_rows
    z /= np.array([size or math.inf for size in scale])[:, None]
    powers = np.empty((3, *z.shape))
    square = np.multiply(z, z, out=powers[0])
    np.multiply(square, z, out=powers[1])
    np.multiply(square, square, out=powers[2])
    second, third, fourth = (np.add.reduce(powers, axis=2) / n_rows).tolist()
    variance = [number or 1.0 for number in second]
    skewness = [number / v / math.sqrt(v) for number, v in zip(third, variance, strict=True)]
    kurtosis = [number / v / v for number, v in zip(fourth, variance, strict=True)]
    return Columns(mean, scale, low, high, skewness, kurtosis)


def numbers_of(
    layer: nn.Module | None, rows: Rows, weight: Tensor | None
) -> tuple[list[float], list[float]]:
    """Read mean and scale out of a scaling layer or, where there is none, compute them."""
    if isinstance(layer, Standardize | Unstandardize):
        return layer.mean.tolist(), layer.scale.tolist()
    mean, scale = compute_column_statistics(rows, weight)
    return mean.tolist(), scale.tolist()


def column_ranges(rows: Rows) -> tuple[list[float], list[float]]:
    """Find the smallest and the largest value of each column."""
    if isinstance(rows, SparseRows):
        values, columns = rows.values.to(torch.float64), rows.columns
        full = torch.bincount(columns, minlength=rows.n_columns) == len(rows)
        bound = torch.where(full, torch.inf, 0.0).to(torch.float64)
        low = bound.scatter_reduce(0, columns, values, "amin")
        high = (-bound).scatter_reduce(0, columns, values, "amax")
    else:
        low, high = torch.aminmax(rows, dim=0)
    return low.tolist(), high.tolist()


def outlier_columns(rows: Rows, columns: Columns) -> list[FarColumn]:
    """Look closer at the columns whose range says that they have values far away.

    Parameters
    ----------
    rows : Tensor of shape (n, n_columns) or SparseRows
        Raw units.
    columns : Columns
        Of these rows.
    """
    mean, scale, low, high = columns.mean, columns.scale, columns.low, columns.high
    numbers = enumerate(zip(mean, scale, low, high, strict=True))
    suspects = [c for c, (m, s, least, most) in numbers if max(most - m, m - least) > FAR * s > 0]
    if not suspects:
        return []
    if isinstance(rows, SparseRows):
        return _far_sparse(rows, columns, suspects)
    found = []
    for column in suspects:
        values = _column(rows, column)
        # The median is the commonest value of a column that hardly varies.
        commonest = values.median()
        found.append(
            FarColumn(
                column=column,
                n_far=int(((values - mean[column]).abs() > FAR * scale[column]).sum()),
                n_other=int((values != commonest).sum()),
                two_valued=bool(((values == low[column]) | (values == high[column])).all()),
            )
        )
    return found


def _far_sparse(rows: SparseRows, numbers: Columns, suspects: list[int]) -> list[FarColumn]:
    """Look at the stored entries only, all columns at once; the commonest value is 0."""
    mean, scale = torch.tensor([numbers.mean, numbers.scale], dtype=torch.float64)
    values, columns = rows.values.to(torch.float64), rows.columns
    is_far = (values - mean[columns]).abs() > FAR * scale[columns]
    n_far = torch.bincount(columns[is_far], minlength=rows.n_columns).tolist()
    n_other = torch.bincount(columns[values != 0], minlength=rows.n_columns).tolist()
    bound = torch.full_like(mean, torch.inf)
    smallest = bound.scatter_reduce(0, columns, values, "amin")
    largest = (-bound).scatter_reduce(0, columns, values, "amax")
    one_valued = (smallest == largest).tolist()
    return [FarColumn(c, n_far[c], n_other[c], one_valued[c]) for c in suspects]


def duplicate_columns(
    rows: Rows, chosen: Tensor | slice, columns: Columns
) -> list[tuple[int, int]]:
    """Find columns that are copies of others, in the same unit or another.

    Those that look alike on a few rows are compared on all of them.

    Parameters
    ----------
    rows : Tensor of shape (n, n_columns) or SparseRows
        Raw units.
    chosen : Tensor of shape (m,) or slice
        The few rows.
    columns : Columns
        Of all rows.

    Returns
    -------
    list of (int, int)
        A column, and a later one that is its copy; each later one is named once.
    """
    # Any two columns of two rows are copies.
    if count_columns(rows) < 2 or not _some_range_alike(columns) or len(sample := rows[chosen]) < 3:
        return []
    mean, scale = torch.tensor([columns.mean, columns.scale], dtype=torch.float64)
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


def _some_range_alike(columns: Columns) -> bool:
    """Tell whether two columns span about as many standard deviations, as copies do."""
    numbers = zip(columns.scale, columns.low, columns.high, strict=True)
    spans = sorted((high - low) / scale for scale, low, high in numbers if scale > 0)
    # At both ends copies differ by SAME at most, and by rounding.
    return any(after - before <= 3 * SAME for before, after in pairwise(spans))


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
