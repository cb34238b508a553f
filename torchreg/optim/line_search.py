"""Line search for the strong Wolfe conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.floating]

#: Constants c1 (sufficient decrease) and c2 (curvature) of the strong Wolfe conditions.
_C1, _C2 = 1e-4, 0.9

#: A bracket contains a kink if it has shrunk to this fraction of its first width and the slope
#: still changes by half as much across it; on a smooth piece the change would shrink as well.
#: Once the loss has fallen, the larger fraction suffices.
_KINK_WIDTH, _KINK_WIDTH_NO_DECREASE, _KINK_JUMP = 0.1, 0.01, 0.5


class LinePoint(NamedTuple):
    """A point on the line: step length, loss, directional derivative, gradient and parameters."""

    t: float
    loss: float
    slope: float
    grad: Vector
    params: Vector


def search_line(
    evaluate: Callable[[float], LinePoint],
    start: LinePoint,
    t_init: float,
    *,
    min_width: float,
    max_eval: int,
    stop_at_kinks: bool = False,
) -> tuple[LinePoint, int]:
    r"""Find a step length that meets the strong Wolfe conditions.

    .. math:: f(t) \le f(0) + c_1 t f'(0), \qquad |f'(t)| \le c_2 |f'(0)|

    At a minimum that is a kink, which ReLU units cause, no step meets the second condition, and
    the search would shrink the bracket down to `min_width`.

    Parameters
    ----------
    evaluate : callable
        Maps a step length to its point.
    start : LinePoint
        The point at step length 0; its slope is negative.
    t_init : float
        First step length.
    min_width : float
        The search ends when the bracket is narrower than this.
    max_eval : int
        Maximum number of evaluations after the first.
    stop_at_kinks : bool, default=False
        Whether to end the search when the bracket is known to contain a kink.

    Returns
    -------
    point : LinePoint
        The best point found; `start` if no step decreases the loss.
    n_evals : int
        Number of evaluations.

    References
    ----------
    Nocedal and Wright, Numerical Optimization (2006), algorithms 3.5 and 3.6.
    """

    def decreases(point: LinePoint) -> bool:
        return point.loss <= start.loss + _C1 * point.t * start.slope

    def is_flat(point: LinePoint) -> bool:
        return abs(point.slope) <= -_C2 * start.slope

    # 1. Increase the step until it is acceptable or brackets an acceptable one.
    previous, point, n_evals = start, evaluate(t_init), 1
    while n_evals <= max_eval:
        rises = not decreases(point) or (n_evals > 2 and point.loss >= previous.loss)
        if not rises and is_flat(point):
            return point, n_evals
        if rises or point.slope >= 0:
            break
        lower, upper = point.t + 0.01 * (point.t - previous.t), 10 * point.t
        previous, point = point, evaluate(_minimize_cubic(previous, point, lower, upper))
        n_evals += 1
    else:
        previous = start
    # 2. Shrink the bracket.
    low, high = (previous, point) if previous.loss <= point.loss else (point, previous)
    first_width, first_jump = abs(high.t - low.t), abs(high.slope - low.slope)
    near_end_before = False
    while n_evals <= max_eval and abs(high.t - low.t) >= min_width:
        if stop_at_kinks and abs(high.slope - low.slope) >= _KINK_JUMP * first_jump:
            fraction = _KINK_WIDTH if low.loss < start.loss else _KINK_WIDTH_NO_DECREASE
            if abs(high.t - low.t) <= fraction * first_width:
                break
        left, right = min(low.t, high.t), max(low.t, high.t)
        t = _minimize_cubic(low, high, left, right)
        # The second trial in a row close to an end is moved inwards by a tenth of the bracket.
        margin = 0.1 * (right - left)
        near_end = min(right - t, t - left) < margin
        if near_end and (near_end_before or t >= right or t <= left):
            t = right - margin if right - t < t - left else left + margin
            near_end = False
        near_end_before = near_end
        point = evaluate(t)
        n_evals += 1
        if not decreases(point) or point.loss >= low.loss:
            low, high = (point, low) if point.loss < low.loss else (low, point)
            continue
        if is_flat(point):
            return point, n_evals
        low, high = point, low if point.slope * (high.t - low.t) >= 0 else high
    return low, n_evals


def _minimize_cubic(a: LinePoint, b: LinePoint, lower: float, upper: float) -> float:
    """Minimize the cubic through two points and their slopes (Nocedal and Wright, eq. 3.59)."""
    if a.t > b.t:
        a, b = b, a
    midpoint = (lower + upper) / 2
    if a.t == b.t:
        return midpoint
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if not 0 <= square < math.inf:
        return midpoint
    d2 = math.sqrt(square)
    divisor = b.slope - a.slope + 2 * d2
    if divisor == 0:
        return midpoint
    return min(max(b.t - (b.t - a.t) * (b.slope + d2 - d1) / divisor, lower), upper)
