"""Links: how the numbers that a network gives become predictions, still standardized."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from numbers import Real
from statistics import NormalDist

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchreg.nn.standardize import Unstandardize

#: The least standard deviation that :class:`Normal` gives, in units of its input's: what
#: a network predicts to a thousandth of y's own spread is predicted. Without it the likelihood
#: of a few rows that are met exactly would grow for ever, and the gradient with it.
LEAST_STD = 1e-3

#: Levels closer than this are the same: 0.1 + 0.2 is 0.3.
_SAME_LEVEL = 1e-9


class Link(nn.Module):
    """What stands between a network and ``Unstandardize``: several numbers per output, perhaps.

    The numbers of one output stand beside each other: columns come and go as ``output 0``,
    ``output 0``, ..., ``output 1``, ...

    Attributes
    ----------
    per_output : int
        Numbers per output.
    place : int
        Which of them is the prediction.
    differences : tuple of int
        Those that are distances, which ``Unstandardize`` scales and does not shift.
    """

    per_output: int = 1
    place: int = 0
    differences: tuple[int, ...] = ()

    def central(self, values: Tensor) -> Tensor:
        """Take the predictions: shape (..., n_outputs * per_output) to (..., n_outputs)."""
        return values[..., self.place :: self.per_output]

    def working(self, t: Tensor) -> Tensor:
        """Give what a network should give for targets, roughly, to begin with.

        Parameters
        ----------
        t : Tensor of shape (n, n_outputs)
            Standardized.

        Returns
        -------
        Tensor of shape (n, n_outputs * per_output)
            The targets as predictions, 0 beside them.
        """
        start = t.new_zeros(len(t), t.shape[1] * self.per_output)
        start[:, self.place :: self.per_output] = t
        return start


class Exponential(Link):
    r"""The exponential, :math:`e^p`: predictions are positive, and effects are factors.

    An input of 0 gives 1, which is the mean of a y that was divided by its mean.

    Examples
    --------
    >>> Exponential()(torch.tensor([[0.0]]))
    tensor([[1.]])
    """

    def forward(self, p: Tensor) -> Tensor:
        """Compute means from their logarithms: shape (...) to the same."""
        return p.exp()

    def working(self, t: Tensor) -> Tensor:
        """Give logarithms of targets or, below the mean of 1, the tangent, which is finite at 0.

        The tangent :math:`t - 1` is what the first step of iteratively reweighted least squares
        fits; above the mean the logarithm is less moved by large targets.
        """
        return torch.where(t < 1, t - 1, t.clamp(min=1).log())


class Quantiles(Link):
    r"""Quantiles of several levels that never cross.

    .. math:: q_m = p_m + z_m, \qquad
              q_{l+1} = q_l + \mathrm{softplus}(p_{l+1} + c_{l+1}) \text{ above } m, \qquad
              q_{l-1} = q_l - \mathrm{softplus}(p_{l-1} + c_{l-1}) \text{ below}

    where m is the level that is predicted, and the constants are such that an input of 0 gives
    the quantiles :math:`z` of the standard normal distribution.

    Parameters
    ----------
    levels : iterable of float
        Between 0 and 1, of which no two are the same.

    Attributes
    ----------
    levels : tuple of float
        In ascending order.
    place : int
        Of level 0.5 or, without it, the one in the middle.
    offset : Tensor of shape (n_levels,)
        The constants, a buffer.

    Raises
    ------
    ValueError, TypeError
        If a level is not a number between 0 and 1, there is none, or one comes twice.

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
        self.levels = _checked(levels)
        self.per_output = len(self.levels)
        self.place = self.per_output // 2
        if (median := self.find(0.5)) is not None:
            self.place = median
        z = [NormalDist().inv_cdf(level) for level in self.levels]
        # The inverse of softplus, of the distance to the neighbour on the side of the centre.
        offsets = [math.log(math.expm1(b - a)) for a, b in pairwise(z)]
        offsets.insert(self.place, z[self.place])
        self.register_buffer("offset", torch.tensor(offsets, dtype=torch.float64))

    def find(self, level: float) -> int | None:
        """Find the place of a level; ``None`` if it is not there."""
        for place, known in enumerate(self.levels):
            if abs(known - level) <= _SAME_LEVEL:
                return place
        return None

    def apart(self, p: Tensor) -> Tensor:
        """Compute quantiles: (..., n_outputs * n_levels) to (..., n_outputs, n_levels)."""
        m, n = self.place, self.per_output
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
        return self.apart(p).flatten(-2)

    def extra_repr(self) -> str:
        """Show the levels."""
        return f"levels={self.levels}"


