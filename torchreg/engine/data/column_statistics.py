"""Weighted mean and standard deviation of each column, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from torchreg.engine.data.tables import (
    Rows,
    SparseRows,
    binary_exponent,
    count_columns,
    iter_chunks,
    rescale_weights,
)
from torchreg.nn import Standardize

#: A column whose standard deviation is below this many spacings of its largest number is
#: constant: rounding leaves that much. The idea of scikit-learn's ``_is_constant_feature``; see
#: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", The American
#: Statistician 37 (1983).
_CONSTANT_SPACINGS = 4.0
#: A standard deviation of fewer spacings than this has lost its digits.
_MIN_SPACINGS = 16.0
#: Predictions are float32 only if a standard deviation of y has at least this many spacings of
#: float32: rounding them then adds less than 1e-4 standard deviations.
_MIN_SPACINGS_OF_PREDICTIONS = 2.0**12


#: A value is far if it is this many times farther from the median than the next one: standardized
#: by such values, the others span a few dozen numbers of float32.
_FAR = 2.0**26
#: Only columns with a value this many standard deviations from the mean may have a far one.
_SUSPECT = 6.0
#: In fewer rows no value is far.
_MIN_ROWS = 16
#: Far values in more than this share of the rows, and in more than one, count in the scale.
_RARE = 0.01
#: The scale is at least this share of the distance of a far value, so that its standardized value
#: is a float32.
_MIN_SHARE = 2.0**-100


class ColumnStatistics(NamedTuple):
    """Mean and standard deviation of each column: float64, raw units, 0 for a constant."""

    mean: Tensor
    scale: Tensor


def compute_column_statistics(rows: Rows, weight: Tensor | None) -> ColumnStatistics:
    r"""Compute the weighted mean and standard deviation of each column in float64.

    .. math:: \bar x = \frac{\sum_i w_i x_i}{\sum_i w_i}, \qquad
              s^2 = \frac{\sum_i w_i (x_i - \bar x)^2}{\sum_i w_i}

    A power of two first scales each column to order 1. This is exact, and columns of size 1e200
    or 1e-200 can be squared. Rows are processed in chunks, and sparse rows stay sparse. Values of
    dense rows so far from the others that these would lose their digits are left out; see
    :func:`far_values`.

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
    high = torch.full((rows.shape[1],), -torch.inf, dtype=torch.float64)
    low = -high
    for chunk in iter_chunks(*rows.shape):
        least, most = torch.aminmax(rows[chunk], dim=0)
        low, high = torch.minimum(low, least), torch.maximum(high, most)
    largest = torch.maximum(high, -low)
    exponent = binary_exponent(largest)
    weight = _normalize_weights(weight, len(rows))
    # A power of two and its inverse: products with them are exact.
    factor = torch.ldexp(torch.ones_like(largest), -exponent)
    # Relative to the first row, so that a large offset costs no digits.
    origin = rows[0] * factor
    offset, variance = torch.zeros_like(origin), torch.zeros_like(origin)
    for chunk in iter_chunks(*rows.shape):
        offset += weight[chunk] @ (rows[chunk] * factor).sub_(origin)
    mean = origin + offset
    for chunk in iter_chunks(*rows.shape):
        variance += weight[chunk] @ (rows[chunk] * factor).sub_(mean).square_()
    statistics = _restore_units(mean, variance.sqrt(), largest, exponent)
    suspects = far_suspects(*statistics, low, high)
    return _without_far_values(rows, weight, statistics, suspects) if suspects else statistics


