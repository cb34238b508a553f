"""Summary of training rows: ranges, outliers and duplicate columns."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchreg.diagnosis.network_summary import sample_rows
from torchreg.diagnosis.record import Columns, DistantColumn, FarValue, OutlierColumn
from torchreg.engine.data import (
    Rows,
    SparseRows,
    compute_column_statistics,
    count_columns,
    rows_per_chunk,
)
from torchreg.engine.inspect.far_values import find_far_values
from torchreg.engine.spec import RawData
from torchreg.nn import Standardize, Unstandardize

#: Number of standard deviations beyond which a value is an outlier. In a normally distributed
#: column, one value in 10^23 is.
OUTLIER = 10.0
#: Largest number of pairs of columns that are compared on all rows.
MAX_COMPARED_PAIRS = 100
#: Largest difference between two standardized columns that are duplicates: more than the rounding
#: errors between millimetres and inches in float32, less than the error of a measurement.
TOLERANCE = 1e-4
#: Largest number of probe rows, so that evaluating them costs no more than an epoch on a small
#: table ...
MAX_PROBE_ROWS = 512
#: ... and of numbers in them, because sparse rows are made dense.
MAX_PROBE_NUMBERS = 2**18
#: Validation rows are in other units if their typical distance from the training mean is beyond all
#: training rows and this many standard deviations: a later period of a trend is nearer, ...
DISTANT = 5.0
#: ... or if they span less than this share of a standard deviation, outside the training range.
SHRUNK = 0.05
#: Fewer validation rows may span a small range by chance.
MIN_SHRUNK_ROWS = 10


class RowSummary(NamedTuple):
    """Summary of training rows.

    Parameters
    ----------
    n_rows : int
    x, y : Columns
    outlier_columns : list of OutlierColumn
        Columns of X with outliers.
    duplicate_columns : list of (int, int)
        A column of X and a later one that duplicates it.
    far_values : list of FarValue
        Of X and y.
    chosen : Tensor of shape (m,) or slice
        Probe rows, on which the trained network is evaluated.
    """

    n_rows: int
    x: Columns
    y: Columns
    outlier_columns: list[OutlierColumn]
    duplicate_columns: list[tuple[int, int]]
    far_values: list[FarValue]
    chosen: Tensor | slice


def summarize_rows(module: nn.Sequential, data: RawData, n_rows: int) -> RowSummary:
    """Summarize training rows.

    Parameters
    ----------
    module : nn.Sequential
        A network between the scaling layers that hold the statistics of the rows.
    data : RawData
        Training rows.
    n_rows : int
        Number of rows before identical ones were merged.
    """
    x, y, weight = data.x, data.y, data.weight
    layers = dict(module.named_children())
    # With a link, the last layer scales predictions, whose mean and scale are not those of y.
    y_layer = None if "link" in layers else layers.get("unstandardize")
    # Lists from here on: for a few columns, a call of NumPy takes longer than a loop.
    x_columns = Columns(*_mean_and_scale(layers.get("standardize"), x, weight), *column_ranges(x))
    y_columns = _summarize_target(y, *_mean_and_scale(y_layer, y, weight), *column_ranges(y))
    at_most = min(MAX_PROBE_ROWS, rows_per_chunk(MAX_PROBE_NUMBERS, count_columns(x)))
    chosen = sample_rows(n_rows if weight is not None else y.shape[0], at_most, weight)
    return RowSummary(
        n_rows,
        x_columns,
        y_columns,
        outlier_columns(x, x_columns),
        duplicate_columns(x, chosen, x_columns),
        find_far_values("X", x, x_columns) + find_far_values("y", y, y_columns),
        chosen,
    )


def _summarize_target(
    y: Tensor, mean: list[float], scale: list[float], low: list[float], high: list[float]
) -> Columns:
    """Add the skewness and the kurtosis of y, in float64 (3 for a normal distribution)."""
    # Standardized before any power is taken; a constant is 0.
    z = (y - y.mean(dim=0)) / torch.tensor([value or math.inf for value in scale])
    # The fourth power of a far value is finite.
    z = z.clamp(-1e60, 1e60)
    variance = z.square().mean(dim=0)
    variance = variance.masked_fill(variance == 0, 1.0)
    skewness = z.pow(3).mean(dim=0) / variance**1.5
    kurtosis = z.pow(4).mean(dim=0) / variance**2
    return Columns(mean, scale, low, high, skewness.tolist(), kurtosis.tolist())


def _mean_and_scale(
    layer: nn.Module | None, rows: Rows, weight: Tensor | None
) -> tuple[list[float], list[float]]:
    """Read mean and scale from a scaling layer, or compute them if there is none."""
    if isinstance(layer, Standardize | Unstandardize):
        return layer.mean.tolist(), layer.scale.tolist()
    mean, scale = compute_column_statistics(rows, weight)
    return mean.tolist(), scale.tolist()


def column_ranges(rows: Rows) -> tuple[list[float], list[float]]:
    """Return the smallest and the largest value of each column."""
    if isinstance(rows, SparseRows):
        values, columns = rows.values.to(torch.float64), rows.columns
        full = torch.bincount(columns, minlength=rows.n_columns) == len(rows)
        bound = torch.where(full, torch.inf, 0.0).to(torch.float64)
        low = bound.scatter_reduce(0, columns, values, "amin")
        high = (-bound).scatter_reduce(0, columns, values, "amax")
    else:
        low, high = torch.aminmax(rows, dim=0)
    return low.tolist(), high.tolist()


def outlier_columns(rows: Rows, columns: Columns) -> list[OutlierColumn]:
    """Describe the columns that have outliers.

    Parameters
    ----------
    rows : Tensor of shape (n, n_columns) or SparseRows
        Raw units.
    columns : Columns
        Summary of the columns.
    """
    mean, scale, low, high = columns.mean, columns.scale, columns.low, columns.high
    numbers = enumerate(zip(mean, scale, low, high, strict=True))
    suspects = [
        c for c, (m, s, least, most) in numbers if max(most - m, m - least) > OUTLIER * s > 0
    ]
    if not suspects:
        return []
    if isinstance(rows, SparseRows):
        return _sparse_outliers(rows, columns, suspects)
    found = []
    for column in suspects:
        values = _column(rows, column)
        # The median is the mode of a column that hardly varies.
        mode = values.median()
        found.append(
            OutlierColumn(
                column=column,
                n_far=int(((values - mean[column]).abs() > OUTLIER * scale[column]).sum()),
                n_other=int((values != mode).sum()),
                two_valued=bool(((values == low[column]) | (values == high[column])).all()),
            )
        )
    return found


def distant_columns(table: str, rows: Rows, training: Columns) -> list[DistantColumn]:
    """Find the columns of validation rows that lie far from the training rows.

    Parameters
    ----------
    table : {"X_val", "y_val"}
    rows : Tensor of shape (n, n_columns) or SparseRows
        Validation rows, in raw units.
    training : Columns
        Summary of the training rows.
    """
    # Rows in other units are all far, so that a part of them decides.
    chosen = sample_rows(
        len(rows), min(MAX_PROBE_ROWS, max(1, MAX_PROBE_NUMBERS // count_columns(rows)))
    )
    values = rows[chosen].to(torch.float64)
    mean, scale, low, high = torch.tensor(
        [training.mean, training.scale, training.low, training.high], dtype=torch.float64
    )
    least, most = torch.aminmax(values, dim=0)
    reach = torch.maximum(torch.maximum(high - mean, mean - low), DISTANT * scale)
    found = (values - mean).abs().median(dim=0).values > reach
    shrunk = (most > least) & (most - least < SHRUNK * scale)
    if len(values) >= MIN_SHRUNK_ROWS:
        found |= shrunk & ((least > high) | (most < low))
        varies = scale > 0
        # Several columns that all shrink, although their range contains 0, were scaled.
        if int(varies.sum()) > 1 and bool(shrunk[varies].all()):
            found |= shrunk
    center, spread = compute_column_statistics(values, None)
    return [
        DistantColumn(table, column, float(center[column]), float(spread[column]))
        for column in (found & (scale > 0)).nonzero().flatten().tolist()
    ]


def _sparse_outliers(
    rows: SparseRows, numbers: Columns, suspects: list[int]
) -> list[OutlierColumn]:
    """Do the same with the stored entries alone; the mode is 0."""
    mean, scale = torch.tensor([numbers.mean, numbers.scale], dtype=torch.float64)
    values, columns = rows.values.to(torch.float64), rows.columns
    is_far = (values - mean[columns]).abs() > OUTLIER * scale[columns]
    n_far = torch.bincount(columns[is_far], minlength=rows.n_columns).tolist()
    n_other = torch.bincount(columns[values != 0], minlength=rows.n_columns).tolist()
    bound = torch.full_like(mean, torch.inf)
    smallest = bound.scatter_reduce(0, columns, values, "amin")
    largest = (-bound).scatter_reduce(0, columns, values, "amax")
    one_valued = (smallest == largest).tolist()
    return [OutlierColumn(c, n_far[c], n_other[c], one_valued[c]) for c in suspects]


def duplicate_columns(
    rows: Rows, chosen: Tensor | slice, columns: Columns
) -> list[tuple[int, int]]:
    """Find columns that duplicate others, in the same unit or another.

    Columns that agree on a few rows are compared on all rows.

    Parameters
    ----------
    rows : Tensor of shape (n, n_columns) or SparseRows
        Raw units.
    chosen : Tensor of shape (m,) or slice
        The few rows to compare first.
    columns : Columns
        Summary of all rows.

    Returns
    -------
    list of (int, int)
        A column, and a later one that duplicates it; each later one occurs once.
    """
    # Any two columns of two rows are duplicates.
    if count_columns(rows) < 2 or not _some_spans_agree(columns) or len(sample := rows[chosen]) < 3:
        return []
    mean, scale = torch.tensor([columns.mean, columns.scale], dtype=torch.float64)
    z = (sample.to(torch.float64) - mean) / scale.masked_fill(scale == 0, torch.inf)
    # One number per column: equal in size for duplicates, and 0 if the column hardly varies.
    mark = torch.sin(torch.arange(1, len(z) + 1, dtype=torch.float64)) @ z
    low, high = torch.aminmax(z, dim=0)
    mark, order = torch.where(high - low > TOLERANCE, mark.abs(), 0.0).sort()
    near = (mark.diff() <= TOLERANCE * len(z) ** 0.5) & (mark[:-1] > 0)
    if not bool(near.any()):
        return []
    found: dict[int, int] = {}
    pairs = torch.stack([order[:-1][near], order[1:][near]], dim=1).sort(dim=1).values.tolist()
    alike = [(a, b) for a, b in pairs if _same(z[:, a], z[:, b])]
    for first, second in alike[:MAX_COMPARED_PAIRS]:
        whole = (
            (_column(rows, column) - mean[column]) / scale[column] for column in (first, second)
        )
        if _same(*whole):
            found[second] = found.get(first, first)
    return [(first, second) for second, first in sorted(found.items())]


def _some_spans_agree(columns: Columns) -> bool:
    """Return whether two columns span about as many standard deviations, as duplicates do."""
    numbers = zip(columns.scale, columns.low, columns.high, strict=True)
    spans = sorted((high - low) / scale for scale, low, high in numbers if scale > 0)
    # At both ends, duplicates differ by TOLERANCE at most, and by rounding.
    return any(after - before <= 3 * TOLERANCE for before, after in pairwise(spans))


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(torch.minimum((a - b).abs().amax(), (a + b).abs().amax()) <= TOLERANCE)


def _column(rows: Rows, column: int) -> Tensor:
    """Return one column as a dense tensor of shape (n,), float64."""
    if isinstance(rows, Tensor):
        return rows[:, column].to(torch.float64)
    dense = torch.zeros(len(rows), dtype=torch.float64)
    here = rows.columns == column
    dense[rows.rows_of_entries()[here]] = rows.values[here].to(torch.float64)
    return dense
