"""Update rules on *one* vector that holds all parameters.

The same arithmetic as torch's optimizers in a few in-place operations, without an optimizer
object, whose first step costs a fresh process more than a second of imports. Adding a rule
is one class and one entry in :data:`VECTOR_RULES`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torchreg.optim.base import FlatOptimizer, add_, plus, require, some, subtract_


class Adam(FlatOptimizer):
    r"""Adam, and AdamW with ``decoupled=True``.

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
              v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
              \theta \leftarrow \theta - \eta \frac{m / (1 - \beta_1^k)}
              {\sqrt{v / (1 - \beta_2^k)} + \epsilon}

    Weight decay :math:`\lambda` adds :math:`\lambda\theta` to the gradient, or, decoupled,
    multiplies :math:`\theta` by :math:`1 - \eta\lambda` first.

    Parameters
    ----------
    lr : float
        Learning rate :math:`\eta`.
    betas : (float, float), default=(0.9, 0.999)
        Decay of the two averages.
    eps : float, default=1e-8
        :math:`\epsilon`.
    weight_decay : float, default=0.0
        :math:`\lambda`.
    decoupled : bool, default=False
        Whether the decay acts on the parameters alone.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Examples
    --------
    >>> theta = torch.zeros(2)
    >>> Adam(lr=0.1).update(theta, torch.tensor([1.0, -20.0]))
    >>> theta
    tensor([-0.1000,  0.1000])
    """

    remembered = ("state", "one")
    numbers = ("lr", "beta1", "beta2", "eps", "weight_decay")

    def __init__(
        self,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decoupled: bool = False,
    ) -> None:
        require(lr >= 0, "an lr above 0", lr)
        require(
            _is_pair(betas) and all(0 <= beta < 1 for beta in betas),
            "two betas from 0 to less than 1",
            betas,
        )
        require(eps >= 0, "an eps of 0 or more", eps)
        require(weight_decay >= 0, "a weight_decay of 0 or more", weight_decay)
        self.lr, self.eps, self.weight_decay = lr, eps, weight_decay
        self.beta1, self.beta2 = betas
        self.decoupled = decoupled
        #: Averages, averages of squares, and the number of steps.
        self.state: tuple[list[Tensor], list[Tensor], list[Tensor]] | None = None

    def update(self, params: Tensor, gradient: Tensor) -> None:
        """Take one step, in place."""
        if self.state is None:
            count = torch.zeros((), dtype=torch.float32, device=params.device)
            self.state = [torch.zeros_like(params)], [torch.zeros_like(params)], [count]
            # Adding a tensor is cheaper than adding a number.
            self.one = torch.ones_like(count)
        averages, squares, counts = self.state
        counts[0].add_(self.one)
        if any(isinstance(number, Tensor) for number in (self.beta1, self.beta2, self.eps)):
            self._update_each(params, gradient, averages[0], squares[0], float(counts[0]))
        elif isinstance(self.lr, Tensor) or isinstance(self.weight_decay, Tensor):
            gradient = self._decay(params, gradient)
            # The kernel moves zeros to the step itself, which each row takes at its own rate.
            step = torch.zeros_like(params)
            self._call_kernel(step, gradient, lr=1.0, weight_decay=0.0)
            add_(params, step, self.lr)
        else:
            self._call_kernel(params, gradient, lr=self.lr, weight_decay=self.weight_decay)

    def _call_kernel(
        self, params: Tensor, gradient: Tensor, *, lr: float, weight_decay: float
    ) -> None:
        """Take one step in one kernel, the one of torch.optim with fused=True."""
        assert self.state is not None
        averages, squares, counts = self.state
        kernel = torch._fused_adamw_ if self.decoupled else torch._fused_adam_
        kernel(
            [params],
            [gradient],
            averages,
            squares,
            [],
            counts,
            lr=lr,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def _decay(self, params: Tensor, gradient: Tensor) -> Tensor:
        """Decay parameters, or else give the gradient with the decay in it."""
        if not self.decoupled:
            return (
                plus(gradient, params, self.weight_decay) if some(self.weight_decay) else gradient
            )
        params.mul_(1 - self.lr * self.weight_decay)
        return gradient

    def _update_each(
        self, params: Tensor, gradient: Tensor, average: Tensor, square: Tensor, count: float
    ) -> None:
        """Take one step in plain operations, with averages of its own for each row of theta."""
        beta1, beta2 = self.beta1, self.beta2
        gradient = self._decay(params, gradient)
        average.mul_(beta1).add_(gradient * (1 - beta1))
        square.mul_(beta2).add_(gradient.square().mul_(1 - beta2))
        # v / (1 - beta2^k) under the root is one over its root outside.
        root = square.sqrt().mul_((1 - beta2**count) ** -0.5).add_(self.eps)
        params.sub_(torch.div(average, root).mul_(self.lr / (1 - beta1**count)))


class AdamW(Adam):
    """Adam with decoupled weight decay; see :class:`Adam`.

    Parameters
    ----------
    lr, betas, eps : float
        As in :class:`Adam`.
    weight_decay : float, default=1e-2
        Decay per step and learning rate.

    Examples
    --------
    >>> theta = torch.ones(1)
    >>> AdamW(lr=0.1, weight_decay=0.5).update(theta, torch.zeros(1))
    >>> theta
    tensor([0.9500])
    """

    def __init__(
        self,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(lr, betas, eps, weight_decay, decoupled=True)


class SGD(FlatOptimizer):
    r"""Gradient descent with momentum.

    .. math:: b \leftarrow \mu b + g, \quad \theta \leftarrow \theta - \eta\, b

    (with Nesterov's momentum, :math:`g + \mu b` takes the place of :math:`b`).

    Parameters
    ----------
    lr : float
        Learning rate :math:`\eta`.
    momentum : float, default=0.0
        :math:`\mu`.
    weight_decay : float, default=0.0
        Adds this multiple of the parameters to the gradient.
    nesterov : bool, default=False
        Whether to look ahead.

    References
    ----------
    Sutskever et al., "On the importance of initialization and momentum in deep
    learning", ICML 2013.

    Examples
    --------
    >>> theta = torch.ones(1)
    >>> SGD(lr=0.1).update(theta, torch.ones(1))
    >>> theta
    tensor([0.9000])
    """

    remembered = ("velocity",)
    numbers = ("lr", "momentum", "weight_decay")

    def __init__(
        self,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        require(lr >= 0, "an lr above 0", lr)
        require(momentum >= 0, "a momentum of 0 or more", momentum)
        require(weight_decay >= 0, "a weight_decay of 0 or more", weight_decay)
        require(momentum > 0 or not nesterov, "a momentum above 0 with nesterov", momentum)
        self.lr, self.momentum = lr, momentum
        self.weight_decay, self.nesterov = weight_decay, nesterov
        self.velocity: Tensor | None = None

    def update(self, params: Tensor, gradient: Tensor) -> None:
        """Take one step, in place."""
        if some(self.weight_decay):
            gradient = plus(gradient, params, self.weight_decay)
        if some(self.momentum):
            if self.velocity is None:
                self.velocity = gradient.clone()
            else:
                self.velocity.mul_(self.momentum).add_(gradient)
            look_ahead = plus(gradient, self.velocity, self.momentum)
            gradient = look_ahead if self.nesterov else self.velocity
        subtract_(params, gradient, self.lr)


class RMSprop(FlatOptimizer):
    r"""Steps divided by a running root mean square of the gradient.

    .. math:: v \leftarrow \alpha v + (1 - \alpha) g^2, \quad
              b \leftarrow \mu b + \frac{g}{\sqrt v + \epsilon}, \quad
              \theta \leftarrow \theta - \eta\, b

    (:math:`\sqrt{v - m^2}` takes the place of :math:`\sqrt v` if ``centered``, with the
    running mean :math:`m` of the gradient.)

    Parameters
    ----------
    lr : float
        Learning rate :math:`\eta`.
    alpha : float, default=0.99
        Decay of the averages.
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
    >>> theta = torch.zeros(2)
    >>> RMSprop(lr=0.01).update(theta, torch.tensor([3.0, -5.0]))
    >>> theta
    tensor([-0.1000,  0.1000])
    """

    remembered = ("square", "mean", "velocity")
    numbers = ("lr", "alpha", "eps", "weight_decay", "momentum")

    def __init__(
        self,
        lr: float,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        require(lr >= 0, "an lr above 0", lr)
        require(alpha >= 0, "an alpha of 0 or more", alpha)
        require(eps >= 0, "an eps of 0 or more", eps)
        require(weight_decay >= 0, "a weight_decay of 0 or more", weight_decay)
        require(momentum >= 0, "a momentum of 0 or more", momentum)
        self.lr, self.alpha, self.eps = lr, alpha, eps
        self.weight_decay, self.momentum, self.centered = weight_decay, momentum, centered
        self.square: Tensor | None = None

    def update(self, params: Tensor, gradient: Tensor) -> None:
        """Take one step, in place."""
        if self.square is None:
            self.square, self.mean = torch.zeros_like(params), torch.zeros_like(params)
            self.velocity = torch.zeros_like(params)
        if some(self.weight_decay):
            gradient = plus(gradient, params, self.weight_decay)
        self.square.mul_(self.alpha)
        if isinstance(self.alpha, Tensor):
            self.square.add_(gradient.square().mul_(1 - self.alpha))
        else:
            self.square.addcmul_(gradient, gradient, value=1 - self.alpha)
        spread = self.square
        if self.centered:
            self.mean.lerp_(gradient, 1 - self.alpha)
            spread = spread.addcmul(self.mean, self.mean, value=-1)
        root = spread.sqrt().add_(self.eps)
        if some(self.momentum):
            self.velocity.mul_(self.momentum).addcdiv_(gradient, root)
            subtract_(params, self.velocity, self.lr)
        elif isinstance(self.lr, Tensor):
            subtract_(params, gradient / root, self.lr)
        else:
            params.addcdiv_(gradient, root, value=-self.lr)


class Rprop(FlatOptimizer):
    r"""Resilient backpropagation: each parameter has a step size of its own.

    The step grows by :math:`\eta^+` while the sign of the gradient stays, shrinks by
    :math:`\eta^-` when it flips, and only the sign of the gradient is used. A parameter
    whose sign flipped rests for one step. For full batches.

    Parameters
    ----------
    lr : float
        First step size.
    etas : (float, float), default=(0.5, 1.2)
        :math:`\eta^-` and :math:`\eta^+`.
    step_sizes : (float, float), default=(1e-6, 50)
        Smallest and largest step.

    References
    ----------
    Riedmiller and Braun, "A direct adaptive method for faster backpropagation learning:
    the RPROP algorithm", ICNN 1993.

    Examples
    --------
    >>> theta = torch.zeros(2)
    >>> Rprop(lr=0.01).update(theta, torch.tensor([3.0, -5.0]))
    >>> theta
    tensor([-0.0100,  0.0100])
    """

    remembered = ("previous", "step_size")
    numbers = ("lr",)

    def __init__(
        self,
        lr: float,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
    ) -> None:
        require(lr >= 0, "an lr above 0", lr)
        require(
            _is_pair(etas) and 0 < etas[0] < 1 < etas[1], "etas around 1, like (0.5, 1.2)", etas
        )
        require(
            _is_pair(step_sizes) and 0 < step_sizes[0] <= step_sizes[1],
            "step_sizes in order, above 0",
            step_sizes,
        )
        self.lr, self.etas, self.step_sizes = lr, etas, step_sizes
        self.previous: Tensor | None = None
        self.step_size: Tensor | None = None

    def update(self, params: Tensor, gradient: Tensor) -> None:
        """Take one step, in place."""
        if self.previous is None or self.step_size is None:
            self.previous = torch.zeros_like(params)
            self.step_size = torch.ones_like(params).mul_(self.lr)
        agreement = gradient * self.previous
        flipped = agreement < 0
        eta_minus, eta_plus = self.etas
        factor = torch.ones_like(params)
        factor.masked_fill_(agreement > 0, eta_plus).masked_fill_(flipped, eta_minus)
        self.step_size.mul_(factor).clamp_(*self.step_sizes)
        self.previous = gradient.masked_fill(flipped, 0.0)
        params.addcmul_(self.previous.sign(), self.step_size, value=-1)


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2


VECTOR_RULES: dict[str, Callable[..., FlatOptimizer]] = {
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
    "rprop": Rprop,
    "sgd": SGD,
}
