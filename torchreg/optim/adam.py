"""Adam and AdamW on one vector of parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from torchreg.optim.base import (
    FlatOptimizer,
    add_scaled,
    add_scaled_,
    check_nonnegative,
    check_option,
    check_pair,
    is_nonzero,
)


class Adam(FlatOptimizer):
    r"""Adam, and AdamW with ``decoupled=True``.

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
              v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
              \theta \leftarrow \theta - \eta \frac{m / (1 - \beta_1^k)}
              {\sqrt{v / (1 - \beta_2^k)} + \epsilon}

    Weight decay :math:`\lambda` adds :math:`\lambda\theta` to the gradient or, if decoupled,
    multiplies :math:`\theta` by :math:`1 - \eta\lambda` first.

    Parameters
    ----------
    lr : float
        Learning rate :math:`\eta`.
    betas : (float, float), default=(0.9, 0.999)
        Decay rates :math:`\beta_1` and :math:`\beta_2`.
    eps : float, default=1e-8
        :math:`\epsilon`.
    weight_decay : float, default=0.0
        :math:`\lambda`.
    decoupled : bool, default=False
        Whether the weight decay is decoupled from the gradient.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Examples
    --------
    >>> params = torch.zeros(2)
    >>> Adam(lr=0.1).step(params, torch.tensor([1.0, -20.0]))
    >>> params
    tensor([-0.1000,  0.1000])
    """

    state_names = ("state", "one")
    hyperparams = ("lr", "beta1", "beta2", "eps", "weight_decay")

    def __init__(
        self,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decoupled: bool = False,
    ) -> None:
        check_pair(betas, "two betas in [0, 1)")
        check_option(all(0 <= beta < 1 for beta in betas), "two betas in [0, 1)", betas)
        check_nonnegative(lr=lr, eps=eps, weight_decay=weight_decay)
        self.lr, self.eps, self.weight_decay = lr, eps, weight_decay
        self.beta1, self.beta2 = betas
        self.decoupled = decoupled
        #: First moments, second moments and number of steps, each in a list for the kernel.
        self.state: tuple[list[Tensor], list[Tensor], list[Tensor]] | None = None

    def step(self, params: Tensor, grad: Tensor) -> None:
        """Update `params` in place; both have shape (n_parameters,)."""
        if self.state is None:
            n_steps = torch.zeros((), dtype=torch.float32, device=params.device)
            self.state = [torch.zeros_like(params)], [torch.zeros_like(params)], [n_steps]
            # Adding a tensor takes less time than adding a number.
            self.one = torch.ones_like(n_steps)
        self.state[2][0].add_(self.one)
        if any(isinstance(value, Tensor) for value in (self.beta1, self.beta2, self.eps)):
            self._step_unfused(params, grad)
        elif isinstance(self.lr, Tensor) or isinstance(self.weight_decay, Tensor):
            grad = self._apply_decay(params, grad)
            # At zero the kernel computes the step itself, which each row scales by its own rate.
            step = torch.zeros_like(params)
            self._step_fused(step, grad, lr=1.0, weight_decay=0.0)
            add_scaled_(params, step, self.lr)
        else:
            self._step_fused(params, grad, lr=self.lr, weight_decay=self.weight_decay)

    def _step_fused(self, params: Tensor, grad: Tensor, *, lr: float, weight_decay: float) -> None:
        """Take one step with the kernel that torch.optim uses if fused=True."""
        assert self.state is not None
        moments, squares, n_steps = self.state
        kernel = torch._fused_adamw_ if self.decoupled else torch._fused_adam_
        kernel(
            [params],
            [grad],
            moments,
            squares,
            [],
            n_steps,
            lr=lr,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def _apply_decay(self, params: Tensor, grad: Tensor) -> Tensor:
        """Decay the parameters if decoupled, else return the gradient plus the decay."""
        if self.decoupled:
            params.mul_(1 - self.lr * self.weight_decay)
            return grad
        return (
            add_scaled(grad, params, self.weight_decay) if is_nonzero(self.weight_decay) else grad
        )

    def _step_unfused(self, params: Tensor, grad: Tensor) -> None:
        """Take one step where the rows of `params` differ in betas or eps."""
        assert self.state is not None
        (moment,), (square,), (n_steps,) = self.state
        beta1, beta2, count = self.beta1, self.beta2, float(n_steps)
        grad = self._apply_decay(params, grad)
        moment.mul_(beta1).add_(grad * (1 - beta1))
        square.mul_(beta2).add_(grad.square().mul_(1 - beta2))
        root = square.sqrt().mul_((1 - beta2**count) ** -0.5).add_(self.eps)
        params.sub_(torch.div(moment, root).mul_(self.lr / (1 - beta1**count)))


class AdamW(Adam):
    """Adam with decoupled weight decay; see :class:`Adam`.

    Parameters
    ----------
    lr, betas, eps : float
        See :class:`Adam`.
    weight_decay : float, default=1e-2
        Decay per step, relative to the learning rate.

    Examples
    --------
    >>> params = torch.ones(1)
    >>> AdamW(lr=0.1, weight_decay=0.5).step(params, torch.zeros(1))
    >>> params
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
