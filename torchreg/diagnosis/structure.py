"""How much a straight line explains, and whether gentle curves explain more."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from torchreg.diagnosis.lines import LinearBaseline
from torchreg.diagnosis.moments import Moments
from torchreg.diagnosis.record import Structure


class BaselineFit(NamedTuple):
    """What comes of holding a network against a straight line, and against y.

    Parameters
    ----------
    output_scale : list of float
        Standard deviation of each output.
    linear_share : float or None
        Share of the varying outputs' variance that lies along a line; 1 if none varies.
    structure : Structure or None
    """

    output_scale: list[float]
    linear_share: float | None
    structure: Structure | None


def compare_baselines(lines: LinearBaseline, output: Tensor) -> BaselineFit | None:
    """Tell how straight a network's output is, and what line, curves and network explain of y.

    By torch, which has been at work when a fit ends: the first calls of numpy would take longer
    than all of this.

    Parameters
    ----------
    lines : LinearBaseline
        Of the rows.
    output : Tensor of shape (n, n_outputs)
        What the network predicts, in float64.

    Returns
    -------
    Held or None
        Without shares where the rows are too few for a line; ``None`` if not all is finite.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from torchreg.diagnosis.lines import draw_lines
    >>> x = np.linspace(-1, 1, 101)[:, None]
    >>> held = compare_baselines(draw_lines(x, np.abs(x)), torch.from_numpy(2 * x))
    >>> round(held.linear_share, 9), round(held.structure.line_r2, 9)
    (1.0, 0.0)
    """
    return hold_each_against(lines, output[None])[0]


def hold_each_against(lines: LinearBaseline, outputs: Tensor) -> list[BaselineFit | None]:
    """Do for several networks at once what :func:`compare_baselines` does for one.

    Parameters
    ----------
    lines : LinearBaseline
        Of the rows, which are the same for all.
    outputs : Tensor of shape (n_networks, n, n_outputs)
        What each predicts, in float64.
    """
    # (n_networks, n, n_outputs) -> (n_networks, n_outputs, n)
    rows = outputs.mT
    n_networks, n_rows = len(rows), rows.shape[2]
    if not (lines.x.are_finite() and lines.y.are_finite()):
        return [None] * n_networks
    # Around one of the numbers, so that a constant has no spread.
    origin = rows.narrow(2, 0, 1)
    centred = rows - origin
    offset = centred.sum(dim=2, keepdim=True) * (1 / n_rows)
    centred = centred - offset
    mean = (origin + offset).squeeze(2).tolist()
    variance = ((centred * centred).sum(dim=2) / n_rows).tolist()
    straight, z = lines.straight, lines.z
    # For each network, or for none.
    lies = along_y = [None] * n_networks
    if straight is not None:
        # (n_networks, n_outputs, n) @ (n, n_directions)
        along = centred @ straight.T
        lies = (along * along).sum(dim=2).tolist()
        if z is not None:
            along_y = (centred * z).sum(dim=2).tolist()
    return [_hold(lines, n_rows, *each) for each in zip(mean, variance, lies, along_y, strict=True)]


def _hold(
    lines: LinearBaseline,
    n_rows: int,
    mean: list[float],
    variance: list[float],
    lies: list[float] | None,
    along_y: list[float] | None,
) -> BaselineFit | None:
    """Write down what comes of one network.

    Parameters
    ----------
    lines : LinearBaseline
    n_rows : int
    mean, variance : list of float
        Of each output.
    lies : list of float or None
        Sum of squares, for each output, of what lies along a line.
    along_y : list of float or None
        Sum of products, for each output, with y.
    """
    scale = [math.sqrt(square) for square in variance]
    found = Moments(mean, scale)
    if not found.are_finite():
        return None
    if lies is None:
        return BaselineFit(scale, None, None)
    varies = found.varies()
    linear_share = 1.0
    if any(varies):
        shares = (a / v for a, v, varied in zip(lies, variance, varies, strict=True) if varied)
        linear_share = sum(shares) / (n_rows * sum(varies))
    if along_y is None or lines.shares is None:
        return BaselineFit(scale, linear_share, None)
    # What is left of y in units of its scale, by the binomial formula for each output.
    left = 0.0
    of_y = zip(*lines.y, strict=True)
    for m, v, a, (y_mean, y_scale) in zip(mean, variance, along_y, of_y, strict=True):
        unit = y_scale or 1.0
        away = (m - y_mean) / unit
        left += v / unit / unit - 2 * a / n_rows / unit + (y_scale > 0) + away * away
    structure = Structure(
        line_r2=lines.shares.line_r2,
        curve_r2=lines.shares.curve_r2,
        network_r2=1 - left / len(mean),
        n=len(mean) * n_rows,
        line_terms=lines.shares.line_terms,
        curve_terms=lines.shares.curve_terms,
    )
    return BaselineFit(scale, linear_share, structure)
