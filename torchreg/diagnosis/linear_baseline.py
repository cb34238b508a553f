"""Least-squares fits of a linear model and of curves, to compare a network with."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchreg.diagnosis.moments import Array, Moments, standardize

#: Rows needed per fitted coefficient, so that the fit does not follow the noise.
ROWS_PER_TERM = 5
#: Hinges of all columns together, within the bounds per column below. The time grows with the
#: square of their number, and more hinges make a bend of one column less significant.
MAX_HINGES = 24
#: Enough to follow one and a half periods of a sine.
MAX_HINGES_PER_COLUMN = 12
#: Enough to follow half a period.
MIN_HINGES_PER_COLUMN = 4
#: Columns at most for which products of pairs are added.
MAX_PAIRED_COLUMNS = 6
#: A combination of terms whose square is below this share of the largest is rounding noise.
NEGLIGIBLE_SQUARE = 1e-12
#: Terms are independent if each is at least this far, relative to the largest, from the span of
#: those before it.
INDEPENDENT = 1e-3


class LinearBaseline(NamedTuple):
    """Linear model and curves of some rows.

    Parameters
    ----------
    x, y : Moments
        Means and scales of x and y; empty without y.
    targets : ndarray of shape (n, n_outputs) or None
        y.
    z : Tensor of shape (n_outputs, n) or None
        Standardized y, transposed.
    straight : Tensor of shape (n_directions, n) or None
        Orthonormal basis of the linear functions of x, without the constant. ``None`` if there are
        too few rows, or values are not finite.
    shares : Shares or None
        ``None`` in these cases, and without y.
    """

    x: Moments
    y: Moments
    targets: Array | None
    z: Tensor | None
    straight: Tensor | None
    shares: Shares | None


class Shares(NamedTuple):
    """Shares of y's variance that linear model and curves explain, and their numbers of terms."""

    line_r2: float
    curve_r2: float
    line_terms: int
    curve_terms: int


def fit_baseline(x: Array, y: Array | None) -> LinearBaseline:
    r"""Fit a linear model and curves to y.

    The linear model has the columns of x and a constant. Curves add hinges :math:`\max(z, q)`
    at quantiles q of each standardized column z, and products of pairs of them.

    Parameters
    ----------
    x : ndarray of shape (n, n_features)
    y : ndarray of shape (n, n_outputs) or None

    Returns
    -------
    LinearBaseline
        Without shares if there are too few rows, or values are not finite.

    Examples
    --------
    >>> x = np.linspace(-1, 1, 101)[:, None]
    >>> shares = fit_baseline(x, np.abs(x)).shares
    >>> round(shares.line_r2, 9), shares.curve_r2 > 0.99
    (0.0, True)
    """
    n_rows, width = x.shape
    known = [x] if y is None else [x, y]
    # Transposed, so that sums are over contiguous memory.
    values = np.empty((sum(columns.shape[1] for columns in known), n_rows))
    np.concatenate([columns.T for columns in known], out=values)
    moments = standardize(values)
    of_x, of_y = moments.of(0, width), moments.of(width, None)
    if n_rows < ROWS_PER_TERM * (width + 1) or not moments.are_finite():
        return LinearBaseline(of_x, of_y, y, None, None, None)
    if y is None:
        return LinearBaseline(
            of_x, of_y, None, None, _orthonormalize(torch.from_numpy(values)), None
        )
    n_bends, n_pairs = _count_terms(n_rows, width)
    n_line = 1 + width
    n_terms = n_line + n_bends * width + n_pairs
    # Constant, x, hinges and products, y.
    table = np.empty((n_terms + len(values) - width, n_rows))
    table[0] = 1.0
    table[1:n_line], table[n_terms:] = values[:width], values[width:]
    independent = _write_curve_terms(values[:width], n_bends, n_pairs, out=table[n_line:n_terms])
    line, curve, straight = _fit_line_and_curves(table, n_line, n_terms, independent=independent)
    (line_r2, line_terms), (curve_r2, curve_terms) = line, curve
    n_varying = max(1, sum(of_y.varies()))
    shares = Shares(line_r2, curve_r2, line_terms * n_varying, curve_terms * n_varying)
    return LinearBaseline(of_x, of_y, y, torch.from_numpy(values[width:]), straight, shares)


