"""L-BFGS on *one* vector that holds all parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from scipy.linalg import get_lapack_funcs
from torch import Tensor

from torchreg.optim.base import Stateful, require
from torchreg.optim.line_search import Trial, Vector, search_line

#: Below this curvature a step says nothing about the Hessian; the bound of torch.optim.LBFGS.
_LEAST_CURVATURE = 1e-10

#: A bracket that moves no parameter by more than this is not cut further.
_SHORTEST = 1e-9


class LBFGS:
    r"""Limited-memory BFGS with torch's line search for the strong Wolfe conditions.

    .. math:: \theta \leftarrow \theta - t\, H g

    where :math:`H` is an :class:`InverseHessian` and :math:`t` is searched along the line.
    The same steps as those of ``torch.optim.LBFGS``, except at kinks if that is asked for, in
    NumPy, which is called several times faster than torch for vectors as short as those of
    small networks.

    Parameters
    ----------
    lr : float, default=1.0
        First :math:`t` of each search, dimensionless.
    max_iter : int, default=20
        Iterations in one :meth:`step`.
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
    stop_at_kinks : bool, default=False
        Whether a search ends where it has met a kink. torch's goes on, which on ReLU networks
        is half of all evaluations, spent on steps that change nothing.

    References
    ----------
    Nocedal and Wright, Numerical Optimization (2006), algorithms 7.4, 7.5 and 3.5.

    Examples
    --------
    >>> import torch
    >>> theta, gradient = torch.zeros(1), torch.zeros(1)
    >>> def evaluate() -> float:
    ...     gradient.copy_(2 * (theta - 3))
    ...     return float((theta - 3) ** 2)
    >>> LBFGS().step(theta, gradient, evaluate(), evaluate)
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
        stop_at_kinks: bool = False,
    ) -> None:
        require(lr > 0, "an lr above 0", lr)
        require(max_iter >= 1, "a max_iter of 1 or more", max_iter)
        require(history_size >= 1, "a history_size of 1 or more", history_size)
        require(line_search_fn == "strong_wolfe", "line_search_fn='strong_wolfe'", line_search_fn)
        self.lr, self.max_iter = lr, max_iter
        self.max_eval = max_iter * 5 // 4 if max_eval is None else max_eval
        self.tolerance_grad, self.tolerance_change = tolerance_grad, tolerance_change
        self.stop_at_kinks = stop_at_kinks
        self.hessian = InverseHessian(history_size)
        #: Gradient before the last step, and that step, if one was taken.
        self.before: tuple[Vector, Vector | None] | None = None

    def memory(self) -> dict[str, Any]:
        """Give what it remembers from one call to the next."""
        return {"before": self.before, "hessian": self.hessian.memory()}

    def recall(self, memory: dict[str, Any]) -> None:
        """Remember what :meth:`memory` gave, in this or another process."""
        self.before = memory["before"]
        self.hessian.recall(memory["hessian"])

    def step(
        self, params: Tensor, gradient: Tensor, loss: float, evaluate: Callable[[], float]
    ) -> None:
        """Take up to ``max_iter`` steps, in place.

        Parameters
        ----------
        theta, gradient : Tensor of shape (n_parameters,)
            On the CPU; the gradient belongs to ``params`` and ``loss``.
        loss : float
            As it is now.
        evaluate : callable
            Writes the gradient at ``params`` as it is then, and returns the loss.
        """
        line = _Line(params.numpy(), gradient.numpy(), evaluate)
        g, n_evaluations = line.gradient.copy(), 1
        for _ in range(self.max_iter):
            if not math.isfinite(loss) or np.abs(g).max() <= self.tolerance_grad:
                return
            # 1. A direction, from what the last steps told about the curvature.
            if self.before is None:
                direction, first = -g, min(1.0, 1.0 / float(np.abs(g).sum()))
            else:
                g_before, step = self.before
                if step is not None:
                    self.hessian.learn(step, g - g_before)
                direction, first = -self.hessian.solve(g), 1.0
            slope = float(g @ direction)
            self.before = (g, None)
            if slope > -self.tolerance_change:
                return
            # 2. How far to go along it, and there.
            line.start(direction)
            longest = float(np.abs(direction).max())
            found, used = search_line(
                line.try_step,
                Trial(0.0, loss, slope, g),
                first * self.lr,
                longest=longest,
                tolerance=_SHORTEST,
                at_most=self.max_eval - n_evaluations,
                stop_at_kinks=self.stop_at_kinks,
            )
            line.go_to(found)
            self.before = (g, found.t * direction)
            g, previous, loss = found.gradient, loss, found.loss
            n_evaluations += used
            # 3. Ask whether it has arrived.
            arrived = abs(found.t) * longest <= self.tolerance_change
            if arrived or abs(loss - previous) < self.tolerance_change:
                return
            if n_evaluations >= self.max_eval:
                return


