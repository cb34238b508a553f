"""Losses that compare the network's output with y itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from torchreg.losses.loss import Loss, RawError
from torchreg.losses.scores import d2_pinball


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared error of each element."""
    return functional.mse_loss(prediction, target, reduction="none")


def absolute_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Absolute error of each element."""
    return (prediction - target).abs()


def huber(prediction: Tensor, target: Tensor, delta: float = 1.0) -> Tensor:
    """Huber loss of each element: quadratic up to delta, linear beyond."""
    return functional.huber_loss(prediction, target, reduction="none", delta=delta)


class SquaredError(Loss, name="squared_error"):
    r"""Squared error, :math:`(p - t)^2`; estimates the conditional mean.

    Examples
    --------
    >>> import torch
    >>> SquaredError()(torch.tensor([[3.0]]), torch.tensor([[1.0]]))
    tensor([[4.]])
    """

    per_row = True
    output_is_prediction = True
    raw_error = RawError(
        "RMSE",
        lambda loss, std: np.sqrt(np.maximum(loss, 0)) * std,
        lambda error, std: np.square(error / std),
    )
    torch_names = ("MSELoss", "mse_loss")

    def __init__(self) -> None:
        super().__init__(squared_error)

    @classmethod
    def loss_of_mean(cls, std: Sequence[float]) -> float:
        """Average the variances of the outputs."""
        return sum(s**2 for s in std) / len(std)


class AbsoluteError(Loss, name="absolute_error"):
    r"""Absolute error, :math:`|p - t|`; estimates the conditional median.

    Examples
    --------
    >>> import torch
    >>> AbsoluteError()(torch.tensor([[3.0]]), torch.tensor([[1.0]]))
    tensor([[2.]])
    """

    per_row = True
    output_is_prediction = True
    is_robust = True
    score_name = "D2"
    raw_error = RawError("MAE", lambda loss, std: loss * std, lambda error, std: error / std)
    torch_names = ("L1Loss", "l1_loss")

    def __init__(self) -> None:
        super().__init__(absolute_error)

    def score(self, y: Any, prediction: Any, sample_weight: Any = None) -> float:
        """Compute the explained share of the absolute error."""
        return d2_pinball(y, prediction, sample_weight, 0.5)


class HuberLoss(Loss, name="huber"):
    r"""Huber loss; estimates the conditional mean with less influence of large residuals.

    .. math:: \tfrac12 r^2 \text{ if } |r| \le \delta, \quad
              \delta\,(|r| - \tfrac12 \delta) \text{ otherwise}, \qquad r = p - t

    Parameters
    ----------
    delta : float, default=1.0
        Residual beyond which the loss is linear, in standard deviations of y.

    Raises
    ------
    ValueError
        If delta is not above 0.

    References
    ----------
    P. J. Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical
    Statistics 35 (1964), 73-101.

    Examples
    --------
    >>> import torch
    >>> HuberLoss()(torch.tensor([[3.0]]), torch.tensor([[1.0]]))
    tensor([[1.5000]])
    """

    per_row = True
    output_is_prediction = True
    is_robust = True
    torch_names = ("HuberLoss", "SmoothL1Loss", "huber_loss", "smooth_l1_loss")

    def __init__(self, delta: float = 1.0) -> None:
        if not delta > 0:
            raise ValueError(f"huber expects a delta above 0, got {delta!r}.")
        self.delta = delta
        super().__init__(huber if delta == 1 else partial(huber, delta=delta))
