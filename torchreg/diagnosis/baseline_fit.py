"""How much a straight line explains, and whether gentle curves explain more."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from torchreg.diagnosis.linear_baseline import LinearBaseline
from torchreg.diagnosis.moments import Moments
from torchreg.diagnosis.record import Structure


class BaselineFit(NamedTuple):
    """How linear the output of a network is, and how well it explains y.

    Parameters
    ----------
    output_scale : list of float
        Standard deviation of each output.
    linear_share : float or None
        Share of the outputs' variance that a linear model explains; 1 if no output varies.
    structure : Structure or None
    """

    output_scale: list[float]
    linear_share: float | None
    structure: Structure | None


def compare_baselines(lines: LinearBaseline, output: Tensor) -> BaselineFit | None:
    """Compare a network's output with its own linear fit, and with linear models of y.

    Computed by torch, because the first calls of NumPy in a process would take longer.

    Parameters
    ----------
    lines : LinearBaseline
        Linear models of the rows.
    output : Tensor of shape (n, n_outputs)
        Predictions of the network, in float64.

    Returns
    -------
    BaselineFit or None
        Without shares if there are too few rows for a line; ``None`` if any value is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from torchreg.diagnosis.linear_baseline import fit_baseline
    >>> x = np.linspace(-1, 1, 101)[:, None]
    >>> fit = compare_baselines(fit_baseline(x, np.abs(x)), torch.from_numpy(2 * x))
    >>> round(fit.linear_share, 9), round(fit.structure.line_r2, 9)
    (1.0, 0.0)
    """
    if not (lines.x.are_finite() and lines.y.are_finite()):
        return None
    # (n, n_outputs) -> (n_outputs, n)
    columns = output.mT
    n_rows = columns.shape[1]
    # Relative to the first row, so that a constant has no spread.
    origin = columns.narrow(1, 0, 1)
    centred = columns - origin
    offset = centred.sum(dim=1, keepdim=True) * (1 / n_rows)
    centred = centred - offset
    mean = (origin + offset).squeeze(1).tolist()
    variance = ((centred * centred).sum(dim=1) / n_rows).tolist()
    scale = [math.sqrt(square) for square in variance]
    moments = Moments(mean, scale)
    if not moments.are_finite():
        return None
    if lines.straight is None:
        return BaselineFit(scale, None, None)
    # (n_outputs, n) @ (n, n_directions)
    along = centred @ lines.straight.T
    explained = (along * along).sum(dim=1).tolist()
    varies = moments.varies()
    linear_share = 1.0
    if any(varies):
        shares = (a / v for a, v, varied in zip(explained, variance, varies, strict=True) if varied)
        linear_share = sum(shares) / (n_rows * sum(varies))
    if lines.z is None or lines.shares is None:
        return BaselineFit(scale, linear_share, None)
    products = (centred * lines.z).sum(dim=1).tolist()
    # Squared residuals in units of the scale of y, by the binomial formula for each output. A
    # constant output has no such unit, and no variance to explain.
    residuals = [
        v / unit / unit - 2 * product / n_rows / unit + 1 + ((m - y_mean) / unit) ** 2
        for m, v, product, y_mean, unit, varied in zip(
            mean, variance, products, *lines.y, lines.y.varies(), strict=True
        )
        if varied
    ]
    n_varying = max(1, len(residuals))
    structure = Structure(
        line_r2=lines.shares.line_r2,
        curve_r2=lines.shares.curve_r2,
        network_r2=1 - sum(residuals) / n_varying,
        n=n_varying * n_rows,
        line_terms=lines.shares.line_terms,
        curve_terms=lines.shares.curve_terms,
    )
    return BaselineFit(scale, linear_share, structure)
