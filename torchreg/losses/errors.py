"""Errors of single values: what a network gives is compared with y itself."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    r"""Squared error of each value, :math:`(p - t)^2`; estimates the conditional mean.

    Parameters
    ----------
    prediction, target : Tensor of shape (n, n_outputs)
        Standardized, dimensionless.

    Returns
    -------
    Tensor of shape (n, n_outputs)

    Examples
    --------
    >>> import torch
    >>> squared_error(torch.tensor([[3.0]]), torch.tensor([[1.0]]))
    tensor([[4.]])
    """
    return functional.mse_loss(prediction, target, reduction="none")


def absolute_error(prediction: Tensor, target: Tensor) -> Tensor:
    r"""Absolute error of each value, :math:`|p - t|`; estimates the conditional median.

    Parameters
    ----------
    prediction, target : Tensor of shape (n, n_outputs)
        Standardized, dimensionless.

    Returns
    -------
    Tensor of shape (n, n_outputs)

    Examples
    --------
    >>> import torch
    >>> absolute_error(torch.tensor([[3.0]]), torch.tensor([[1.0]]))
    tensor([[2.]])
    """
    return (prediction - target).abs()


def huber(prediction: Tensor, target: Tensor, delta: float = 1.0) -> Tensor:
    r"""Huber's loss of each value: quadratic up to ``delta``, linear beyond.

    .. math:: \tfrac12 r^2 \text{ if } |r| \le \delta, \quad
              \delta\,(|r| - \tfrac12 \delta) \text{ otherwise}, \qquad r = p - t

    Parameters
    ----------
    prediction, target : Tensor of shape (n, n_outputs)
        Standardized, dimensionless.
    delta : float, default=1.0
        Where the loss turns linear, in standard deviations of y.

    Returns
    -------
    Tensor of shape (n, n_outputs)

    References
    ----------
    P. J. Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical
    Statistics 35 (1964), 73-101.

    Examples
    --------
    >>> import torch
    >>> huber(torch.tensor([[3.0]]), torch.tensor([[1.0]]))
    tensor([[1.5000]])
    """
    if not delta > 0:
        raise ValueError(f"huber expects a delta above 0, got {delta!r}.")
    return functional.huber_loss(prediction, target, reduction="none", delta=delta)
