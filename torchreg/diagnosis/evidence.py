"""The numbers that findings use, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from torchreg.diagnosis.loss_curve import LossCurve
from torchreg.diagnosis.module_probe import find_bends, summarize_at_rows
from torchreg.diagnosis.network_summary import sample_rows
from torchreg.diagnosis.record import FitSummary, Layer, NetworkSummary
from torchreg.losses import find_loss
from torchreg.nn.links import prediction_column

#: Rows evaluated for a diagnosis, at most.
MAX_ROWS = 2000


@dataclass(frozen=True)
class OutOfRange:
    """A column of new rows with values outside the training range.

    Parameters
    ----------
    column : int
    share : float
        Share of the rows outside.
    beyond : float
        Distance of the farthest value, in widths of the training range.
    low, high : float
        Range of the new rows, in raw units.
    """

    column: int
    share: float
    beyond: float
    low: float
    high: float


@dataclass(frozen=True)
class Evidence:
    """What is known about a fit.

    Parameters
    ----------
    summary : FitSummary
    feature_names : list of str
        Empty where X had none.
    network : NetworkSummary or None
        Of new rows or, without any, of training rows.
    losses : list of float
        Training loss of each epoch, in standardized units.
    validation : list of float or None
        Validation loss of each epoch, in standardized units.
    kept_epoch : int
        The epoch whose weights are in the module.
    is_new : bool
        Whether rows were given.
    outside : list of OutOfRange
        Columns of the given rows that leave the training range.
    bends : list of float
        Bends of a single network of one feature, in the unit of the feature.
    """

    summary: FitSummary
    feature_names: list[str]
    network: NetworkSummary | None
    losses: list[float] = field(default_factory=list)
    validation: list[float] | None = None
    kept_epoch: int = 0
    is_new: bool = False
    outside: list[OutOfRange] = field(default_factory=list)
    bends: list[float] = field(default_factory=list)

    @cached_property
    def curve(self) -> LossCurve:
        """Shape of the training loss, without epochs before a warm start."""
        return LossCurve.of(self.losses[self.summary.first_epoch :], reference_loss(self.summary))

    @cached_property
    def layers(self) -> list[Layer]:
        """Unit counts of each hidden layer, summed over several networks."""
        return (
            []
            if self.network is None
            else pool_layers(self.network.layers, self.summary.n_networks)
        )

    @property
    def compares_with_y(self) -> bool:
        """Whether the loss compares the network's output with y itself."""
        return find_loss(self.summary.loss).output_is_prediction

    def feature(self, column: int) -> str:
        """Name a column of X."""
        return self.feature_names[column] if self.feature_names else f"X column {column}"

    def target(self, column: int) -> str:
        """Name a column of y."""
        if self.summary.target_names:
            return self.summary.target_names[column]
        return "y" if len(self.summary.y.mean) == 1 else f"y column {column}"


def pool_layers(layers: list[Layer], n_networks: int) -> list[Layer]:
    """Sum the unit counts of the same layer of several networks.

    If the layers do not match, they are returned unchanged.
    """
    each, rest = divmod(len(layers), n_networks)
    groups = [layers[place::each] for place in range(each)]
    if n_networks == 1 or rest or any(len({one.function for one in g}) > 1 for g in groups):
        return layers
    counts = [name for name in Layer._fields if name.startswith("n_")]
    return [
        group[0]._replace(**{name: sum(getattr(one, name) for one in group) for name in counts})
        for group in groups
    ]


def mean_and_spread(mean: float, scale: float) -> str:
    """Write mean ± spread with two significant digits of the spread.

    Examples
    --------
    >>> mean_and_spread(200.967, 13.99), mean_and_spread(1.7e9, 101.3)
    ('201 ± 14', '1700000000 ± 100')
    """
    if scale == 0 or not math.isfinite(scale):
        return f"{mean:.6g}"
    digits = 1 - math.floor(math.log10(scale))
    if abs(mean) >= 1e12 or scale < 1e-6:
        return f"{mean:.3g} ± {scale:.2g}"
    # Adding 0 makes 0.0 of -0.0.
    spread, middle = round(scale, digits), round(mean, digits) + 0.0
    places = max(0, digits)
    text = [f"{value:.{places}f}" for value in (middle, spread)]
    if places:
        text = [word.rstrip("0").rstrip(".") for word in text]
    return f"{text[0]} ± {text[1]}"


def join_words(words: Sequence[str], *, at_most: int = 3) -> str:
    """Join words: ``a``, ``a and b``, ``a, b, c and 4 more``."""
    if len(words) > at_most:
        return f"{', '.join(words[:at_most])} and {len(words) - at_most} more"
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 2 else list(words))


def out_of_range_columns(x: Tensor, summary: FitSummary) -> list[OutOfRange]:
    """List the columns of given rows that leave the range of the training rows."""
    low = torch.tensor(summary.x.low, dtype=torch.float64)
    high = torch.tensor(summary.x.high, dtype=torch.float64)
    # X may be float32 in `fit` and float64 here, or the reverse.
    slack = torch.finfo(torch.float32).eps * torch.maximum(low.abs(), high.abs())
    values = x.to(torch.float64)
    share = ((values < low - slack) | (values > high + slack)).to(torch.float64).mean(dim=0)
    smallest, largest = torch.aminmax(values, dim=0)
    beyond = torch.maximum(low - smallest, largest - high) / (high - low)
    return [
        OutOfRange(
            column,
            float(share[column]),
            float(beyond[column]),
            float(smallest[column]),
            float(largest[column]),
        )
        for column in torch.nonzero(share > 0).flatten().tolist()
    ]


def collect_evidence(
    module: nn.Sequential,
    summary: FitSummary,
    losses: list[float],
    validation: list[float] | None,
    kept_epoch: int,
    feature_names: list[str],
    x: Tensor | None,
    y: Tensor | None,
) -> Evidence:
    """Compute the numbers that the findings use; see :class:`Evidence`."""
    network, outside = summary.network, []
    if x is not None:
        chosen = sample_rows(len(x), MAX_ROWS)
        network = summarize_at_rows(module, x[chosen], None if y is None else y[chosen])
        outside = out_of_range_columns(x, summary)
    bends: list[float] = []
    # The mean of several networks has many bends and is nearly smooth.
    one_curve = len(summary.x.mean) == 1 and summary.n_networks == 1
    if one_curve and summary.reason != "diverged":
        dtype = getattr(torch, summary.dtype)
        low, high = summary.x.low[0], summary.x.high[0]
        bends = find_bends(module, low, high, dtype, column=prediction_column(module, 0))
    return Evidence(
        summary=summary,
        feature_names=feature_names,
        network=network,
        losses=losses,
        validation=validation,
        kept_epoch=kept_epoch,
        is_new=x is not None,
        outside=outside,
        bends=bends,
    )


def reference_loss(summary: FitSummary) -> float | None:
    """Return the loss of predicting the mean, if known: 1 for squared errors of standardized y."""
    std = [1.0] * len(summary.y.scale) if summary.standardize_y else summary.y.scale
    return find_loss(summary.loss).loss_of_mean(std)
