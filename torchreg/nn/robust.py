"""Scaling by quartiles, with a smooth clip: rows far away and rare columns keep their size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from torchreg.nn.constants import show

#: Where the smooth clip ends: no value lies further from 0 than this.
LIMIT = 3.0
#: Beyond this the clip has ended, to the last bit; its square still fits float32.
_FAR = 1e9
#: A spread below this many spacings of the column's largest number is what rounding leaves.
_CONSTANT_SPACINGS = 4.0
#: Shares of the weights that differ by less are the same: weights may come in float32.
_SAME_SHARE = 1e-6
#: Numbers that are sorted at once.
_SORTED = 2**20


class RobustStandardize(nn.Module):
    r"""Bring raw units to order 1 by quartiles, and keep what lies far away near.

    .. math:: z = \frac{x - \mathrm{center}}{\mathrm{scale}}, \qquad
              \frac{z}{\sqrt{1 + (z / 3)^2}}

    A measurement is centred at its median and divided by the distance of its quartiles, or,
    where these coincide, by half its range; the smooth clip keeps it within 3 of 0. A column
    whose scale is 0 was constant: it becomes 0, whatever it holds later.

    A column of two values is no measurement, and is not clipped: it is centred at its *mean*
    and divided by half the distance of the two. Where both are as common they become -1 and 1,
    where one is rare 0 and 2: never further from 0 than that, however rare (its standard
    deviation, by which plain standardization divides, goes to 0 with the rarer value), and 0 on
    average, so that many rare columns do not add up to an offset.

    The subtraction happens in the dtype of the buffers, *before* the cast, as in
    :class:`Standardize`.

    Parameters
    ----------
    center : float or array-like of shape (n_features,)
        In the unit of the input.
    scale : float or array-like of shape (n_features,)
        In the unit of the input; 0 marks a constant column.
    binary : bool or array-like of bool of shape (n_features,), default=False
        Which columns hold two values, and are not clipped.
    dtype : torch.dtype or None, default=None
        Dtype that comes out, as in :class:`Standardize`.

    Attributes
    ----------
    center, scale : Tensor of shape () or (n_features,)
        Buffers, in float64 until ``.to(dtype)`` changes them.
    binary : Tensor of bool, of the same shape
        A buffer.

    Raises
    ------
    TypeError, ValueError
        If the numbers are not finite, differ in shape, or a scale is negative.

    References
    ----------
    D. Holzmueller, L. Grinsztajn and I. Steinwart, "Better by Default: Strong Pre-Tuned MLPs and
    Boosted Trees on Tabular Data", NeurIPS 2024: robust scaling and smooth clipping. Columns of
    two values are ours.

    Examples
    --------
    >>> rows = torch.tensor([[1.0, 0.0, 7.0], [2.0, 0.0, 7.0], [3.0, 0.0, 7.0], [1e9, 1.0, 7.0]])
    >>> layer = RobustStandardize.from_rows(rows)
    >>> layer
    RobustStandardize(center=[2.5, 0.25, 7], scale=[5e+08, 0.5, 0], binary=[1])
    >>> layer = RobustStandardize(center=[2.0, 0.25], scale=[1.0, 0.5], binary=[False, True])
    >>> layer(torch.tensor([[3.0, 0.0], [1e9, 1.0]]))
    tensor([[ 0.9487, -0.5000],
            [ 3.0000,  1.5000]])
    """

    center: Tensor
    scale: Tensor
    binary: Tensor

    def __init__(
        self,
        center: float | Sequence[float] | Tensor,
        scale: float | Sequence[float] | Tensor,
        binary: bool | Sequence[bool] | Tensor = False,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for key, value in (("center", center), ("scale", scale)):
            number = torch.as_tensor(value, dtype=torch.float64)
            if number.ndim > 1 or not bool(torch.isfinite(number).all()):
                raise ValueError(
                    f"RobustStandardize({key}=...) expects a finite number, or one of them for "
                    f"each column, got {value!r}."
                )
            self.register_buffer(key, number.detach().clone())
        if self.center.shape != self.scale.shape:
            raise ValueError(
                f"RobustStandardize expects one scale for each center, got {self.scale.numel()} "
                f"for {self.center.numel()}."
            )
        if bool((self.scale < 0).any()):
            raise ValueError(
                f"RobustStandardize expects scales of 0 or more, got {show(self.scale)}."
            )
        which = torch.as_tensor(binary, device=self.center.device)
        if which.dtype != torch.bool or which.shape not in (torch.Size(), self.center.shape):
            raise ValueError(
                "RobustStandardize expects binary as True or False, or one of them for each "
                f"column, got {binary!r}."
            )
        self.register_buffer("binary", which.expand(self.center.shape).clone())
        self.dtype = dtype

    @classmethod
    def from_rows(
        cls, x: Tensor, weight: Tensor | None = None, *, dtype: torch.dtype | None = None
    ) -> Self:
        """Compute the numbers from rows.

        Parameters
        ----------
        x : Tensor of shape (n, n_features)
            In the unit that the layer is for.
        weight : Tensor of shape (n,) or None
            A weight stands for a repetition; only ratios matter.
        dtype : torch.dtype or None
            Of what comes out.
        """
        return cls(*robust_statistics(x, weight), dtype=dtype)

    def initialize_from(self, x: Tensor, t: Tensor | None, weight: Tensor | None) -> None:
        """Take the numbers from rows, in place; see :meth:`from_rows`. ``t`` is not looked at."""
        for buffer, value in zip(
            (self.center, self.scale, self.binary), robust_statistics(x, weight), strict=True
        ):
            buffer.copy_(value)

    def measurements(self) -> list[int]:
        """List the columns that are neither constant nor of two values.

        Examples
        --------
        >>> RobustStandardize([0.0, 0.0, 0.0], [1.0, 0.0, 1.0], [True, False, False]).measurements()
        [2]
        """
        chosen: list[int] = torch.nonzero(~self.binary & (self.scale > 0))[:, 0].tolist()
        return chosen

    def forward(self, x: Tensor) -> Tensor:
        """Scale and clip: shape (..., n_features) in raw units to the same, dimensionless."""
        return self.clip(self.scaled(x))

    def scaled(self, x: Tensor) -> Tensor:
        """Scale only: shape (..., n_features) in raw units to the same, dimensionless."""
        dtype = self.dtype
        if dtype is None:
            dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        divisor = self.scale.masked_fill(self.scale == 0, math.inf)
        z = (self._held(x.to(self.center.dtype)) - self.center) / divisor
        return z.clamp(-_FAR, _FAR).to(dtype)

    def _held(self, x: Tensor) -> Tensor:
        """Keep raw units, in the buffers' dtype, within bounds: there are none."""
        return x

    def clip(self, z: Tensor) -> Tensor:
        """Clip what was scaled, smoothly: any shape (..., n_features)."""
        return torch.where(self.binary, z, z / (1 + (z / LIMIT).square()).sqrt())

    def extra_repr(self) -> str:
        """Show the numbers themselves, and which columns hold two values."""
        numbers = f"center={show(self.center)}, scale={show(self.scale)}"
        if self.binary.ndim == 0:
            return f"{numbers}, binary={bool(self.binary)}"
        which = torch.nonzero(self.binary)[:, 0]
        return f"{numbers}, binary={show(which)}" if len(which) else numbers

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # The dtype that this layer hands on follows .to(), as in Standardize.
        if self.dtype is not None:
            self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


