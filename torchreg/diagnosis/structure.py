"""How much a straight line explains, and whether gentle curves explain more.

In numpy, whose calls on a few hundred rows cost a quarter of torch's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchreg.diagnosis.record import Structure

Array = NDArray[np.float64]

#: Rows per fitted number that a line or a curve needs, or it would fit the noise.
ROWS_PER_TERM = 5
#: Bends per column, at most: they follow one and a half periods of a wave.
MOST_BENDS = 12
#: Columns of which the products of pairs are tried as well, at most.
MOST_PAIRED = 6
#: Rounding of a mean in float64, as a share of it.
ROUNDING = 4 * float(np.finfo(np.float64).eps)
#: Terms are of order 1. A combination of them whose square is below this share of the largest
#: is what rounding leaves of nothing.
NOTHING = 1e-12
#: A term that is at least this far, as a share of the largest, from what those before it span
#: makes no such combination: the square is a million times as much.
APART = 1e-3


class Moments(NamedTuple):
    """Mean and standard deviation of each column."""

    mean: Array
    scale: Array

    def of(self, first: int, end: int | None) -> Moments:
        """Pick some of the columns."""
        return Moments(self.mean[first:end], self.scale[first:end])


class Held(NamedTuple):
    """What comes of holding a network against a straight line, and against y."""

    x: Moments
    y: Moments
    output: Moments
    linear_share: float | None
    structure: Structure | None


def hold_against_lines(x: Array, y: Array | None, output: Array) -> Held:
    r"""Tell how straight a network's output is, and what line, curves and network explain of y.

    A line is made of the columns of x and a constant. Curves add hinges :math:`\max(z - q, 0)`
    at quantiles q of each standardized column z, and products of pairs of them.

    Parameters
    ----------
    x : ndarray of shape (n, n_features)
    y : ndarray of shape (n, n_outputs) or None
    output : ndarray of shape (n, n_outputs)
        What the network predicts.

    Returns
    -------
    Held
        Without shares where the rows are too few for a line; the moments of a missing y are
        empty.

    Examples
    --------
    >>> x = np.linspace(-1, 1, 101)[:, None]
    >>> held = hold_against_lines(x, np.abs(x), 2 * x)
    >>> round(held.linear_share, 9), round(held.structure.line_r2, 9)
    (1.0, 0.0)
    >>> held.structure.curve_r2 > 0.99
    True
    """
    n_rows, width = x.shape
    known = [x, output] if y is None else [x, output, y]
    n_outputs = output.shape[1]
    # One column a row, so that sums run along memory.
    values = np.empty((width + (len(known) - 1) * n_outputs, n_rows))
    np.concatenate([columns.T for columns in known], out=values)
    moments = _standardize(values)
    of_x = moments.of(0, width)
    of_output = moments.of(width, width + n_outputs)
    of_y = moments.of(width + n_outputs, None)
    if n_rows < ROWS_PER_TERM * (width + 1):
        return Held(of_x, of_y, of_output, None, None)
    n_bends, n_pairs = (0, 0) if y is None else _count_bends(n_rows, width)
    n_line = 1 + width
    n_terms = n_line + n_bends * width + n_pairs
    # Ones, x, what bends, the output, y.
    table = np.empty((n_terms + len(values) - width, n_rows))
    table[0] = 1.0
    table[1:n_line], table[n_terms:] = values[:width], values[width:]
    apart = _write_bends(values[:width], n_bends, n_pairs, out=table[n_line:n_terms])
    line, curve = _left_over(table, n_line, n_terms, apart=apart)
    linear_share, _ = line.explained(0, n_outputs)
    if y is None:
        return Held(of_x, of_y, of_output, linear_share, None)
    line_r2, line_terms = line.explained(n_outputs, None)
    curve_r2, curve_terms = curve.explained(n_outputs, None)
    residual = (y - output) / np.where(of_y.scale == 0, 1.0, of_y.scale)
    structure = Structure(
        line_r2=line_r2,
        curve_r2=curve_r2,
        network_r2=1 - float(np.add.reduce(residual * residual, axis=None)) / y.size,
        n=y.size,
        line_terms=line_terms * n_outputs,
        curve_terms=curve_terms * n_outputs,
    )
    return Held(of_x, of_y, of_output, linear_share, structure)


def moments_of(values: Array) -> Moments:
    """Compute mean and standard deviation of each column; without rows there are no columns."""
    if not len(values):
        return Moments(np.empty(0), np.empty(0))
    # (n, n_columns) -> (n_columns, n)
    return _standardize(values.T.copy())


def _standardize(columns: Array) -> Moments:
    """Standardize columns that lie in rows, in place; one that does not vary becomes 0."""
    n_rows = columns.shape[1]
    # Around the first number, so that a constant has no spread.
    origin = columns[:, :1].copy()
    columns -= origin
    offset = np.add.reduce(columns, axis=1, keepdims=True) / n_rows
    columns -= offset
    mean = (origin + offset)[:, 0]
    scale = np.sqrt(np.add.reduce(columns * columns, axis=1) / n_rows)
    # What rounding leaves of a constant is no variation.
    columns /= np.where(scale <= ROUNDING * np.abs(mean), np.inf, scale)[:, None]
    return Moments(mean, scale)


def _count_bends(n_rows: int, width: int) -> tuple[int, int]:
    """Count the hinges per column, and the products of pairs, that so many rows allow."""
    most = n_rows // ROWS_PER_TERM - width - 1
    n_pairs = width * (width - 1) // 2 if width <= MOST_PAIRED else 0
    if n_pairs > most:
        n_pairs = 0
    return max(0, min(MOST_BENDS, (most - n_pairs) // max(width, 1))), n_pairs


def _write_bends(z: Array, n_bends: int, n_pairs: int, *, out: Array) -> bool:
    """Write the terms that bend: hinges at quantiles, and products of pairs.

    Parameters
    ----------
    z : ndarray of shape (n_features, n)
        Standardized.
    n_bends, n_pairs : int
        From :func:`_count_bends`.
    out : ndarray of shape (n_features * n_bends + n_pairs, n)

    Returns
    -------
    bool
        Whether no two hinges of a column are the same, as in one of a few values they are.
    """
    width, n_rows = z.shape
    apart = True
    if n_bends:
        places = [place * n_rows // (n_bends + 1) for place in range(1, n_bends + 1)]
        quantiles = np.sort(z, axis=1)[:, places, None]
        apart = bool(np.logical_and.reduce(quantiles[:, 1:] > quantiles[:, :-1], axis=None))
        # (n_features * n_bends, n) -> (n_features, n_bends, n)
        hinges = out[: width * n_bends].reshape(width, n_bends, n_rows)
        np.maximum(np.subtract(z[:, None], quantiles, out=hinges), 0.0, out=hinges)
    if n_pairs:
        place = width * n_bends
        for first in range(width - 1):
            later = z[first + 1 :]
            np.multiply(z[first], later, out=out[place : place + len(later)])
            place += len(later)
    return apart


class _Rest(NamedTuple):
    """Squares before and after least squares, of each wanted column; and how many terms it took."""

    total: Array
    left: Array
    rank: int

    def explained(self, first: int, end: int | None) -> tuple[float, int]:
        """Give the share that is explained of some columns, 1 if none varies, and the terms."""
        total = float(np.add.reduce(self.total[first:end]))
        if total == 0:
            return 1.0, 1
        return 1 - float(np.add.reduce(self.left[first:end])) / total, self.rank


def _left_over(table: Array, n_line: int, n_terms: int, *, apart: bool) -> tuple[_Rest, _Rest]:
    """Fit what is wanted by the terms of a line, and by all terms, in least squares.

    Parameters
    ----------
    table : ndarray of shape (n_terms + n_wanted, n)
        The terms, those of a line before others, and what is wanted. All are of order 1, so
        that every output counts the same, whatever its unit.
    n_line, n_terms : int
    apart : bool
        Whether it is worth while to try if the terms are independent.
    """
    # torch keeps to the threads that a fit takes; numpy's products would take all, and wait for
    # a core that is busy.
    rows = torch.from_numpy(table)
    # One factor serves all: what the first terms explain, its first columns explain. It costs
    # the square of all columns, too much for many outputs.
    if apart and len(table) <= 2 * n_terms:
        products = rows @ rows.T
        # (n_terms + n_wanted, n_terms + n_wanted) -> the end of its diagonal: (n_wanted,)
        diagonal = products.numpy().reshape(-1)[n_terms * (len(table) + 1) :: len(table) + 1]
        total = diagonal.copy()
        # What is wanted may be spanned by the terms, and must not end the factorization.
        diagonal += table.shape[1]
        lower, failed = torch.linalg.cholesky_ex(products)
        factor = lower.numpy()
        heights = factor.diagonal()[:n_terms]
        if not failed and np.minimum.reduce(heights) > APART * np.maximum.reduce(heights):
            explained = np.square(factor[n_terms:, :n_terms])
            line, curve = (np.add.reduce(explained[:, :end], axis=1) for end in (n_line, n_terms))
            return _Rest(total, total - line, n_line), _Rest(total, total - curve, n_terms)
    total = np.add.reduce(np.square(table[n_terms:]), axis=1)
    wanted = rows[n_terms:]
    left_by_line = _by_eigenvectors(rows[:n_line], wanted, total)
    return left_by_line, _by_eigenvectors(rows[:n_terms], wanted, total)


def _by_eigenvectors(terms: Tensor, wanted: Tensor, total: Array) -> _Rest:
    """Fit by the combinations of terms that are more than nothing; both lie in rows."""
    size, basis = torch.linalg.eigh(terms @ terms.T)
    kept = size > NOTHING * size[-1]
    basis = basis[:, kept]
    solution = ((wanted @ terms.T) @ basis / size[kept]) @ basis.T
    left = (solution @ terms).sub_(wanted).square_().sum(dim=1)
    return _Rest(total, left.numpy(), int(kept.sum()))
