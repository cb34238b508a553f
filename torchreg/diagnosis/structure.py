"""How much a straight line explains, and whether gentle curves explain more.

In numpy, whose calls on a few hundred rows cost a quarter of torch's.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

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


def linear_terms(x: Array) -> Array | None:
    """Give the columns of a straight line, each of order 1, and a column of ones.

    Parameters
    ----------
    x : ndarray of shape (n, n_features)

    Returns
    -------
    ndarray of shape (n, n_features + 1) or None
        ``None`` where the rows are too few.
    """
    n_rows, width = x.shape
    if n_rows < ROWS_PER_TERM * (width + 1):
        return None
    return np.concatenate([np.ones((n_rows, 1)), of_order_one(x)], axis=1)


def curved_terms(line: Array) -> Array:
    r"""Give columns that bend: hinges :math:`\max(z - q, 0)` at quantiles, products of pairs.

    Parameters
    ----------
    line : ndarray of shape (n, n_features + 1)
        From :func:`linear_terms`.

    Returns
    -------
    ndarray of shape (n, n_terms)
        Without columns where there are too few rows for any.
    """
    z = line[:, 1:]
    n_rows, width = z.shape
    most = n_rows // ROWS_PER_TERM - width - 1
    n_pairs = width * (width - 1) // 2 if width <= MOST_PAIRED else 0
    if n_pairs > most:
        n_pairs = 0
    n_bends = min(MOST_BENDS, (most - n_pairs) // max(width, 1))
    terms = [z[:, :0]]
    if n_bends > 0:
        places = np.arange(1, n_bends + 1) * n_rows // (n_bends + 1)
        quantiles = np.sort(z, axis=0)[places]
        # (n, 1, n_features) - (bends, n_features) -> (n, bends * n_features)
        terms.append(np.maximum(z[:, None, :] - quantiles, 0.0).reshape(n_rows, -1))
    if n_pairs:
        first, second = np.triu_indices(width, k=1)
        terms.append(z[:, first] * z[:, second])
    return np.concatenate(terms, axis=1)


def explained(terms: Array, wanted: Array) -> tuple[float, int]:
    """Compute the share of the variance that least squares explains, and the terms used.

    Parameters
    ----------
    terms : ndarray of shape (n, n_terms)
        Of order 1; the first column is ones.
    wanted : ndarray of shape (n, n_outputs)
        From :func:`of_order_one`, so that every output counts the same, whatever its unit.

    Returns
    -------
    share : float
        1 where the values do not vary.
    rank : int
        How many of the terms are independent.
    """
    total = float(np.vdot(wanted, wanted))
    if total == 0:
        return 1.0, 1
    # torch keeps to the threads that a fit takes; numpy's products would take all, and wait for
    # a core that is busy.
    a, b = torch.from_numpy(terms), torch.from_numpy(wanted)
    size, basis = torch.linalg.eigh(a.T @ a)
    kept = size > NOTHING * size[-1]
    basis = basis[:, kept]
    solution = basis @ ((basis.T @ (a.T @ b)) / size[kept, None])
    left = b - a @ solution
    return 1 - float(left.square().sum()) / total, int(kept.sum())


def compare_structure(line: Array, t: Array, output: Array) -> Structure:
    """Hold a line, curves and the network against y.

    Parameters
    ----------
    line : ndarray of shape (n, n_features + 1)
        From :func:`linear_terms`.
    t, output : ndarray of shape (n, n_outputs)
        Targets, and what the network predicts.
    """
    wanted = of_order_one(t)
    line_r2, line_terms = explained(line, wanted)
    curve_r2, curve_terms = explained(np.concatenate([line, curved_terms(line)], axis=1), wanted)
    _, scale = mean_and_scale(t)
    scale[scale == 0] = 1.0
    residual = (t - output) / scale
    n_outputs = t.shape[1]
    return Structure(
        line_r2=line_r2,
        curve_r2=curve_r2,
        network_r2=1 - float(np.vdot(residual, residual)) / t.size,
        n=t.size,
        line_terms=line_terms * n_outputs,
        curve_terms=curve_terms * n_outputs,
    )


def of_order_one(values: Array) -> Array:
    """Standardize the columns; one that does not vary becomes 0."""
    mean, scale = mean_and_scale(values)
    # What rounding leaves of a constant is no variation.
    scale[scale <= ROUNDING * np.abs(mean)] = np.inf
    ordered: Array = (values - mean) / scale
    return ordered


def mean_and_scale(values: Array) -> tuple[Array, Array]:
    """Compute mean and standard deviation of each column, at half the cost of numpy's own."""
    n_rows = len(values)
    mean = np.add.reduce(values) / n_rows
    centred = values - mean
    return mean, np.sqrt(np.add.reduce(centred * centred) / n_rows)
