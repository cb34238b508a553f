"""The losses that have a name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from torchreg.losses.deviances import GammaDeviance, PoissonDeviance, TweedieDeviance
from torchreg.losses.distributions import GaussianNLL, PinballLoss
from torchreg.losses.errors import absolute_error, huber, squared_error

LossFunction = Callable[[Tensor, Tensor], Tensor]

#: A function of predictions, targets and options; or a module that is built with the options.
LOSSES: dict[str, Callable[..., Tensor] | type[nn.Module]] = {
    "absolute_error": absolute_error,
    "gamma": GammaDeviance,
    "gaussian_nll": GaussianNLL,
    "huber": huber,
    "poisson": PoissonDeviance,
    "quantile": PinballLoss,
    "squared_error": squared_error,
    "tweedie": TweedieDeviance,
}
