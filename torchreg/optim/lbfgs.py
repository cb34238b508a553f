"""L-BFGS for all parameters as one vector."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from scipy.linalg import get_lapack_funcs
from torch import Tensor

from torchreg.optim.base import Stateful, check_option
from torchreg.optim.line_search import LinePoint, Vector, search_line

#: Pairs with less curvature than this are not stored; the bound of torch.optim.LBFGS.
_MIN_CURVATURE = 1e-10

#: The line search ends when no parameter changes by more than this across the bracket.
_MIN_CHANGE = 1e-9


class LBFGS:
    r"""Limited-memory BFGS with a line search for the strong Wolfe conditions.

    .. math:: \theta \leftarrow \theta - t\, H g

    where :math:`H` is an :class:`InverseHessian` and the line search finds :math:`t`.
    The steps are those of ``torch.optim.LBFGS``, except at kinks if `stop_at_kinks` is set. They
    are computed with NumPy, whose overhead per call is several times lower than torch's.

    Parameters
    ----------
    lr : float, default=1.0
        First :math:`t` of each line search, dimensionless.
    max_iter : int, default=20
        Maximum number of iterations in one :meth:`step`.
    max_eval : int or None, default=None
        Number of evaluations after which no iteration starts; ``None`` is 5/4 of `max_iter`.
    tolerance_grad : float, default=1e-7
        Ends when no element of the gradient is larger.
    tolerance_change : float, default=1e-9
        Ends when the loss or the parameters change by less.
    history_size : int, default=100
        Number of stored pairs of steps and gradient changes.
    line_search_fn : {"strong_wolfe"}
        Accepted for compatibility with ``torch.optim.LBFGS``.
    stop_at_kinks : bool, default=False
        Whether a line search ends at a kink. Without this, half of the evaluations of a ReLU
        network are spent on line searches that do not decrease the loss.

    Attributes
    ----------
    converged : bool
        Whether the last :meth:`step` did not change the parameters, and another would not.

    References
    ----------
    Nocedal and Wright, Numerical Optimization (2006), algorithms 7.4, 7.5 and 3.5.

    Examples
    --------
    >>> import torch
    >>> params, grad = torch.zeros(1), torch.zeros(1)
    >>> def evaluate() -> float:
    ...     grad.copy_(2 * (params - 3))
    ...     return float((params - 3) ** 2)
    >>> LBFGS().step(params, grad, evaluate(), evaluate)
    >>> params
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
        check_option(lr > 0, "lr > 0", lr)
        check_option(max_iter >= 1, "max_iter >= 1", max_iter)
        check_option(history_size >= 1, "history_size >= 1", history_size)
        is_known = line_search_fn == "strong_wolfe"
        check_option(is_known, "line_search_fn='strong_wolfe'", line_search_fn)
        self.lr, self.max_iter = lr, max_iter
        self.max_eval = max_iter * 5 // 4 if max_eval is None else max_eval
        self.tolerance_grad, self.tolerance_change = tolerance_grad, tolerance_change
        self.stop_at_kinks = stop_at_kinks
        self.hessian = InverseHessian(history_size)
        #: Gradient before the last iteration, and its step if the line search ran.
        self.previous: tuple[Vector, Vector | None] | None = None
        self.converged = False

    def state_dict(self) -> dict[str, Any]:
        """Return the state that persists between steps."""
        return {"previous": self.previous, "hessian": self.hessian.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from :meth:`state_dict`."""
        self.previous = state["previous"]
        self.hessian.load_state_dict(state["hessian"])

    def step(
        self, params: Tensor, grad: Tensor, loss: float, evaluate: Callable[[], float]
    ) -> None:
        """Run up to `max_iter` iterations, in place.

        Parameters
        ----------
        params, grad : Tensor of shape (n_parameters,)
            On the CPU; `grad` and `loss` are those at `params`.
        loss : float
            Current loss.
        evaluate : callable
            Writes the gradient at the current `params` to `grad` and returns the loss.
        """
        at, grad_at = params.numpy(), grad.numpy()
        g, n_evals, self.converged = grad_at.copy(), 1, False
        for iteration in range(self.max_iter):
            if not math.isfinite(loss):
                return
            if np.abs(g).max() <= self.tolerance_grad:
                self.converged = iteration == 0
                return
            # 1. Compute the direction from the curvature of the previous steps.
            is_first = self.previous is None
            if self.previous is None:
                direction, t_init = -g, min(1.0, 1.0 / float(np.abs(g).sum()))
            else:
                g_before, step = self.previous
                if step is not None:
                    self.hessian.update(step, g - g_before)
                direction, t_init = -self.hessian.solve(g), 1.0
            start = LinePoint(0.0, loss, float(g @ direction), g, at.copy())
            self.previous = (g, None)
            if start.slope > -self.tolerance_change:
                self.converged = iteration == 0
                return
            # 2. Search along it, and move to the best point.
            max_change = float(np.abs(direction).max())
            point, used = search_line(
                _loss_along(direction, at, grad_at, evaluate),
                start,
                t_init * self.lr,
                min_width=_MIN_CHANGE / max_change,
                max_eval=self.max_eval - n_evals,
                stop_at_kinks=self.stop_at_kinks,
            )
            at[:], grad_at[:] = point.params, point.grad
            self.previous = (g, point.t * direction)
            g, previous_loss, loss = point.grad, loss, point.loss
            n_evals += used
            # 3. Check convergence. Without a change, another search would be the same, except after
            # the very first, whose `t_init` differs.
            if abs(point.t) * max_change <= self.tolerance_change:
                self.converged = iteration == 0 and point.t == 0 and not is_first
                return
            if abs(loss - previous_loss) < self.tolerance_change or n_evals >= self.max_eval:
                return


def _loss_along(
    direction: Vector, params: Vector, grad: Vector, evaluate: Callable[[], float]
) -> Callable[[float], LinePoint]:
    """Return the loss as a function of the step length; it modifies `params` and `grad`."""
    origin = params.copy()

    def loss_at(t: float) -> LinePoint:
        np.multiply(direction, t, out=params)
        np.add(params, origin, out=params)
        loss = evaluate()
        # A line search can compare infinity, but not NaN.
        loss = math.inf if math.isnan(loss) else loss
        return LinePoint(t, loss, float(grad @ direction), grad.copy(), params.copy())

    return loss_at


class InverseHessian(Stateful):
    r"""Limited-memory BFGS approximation of the inverse Hessian, in compact form.

    .. math:: H g = \gamma g + S^\top v - \gamma Y^\top u, \qquad
              R u = S g, \qquad R^\top v = D u + \gamma\,(Y Y^\top u - Y g)

    The rows of :math:`S` and :math:`Y` are changes of the parameters and of the gradient,
    :math:`R` is the upper triangle and :math:`D` the diagonal of :math:`S Y^\top`, and
    :math:`\gamma` is the last :math:`s^\top y / y^\top y`. For short vectors this takes a third
    of the time of the two-loop recursion.

    Parameters
    ----------
    size : int
        Maximum number of stored pairs.

    References
    ----------
    Byrd, Nocedal and Schnabel, "Representations of quasi-Newton matrices and their use in
    limited memory methods", Mathematical Programming 63 (1994), equation 3.1.

    Examples
    --------
    >>> hessian = InverseHessian(5)
    >>> hessian.update(np.array([1.0, 0.0]), np.array([4.0, 0.0]))
    >>> hessian.solve(np.array([8.0, 0.0]))
    array([2., 0.])
    """

    state_names = ("n_pairs", "gamma", "S", "Y", "SY", "YY")

    def __init__(self, size: int) -> None:
        self.size, self.n_pairs, self.gamma = size, 0, 1.0

    def update(self, step: Vector, grad_change: Vector) -> None:
        """Store a pair, unless its curvature is too small."""
        product = float(step @ grad_change)
        if not product > _MIN_CURVATURE:
            return
        if not self.n_pairs:
            self.S, self.Y = (np.zeros((self.size, len(step)), step.dtype) for _ in range(2))
            self.SY, self.YY = (np.zeros((self.size, self.size), step.dtype) for _ in range(2))
        if self.n_pairs == self.size:
            for rows in (self.S, self.Y):
                rows[:-1] = rows[1:]
            for products in (self.SY, self.YY):
                products[:-1, :-1] = products[1:, 1:]
            self.n_pairs -= 1
        last = self.n_pairs
        self.n_pairs = n = last + 1
        self.S[last], self.Y[last] = step, grad_change
        # The lower triangle of S Y' is never needed.
        self.SY[:n, last] = self.S[:n] @ grad_change
        self.YY[last, :n] = self.YY[:n, last] = self.Y[:n] @ grad_change
        self.gamma = product / float(self.YY[last, last])

    def solve(self, g: Vector) -> Vector:
        """Compute :math:`H g`: shape (n_parameters,) to (n_parameters,)."""
        n, gamma = self.n_pairs, self.gamma
        if not n:
            return gamma * g
        S, Y, R = self.S[:n], self.Y[:n], self.SY[:n, :n]
        solve_triangular = _triangular_solver(R.dtype)
        u, _ = solve_triangular(R.T, S @ g, lower=1, trans=1)
        right = np.diagonal(R) * u + gamma * (self.YY[:n, :n] @ u - Y @ g)
        v, _ = solve_triangular(R.T, right, lower=1, trans=0)
        product: Vector = gamma * g + v @ S - gamma * (u @ Y)
        return product


@cache
def _triangular_solver(dtype: np.dtype[Any]) -> Any:
    """Return LAPACK's ``trtrs``, without the checks of SciPy's wrapper."""
    return get_lapack_funcs("trtrs", dtype=dtype)