class ScaledAndClipped(RobustStandardize):
    r"""Give scaled columns without the clip, held near their range, and beside them with it.

    For a network that looks at both, as :class:`torchreg.nn.TabularMLP`, and lays a straight line
    through the first. A line goes on for ever: one row far beyond all others, and its prediction
    is absurd. So a value counts as far as ``low`` and ``high`` at most. :meth:`from_rows` puts
    them as far beyond the rows' smallest and largest value as these are apart. All else is
    :class:`RobustStandardize`.

    Parameters
    ----------
    center, scale, binary
        See :class:`RobustStandardize`.
    low, high : float or array-like of shape (n_features,), default=-inf, inf
        In the unit of the input.
    dtype : torch.dtype or None, default=None
        See :class:`RobustStandardize`.

    Attributes
    ----------
    low, high : Tensor of shape () or (n_features,)
        Buffers, as ``center``.

    Examples
    --------
    >>> layer = ScaledAndClipped(center=[2.0], scale=[0.5], low=[-2.0], high=[7.0])
    >>> layer(torch.tensor([[4.0], [1e6]]))
    tensor([[ 4.0000,  2.4000],
            [10.0000,  2.8735]])
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        center: float | Sequence[float] | Tensor,
        scale: float | Sequence[float] | Tensor,
        binary: bool | Sequence[bool] | Tensor = False,
        low: float | Sequence[float] | Tensor = -math.inf,
        high: float | Sequence[float] | Tensor = math.inf,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(center, scale, binary, dtype=dtype)
        for key, value in (("low", low), ("high", high)):
            number = torch.as_tensor(value, dtype=torch.float64, device=self.center.device)
            if number.shape not in (torch.Size(), self.center.shape) or bool(number.isnan().any()):
                raise ValueError(
                    f"ScaledAndClipped({key}=...) expects a number, or one of them for each "
                    f"column, got {value!r}."
                )
            self.register_buffer(key, number.detach().expand(self.center.shape).clone())

    @classmethod
    def from_rows(
        cls, x: Tensor, weight: Tensor | None = None, *, dtype: torch.dtype | None = None
    ) -> Self:
        """Compute the numbers from rows; see :meth:`RobustStandardize.from_rows`."""
        return cls(*robust_statistics(x, weight), *_bounds(x, weight), dtype=dtype)

    def initialize_from(self, x: Tensor, t: Tensor | None, weight: Tensor | None) -> None:
        """Take the numbers from rows, in place; see :meth:`from_rows`. ``t`` is not looked at."""
        super().initialize_from(x, t, weight)
        for buffer, value in zip((self.low, self.high), _bounds(x, weight), strict=True):
            buffer.copy_(value)

    def forward(self, x: Tensor) -> Tensor:
        """Scale: shape (n, n_features) in raw units to (n, 2 * n_features), dimensionless."""
        scaled = self.scaled(x)
        return torch.cat([scaled, self.clip(scaled)], dim=1)

    def _held(self, x: Tensor) -> Tensor:
        # Not torch.clamp: the clip that follows is fused with it into an ONNX graph out of order.
        return torch.where(x > self.high, self.high, torch.where(x < self.low, self.low, x))


def _bounds(x: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Lie as far beyond the smallest and the largest value of columns as these are apart."""
    if weight is not None:
        x = x[weight > 0]
    least, most = (bound.to(torch.float64) for bound in torch.aminmax(x, dim=0))
    return least - (most - least), most + (most - least)


