"""Links: layers that turn the output of a network into standardized predictions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import reduce
from itertools import pairwise
from numbers import Real
from statistics import NormalDist

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchreg.nn.affine import Unstandardize

#: Smallest standard deviation of :class:`Normal`, relative to the standard deviation of y.
#: It bounds the likelihood of rows that are fitted exactly, and the gradient.
MIN_STD = 1e-3

#: Levels closer than this are equal: 0.1 + 0.2 is 0.3.
_LEVEL_TOLERANCE = 1e-9


class Link(nn.Module):
    """Base class of the layers between a network and ``Unstandardize``.

    The columns of one output are adjacent: ``output 0``, ``output 0``, ..., ``output 1``, ...

    Attributes
    ----------
    per_output : int
        Columns per output.
    index : int
        Which of them is the point prediction.
    differences : tuple of int
        Which of them are differences, such as a standard deviation: ``Unstandardize`` scales but
        does not shift these.
    """

    per_output: int = 1
    index: int = 0
    differences: tuple[int, ...] = ()

    def point_prediction(self, values: Tensor) -> Tensor:
        """Select the point predictions: (..., n_outputs * per_output) to (..., n_outputs)."""
        return values[..., self.index :: self.per_output]

    def std(self, values: Tensor) -> Tensor | None:
        """Select the standard deviations: (..., n_outputs); ``None`` if there are none."""
        return None

    def quantile(self, values: Tensor, level: float) -> Tensor | None:
        """Compute the quantile of a level: (..., n_outputs); ``None`` if it is not known."""
        return None

    def describe(self) -> str:
        """Describe the columns of an output, for messages."""
        return "a point prediction"

    def combine_members(self, values: Tensor) -> Tensor:
        """Combine the predictions of an ensemble: (n_members, ...) to (...)."""
        return values.mean(dim=0)

    def initial_target(self, t: Tensor) -> Tensor:
        """Compute approximate network outputs for targets, for ``initialize_from``.

        Parameters
        ----------
        t : Tensor of shape (n, n_outputs)
            Standardized.

        Returns
        -------
        Tensor of shape (n, n_outputs * per_output)
            The targets in the columns of the point predictions, 0 elsewhere.
        """
        start = t.new_zeros(len(t), t.shape[1] * self.per_output)
        start[:, self.index :: self.per_output] = t
        return start


class Exponential(Link):
    r"""The exponential, :math:`e^p`: predictions are positive, and effects are factors.

    An input of 0 is mapped to 1, the mean of a y that was divided by its mean.

    Examples
    --------
    >>> Exponential()(torch.tensor([[0.0]]))
    tensor([[1.]])
    """

    def forward(self, p: Tensor) -> Tensor:
        """Compute means from their logarithms: shape (...) to the same."""
        return p.exp()

    def initial_target(self, t: Tensor) -> Tensor:
        """Compute logarithms of targets above the mean of 1, and below it the tangent.

        The tangent :math:`t - 1` is finite at 0; the first step of iteratively reweighted least
        squares fits it. Above the mean, large targets have less influence on the logarithm.
        """
        return torch.where(t < 1, t - 1, t.clamp(min=1).log())


class Quantiles(Link):
    r"""Quantiles of several levels that never cross.

    .. math:: q_m = p_m + z_m, \qquad
              q_{l+1} = q_l + \mathrm{softplus}(p_{l+1} + c_{l+1}) \text{ above } m, \qquad
              q_{l-1} = q_l - \mathrm{softplus}(p_{l-1} + c_{l-1}) \text{ below}

    where m is the predicted level, and the constants map an input of 0 to the quantiles :math:`z`
    of the standard normal distribution.

    Parameters
    ----------
    levels : iterable of float
        Distinct levels between 0 and 1.

    Attributes
    ----------
    levels : tuple of float
        In ascending order.
    index : int
        Index of level 0.5 or, without it, of the one in the middle.
    offset : Tensor of shape (n_levels,)
        The constants, a buffer.

    Raises
    ------
    ValueError
        If a level is not a number between 0 and 1, there is none, or two are equal.

    Examples
    --------
    >>> layer = Quantiles([0.9, 0.1, 0.5])
    >>> layer
    Quantiles(levels=(0.1, 0.5, 0.9))
    >>> layer(torch.tensor([[0.0, 0.0, 0.0], [-5.0, 1.0, 2.0]]))
    tensor([[-1.2816,  0.0000,  1.2816],
            [ 0.9826,  1.0000,  4.0071]])
    """

    offset: Tensor

    def __init__(self, levels: Iterable[float]) -> None:
        super().__init__()
        self.levels = _check_levels(levels)
        self.per_output = len(self.levels)
        median = self.find_level(0.5)
        self.index = self.per_output // 2 if median is None else median
        z = [NormalDist().inv_cdf(level) for level in self.levels]
        # The inverse of softplus at the distance to the next quantile towards the predicted one.
        offsets = [math.log(math.expm1(b - a)) for a, b in pairwise(z)]
        offsets.insert(self.index, z[self.index])
        self.register_buffer("offset", torch.tensor(offsets, dtype=torch.float64))

    def find_level(self, level: float) -> int | None:
        """Find the index of a level; ``None`` if it is missing."""
        for index, known in enumerate(self.levels):
            if abs(known - level) <= _LEVEL_TOLERANCE:
                return index
        return None

    def quantile(self, values: Tensor, level: float) -> Tensor | None:
        """Select the quantile of a level: (..., n_outputs); ``None`` if it is missing."""
        index = self.find_level(level)
        return None if index is None else values[..., index :: self.per_output]

    def describe(self) -> str:
        """List the levels."""
        return f"the levels {', '.join(map(str, self.levels))}"

    def split_levels(self, p: Tensor) -> Tensor:
        """Compute quantiles: (..., n_outputs * n_levels) to (..., n_outputs, n_levels)."""
        m, n = self.index, self.per_output
        # (..., n_outputs * n_levels) -> (..., n_outputs, n_levels)
        p = p.reshape(*p.shape[:-1], -1, n) + self.offset.to(p.dtype)
        middle = p[..., m : m + 1]
        parts = [middle]
        if m > 0:
            steps = functional.softplus(p[..., :m]).flip(-1).cumsum(-1).flip(-1)
            parts.insert(0, middle - steps)
        if m < n - 1:
            parts.append(middle + functional.softplus(p[..., m + 1 :]).cumsum(-1))
        return torch.cat(parts, dim=-1) if n > 1 else middle

    def forward(self, p: Tensor) -> Tensor:
        """Compute quantiles: (..., n_outputs * n_levels) to the same shape."""
        # (..., n_outputs, n_levels) -> (..., n_outputs * n_levels)
        return self.split_levels(p).flatten(-2)

    def extra_repr(self) -> str:
        """Show the levels."""
        return f"levels={self.levels}"


class Normal(Link):
    r"""Mean and standard deviation of a normal distribution.

    .. math:: \mu = p_0, \qquad \sigma = \sigma_0 + \mathrm{softplus}(p_1 + c)

    with :math:`\sigma_0 = 10^{-3}`, and c such that an input of 0 is mapped to the standard normal
    distribution.

    Examples
    --------
    >>> Normal()(torch.tensor([[0.0, 0.0]]))
    tensor([[0.0000, 1.0000]])
    """

    per_output = 2
    differences = (1,)

    #: The inverse of softplus at 1 - MIN_STD.
    _OFFSET = math.log(math.expm1(1 - MIN_STD))

    @classmethod
    def mean_and_std(cls, p: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both from an input: (..., n_outputs * 2) to (..., n_outputs) each."""
        return p[..., ::2], functional.softplus(p[..., 1::2] + cls._OFFSET) + MIN_STD

    def forward(self, p: Tensor) -> Tensor:
        """Compute both in adjacent columns: shape (..., n_outputs * 2) to the same."""
        # (..., n_outputs, 2) -> (..., n_outputs * 2)
        return torch.stack(self.mean_and_std(p), dim=-1).flatten(-2)

    def std(self, values: Tensor) -> Tensor:
        """Select the standard deviations: (..., n_outputs * 2) to (..., n_outputs)."""
        return values[..., 1::2]

    def quantile(self, values: Tensor, level: float) -> Tensor:
        """Compute the quantile of a level: (..., n_outputs * 2) to (..., n_outputs)."""
        return values[..., ::2] + NormalDist().inv_cdf(level) * values[..., 1::2]

    def combine_members(self, values: Tensor) -> Tensor:
        """Compute mean and standard deviation of the mixture: (n_members, ...) to (...)."""
        mean, std = values[..., ::2], values[..., 1::2]
        # The law of total variance, with hypotenuses in place of squares that may overflow.
        inner = reduce(torch.hypot, std.unbind()) / math.sqrt(len(std))
        total = inner.hypot(mean.std(dim=0, correction=0))
        # (..., n_outputs, 2) -> (..., n_outputs * 2)
        return torch.stack([mean.mean(dim=0), total], dim=-1).flatten(-2)


