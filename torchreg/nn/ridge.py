"""Ridge regression with a penalty chosen by restricted maximum likelihood, and its layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Candidate penalties relative to the mean variance of the columns. The smallest one only
#: prevents large opposite weights of identical columns.
_PENALTIES = 10.0 ** torch.arange(2, -6.5, -0.5, dtype=torch.float64)
#: Relative rounding error of the residuals of an exact fit.
_ROUNDING = 1e-14


def ridge(x: Tensor, t: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor, float]:
    r"""Fit a ridge regression whose penalty maximizes the restricted likelihood.

    .. math:: \min_{W, b} \sum_i w_i \lVert t_i - W x_i - b \rVert^2 + \lambda \lVert W \rVert^2

    With a normal prior on :math:`W`, the covariance of the centred targets of an output is
    proportional to :math:`C_\lambda = I + X X^\top / \lambda`. From a grid, the
    :math:`\lambda` with the largest restricted likelihood of all outputs is selected:

    .. math:: -2 \log L = \sum_k (n - 1) \log\bigl(t_k^\top C_\lambda^{-1} t_k\bigr)
                          + \log \det C_\lambda

    Cross-validation selects a far too small penalty for one in ten tables of few rows. :math:`n` is
    the effective number of rows, :math:`(\sum w)^2 / \sum w^2`.

    Parameters
    ----------
    x : Tensor of shape (n, in_features)
        Scaled to order 1, because the penalty is the same for all columns.
    t : Tensor of shape (n, out_features)
    weight : Tensor of shape (n,) or None
        Sample weights; only ratios matter.

    Returns
    -------
    weight : Tensor of shape (out_features, in_features)
    bias : Tensor of shape (out_features,)
        In float64.
    deviance : float
        :math:`-2 \log L`, to compare tables of features for the same targets.

    References
    ----------
    D. J. C. MacKay, "Bayesian Interpolation", Neural Computation 4 (1992), 415-447.
    H. D. Patterson and R. Thompson, "Recovery of Inter-Block Information when Block Sizes are
    Unequal", Biometrika 58 (1971), 545-554.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> weight, bias, _ = ridge(x, 3 * x + 1)
    >>> round(float(weight), 3), round(float(bias), 3)
    (3.0, 1.0)
    """
    x, t = x.to(torch.float64), t.to(torch.float64)
    share = torch.ones_like(t[:, 0]) if weight is None else weight.to(torch.float64)
    share = share / share.sum()
    n = float(1 / share.square().sum())
    mean_x, mean_t = share @ x, share @ t
    root = share.sqrt().unsqueeze(1)
    x, t = (x - mean_x) * root, (t - mean_t) * root
    # 1. The directions of the columns, from the smaller of two products.
    wide = x.shape[1] > x.shape[0]
    variance, directions = torch.linalg.eigh(x @ x.mT if wide else x.mT @ x)
    variance = variance.clamp(min=0)
    total = variance.sum()
    if not float(total) > 0:
        return x.new_zeros(t.shape[1], x.shape[1]), mean_t, float("inf")
    # 2. The share of each target in each direction: (n_directions, n_outputs)
    projection = directions.mT @ (t if wide else x.mT @ t)
    explained = projection.square()
    if not wide:
        explained = explained / variance.clamp(min=float(total) * _ROUNDING).unsqueeze(1)
    # 3. The likelihood of each penalty: (n_penalties,)
    penalties = (_PENALTIES.to(x.device) * total / x.shape[1]).unsqueeze(1)
    kept = variance / (variance + penalties)  # (n_penalties, n_directions)
    total_variance = t.square().sum(dim=0).clamp(min=torch.finfo(t.dtype).tiny)
    residual = torch.maximum(total_variance - kept @ explained, total_variance * _ROUNDING)
    determinant = torch.log1p(variance / penalties).sum(dim=1)
    deviance = (n - 1) * residual.log().sum(dim=1) + t.shape[1] * determinant
    best = int(deviance.argmin())
    # 4. The solution for the best penalty.
    slopes = directions @ (projection / (variance + penalties[best]).unsqueeze(1))
    found = (x.mT @ slopes if wide else slopes).mT
    return found, mean_t - found @ mean_x, float(deviance[best])


class FrozenLinear(nn.Module):
    r"""A linear layer that is not trained: :math:`W x + b`.

    Parameters
    ----------
    weight : Tensor of shape (out_features, in_features)
        :math:`W`.
    bias : Tensor of shape (out_features,)
        :math:`b`.

    Attributes
    ----------
    weight, bias : Tensor
        Buffers.

    Raises
    ------
    ValueError
        If the shapes do not match.

    Examples
    --------
    >>> import torch
    >>> FrozenLinear(torch.tensor([[2.0, 0.0]]), torch.tensor([1.0]))(torch.ones(1, 2))
    tensor([[3.]])
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ValueError(
                "FrozenLinear expects a weight of shape (out_features, in_features) and a bias of "
                f"shape (out_features,), got {tuple(weight.shape)} and {tuple(bias.shape)}."
            )
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Multiply and add: shape (..., in_features) to (..., out_features)."""
        return nn.functional.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Show the sizes."""
        n_out, n_in = self.weight.shape
        return f"in_features={n_in}, out_features={n_out}"
