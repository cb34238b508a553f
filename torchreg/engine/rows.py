"""Rows of a table as tensors: dense or sparse, their statistics, and identical rows merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

#: A column whose standard deviation is below this many spacings of its largest number
#: is constant: its spread is what rounding leaves. The idea of scikit-learn's
#: ``_is_constant_feature``; see Chan, Golub and LeVeque, "Algorithms for computing the
#: sample variance", The American Statistician 37 (1983).
_CONSTANT_SPACINGS = 4.0

#: Beyond this, the difference of two values may not fit float64.
LARGEST = 2.0**1020


@dataclass(frozen=True)
class SparseRows:
    """Rows in compressed sparse row form, made dense a few at a time.

    Parameters
    ----------
    starts : Tensor of shape (n + 1,), int64
        Where each row's entries begin.
    columns : Tensor of shape (n_entries,), int64
        Column of each entry.
    values : Tensor of shape (n_entries,)
        Value of each entry; no entry is stored twice.
    n_columns : int
        Width of the table.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor
    n_columns: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: Tensor) -> Tensor:
        """Make the rows of ``index`` dense: shape (len(index), n_columns)."""
        begin = self.starts[index]
        lengths = self.starts[index + 1] - begin
        row = torch.repeat_interleave(torch.arange(len(index)), lengths)
        first = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
        entry = torch.arange(len(row)) - first + begin[row]
        dense = torch.zeros(len(index), self.n_columns, dtype=self.values.dtype)
        dense[row, self.columns[entry]] = self.values[entry]
        return dense

    def rows_of_entries(self) -> Tensor:
        """Give the row of each entry: shape (n_entries,)."""
        return torch.repeat_interleave(torch.arange(len(self)), self.starts.diff())


Rows = Tensor | SparseRows


class Statistics(NamedTuple):
    """Mean and standard deviation of each column, float64, in raw units; scale 0 is constant."""

    mean: Tensor
    scale: Tensor


class Batch(NamedTuple):
    """Some rows: inputs (n, n_features), targets (n, n_outputs), weights (n,) or ``None``."""

    x: Tensor
    t: Tensor
    weight: Tensor | None


@dataclass(frozen=True)
class LazyRows:
    """Sparse rows that are made dense, and prepared for the network, when they are asked for."""

    rows: SparseRows
    prepare: Callable[[Tensor], Tensor]

    def __getitem__(self, index: Tensor) -> Tensor:
        """Give the prepared rows of ``index``: shape (len(index), n_columns)."""
        return self.prepare(self.rows[index.cpu()])


class Table(NamedTuple):
    """All rows that a network sees, standardized: x (n, n_features), t (n, n_outputs)."""

    x: Tensor | LazyRows
    t: Tensor
    weight: Tensor | None

    def whole(self) -> Batch:
        """Give all rows as one batch."""
        x = self.x if isinstance(self.x, Tensor) else self.x[torch.arange(len(self.t))]
        return Batch(x, self.t, self.weight)


def every_row(rows: Rows) -> Tensor:
    """Make all rows dense."""
    return rows if isinstance(rows, Tensor) else rows[torch.arange(len(rows))]


def column_statistics(rows: Rows, weight: Tensor | None) -> Statistics:
    r"""Weighted mean and standard deviation of each column, in float64.

    .. math:: \bar x = \frac{\sum_i w_i x_i}{\sum_i w_i}, \qquad
              s^2 = \frac{\sum_i w_i (x_i - \bar x)^2}{\sum_i w_i}

    Each column is first brought to order 1 by a power of two, which is exact, so that
    columns of size 1e200 or 1e-200 can be squared. Sparse rows are never made dense.

    Parameters
    ----------
    rows : Tensor of shape (n, n_columns) or SparseRows
        Raw units.
    weight : Tensor of shape (n,) or None
        Positive.

    Returns
    -------
    Statistics

    Examples
    --------
    >>> column_statistics(torch.tensor([[1.0, 7.0], [3.0, 7.0]]), None).scale
    tensor([1., 0.], dtype=torch.float64)
    """
    if isinstance(rows, SparseRows):
        return _sparse_statistics(rows, weight)
    x = rows.to(torch.float64)
    largest = x.abs().amax(dim=0)
    exponent = _exponent(largest)
    x = torch.ldexp(x, -exponent)
    share = _shares(weight, len(x)).to(x.device)
    # Around the first row, so that a large offset costs no digits.
    origin = x[0]
    mean = origin + share @ (x - origin)
    scale = (share @ (x - mean).square()).sqrt()
    return _finish(mean, scale, largest, exponent)


def _sparse_statistics(rows: SparseRows, weight: Tensor | None) -> Statistics:
    values = rows.values.to(torch.float64)
    columns, width = rows.columns, rows.n_columns
    zeros = torch.zeros(width, dtype=torch.float64)
    largest = zeros.scatter_reduce(0, columns, values.abs(), "amax")
    exponent = _exponent(largest)
    values = torch.ldexp(values, -exponent[columns])
    share = _shares(weight, len(rows))[rows.rows_of_entries()]
    stored = zeros.index_add(0, columns, share)
    full = torch.bincount(columns, minlength=width) == len(rows)
    absent = torch.where(full, 0.0, 1 - stored).clamp(min=0)
    # Around one of its values where a column has no zeros, as for dense rows.
    origin = torch.where(full, zeros.index_copy(0, columns, values), 0.0)
    offset = zeros.index_add(0, columns, share * (values - origin[columns]))
    mean = origin + offset
    variance = zeros.index_add(0, columns, share * (values - mean[columns]).square())
    scale = (variance + absent * mean.square()).sqrt()
    return _finish(mean, scale, largest, exponent)


