"""Deviances of positive targets: counts, sizes, and sums of a random number of sizes."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor, nn

from torchreg.nn.links import Exponential


class TweedieDeviance(nn.Module):
    r"""Half the Tweedie deviance of each value, from the logarithm of the mean.

    .. math:: \tfrac12 d(t, \mu) = \frac{t^{2-q}}{(1-q)(2-q)} - \frac{t\,\mu^{1-q}}{1-q}
              + \frac{\mu^{2-q}}{2-q}, \qquad \mu = e^p

    and its limits :math:`t \log(t/\mu) - t + \mu` for :math:`q = 1` (Poisson) and
    :math:`\log(\mu/t) + t/\mu - 1` for :math:`q = 2` (gamma). It is 0 where :math:`\mu = t`, and
    positive elsewhere. Where it is least on average, the exponential of p is the conditional
    mean, whatever the distribution. In other units of y it is another number, with the same
    minimum; so y is divided by its mean, and not centred.

    Parameters
    ----------
    power : float, default=1.5
        :math:`q`: the variance of y is taken to grow with this power of its mean. 1 is Poisson
        (counts), 2 gamma (a constant relative error), between them lie sums of a random number
        of gamma distributed sizes, which may be 0 (rain of a day, claims of a year), 3 is
        inverse Gaussian.

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

    #: Whether y is centred before it is scaled.
    center_target = False
    power: float

    def __init__(self, power: float = 1.5) -> None:
        super().__init__()
        if isinstance(power, bool) or not isinstance(power, Real) or not 1 <= power < math.inf:
            raise ValueError(
                f"tweedie expects a power of 1 or more (1 is Poisson, 2 gamma), got {power!r}. "
                "Where y may be negative, take loss='squared_error'."
            )
        self.power = float(power)
        self.link = Exponential()

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compare logarithms of means with targets: (n, n_outputs) each, to the same shape."""
        q = self.power
        if q == 1:
            constant: Tensor = torch.xlogy(target, target) - target
            return prediction.exp() - target * prediction + constant
        if q == 2:
            return target * (-prediction).exp() + prediction - (target.log() + 1)
        constant = target ** (2 - q) / ((1 - q) * (2 - q))
        to_target = target * (prediction * (1 - q)).exp() / (1 - q)
        return constant - to_target + (prediction * (2 - q)).exp() / (2 - q)

    def check_target(self, y: Tensor, *, name: str, training: bool = True) -> None:
        """Require targets that such a distribution can give.

        Parameters
        ----------
        y : Tensor of shape (n, n_outputs)
            Raw units.
        name : str
            ``"y"`` or ``"y_val"``.
        training : bool, default=True
            Whether y is trained on.

        Raises
        ------
        ValueError
            If one is negative or, from power 2 on, 0; or if all of a column are 0.
        """
        zero = self.power < 2
        wrong = ((y < 0) if zero else (y <= 0)).any(dim=1)
        if bool(wrong.any()):
            row = int(torch.nonzero(wrong)[0])
            raise ValueError(
                f"The loss {self.called()} expects {name} {'of 0 or more' if zero else 'above 0'}, "
                f"got {float(y[row].min()):.6g} in row {row} ({int(wrong.sum())} of {len(y)} rows "
                "are out of its range). Leave such rows out, or take another loss, such as "
                "'squared_error'."
            )
        if training and bool((y == 0).all(dim=0).any()):
            raise ValueError(
                f"The loss {self.called()} expects {name} with a mean above 0, but all of "
                f"{'it' if y.shape[1] == 1 else 'a column'} is 0: there is nothing to learn."
            )

    def called(self) -> str:
        """Give the name, and the power where that is not in it, for messages."""
        return f"'tweedie' of power {self.power:g}"


class PoissonDeviance(TweedieDeviance):
    r"""Half the Poisson deviance, :math:`t \log(t/\mu) - t + \mu` with :math:`\mu = e^p`.

    For counts, or rates with the exposures as weights: the variance of y is taken to grow with
    its mean. See :class:`TweedieDeviance`.

    Examples
    --------
    >>> PoissonDeviance()(torch.tensor([[0.0]]), torch.tensor([[0.0]]))
    tensor([[1.]])
    """

    def __init__(self) -> None:
        super().__init__(power=1)

    def called(self) -> str:
        """Give the name, for messages."""
        return "'poisson'"


class GammaDeviance(TweedieDeviance):
    r"""Half the gamma deviance, :math:`\log(\mu/t) + t/\mu - 1` with :math:`\mu = e^p`.

    For positive sizes whose relative error is the same everywhere: prices, durations. See
    :class:`TweedieDeviance`.

    Examples
    --------
    >>> GammaDeviance()(torch.tensor([[0.0]]), torch.tensor([[1.0]]))
    tensor([[0.]])
    """

    def __init__(self) -> None:
        super().__init__(power=2)

    def called(self) -> str:
        """Give the name, for messages."""
        return "'gamma'"
