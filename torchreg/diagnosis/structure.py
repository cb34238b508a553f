"""How much a straight line explains, and whether gentle curves explain more."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from torchreg.diagnosis.lines import Lines
from torchreg.diagnosis.moments import Moments
from torchreg.diagnosis.record import Structure


class Held(NamedTuple):
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


def hold_against(lines: Lines, output: Tensor) -> Held | None:
    """Tell how straight a network's output is, and what line, curves and network explain of y.

    By torch, which has been at work when a fit ends: the first calls of numpy would take longer
    than all of this.

    Parameters
    ----------
    lines : Lines
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
    >>> held = hold_against(draw_lines(x, np.abs(x)), torch.from_numpy(2 * x))
    >>> round(held.linear_share, 9), round(held.structure.line_r2, 9)
    (1.0, 0.0)
    """
    # (n, n_outputs) -> (n_outputs, n)
    rows = output.T
    n_outputs, n_rows = rows.shape
    # Around one of the numbers, so that a constant has no spread.
    origin = rows.narrow(1, 0, 1)
    centred = rows - origin
    offset = centred.sum(dim=1, keepdim=True) * (1 / n_rows)
    centred = centred - offset
    variance = [square / n_rows for square in (centred * centred).sum(dim=1).tolist()]
    scale = [math.sqrt(square) for square in variance]
    mean = [a + b for (a,), (b,) in zip(origin.tolist(), offset.tolist(), strict=True)]
    found = Moments(mean, scale)
    if not all(moments.are_finite() for moments in (found, lines.x, lines.y)):
        return None
    straight, z, shares = lines.straight, lines.z, lines.shares
    if straight is None:
        return Held(scale, None, None)
    varies = found.varies()
    linear_share = 1.0
    if any(varies):
        # (n_outputs, n) @ (n, n_directions)
        along = (centred @ straight.T).tolist()
        numbers = zip(along, variance, varies, strict=True)
        lies = (math.fsum(a * a for a in each) / v for each, v, varied in numbers if varied)
        linear_share = sum(lies) / (n_rows * sum(varies))
    if z is None or shares is None:
        return Held(scale, linear_share, None)
    # What is left of y in units of its scale, by the binomial formula for each output.
    left = 0.0
    along_y = (centred * z).sum(dim=1).tolist()
    of_y = zip(*lines.y, strict=True)
    for m, v, a, (y_mean, y_scale) in zip(mean, variance, along_y, of_y, strict=True):
        unit = y_scale or 1.0
        away = (m - y_mean) / unit
        left += v / unit / unit - 2 * a / n_rows / unit + (y_scale > 0) + away * away
    structure = Structure(
        line_r2=shares.line_r2,
        curve_r2=shares.curve_r2,
        network_r2=1 - left / n_outputs,
        n=n_outputs * n_rows,
        line_terms=shares.line_terms,
        curve_terms=shares.curve_terms,
    )
    return Held(scale, linear_share, structure)