def _finish(mean: Tensor, scale: Tensor, largest: Tensor, exponent: Tensor) -> Statistics:
    bound = _CONSTANT_SPACINGS * torch.finfo(torch.float64).eps
    constant = scale <= bound * torch.ldexp(largest, -exponent)
    scale = scale.masked_fill(constant, 0.0)
    return Statistics(torch.ldexp(mean, exponent), torch.ldexp(scale, exponent))


def _exponent(largest: Tensor) -> Tensor:
    # Clamped so that 2 ** -exponent is itself a normal number.
    return torch.frexp(largest).exponent.clamp(-1000, 1020)


def of_order_one(weight: Tensor) -> Tensor:
    """Bring weights to order 1 by a power of two, so that their sum is finite."""
    weight = weight.to(torch.float64)
    return torch.ldexp(weight, -_exponent(weight.amax()))


def _shares(weight: Tensor | None, n: int) -> Tensor:
    """Weights that sum to 1."""
    if weight is None:
        return torch.full((n,), 1 / n, dtype=torch.float64)
    weight = of_order_one(weight)
    return weight / weight.sum()


def lost_digits(statistics: Statistics, dtype: torch.dtype) -> list[int]:
    """Name the columns whose spread is about the spacing of their dtype.

    Parameters
    ----------
    statistics : Statistics
        Of the columns, in raw units.
    dtype : torch.dtype
        In which they were handed over.

    Returns
    -------
    list of int
        Columns where a standard deviation spans fewer than 16 representable numbers.
    """
    if not dtype.is_floating_point:
        return []
    spacing = statistics.mean.abs() * torch.finfo(dtype).eps
    few = (statistics.scale > 0) & (statistics.scale < 16 * spacing)
    return torch.nonzero(few).flatten().tolist()


def merge_identical(
    x: Tensor, y: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Merge rows that are the same in X and y, summing their weights; sort the rest.

    What comes out depends on the rows and their weights alone, not on their order nor on
    how often one was written down. So repeating a row *is* giving it an integer weight,
    to the last bit, however long a full-batch fit runs.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
    y : Tensor of shape (n, n_outputs)
    weight : Tensor of shape (n,) or None

    Returns
    -------
    x, y, weight : tensors of m <= n rows
        The weight is ``None`` where all weights are equal.

    Examples
    --------
    >>> x, y = torch.tensor([[2.0], [1.0], [2.0]]), torch.tensor([[5.0], [6.0], [5.0]])
    >>> merge_identical(x, y, None)[2]
    tensor([1., 2.], dtype=torch.float64)
    """
    table = torch.cat([x.to(torch.float64), y.to(torch.float64)], dim=1)
    unique, inverse = torch.unique(table, dim=0, return_inverse=True)
    ones = torch.ones(len(x), dtype=torch.float64, device=x.device)
    total = torch.zeros(len(unique), dtype=torch.float64, device=x.device)
    total.index_add_(0, inverse, ones if weight is None else of_order_one(weight))
    width = x.shape[1]
    merged = None if bool((total == total[0]).all()) else total
    return unique[:, :width].to(x.dtype), unique[:, width:], merged


def batch_sizes(n: int, batch_size: int) -> list[int]:
    """Cut n rows into batches: none is dropped, and none is left with a single row.

    A lone last row, on which batch normalization would fail, joins the batch before it.

    Examples
    --------
    >>> batch_sizes(10, 4), batch_sizes(9, 4), batch_sizes(3, 1)
    ([4, 4, 2], [4, 5], [1, 1, 1])
    """
    whole, rest = divmod(n, batch_size)
    sizes = [batch_size] * whole
    if rest == 1 and whole and batch_size > 1:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes


def shuffled_batches(table: Table, sizes: list[int], generator: torch.Generator) -> Iterator[Batch]:
    """Deal all rows out in a fresh random order.

    Dense rows are gathered once and then sliced; sparse ones are made dense batch by batch.
    """
    order = torch.randperm(len(table.t), generator=generator).to(table.t.device)
    x = table.x[order] if isinstance(table.x, Tensor) else None
    t = table.t[order]
    weight = None if table.weight is None else table.weight[order]
    start = 0
    for size in sizes:
        rows = slice(start, start + size)
        yield Batch(
            table.x[order[rows]] if x is None else x[rows],
            t[rows],
            None if weight is None else weight[rows],
        )
        start += size


def ordered_batches(table: Table) -> Iterator[Batch]:
    """Deal all rows out in their order, as many at a time as memory is kind to."""
    width = table.x.shape[1] if isinstance(table.x, Tensor) else table.x.rows.n_columns
    for index in chunks(len(table.t), width):
        weight = None if table.weight is None else table.weight[index]
        yield Batch(table.x[index], table.t[index], weight)


def chunks(n_rows: int, n_columns: int) -> Iterator[Tensor]:
    """Cut row numbers into pieces whose rows, made dense, hold at most some 4 million numbers.

    Examples
    --------
    >>> [len(index) for index in chunks(40_000, 3)]
    [16384, 16384, 7232]
    >>> len(next(chunks(40_000, 1_000_000)))
    4
    """
    size = max(1, min(16_384, 2**22 // max(n_columns, 1)))
    yield from torch.arange(n_rows).split(size)
