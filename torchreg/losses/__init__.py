"""Losses of standardized targets.

Each named loss is a subclass of :class:`Loss` in the file of its family. To add one, define
its function and its class there; the class keyword ``name`` makes it available as
``TorchRegressor(loss=name)``.
"""

from torchreg.losses.checks import check_loss_of_standardized
from torchreg.losses.deviances import GammaDeviance, PoissonDeviance, TweedieDeviance
from torchreg.losses.distributions import GaussianNLL, PinballLoss
from torchreg.losses.errors import AbsoluteError, HuberLoss, SquaredError
from torchreg.losses.loss import (
    LOSSES,
    Loss,
    LossFunction,
    RawError,
    build_loss,
    find_loss,
    loss_name,
    probe_loss,
)

__all__ = [
    "LOSSES",
    "AbsoluteError",
    "GammaDeviance",
    "GaussianNLL",
    "HuberLoss",
    "Loss",
    "LossFunction",
    "PinballLoss",
    "PoissonDeviance",
    "RawError",
    "SquaredError",
    "TweedieDeviance",
    "build_loss",
    "check_loss_of_standardized",
    "find_loss",
    "loss_name",
    "probe_loss",
]