class _Line:
    """The line along which a step is searched.

    Parameters
    ----------
    theta, gradient : ndarray of shape (n_parameters,)
        Written in place.
    evaluate : callable
        Writes the gradient at ``params``, and returns the loss.
    """

    def __init__(self, params: Vector, gradient: Vector, evaluate: Callable[[], float]) -> None:
        self.params, self.gradient, self.evaluate = params, gradient, evaluate
        self.origin = self.direction = params
        self.last: Trial | None = None

    def start(self, direction: Vector) -> None:
        """Look along a direction, from where the parameters are now."""
        self.origin, self.direction = self.params.copy(), direction

    def try_step(self, t: float) -> Trial:
        """Evaluate a step."""
        self._place(t)
        loss = self.evaluate()
        # A search can compare infinity, but not NaN.
        loss = math.inf if math.isnan(loss) else loss
        slope = float(self.gradient @ self.direction)
        self.last = Trial(t, loss, slope, self.gradient.copy())
        return self.last

    def go_to(self, trial: Trial) -> None:
        """Put the parameters and their gradient where a trial was, if that was not the last."""
        if trial is not self.last:
            self._place(trial.t)
            self.gradient[:] = trial.gradient

    def _place(self, t: float) -> None:
        np.multiply(self.direction, t, out=self.params)
        self.params += self.origin


class InverseHessian(Stateful):
    r"""The inverse Hessian, as far as the last steps tell.

    .. math:: H g = \gamma g + S^\top v - \gamma Y^\top u, \qquad
              R u = S g, \qquad R^\top v = D u + \gamma\,(Y Y^\top u - Y g)

    The rows of :math:`S` and :math:`Y` are changes of the parameters and of the gradient,
    :math:`R` is the upper triangle and :math:`D` the diagonal of :math:`S Y^\top`, and
    :math:`\gamma` is the last :math:`s^\top y / y^\top y`. What two loops over the history
    compute, in a few products of matrices.

    Parameters
    ----------
    size : int
        How many changes are remembered.

    References
    ----------
    Byrd, Nocedal and Schnabel, "Representations of quasi-Newton matrices and their use in
    limited memory methods", Mathematical Programming 63 (1994), equation 3.1.

    Examples
    --------
    >>> hessian = InverseHessian(5)
    >>> hessian.learn(np.array([1.0, 0.0]), np.array([4.0, 0.0]))
    >>> hessian.solve(np.array([8.0, 0.0]))
    array([2., 0.])
    """

    remembered = ("n_known", "gamma", "S", "Y", "SY", "YY")

    def __init__(self, size: int) -> None:
        self.size, self.n_known, self.gamma = size, 0, 1.0

    def learn(self, step: Vector, change: Vector) -> None:
        """Remember how the gradient changed over a step; too little curvature is ignored."""
        product = float(step @ change)
        if not product > _LEAST_CURVATURE:
            return
        if not self.n_known:
            self.S, self.Y = (np.zeros((self.size, len(step)), step.dtype) for _ in range(2))
            self.SY, self.YY = (np.zeros((self.size, self.size), step.dtype) for _ in range(2))
        if self.n_known == self.size:
            for rows in (self.S, self.Y):
                rows[:-1] = rows[1:]
            for products in (self.SY, self.YY):
                products[:-1, :-1] = products[1:, 1:]
            self.n_known -= 1
        last = self.n_known
        self.n_known = known = last + 1
        self.S[last], self.Y[last] = step, change
        # The lower triangle of S Y' is never needed.
        self.SY[:known, last] = self.S[:known] @ change
        self.YY[last, :known] = self.YY[:known, last] = self.Y[:known] @ change
        self.gamma = product / float(self.YY[last, last])

    def solve(self, g: Vector) -> Vector:
        """Compute :math:`H g`: shape (n_parameters,) to the same."""
        known, gamma = self.n_known, self.gamma
        if not known:
            return gamma * g
        S, Y, R = self.S[:known], self.Y[:known], self.SY[:known, :known]
        solve_triangular = _triangular_solver(R.dtype)
        u, _ = solve_triangular(R.T, S @ g, lower=1, trans=1)
        right = np.diagonal(R) * u + gamma * (self.YY[:known, :known] @ u - Y @ g)
        v, _ = solve_triangular(R.T, right, lower=1, trans=0)
        product: Vector = gamma * g + v @ S - gamma * (u @ Y)
        return product


@cache
def _triangular_solver(dtype: np.dtype[Any]) -> Any:
    """Look LAPACK's solver up: ``trtrs``, without the checks around it."""
    return get_lapack_funcs("trtrs", dtype=dtype)
