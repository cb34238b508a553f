"""Losses with several columns per output: quantiles, and a mean with its standard deviation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from torchreg.losses.loss import Loss
from torchreg.losses.scores import d2_pinball
from torchreg.nn.links import Normal, Quantiles


class MeanPinball(nn.Module):
    """Pinball loss of each element, averaged over the levels.

    Parameters
    ----------
    levels : iterable of float
        See :class:`torchreg.nn.Quantiles`.
    """

    level: Tensor

    def __init__(self, levels: Iterable[float]) -> None:
        super().__init__()
        self.link = Quantiles(levels)
        self.levels = self.link.levels
        self.register_buffer("level", torch.tensor(self.levels, dtype=torch.float64))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compare (n, n_outputs * n_levels) with (n, n_outputs), to (n, n_outputs)."""
        # (n, n_outputs * n_levels) -> (n, n_outputs, n_levels), (n, n_outputs) -> (..., 1)
        residual = target.unsqueeze(-1) - self.link.split_levels(prediction)
        level = self.level.to(residual.dtype)
        return torch.maximum(level * residual, (level - 1) * residual).mean(dim=-1)


class PinballLoss(Loss, name="quantile"):
    r"""Pinball loss, averaged over one or several levels; estimates conditional quantiles.

    .. math:: \frac1L \sum_l \max(\tau_l\, r_l,\; (\tau_l - 1)\, r_l), \qquad r_l = t - q_l(p)

    :math:`q_l` estimates the quantile of level :math:`\tau_l`. Quantiles of several levels never
    cross, see :class:`torchreg.nn.Quantiles`.

    Parameters
    ----------
    quantile : float or list of float, default=0.5
        Levels between 0 and 1. The prediction is the quantile of a single level, or the median of
        several; a list without 0.5 is completed by it.

    Raises
    ------
    ValueError, TypeError
        If a level is not a number between 0 and 1, or there is none.

    References
    ----------
    R. Koenker and G. Bassett, "Regression Quantiles", Econometrica 46 (1978), 33-50.

    Examples
    --------
    >>> PinballLoss(0.9)(torch.tensor([[0.0]]), torch.tensor([[2.2816]]))
    tensor([[0.9000]])
    >>> PinballLoss([0.1, 0.9])
    PinballLoss(quantile=[0.1, 0.5, 0.9])
    """

    per_row = True
    score_name = "D2"

    def __init__(self, quantile: float | Iterable[float] = 0.5) -> None:
        function = MeanPinball(_complete_levels(quantile))
        levels = [*function.levels]
        self.quantile = levels if len(levels) > 1 else levels[0]
        super().__init__(function, link=function.link)

    def score(self, y: Any, prediction: Any, sample_weight: Any = None) -> float:
        """Compute the explained share of the pinball loss of the predicted level."""
        assert isinstance(self.link, Quantiles)
        level = self.link.levels[self.link.index]
        return d2_pinball(y, prediction, sample_weight, level)


def _complete_levels(quantile: float | Iterable[float]) -> list[float]:
    if isinstance(quantile, Real):
        return [float(quantile)]
    if isinstance(quantile, str) or not isinstance(quantile, Iterable):
        raise TypeError(
            f"quantile expects a level between 0 and 1, or a list of levels, got {quantile!r}."
        )
    levels = list(quantile)
    return levels if not levels or 0.5 in levels else [*levels, 0.5]


def gaussian_nll(prediction: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood of each element, given the parameters of a normal distribution."""
    mean, std = Normal.mean_and_std(prediction)
    distance = (target - mean) / std
    return std.log() + 0.5 * (distance * distance + math.log(2 * math.pi))


class GaussianNLL(Loss, name="gaussian_nll"):
    r"""Negative log-likelihood of a normal distribution; estimates mean and standard deviation.

    .. math:: \tfrac12 \log 2\pi + \log \sigma + \frac{(t - \mu)^2}{2 \sigma^2}

    The network has two columns per output, which :class:`torchreg.nn.Normal` turns into the
    conditional mean :math:`\mu` and standard deviation :math:`\sigma`. The loss may be negative.

    References
    ----------
    D. Nix and A. Weigend, "Estimating the mean and variance of the target probability
    distribution", Proceedings of the IEEE International Conference on Neural Networks (1994).

    Examples
    --------
    >>> GaussianNLL()(torch.zeros(1, 2), torch.zeros(1, 1))  # mean 0, standard deviation 1
    tensor([[0.9189]])
    """

    per_row = True

    def __init__(self) -> None:
        super().__init__(gaussian_nll, link=Normal())
