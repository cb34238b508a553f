"""Optimizers of *one* vector that holds all parameters.

They compute the same updates as ``torch.optim`` with a few in-place operations, and without the
imports that delay the first step of a torch optimizer by more than a second. To add one, write a
class and add it to :data:`FLAT_OPTIMIZERS`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torchreg.optim.adam import Adam, AdamW
from torchreg.optim.base import (
    FlatOptimizer,
    add_scaled,
    add_scaled_,
    check_nonnegative,
    check_option,
    check_pair,
    is_nonzero,
)


class SGD(FlatOptimizer):
    r"""Gradient descent with momentum.

    .. math:: b \leftarrow \mu b + g, \quad \theta \leftarrow \theta - \eta\, b

    (Nesterov momentum uses :math:`g + \mu b` in place of :math:`b`.)

    Parameters
    ----------
    lr : float
        Learning rate :math:`\eta`.
    momentum : float, default=0.0
        :math:`\mu`.
    weight_decay : float, default=0.0
        Adds this multiple of the parameters to the gradient.
    nesterov : bool, default=False
        Whether to use Nesterov momentum.

    References
    ----------
    Sutskever et al., "On the importance of initialization and momentum in deep
    learning", ICML 2013.

    Examples
    --------
    >>> params = torch.ones(1)
    >>> SGD(lr=0.1).step(params, torch.ones(1))
    >>> params
    tensor([0.9000])
    """

    state_names = ("velocity",)
    hyperparams = ("lr", "momentum", "weight_decay")

    def __init__(
        self,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        check_nonnegative(lr=lr, momentum=momentum, weight_decay=weight_decay)
        check_option(momentum > 0 or not nesterov, "momentum > 0 with nesterov", momentum)
        self.lr, self.momentum = lr, momentum
        self.weight_decay, self.nesterov = weight_decay, nesterov
        self.velocity: Tensor | None = None

    def step(self, params: Tensor, grad: Tensor) -> None:
        """Update `params` in place; both have shape (n_parameters,)."""
        if is_nonzero(self.weight_decay):
            grad = add_scaled(grad, params, self.weight_decay)
        if is_nonzero(self.momentum):
            if self.velocity is None:
                self.velocity = grad.clone()
            else:
                self.velocity.mul_(self.momentum).add_(grad)
            look_ahead = add_scaled(grad, self.velocity, self.momentum)
            grad = look_ahead if self.nesterov else self.velocity
        add_scaled_(params, grad, self.lr, sign=-1)


class RMSprop(FlatOptimizer):
    r"""Steps divided by a running root mean square of the gradient.

    .. math:: v \leftarrow \alpha v + (1 - \alpha) g^2, \quad
              b \leftarrow \mu b + \frac{g}{\sqrt v + \epsilon}, \quad
              \theta \leftarrow \theta - \eta\, b

    (If `centered`, :math:`\sqrt{v - m^2}` replaces :math:`\sqrt v`, with the running mean
    :math:`m` of the gradient.)

    Parameters
    ----------
    lr : float
        Learning rate :math:`\eta`.
    alpha : float, default=0.99
        Decay rate of the running averages.
    eps : float, default=1e-8
        :math:`\epsilon`.
    weight_decay : float, default=0.0
        Adds this multiple of the parameters to the gradient.
    momentum : float, default=0.0
        :math:`\mu`.
    centered : bool, default=False
        Whether to divide by the standard deviation instead.

    References
    ----------
    Tieleman and Hinton, "Lecture 6.5 - RMSProp", Neural Networks for Machine Learning, 2012.

    Examples
    --------
    >>> params = torch.zeros(2)
    >>> RMSprop(lr=0.01).step(params, torch.tensor([3.0, -5.0]))
    >>> params
    tensor([-0.1000,  0.1000])
    """

    state_names = ("square", "mean", "velocity")
    hyperparams = ("lr", "alpha", "eps", "weight_decay", "momentum")

    def __init__(
        self,
        lr: float,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        check_nonnegative(lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)
        self.lr, self.alpha, self.eps = lr, alpha, eps
        self.weight_decay, self.momentum, self.centered = weight_decay, momentum, centered
        self.square: Tensor | None = None

    def step(self, params: Tensor, grad: Tensor) -> None:
        """Update `params` in place; both have shape (n_parameters,)."""
        if self.square is None:
            self.square, self.mean = torch.zeros_like(params), torch.zeros_like(params)
            self.velocity = torch.zeros_like(params)
        if is_nonzero(self.weight_decay):
            grad = add_scaled(grad, params, self.weight_decay)
        self.square.mul_(self.alpha)
        if isinstance(self.alpha, Tensor):
            self.square.add_(grad.square().mul_(1 - self.alpha))
        else:
            self.square.addcmul_(grad, grad, value=1 - self.alpha)
        variance = self.square
        if self.centered:
            self.mean.lerp_(grad, 1 - self.alpha)
            variance = variance.addcmul(self.mean, self.mean, value=-1)
        root = variance.sqrt().add_(self.eps)
        if is_nonzero(self.momentum):
            self.velocity.mul_(self.momentum).addcdiv_(grad, root)
            add_scaled_(params, self.velocity, self.lr, sign=-1)
        elif isinstance(self.lr, Tensor):
            add_scaled_(params, grad / root, self.lr, sign=-1)
        else:
            params.addcdiv_(grad, root, value=-self.lr)


class Rprop(FlatOptimizer):
    r"""Resilient backpropagation, with one step size per parameter.

    A step size grows by the factor :math:`\eta^+` while the gradient keeps its sign and shrinks by
    :math:`\eta^-` when the sign changes, in which case the parameter is not updated in this step.
    Only the sign of the gradient is used, so that batches must be full.

    Parameters
    ----------
    lr : float
        Initial step size.
    etas : (float, float), default=(0.5, 1.2)
        :math:`\eta^-` and :math:`\eta^+`.
    step_sizes : (float, float), default=(1e-6, 50)
        Smallest and largest step size.

    References
    ----------
    Riedmiller and Braun, "A direct adaptive method for faster backpropagation learning:
    the RPROP algorithm", ICNN 1993.

    Examples
    --------
    >>> params = torch.zeros(2)
    >>> Rprop(lr=0.01).step(params, torch.tensor([3.0, -5.0]))
    >>> params
    tensor([-0.0100,  0.0100])
    """

    state_names = ("previous_grad", "step_size")
    hyperparams = ("lr",)

    def __init__(
        self,
        lr: float,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
    ) -> None:
        check_nonnegative(lr=lr)
        check_pair(etas, "two etas around 1, such as (0.5, 1.2)")
        check_option(0 < etas[0] < 1 < etas[1], "two etas around 1, such as (0.5, 1.2)", etas)
        check_pair(step_sizes, "two increasing step_sizes > 0")
        check_option(
            0 < step_sizes[0] <= step_sizes[1], "two increasing step_sizes > 0", step_sizes
        )
        self.lr, self.etas, self.step_sizes = lr, etas, step_sizes
        self.previous_grad: Tensor | None = None
        self.step_size: Tensor | None = None

    def step(self, params: Tensor, grad: Tensor) -> None:
        """Update `params` in place; both have shape (n_parameters,)."""
        if self.previous_grad is None or self.step_size is None:
            self.previous_grad = torch.zeros_like(params)
            self.step_size = torch.ones_like(params).mul_(self.lr)
        product = grad * self.previous_grad
        sign_changed = product < 0
        eta_minus, eta_plus = self.etas
        factor = torch.ones_like(params)
        factor.masked_fill_(product > 0, eta_plus).masked_fill_(sign_changed, eta_minus)
        self.step_size.mul_(factor).clamp_(*self.step_sizes)
        self.previous_grad = grad.masked_fill(sign_changed, 0.0)
        params.addcmul_(self.previous_grad.sign(), self.step_size, value=-1)


FLAT_OPTIMIZERS: dict[str, Callable[..., FlatOptimizer]] = {
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
    "rprop": Rprop,
    "sgd": SGD,
}