def link_of(module: nn.Module) -> Link | None:
    """Return the link of a fitted module, if it has one."""
    link = getattr(module, "link", None)
    return link if isinstance(link, Link) else None


def columns_per_output(module: nn.Module) -> int:
    """Count the columns that a fitted module has for each output."""
    link = link_of(module)
    return 1 if link is None else link.per_output


def point_prediction(module: nn.Module, values: Tensor) -> Tensor:
    """Select the point predictions in the output of a fitted module: one column per output."""
    link = link_of(module)
    return values if link is None or link.per_output == 1 else link.point_prediction(values)


def prediction_column(module: nn.Module, output: int) -> int:
    """Find the column of a fitted module that is the point prediction of an output."""
    link = link_of(module)
    return output if link is None else output * link.per_output + link.index


def target_layer(module: nn.Module) -> Unstandardize | None:
    """Return the layer that converts standardized targets to raw units: one column per output."""
    layer, link = getattr(module, "unstandardize", None), link_of(module)
    if not isinstance(layer, Unstandardize):
        return None
    if link is None or link.per_output == 1:
        return layer
    return Unstandardize(link.point_prediction(layer.mean), link.point_prediction(layer.scale))


def repeat_per_column(link: Link | None, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat means and scales of outputs for each of their columns; a difference has mean 0."""
    if link is None or link.per_output == 1:
        return mean, scale
    mean, scale = (values.repeat_interleave(link.per_output) for values in (mean, scale))
    for index in link.differences:
        mean[index :: link.per_output] = 0.0
    return mean, scale


def _check_levels(levels: Iterable[float]) -> tuple[float, ...]:
    given = list(levels)
    for level in given:
        if isinstance(level, bool) or not isinstance(level, Real) or not 0 < level < 1:
            raise ValueError(f"Quantiles expects levels between 0 and 1, got {level!r}.")
    found = sorted(float(level) for level in given)
    if not found:
        raise ValueError("Quantiles expects one level or more, got none.")
    if any(b - a <= _LEVEL_TOLERANCE for a, b in pairwise(found)):
        raise ValueError(f"Quantiles expects levels that differ, got {found}.")
    return tuple(found)