def far_suspects(mean: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> list[int]:
    """Find the columns that may have values found by :func:`far_values`, without sorting any.

    A value that determines mean and standard deviation is many standard deviations from the mean,
    or the column is like one of two values, whose variance is the product of their distances from
    the mean.
    """
    above, below = high - mean, mean - low
    two_values = scale >= (1 - 2.0**-17) * above.clamp(min=0).sqrt() * below.clamp(min=0).sqrt()
    suspect = (torch.maximum(above, below) > _SUSPECT * scale) | two_values
    return [int(column) for column in (suspect & (scale > 0)).nonzero()]


def far_values(values: Tensor) -> Tensor | None:
    """Find the values of a column that are so far from the others that these lose their digits.

    Parameters
    ----------
    values : Tensor of shape (n,)

    Returns
    -------
    Tensor of bool of shape (n,), or None
        At most half of the values, millions of times farther from the median than all others.

    Examples
    --------
    >>> far_values(torch.tensor([*range(20), 1e20], dtype=torch.float64)).nonzero()
    tensor([[20]])
    """
    center = values.median().to(torch.float64)
    distance = (values.to(torch.float64) - center).abs()
    nearest = distance.masked_fill(distance == 0, torch.inf).amin()
    if len(values) < _MIN_ROWS or not bool(distance.amax() > _FAR * nearest):
        return None
    ordered = distance.sort().values
    jumps = (ordered[1:] > _FAR * ordered[:-1]) & (ordered[:-1] > 0)
    jumps[: len(values) // 2] = False
    if not bool(jumps.any()):
        return None
    bound = ordered[int(jumps.nonzero()[0])]
    # Rounding errors of a constant have no digits to lose.
    is_rounding = bool(bound <= _MIN_SPACINGS * torch.finfo(torch.float64).eps * center.abs())
    return None if is_rounding else distance > bound


def clip_far_values(values: Tensor) -> Tensor:
    """Replace the far values of each column by the nearest other ones: shape (n, n_columns)."""
    if float(values.abs().amax()) <= _FAR:
        return values
    values = values.clone()
    for column in values.mT:
        far = far_values(column)
        if far is not None:
            column.clamp_(*torch.aminmax(column[~far]))
    return values


def subtract_remaining_means(
    layer: Standardize, rows: Rows, weight: Tensor | None
) -> Callable[[Tensor], Tensor]:
    """Subtract the means of standardized rows that remain because float64 rounds large means.

    Otherwise an offset of a column moves all its values by a rounding of float32, which Rprop
    amplifies, because it uses the signs of the gradients. Means that float64 rounds by more than
    1e-6 standard deviations remain: the rows for prediction have them, too.
    """
    spacing = torch.finfo(torch.float64).eps * layer.mean.abs()
    is_large = (spacing > 2.0**-45 * layer.scale) & (spacing < 2.0**-20 * layer.scale)
    if not bool(is_large.any()):
        return layer
    standardize = Standardize(layer.mean, layer.scale)
    share, width = _normalize_weights(weight, len(rows)), count_columns(rows)
    rest = torch.zeros(width, dtype=torch.float64)
    for chunk in iter_chunks(len(rows), width):
        rest += share[chunk] @ standardize(rows[chunk].to(torch.float64))
    rest = rest.where(is_large, 0.0)
    return lambda rows: standardize(rows.to(torch.float64)) - rest


def _without_far_values(
    rows: Tensor, weight: Tensor, statistics: ColumnStatistics, suspects: list[int]
) -> ColumnStatistics:
    """Compute the mean without far values and, if these are rare, the standard deviation, too."""
    mean, scale = statistics
    for column in suspects:
        values = rows[:, column].to(torch.float64)
        far = far_values(values)
        if far is None:
            continue
        others = compute_column_statistics(values[~far].unsqueeze(1), weight[~far])
        mean[column] = others.mean
        if int(far.sum()) <= max(1, _RARE * len(values)):
            reach = (values - others.mean).abs().amax()
            scale[column] = torch.maximum(others.scale, _MIN_SHARE * reach)
    return statistics


def _sparse_statistics(rows: SparseRows, weight: Tensor | None) -> ColumnStatistics:
    values = rows.values.to(torch.float64)
    columns, n_columns = rows.columns, rows.n_columns
    zeros = torch.zeros(n_columns, dtype=torch.float64)
    largest = zeros.scatter_reduce(0, columns, values.abs(), "amax")
    exponent = binary_exponent(largest)
    values = torch.ldexp(values, -exponent[columns])
    weight = _normalize_weights(weight, len(rows))[rows.rows_of_entries()]
    stored = zeros.index_add(0, columns, weight)
    is_full = torch.bincount(columns, minlength=n_columns) == len(rows)
    absent = torch.where(is_full, 0.0, 1 - stored).clamp(min=0)
    # Relative to one of the values of a column without zeros, as for dense rows.
    origin = torch.where(is_full, zeros.index_copy(0, columns, values), 0.0)
    offset = zeros.index_add(0, columns, weight * (values - origin[columns]))
    mean = origin + offset
    variance = zeros.index_add(0, columns, weight * (values - mean[columns]).square())
    scale = (variance + absent * mean.square()).sqrt()
    return _restore_units(mean, scale, largest, exponent)


def _restore_units(
    mean: Tensor, scale: Tensor, largest: Tensor, exponent: Tensor
) -> ColumnStatistics:
    """Set the scale of constant columns to 0, and undo the scaling by powers of two."""
    bound = _CONSTANT_SPACINGS * torch.finfo(torch.float64).eps
    is_constant = scale <= bound * torch.ldexp(largest, -exponent)
    scale = scale.masked_fill(is_constant, 0.0)
    return ColumnStatistics(torch.ldexp(mean, exponent), torch.ldexp(scale, exponent))


def _normalize_weights(weight: Tensor | None, n: int) -> Tensor:
    """Return weights that sum to 1."""
    if weight is None:
        return torch.full((n,), 1 / n, dtype=torch.float64)
    weight = rescale_weights(weight)
    return weight / weight.sum()


def find_imprecise_columns(statistics: ColumnStatistics, dtype: torch.dtype) -> list[int]:
    """Find the columns whose spread is about the spacing of numbers of their dtype.

    Parameters
    ----------
    statistics : ColumnStatistics
    dtype : torch.dtype
        Of the original table.

    Returns
    -------
    list of int
        Columns whose standard deviation spans fewer than 16 representable numbers, but more than
        none.
    """
    found = is_imprecise(statistics, dtype) & (statistics.scale > 0)
    return [int(column) for column in found.nonzero()]


def is_imprecise(statistics: ColumnStatistics, dtype: torch.dtype) -> Tensor:
    """Whether each standard deviation spans fewer than 16 numbers of a dtype: shape (n_columns,).

    Constant columns are imprecise, too, unless the dtype is one of integers.
    """
    if not dtype.is_floating_point:
        return torch.zeros_like(statistics.scale, dtype=torch.bool)
    mean, scale = (values.to(torch.float64) for values in statistics)
    return scale <= _MIN_SPACINGS * torch.finfo(dtype).eps * mean.abs()


def is_resolved_by_float32(mean: ArrayLike, scale: ArrayLike) -> bool:
    """Whether float32 resolves the spread of all columns, and holds constant ones exactly.

    Parameters
    ----------
    mean, scale : array-like of shape (n_columns,)
        Means and standard deviations.

    Examples
    --------
    >>> is_resolved_by_float32([4200.0], [800.0]), is_resolved_by_float32([1.7e9], [60.0])
    (True, False)
    """
    mean, scale = np.asarray(mean), np.asarray(scale)
    # Beyond the range of float32, the spacing is NaN, and nothing is resolved.
    with np.errstate(over="ignore", invalid="ignore"):
        spacing = np.spacing((np.abs(mean) + scale).astype(np.float32))
        is_varying = scale >= _MIN_SPACINGS_OF_PREDICTIONS * spacing.astype(np.float64)
        is_exact_constant = (scale == 0) & (mean.astype(np.float32) == mean)
    return bool((is_varying | is_exact_constant).all())