def robust_statistics(x: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Compute median and quartiles of each column, and find the columns of two values.

    A quartile is the smallest value up to which a quarter of the rows lie, or, where that is
    exactly a quarter, the middle between it and the next (``method="averaged_inverted_cdf"`` of
    ``numpy.quantile``). So repeating a row is giving it an integer weight, and a reversed column
    has reversed quartiles.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
        With one row or more.
    weight : Tensor of shape (n,) or None
        0 or more, and some above 0.

    Returns
    -------
    center, scale : Tensor of shape (n_features,)
        What each column is centred at and divided by, in float64.
    binary : Tensor of shape (n_features,)
        Whether it has two values.

    Examples
    --------
    >>> robust_statistics(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.0, 1.0, 2.0]))[0]
    tensor([3.], dtype=torch.float64)
    """
    if weight is not None and bool((weight == 0).any()):
        x, weight = x[weight > 0], weight[weight > 0]
    if not len(x):
        raise ValueError("RobustStandardize expects rows to compute its numbers from, got none.")
    blocks = x.split(max(1, _SORTED // len(x)), dim=1)
    parts = [_of_columns(block, weight) for block in blocks]
    # several of (n_columns,) -> (n_features,)
    center, scale, binary = (torch.cat(part) for part in zip(*parts, strict=True))
    return center, scale, binary


def _of_columns(x: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    # (n, n_columns) -> (n_columns, n)
    columns, order = x.t().contiguous().sort(dim=1)
    n = len(x)
    if weight is None:
        reached = torch.arange(1, n + 1, dtype=torch.float64, device=x.device) / n
        # (n,) -> (n_columns, n)
        reached = reached.expand(columns.shape)
    else:
        reached = weight.to(torch.float64)[order].cumsum(dim=1)
        reached = reached / reached[:, -1:]
    low, median, high = (_quantile(columns, reached, p) for p in (0.25, 0.5, 0.75))
    least, most = columns[:, 0].to(torch.float64), columns[:, -1].to(torch.float64)
    eps = torch.finfo(x.dtype).eps
    rounding = _CONSTANT_SPACINGS * eps * torch.maximum(least.abs(), most.abs())
    constant = most - least <= rounding
    of_low, of_high = columns == columns[:, :1], columns == columns[:, -1:]
    binary = (of_low | of_high).all(dim=1) & ~constant
    # What lies below the second value is the share of the first.
    first = (reached * of_low).amax(dim=1)
    mean = least * first + most * (1 - first)
    half = (most - least) / 2
    scale = torch.where(binary | (high - low <= rounding), half, high - low)
    center = torch.where(binary, mean, median)
    return center, scale.masked_fill(constant, 0.0), binary


def _quantile(columns: Tensor, reached: Tensor, p: float) -> Tensor:
    """Find where sorted columns (n_columns, n) reach a share of the weights: (n_columns,)."""
    last = columns.shape[1] - 1
    # The first value that reaches the share, and the first that is beyond it.
    here, beyond = (
        (reached < bound).sum(dim=1, keepdim=True).clamp(max=last)
        for bound in (p - _SAME_SHARE, p + _SAME_SHARE)
    )
    one, other = (columns.gather(1, place)[:, 0].to(torch.float64) for place in (here, beyond))
    return one + (other - one) / 2