class Normal(Link):
    r"""Mean and standard deviation of a normal distribution.

    .. math:: \mu = p_0, \qquad \sigma = \sigma_0 + \mathrm{softplus}(p_1 + c)

    with :math:`\sigma_0 = 10^{-3}`, and c such that an input of 0 gives the standard normal
    distribution.

    Examples
    --------
    >>> Normal()(torch.tensor([[0.0, 0.0]]))
    tensor([[0.0000, 1.0000]])
    """

    per_output = 2
    differences = (1,)

    #: The inverse of softplus at what is left of 1.
    _OFFSET = math.log(math.expm1(1 - LEAST_STD))

    def mean_and_std(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both from numbers: (..., n_outputs * 2) to (..., n_outputs) each."""
        return p[..., ::2], functional.softplus(p[..., 1::2] + self._OFFSET) + LEAST_STD

    def forward(self, p: Tensor) -> Tensor:
        """Compute both, side by side: shape (..., n_outputs * 2) to the same."""
        return self.beside(*self.mean_and_std(p))

    def beside(self, mean: Tensor, std: Tensor) -> Tensor:
        """Put both side by side: shape (..., n_outputs) each to (..., n_outputs * 2)."""
        # (..., n_outputs, 2) -> (..., n_outputs * 2)
        return torch.stack([mean, std], dim=-1).flatten(-2)

    def central_and_std(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take both out of predictions: (..., n_outputs * 2) to (..., n_outputs) each."""
        return values[..., ::2], values[..., 1::2]


def link_of(module: nn.Module) -> Link | None:
    """Give the link of a fitted module, if it has one."""
    link = getattr(module, "link", None)
    return link if isinstance(link, Link) else None


def numbers_per_output(module: nn.Module) -> int:
    """Count the columns that a fitted module gives for each output."""
    link = link_of(module)
    return 1 if link is None else link.per_output


def central_of(module: nn.Module, values: Tensor) -> Tensor:
    """Take the predictions out of what a fitted module gives: one column per output."""
    link = link_of(module)
    return values if link is None or link.per_output == 1 else link.central(values)


def column_of(module: nn.Module, output: int) -> int:
    """Find the column in which a fitted module gives the prediction of an output."""
    link = link_of(module)
    return output if link is None else output * link.per_output + link.place


def target_layer(module: nn.Module) -> Unstandardize | None:
    """Give the layer that brings standardized *targets* to raw units: one column per output.

    It is that of the predictions, of which there may be several per output.
    """
    layer, link = getattr(module, "unstandardize", None), link_of(module)
    if not isinstance(layer, Unstandardize):
        return None
    if link is None or link.per_output == 1:
        return layer
    return Unstandardize(link.central(layer.mean), link.central(layer.scale))


def for_each_number(link: Link | None, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat means and scales of outputs for each of their numbers; a distance has no mean."""
    if link is None or link.per_output == 1:
        return mean, scale
    mean, scale = (numbers.repeat_interleave(link.per_output) for numbers in (mean, scale))
    for place in link.differences:
        mean[place :: link.per_output] = 0.0
    return mean, scale


def _checked(levels: Iterable[float]) -> tuple[float, ...]:
    given = list(levels)
    for level in given:
        if isinstance(level, bool) or not isinstance(level, Real) or not 0 < level < 1:
            raise ValueError(f"Quantiles expects levels between 0 and 1, got {level!r}.")
    found = sorted(float(level) for level in given)
    if not found:
        raise ValueError("Quantiles expects one level or more, got none.")
    if any(b - a <= _SAME_LEVEL for a, b in pairwise(found)):
        raise ValueError(f"Quantiles expects levels that differ, got {found}.")
    return tuple(found)
