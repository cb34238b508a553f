"""How much a straight line explains, and whether gentle curves explain more."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from torchreg.diagnosis.lines import Lines
from torchreg.diagnosis.moments import Array, Moments, centre
from torchreg.diagnosis.record import Structure


class Held(NamedTuple):
    """What comes of holding a network against a straight line, and against y."""

    output: Moments
    linear_share: float | None
    structure: Structure | None


def hold_against(lines: Lines, output: Array) -> Held:
    """Tell how straight a network's output is, and what line, curves and network explain of y.

    Parameters
    ----------
    lines : Lines
        Of the rows.
    output : ndarray of shape (n, n_outputs)
        What the network predicts.

    Returns
    -------
    Held
        Without shares where the rows are too few for a line.

    Examples
    --------
    >>> from torchreg.diagnosis.lines import draw_lines
    >>> x = np.linspace(-1, 1, 101)[:, None]
    >>> held = hold_against(draw_lines(x, np.abs(x)), 2 * x)
    >>> round(held.linear_share, 9), round(held.structure.line_r2, 9)
    (1.0, 0.0)
    """
    # (n, n_outputs) -> (n_outputs, n)
    centred = output.T.copy()
    moments = centre(centred)
    straight = lines.straight
    if straight is None:
        return Held(moments, None, None)
    linear_share = _share_of_line(straight, centred, moments)
    y, shares = lines.targets, lines.shares
    if y is None or shares is None:
        return Held(moments, linear_share, None)
    residual = y - output
    residual /= lines.unit
    residual *= residual
    structure = Structure(
        line_r2=shares.line_r2,
        curve_r2=shares.curve_r2,
        network_r2=1 - float(np.add.reduce(residual, axis=None)) / y.size,
        n=y.size,
        line_terms=shares.line_terms,
        curve_terms=shares.curve_terms,
    )
    return Held(moments, linear_share, structure)


def _share_of_line(straight: Array, centred: Array, moments: Moments) -> float:
    """Compute the share of the varying columns' variance that lies along a line; 1 if none."""
    size = moments.size_of_variation()
    n_varying = len(size) - size.tolist().count(math.inf)
    if not n_varying:
        return 1.0
    # (n_outputs, n) @ (n, n_directions), by a plain loop: a product of matrices would take
    # longer to begin, and the threads that others need.
    along = np.einsum("oi,id->od", centred, straight)
    along /= size[:, None]
    along *= along
    n_numbers: int = n_varying * centred.shape[1]
    return float(np.add.reduce(along, axis=None)) / n_numbers
