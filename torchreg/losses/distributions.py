"""Losses of several numbers per output: quantiles, and a mean with its standard deviation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real

import torch
from torch import Tensor, nn

from torchreg.nn.links import Normal, Quantiles


class PinballLoss(nn.Module):
    r"""The pinball loss of each value, averaged over one or several levels.

    .. math:: \frac1L \sum_l \max(\tau_l\, r_l,\; (\tau_l - 1)\, r_l), \qquad r_l = t - q_l(p)

    Where it is least on average, :math:`q_l` is the conditional quantile of level
    :math:`\tau_l`. Quantiles of several levels never cross, see :class:`torchreg.nn.Quantiles`.

    Parameters
    ----------
    quantile : float or list of float, default=0.5
        Levels between 0 and 1. One number is the level that is predicted. Of several, the
        median is: level 0.5 is trained along where it is not among them.

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
    >>> PinballLoss([0.1, 0.9]).link
    Quantiles(levels=(0.1, 0.5, 0.9))
    """

    level: Tensor

    def __init__(self, quantile: float | Iterable[float] = 0.5) -> None:
        super().__init__()
        self.link = Quantiles(_levels(quantile))
        self.register_buffer("level", torch.tensor(self.link.levels, dtype=torch.float64))

    @property
    def quantile(self) -> float | list[float]:
        """The argument that makes such a loss, with all levels that are trained."""
        levels = list(self.link.levels)
        return levels if len(levels) > 1 else levels[0]

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compare (n, n_outputs * n_levels) with (n, n_outputs), to (n, n_outputs)."""
        # (n, n_outputs * n_levels) -> (n, n_outputs, n_levels), (n, n_outputs) -> (..., 1)
        residual = target.unsqueeze(-1) - self.link.apart(prediction)
        level = self.level.to(residual.dtype)
        return torch.maximum(level * residual, (level - 1) * residual).mean(dim=-1)


def _levels(quantile: float | Iterable[float]) -> list[float]:
    if isinstance(quantile, Real):
        return [float(quantile)]
    if isinstance(quantile, str) or not isinstance(quantile, Iterable):
        raise TypeError(
            f"quantile expects a level between 0 and 1, or a list of levels, got {quantile!r}."
        )
    levels = list(quantile)
    # What is no number is refused where all levels are.
    return levels if not levels or 0.5 in levels else [*levels, 0.5]


class GaussianNLL(nn.Module):
    r"""Negative log-likelihood of a normal distribution, per value.

    .. math:: \tfrac12 \log 2\pi + \log \sigma + \frac{(t - \mu)^2}{2 \sigma^2}

    The network gives two numbers per output, of which :class:`torchreg.nn.Normal` makes the
    conditional mean :math:`\mu` and standard deviation :math:`\sigma`. It may be negative.

    References
    ----------
    D. Nix and A. Weigend, "Estimating the mean and variance of the target probability
    distribution", Proceedings of the IEEE International Conference on Neural Networks (1994).

    Examples
    --------
    >>> GaussianNLL()(torch.zeros(1, 2), torch.zeros(1, 1))  # mean 0, standard deviation 1
    tensor([[0.9189]])
    """

    def __init__(self) -> None:
        super().__init__()
        self.link = Normal()

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compare (n, n_outputs * 2) with (n, n_outputs), to (n, n_outputs)."""
        mean, std = self.link.mean_and_std(prediction)
        distance = (target - mean) / std
        return std.log() + 0.5 * (distance * distance + math.log(2 * math.pi))
