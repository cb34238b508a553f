"""L-BFGS on *one* vector that holds all parameters."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchreg.rules import require

Vector = NDArray[np.floating]

#: Sufficient decrease and curvature, the constants of the strong Wolfe conditions.
_DECREASE, _CURVATURE = 1e-4, 0.9
#: Below this curvature a step says nothing about the Hessian; the bound of torch.optim.LBFGS.
_LEAST_CURVATURE = 1e-10


#: A bracket that moves no parameter by more than this is not cut further.
_SHORTEST = 1e-9


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
) -> tuple[Trial, int]:
    r"""Find a step that meets the strong Wolfe conditions.

    .. math:: f(t) \le f(0) + c_1 t f'(0), \qquad |f'(t)| \le c_2 |f'(0)|

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
    stalled = False
    while used <= at_most and abs(high.t - low.t) * longest >= tolerance:
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


class LBFGS:
    r"""Limited-memory BFGS with torch's line search for the strong Wolfe conditions.

    .. math:: \theta \leftarrow \theta - t\, H g

    where :math:`H` is built from the last changes of the parameters :math:`s_i` and of the
    gradient :math:`y_i`, and :math:`t` is searched along the line. The same steps as those
    of ``torch.optim.LBFGS``; the two loops over the history run in NumPy, which is called
    several times faster than torch for vectors as short as those of small networks.

    Parameters
    ----------
    lr : float, default=1.0
        First :math:`t` of each search, dimensionless.
    max_iter : int, default=20
        Iterations in one :meth:`descend`.
    max_eval : int or None, default=None
        Evaluations after which no further iteration begins; ``None`` is 5/4 of ``max_iter``.
    tolerance_grad : float, default=1e-7
        Ends where no element of the gradient is larger.
    tolerance_change : float, default=1e-9
        Ends where loss or parameters change less.
    history_size : int, default=100
        How many changes are remembered.
    line_search_fn : {"strong_wolfe"}
        Kept for the signature of ``torch.optim.LBFGS``.

    References
    ----------
    Nocedal and Wright, Numerical Optimization (2006), algorithms 7.4, 7.5 and 3.5.

    Examples
    --------
    >>> theta, gradient = torch.zeros(1), torch.zeros(1)
    >>> def evaluate() -> float:
    ...     gradient.copy_(2 * (theta - 3))
    ...     return float((theta - 3) ** 2)
    >>> LBFGS().descend(theta, gradient, evaluate(), evaluate)
    >>> theta
    tensor([3.])
    """

    def __init__(
        self,
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str = "strong_wolfe",
    ) -> None:
        require(lr > 0, "an lr above 0", lr)
        require(max_iter >= 1, "a max_iter of 1 or more", max_iter)
        require(history_size >= 1, "a history_size of 1 or more", history_size)
        require(line_search_fn == "strong_wolfe", "line_search_fn='strong_wolfe'", line_search_fn)
        self.lr, self.max_iter = lr, max_iter
        self.max_eval = max_iter * 5 // 4 if max_eval is None else max_eval
        self.tolerance_grad, self.tolerance_change = tolerance_grad, tolerance_change
        #: Changes of the parameters and of the gradient, and their inner product.
        self.history: deque[tuple[Vector, Vector, float]] = deque(maxlen=history_size)
        self.curvature = 1.0
        self.before: tuple[Vector, Vector] | None = None

    def descend(
        self, theta: Tensor, gradient: Tensor, loss: float, evaluate: Callable[[], float]
    ) -> None:
        """Take up to ``max_iter`` steps, in place.

        Parameters
        ----------
        theta, gradient : Tensor of shape (n_parameters,)
            On the CPU; the gradient belongs to ``theta`` and ``loss``.
        loss : float
            As it is now.
        evaluate : callable
            Writes the gradient at ``theta`` as it is then, and returns the loss.
        """
        n_evaluations = 1
        for _ in range(self.max_iter):
            if not math.isfinite(loss) or float(gradient.abs().max()) <= self.tolerance_grad:
                return
            # 1. A direction, from what the last steps told about the curvature.
            g = gradient.numpy().copy()
            direction = self._direction(g)
            slope = float(g @ direction)
            # 2. How far to go along it.
            first = min(1.0, 1.0 / float(np.abs(g).sum())) if self.before is None else 1.0
            self.before = (g, np.zeros_like(g))
            if slope > -self.tolerance_change:
                return
            origin, along = theta.clone(), torch.from_numpy(direction)

            def try_step(t: float) -> Trial:
                torch.add(origin, along, alpha=t, out=theta)  # noqa: B023
                value = evaluate()
                # A search can compare infinity, but not NaN.
                value = math.inf if math.isnan(value) else value
                slopes = gradient.numpy().copy()
                return Trial(t, value, float(slopes @ direction), slopes)  # noqa: B023

            start = Trial(0.0, loss, slope, g)
            found, used = search_line(
                try_step,
                start,
                first * self.lr,
                longest=float(np.abs(direction).max()),
                tolerance=_SHORTEST,
                at_most=self.max_eval - n_evaluations,
            )
            # 3. Go there; the last trial may have been another one.
            torch.add(origin, along, alpha=found.t, out=theta)
            gradient.copy_(torch.from_numpy(found.gradient))
            step, previous, loss = found.t * direction, loss, found.loss
            self.before = (g, step)
            n_evaluations += used
            # 4. Ask whether it has arrived.
            arrived = np.abs(step).max() <= self.tolerance_change
            if arrived or abs(loss - previous) < self.tolerance_change:
                return
            if n_evaluations >= self.max_eval:
                return

    def _direction(self, g: Vector) -> Vector:
        """Compute :math:`-Hg` by the two loops over the history."""
        if self.before is None:
            return -g
        g_before, step = self.before
        change = g - g_before
        product = float(change @ step)
        if product > _LEAST_CURVATURE:
            self.history.append((step, change, product))
            self.curvature = product / float(change @ change)
        q = -g
        shares = []
        for s, y, product in reversed(self.history):
            shares.append(float(s @ q) / product)
            q -= shares[-1] * y
        q *= self.curvature
        for (s, y, product), share in zip(self.history, reversed(shares), strict=True):
            q += (share - float(y @ q) / product) * s
        return q
