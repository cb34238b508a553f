"""Losses: one entry per name, and one reading of whatever else the user hands over.

A loss compares what the network gives with the target in *standardized* units, where order 1
is what every optimizer expects. One that is a module may say more of itself:

``link``
    A :class:`torchreg.nn.Link`: how the network's numbers become predictions, and how many of
    them there are for each output.
``center_target``
    Whether y is centred before it is scaled. Without centring it is divided by its mean.
``check_target``
    Refuses targets for which it is not defined.

Adding a loss is one entry in :data:`LOSSES`.
"""

from torchreg.losses.deviances import GammaDeviance, PoissonDeviance, TweedieDeviance
from torchreg.losses.distributions import GaussianNLL, PinballLoss
from torchreg.losses.errors import absolute_error, huber, squared_error
from torchreg.losses.loss import Loss, build_loss, probe_loss
from torchreg.losses.table import LOSSES, LossFunction

__all__ = [
    "LOSSES",
    "GammaDeviance",
    "GaussianNLL",
    "Loss",
    "LossFunction",
    "PinballLoss",
    "PoissonDeviance",
    "TweedieDeviance",
    "absolute_error",
    "build_loss",
    "huber",
    "probe_loss",
    "squared_error",
]
