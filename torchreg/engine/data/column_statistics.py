"""Mean and standard deviation of each column, weighted and in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torchreg.engine.data.tables import (
    Rows,
    SparseRows,
    binary_exponent,
    iter_chunks,
    rescale_weights,
)

#: A column whose standard deviation is below this many spacings of its largest number
#: is constant: its spread is what rounding leaves. The idea of scikit-learn's
#: ``_is_constant_feature``; see Chan, Golub and LeVeque, "Algorithms for computing the
#: sample variance", The American Statistician 37 (1983).
_CONSTANT_SPACINGS = 4.0
#: A standard deviation of fewer spacings than this has lost its digits.
_DIGITS = 16.0


class ColumnStatistics(NamedTuple):
    """Mean and standard deviation of each column, float64, in raw units; scale 0 is constant."""

    mean: Tensor
    scale: Tensor


def compute_column_statistics(rows: Rows, weight: Tensor | None) -> ColumnStatistics:
    r"""Weighted mean and standard deviation of each column, in float64.

    .. math:: \bar x = \frac{\sum_i w_i x_i}{\sum_i w_i}, \qquad
              s^2 = \frac{\sum_i w_i (x_i - \bar x)^2}{\sum_i w_i}

    Each column is first brought to order 1 by a power of two, which is exact, so that
    columns of size 1e200 or 1e-200 can be squared. A few rows at a time: no copy of the
    table is made, and sparse rows are never made dense.

    Parameters
    ----------
    rows : Tensor of shape (n, n_columns) or SparseRows
        Raw units.
    weight : Tensor of shape (n,) or None
        Positive.

    Returns
    -------
    ColumnStatistics

    Examples
    --------
    >>> compute_column_statistics(torch.tensor([[1.0, 7.0], [3.0, 7.0]]), None).scale
    tensor([1., 0.], dtype=torch.float64)
    """
    if isinstance(rows, SparseRows):
        return _sparse_statistics(rows, weight)
    largest = torch.zeros(rows.shape[1], dtype=torch.float64)
    for piece in iter_chunks(*rows.shape):
        low, high = torch.aminmax(rows[piece], dim=0)
        largest = torch.maximum(largest, torch.maximum(high, -low).to(torch.float64))
    exponent = binary_exponent(largest)
    share = _shares(weight, len(rows))
    # A power of two, and so is its inverse: products with it are exact.
    factor = torch.ldexp(torch.ones_like(largest), -exponent)
    # Around the first row, so that a large offset costs no digits.
    origin = rows[0] * factor
    offset, variance = torch.zeros_like(origin), torch.zeros_like(origin)
    for piece in iter_chunks(*rows.shape):
        offset += share[piece] @ (rows[piece] * factor).sub_(origin)
    mean = origin + offset
    for piece in iter_chunks(*rows.shape):
        variance += share[piece] @ (rows[piece] * factor).sub_(mean).square_()
    return _finish(mean, variance.sqrt(), largest, exponent)


def _sparse_statistics(rows: SparseRows, weight: Tensor | None) -> ColumnStatistics:
    values = rows.values.to(torch.float64)
    columns, width = rows.columns, rows.n_columns
    zeros = torch.zeros(width, dtype=torch.float64)
    largest = zeros.scatter_reduce(0, columns, values.abs(), "amax")
    exponent = binary_exponent(largest)
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


def _finish(mean: Tensor, scale: Tensor, largest: Tensor, exponent: Tensor) -> ColumnStatistics:
    bound = _CONSTANT_SPACINGS * torch.finfo(torch.float64).eps
    constant = scale <= bound * torch.ldexp(largest, -exponent)
    scale = scale.masked_fill(constant, 0.0)
    return ColumnStatistics(torch.ldexp(mean, exponent), torch.ldexp(scale, exponent))


def _shares(weight: Tensor | None, n: int) -> Tensor:
    """Weights that sum to 1."""
    if weight is None:
        return torch.full((n,), 1 / n, dtype=torch.float64)
    weight = rescale_weights(weight)
    return weight / weight.sum()


def find_imprecise_columns(statistics: ColumnStatistics, dtype: torch.dtype) -> list[int]:
    """Name the columns whose spread is about the spacing of their dtype.

    Parameters
    ----------
    statistics : ColumnStatistics
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
    few = is_imprecise(statistics.mean.tolist(), statistics.scale.tolist(), dtype)
    return [c for c, scale in enumerate(statistics.scale.tolist()) if few[c] and scale > 0]


def is_imprecise(mean: list[float], scale: list[float], dtype: torch.dtype) -> list[bool]:
    """Tell of each column whether it is constant, or spans fewer numbers of a dtype than that."""
    share = _DIGITS * torch.finfo(dtype).eps
    return [s <= share * abs(m) for m, s in zip(mean, scale, strict=True)]
