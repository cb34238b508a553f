"""The search for a step along a line that meets the strong Wolfe conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.floating]

#: Sufficient decrease and curvature, the constants of the strong Wolfe conditions.
_DECREASE, _CURVATURE = 1e-4, 0.9

#: A bracket holds a kink if it has become this much shorter, and the slope still changes by half
#: as much across it: across a smooth piece the change shrinks with the length. Where the loss has
#: already fallen enough, a coarser look will do.
_KINK_FOUND, _KINK_SOUGHT, _JUMP = 0.1, 0.01, 0.5


class Trial(NamedTuple):
    """One point on a line: step, loss, slope along the line, and gradient."""

    t: float
    loss: float
    slope: float
    gradient: Vector


def search_line(
    try_step: Callable[[float], Trial],
    start: Trial,
    first: float,
    *,
    longest: float,
    tolerance: float,
    at_most: int,
    stop_at_kinks: bool = False,
) -> tuple[Trial, int]:
    r"""Find a step that meets the strong Wolfe conditions.

    .. math:: f(t) \le f(0) + c_1 t f'(0), \qquad |f'(t)| \le c_2 |f'(0)|

    Where the lowest point is a kink, as between the pieces of a ReLU network, no step meets
    the second condition, and a bracket is cut for nothing until it is ``tolerance`` long.

    Parameters
    ----------
    try_step : callable
        Evaluates a step.
    start : Trial
        At step 0, with a slope below 0.
    first : float
        Step to try first.
    longest : float
        Largest element of the direction.
    tolerance : float
        A bracket shorter than this, times ``longest``, is not cut further.
    at_most : int
        Evaluations, after the first.
    stop_at_kinks : bool, default=False
        Whether to end as soon as a bracket turns out to hold a kink.

    Returns
    -------
    Trial
        The best step that was found.
    int
        How often the loss was evaluated.

    References
    ----------
    Nocedal and Wright, Numerical Optimization (2006), algorithms 3.5 and 3.6.
    """

    def falls_enough(trial: Trial) -> bool:
        return trial.loss <= start.loss + _DECREASE * trial.t * start.slope

    def is_flat(trial: Trial) -> bool:
        return abs(trial.slope) <= -_CURVATURE * start.slope

    # 1. Step further until the step is right or a right one lies behind.
    before, trial, used = start, try_step(first), 1
    while used <= at_most:
        rises = not falls_enough(trial) or (used > 2 and trial.loss >= before.loss)
        if not rises and is_flat(trial):
            return trial, used
        if rises or trial.slope >= 0:
            break
        least, most = trial.t + 0.01 * (trial.t - before.t), 10 * trial.t
        before, trial = trial, try_step(_cubic_minimum(before, trial, least, most))
        used += 1
    else:
        before = start
    # 2. Cut the bracket.
    low, high = (before, trial) if before.loss <= trial.loss else (trial, before)
    width, jump, stalled = abs(high.t - low.t), abs(high.slope - low.slope), False
    while used <= at_most and abs(high.t - low.t) * longest >= tolerance:
        if stop_at_kinks and abs(high.slope - low.slope) >= _JUMP * jump:
            share = _KINK_FOUND if low.loss < start.loss else _KINK_SOUGHT
            if abs(high.t - low.t) <= share * width:
                break
        left, right = min(low.t, high.t), max(low.t, high.t)
        t = _cubic_minimum(low, high, left, right)
        # Twice too near to an end is no progress: then a tenth of the bracket away from it.
        margin = 0.1 * (right - left)
        near = min(right - t, t - left) < margin
        if near and (stalled or t >= right or t <= left):
            t = right - margin if right - t < t - left else left + margin
            near = False
        stalled = near
        trial = try_step(t)
        used += 1
        if not falls_enough(trial) or trial.loss >= low.loss:
            low, high = (trial, low) if trial.loss < low.loss else (low, trial)
            continue
        if is_flat(trial):
            return trial, used
        low, high = trial, low if trial.slope * (high.t - low.t) >= 0 else high
    return low, used


def _cubic_minimum(a: Trial, b: Trial, least: float, most: float) -> float:
    """Minimize the cubic through two trials and their slopes (Nocedal and Wright, eq. 3.59)."""
    if a.t > b.t:
        a, b = b, a
    if a.t == b.t:
        return (least + most) / 2
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if not 0 <= square < math.inf:
        return (least + most) / 2
    d2 = math.sqrt(square)
    divisor = b.slope - a.slope + 2 * d2
    if divisor == 0:
        return (least + most) / 2
    t = b.t - (b.t - a.t) * (b.slope + d2 - d1) / divisor
    return min(max(t, least), most)