def _count_terms(n_rows: int, width: int) -> tuple[int, int]:
    """Count the hinges per column, and the products of pairs, that the number of rows allows."""
    most = n_rows // ROWS_PER_TERM - width - 1
    n_pairs = width * (width - 1) // 2 if width <= MAX_PAIRED_COLUMNS else 0
    if n_pairs > most:
        n_pairs = 0
    width = max(width, 1)
    n_bends = min(MAX_HINGES_PER_COLUMN, max(MIN_HINGES_PER_COLUMN, MAX_HINGES // width))
    return max(0, min(n_bends, (most - n_pairs) // width)), n_pairs


def _write_curve_terms(z: Array, n_bends: int, n_pairs: int, *, out: Array) -> bool:
    """Write the nonlinear terms: hinges at quantiles, and products of pairs.

    Parameters
    ----------
    z : ndarray of shape (n_features, n)
        Standardized.
    n_bends, n_pairs : int
        From :func:`_count_terms`.
    out : ndarray of shape (n_features * n_bends + n_pairs, n)

    Returns
    -------
    bool
        Whether the hinges of each column are distinct; in columns of few values they are not.
    """
    width, n_rows = z.shape
    independent = True
    if n_bends:
        places = [place * n_rows // (n_bends + 1) for place in range(1, n_bends + 1)]
        quantiles = np.sort(z, axis=1).take(places, axis=1)
        independent = all(a < b for each in quantiles.tolist() for a, b in pairwise(each))
        # With a constant, max(z, q) spans the same functions as max(z - q, 0), in one pass less.
        # (n_features * n_bends, n) -> (n_features, n_bends, n)
        hinges = out[: width * n_bends].reshape(width, n_bends, n_rows)
        np.maximum(z[:, None], quantiles[:, :, None], out=hinges)
    if n_pairs:
        place = width * n_bends
        for first in range(width - 1):
            later = z[first + 1 :]
            np.multiply(z[first], later, out=out[place : place + len(later)])
            place += len(later)
    return independent


def _fit_line_and_curves(
    table: Array, n_line: int, n_terms: int, *, independent: bool
) -> tuple[tuple[float, int], tuple[float, int], Tensor]:
    """Fit y by the terms of the linear model, and by all terms, with least squares.

    Parameters
    ----------
    table : ndarray of shape (n_terms + n_outputs, n)
        Terms of the linear model, other terms, and y. All are of order 1, so that outputs have
        equal weights.
    n_line, n_terms : int
    independent : bool
        Whether to try a Cholesky factorization, which requires independent terms.

    Returns
    -------
    line, curve : (float, int)
        Share of variance explained, 1 for a constant y; and number of terms.
    straight : Tensor of shape (n_line - 1, n)
        Result of :func:`_orthonormalize` for the columns of x.
    """
    # torch uses the number of threads of the fit; NumPy's products would use all cores.
    rows = torch.from_numpy(table)
    # One factor serves both fits, because its first columns belong to the first terms. Its cost
    # grows with the square of all columns, which is too much for many outputs.
    if independent and len(table) <= 2 * n_terms:
        size, whole = len(table), len(table) + n_line - 1
        products = np.zeros((whole, whole))
        products[:size, :size] = (rows @ rows.T).numpy()
        # (whole, whole) -> (whole * whole,): a step of whole + 1 follows the diagonal
        numbers = products.reshape(-1)
        diagonal = numbers[:: whole + 1]
        total = sum(diagonal[n_terms:size].tolist())
        # y may be in the span of the terms, which must not stop the factorization.
        diagonal[n_terms:size] += table.shape[1]
        # The identity below x becomes the transposed inverse of the factor of x.
        diagonal[size:] = 1 / NEGLIGIBLE_SQUARE
        numbers[size * whole + 1 :: whole + 1] = 1.0
        lower, failed = torch.linalg.cholesky_ex(torch.from_numpy(products))
        factor = lower.numpy()
        pivots = factor.diagonal()[:n_terms].tolist()
        if not failed and min(pivots) > INDEPENDENT * max(pivots):
            # Components of y along each term.
            projections = factor[n_terms:size, :n_terms].tolist()
            line, curve = (
                _share(sum(a * a for each in projections for a in each[:n]), total, n)
                for n in (n_line, n_terms)
            )
            # The constant comes first and is orthogonal to x, which is centered.
            return line, curve, lower[size:, 1:n_line].T @ rows[1:n_line]
    targets = rows[n_terms:]
    line, curve = (_fit_by_eigenvectors(rows[:n], targets) for n in (n_line, n_terms))
    return line, curve, _orthonormalize(rows[1:n_line])


def _share(explained: float, total: float, rank: int) -> tuple[float, int]:
    """Return the share of variance explained, 1 for a constant y, and the number of terms."""
    return (explained / total, rank) if total else (1.0, 1)


def _fit_by_eigenvectors(terms: Tensor, targets: Tensor) -> tuple[float, int]:
    """Fit by the eigenvectors of the terms with significant eigenvalues; arguments are rows."""
    size, basis = torch.linalg.eigh(terms @ terms.T)
    kept = size > NEGLIGIBLE_SQUARE * size[-1]
    basis = basis[:, kept]
    solution = ((targets @ terms.T) @ basis / size[kept]) @ basis.T
    total = float(targets.square().sum())
    left = float((solution @ terms).sub_(targets).square_().sum())
    return _share(total - left, total, int(kept.sum()))


def _orthonormalize(rows: Tensor) -> Tensor:
    """Compute orthonormal rows with the same span.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n)
        Of order 1.
    """
    products = rows @ rows.T
    factor, failed = torch.linalg.cholesky_ex(products)
    pivots = factor.diagonal()
    if failed or pivots.amin() <= INDEPENDENT * pivots.amax():
        size, basis = torch.linalg.eigh(products)
        kept = size > NEGLIGIBLE_SQUARE * size[-1]
        rows = (basis[:, kept] / size[kept].sqrt()).T @ rows
        # Orthogonalize again, because rounding affects rows with small eigenvalues.
        factor = torch.linalg.cholesky(rows @ rows.T)
    straight: Tensor = torch.linalg.solve_triangular(factor, rows, upper=False)
    return straight
