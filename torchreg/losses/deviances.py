"""Deviances of positive targets: counts, sizes, and sums of a random number of sizes."""

from __future__ import annotations

import math
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from torchreg.losses.loss import Loss, LossFunction
from torchreg.losses.scores import d2_tweedie
from torchreg.nn.links import Exponential


def poisson_deviance(prediction: Tensor, target: Tensor) -> Tensor:
    """Half the Poisson deviance of each element, given the logarithm of the mean."""
    constant = torch.xlogy(target, target) - target
    return prediction.exp() - target * prediction + constant


def gamma_deviance(prediction: Tensor, target: Tensor) -> Tensor:
    """Half the gamma deviance of each element, given the logarithm of the mean."""
    return target * (-prediction).exp() + prediction - (target.log() + 1)


def tweedie_deviance(prediction: Tensor, target: Tensor, power: float) -> Tensor:
    """Half the Tweedie deviance of each element, given the logarithm of the mean."""
    constant = target ** (2 - power) / ((1 - power) * (2 - power))
    to_target = target * (prediction * (1 - power)).exp() / (1 - power)
    return constant - to_target + (prediction * (2 - power)).exp() / (2 - power)


class TweedieDeviance(Loss, name="tweedie"):
    r"""Half the Tweedie deviance, given the logarithm of the mean.

    .. math:: \tfrac12 d(t, \mu) = \frac{t^{2-q}}{(1-q)(2-q)} - \frac{t\,\mu^{1-q}}{1-q}
              + \frac{\mu^{2-q}}{2-q}, \qquad \mu = e^p

    and its limits :math:`t \log(t/\mu) - t + \mu` for :math:`q = 1` (Poisson) and
    :math:`\log(\mu/t) + t/\mu - 1` for :math:`q = 2` (gamma). It is 0 where :math:`\mu = t` and
    positive elsewhere, and estimates the conditional mean of any distribution. A unit of y
    changes its value but not its minimum, so y is divided by its mean, and not centred.

    Parameters
    ----------
    power : float, default=1.5
        :math:`q`: the variance of y is assumed to grow with this power of its mean. 1 is Poisson
        (counts), 2 gamma (a constant relative error), 3 inverse Gaussian. Powers between 1 and 2
        are for sums of a random number of gamma distributed sizes, which may be 0, such as the
        rain of a day or the claims of a year.

    Raises
    ------
    ValueError
        If the power is not a number of 1 or more.

    References
    ----------
    B. Jorgensen, "Exponential Dispersion Models", Journal of the Royal Statistical Society B 49
    (1987), 127-162.

    Examples
    --------
    >>> loss = TweedieDeviance(power=1.5)
    >>> loss(torch.tensor([[0.0]]), torch.tensor([[1.0]]))  # the mean is exp(0)
    tensor([[0.]])
    """

    per_row = True
    center_target = False
    score_name = "D2"
    power: float

    def __init__(self, power: float = 1.5) -> None:
        if isinstance(power, bool) or not isinstance(power, Real) or not 1 <= power < math.inf:
            raise ValueError(
                f"tweedie expects a power of 1 or more (1 is Poisson, 2 gamma), got {power!r}. "
                "If y may be negative, use loss='squared_error'."
            )
        self.power = float(power)
        functions: dict[float, LossFunction] = {1: poisson_deviance, 2: gamma_deviance}
        function = functions.get(self.power, partial(tweedie_deviance, power=self.power))
        super().__init__(function, link=Exponential())

    def check_target(self, y: Tensor, *, name: str, training: bool = True) -> None:
        """Check that such a distribution can have these targets.

        Raises
        ------
        ValueError
            If one is negative or, from power 2 on, 0; or if all of a training column are 0.
        """
        label = repr(self.name)
        if self.name == TweedieDeviance.name:
            label += f" of power {self.power:g}"
        allows_zero = self.power < 2
        invalid = ((y < 0) if allows_zero else (y <= 0)).any(dim=1)
        if bool(invalid.any()):
            row = int(torch.nonzero(invalid)[0])
            raise ValueError(
                f"The loss {label} expects {name} "
                f"{'of 0 or more' if allows_zero else 'above 0'}, got {float(y[row].min()):.6g} in "
                f"row {row} ({int(invalid.sum())} of {len(y)} rows are out of range). Leave these "
                "rows out, or use another loss, such as 'squared_error'."
            )
        if training and bool((y == 0).all(dim=0).any()):
            raise ValueError(
                f"The loss {label} expects {name} with a mean above 0, but all of "
                f"{'it' if y.shape[1] == 1 else 'a column'} is 0."
            )

    def score(self, y: Any, prediction: Any, sample_weight: Any = None) -> float:
        """Compute the explained share of the deviance, as scikit-learn's ``TweedieRegressor``."""
        return d2_tweedie(y, prediction, sample_weight, self.power)


class PoissonDeviance(TweedieDeviance, name="poisson"):
    r"""Half the Poisson deviance, :math:`t \log(t/\mu) - t + \mu` with :math:`\mu = e^p`.

    For counts, or for rates with the exposures as weights: the variance of y is assumed to grow
    with its mean. See :class:`TweedieDeviance`.

    Examples
    --------
    >>> PoissonDeviance()(torch.tensor([[0.0]]), torch.tensor([[0.0]]))
    tensor([[1.]])
    """

    def __init__(self) -> None:
        super().__init__(power=1)


class GammaDeviance(TweedieDeviance, name="gamma"):
    r"""Half the gamma deviance, :math:`\log(\mu/t) + t/\mu - 1` with :math:`\mu = e^p`.

    For positive sizes with a constant relative error, such as prices and durations. See
    :class:`TweedieDeviance`.

    Examples
    --------
    >>> GammaDeviance()(torch.tensor([[0.0]]), torch.tensor([[1.0]]))
    tensor([[0.]])
    """

    def __init__(self) -> None:
        super().__init__(power=2)
