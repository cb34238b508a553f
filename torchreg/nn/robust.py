"""Robust scaling by quartiles, with a smooth clip."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from torchreg.nn.affine import format_values

#: Limit of the smooth clip.
LIMIT = 3.0
#: Bound of scaled values: the clip of larger ones is equal, and their squares may overflow.
MAX_SCALED = 1e9
#: A range below this many roundings of the largest value is that of a constant column.
_CONSTANT_ROUNDINGS = 4.0
#: Cumulative weights that differ by less are equal, because weights may be float32.
_WEIGHT_TOLERANCE = 1e-6
#: Largest number of values to sort at once.
_SORT_SIZE = 2**20


class RobustStandardize(nn.Module):
    r"""Scale columns by their quartiles, and clip outliers smoothly.

    .. math:: z = \frac{x - \mathrm{center}}{\mathrm{scale}}, \qquad
              \frac{z}{\sqrt{1 + (z / 3)^2}}

    A continuous column is centred at its median and divided by its interquartile range or, if that
    is 0, by half its range; the clip bounds it by 3. The output of a column whose scale is 0,
    which was constant in the training rows, is 0 for any input.

    A binary column has two values. It is centred at its *mean*, divided by half their difference,
    and not clipped. So its output is between -2 and 2 even if one value is rare (the standard
    deviation would be near 0), and its mean is 0, so that many rare columns have no offset.

    As in :class:`Standardize`, the subtraction has the dtype of the buffers and precedes the cast.

    Parameters
    ----------
    center : float or array-like of shape (n_features,)
        In the unit of the input.
    scale : float or array-like of shape (n_features,)
        In the unit of the input; 0 marks a constant column.
    binary : bool or array-like of bool of shape (n_features,), default=False
        Which columns have two values, and are not clipped.
    dtype : torch.dtype or None, default=None
        Dtype of the output, as in :class:`Standardize`.

    Attributes
    ----------
    center, scale : Tensor of shape () or (n_features,)
        Buffers, in float64 unless ``.to(dtype)`` changes them.
    binary : Tensor of bool, of the same shape
        A buffer.

    Raises
    ------
    TypeError, ValueError
        If the numbers are not finite, differ in shape, or a scale is negative.

    References
    ----------
    D. Holzmueller, L. Grinsztajn and I. Steinwart, "Better by Default: Strong Pre-Tuned MLPs and
    Boosted Trees on Tabular Data", NeurIPS 2024: robust scaling and smooth clipping, without the
    rule for binary columns.

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
            if number.ndim > 1 or not _holds(torch.isfinite(number)):
                raise ValueError(
                    f"RobustStandardize({key}=...) expects a finite number, or one for each "
                    f"column, got {value!r}."
                )
            self.register_buffer(key, number.detach().clone())
        if self.center.shape != self.scale.shape:
            raise ValueError(
                f"RobustStandardize expects one scale for each center, got {self.scale.numel()} "
                f"for {self.center.numel()}."
            )
        if not _holds(self.scale >= 0):
            raise ValueError(
                f"RobustStandardize expects scales of 0 or more, got {format_values(self.scale)}."
            )
        which = torch.as_tensor(binary, device=self.center.device)
        if which.dtype != torch.bool or which.shape not in (torch.Size(), self.center.shape):
            raise ValueError(
                "RobustStandardize expects binary as a bool, or one for each column, "
                f"got {binary!r}."
            )
        self.register_buffer("binary", which.expand(self.center.shape).clone())
        self.dtype = dtype

    @classmethod
    def from_rows(
        cls, x: Tensor, weight: Tensor | None = None, *, dtype: torch.dtype | None = None
    ) -> Self:
        """Build the layer from training rows.

        Parameters
        ----------
        x : Tensor of shape (n, n_features)
            Raw units.
        weight : Tensor of shape (n,) or None
            Sample weights; only ratios matter.
        dtype : torch.dtype or None
            Dtype of the output.
        """
        return cls(*robust_statistics(x, weight), dtype=dtype)

    def initialize_from(self, x: Tensor, t: Tensor | None, weight: Tensor | None) -> None:
        """Set the buffers from training rows; see :meth:`from_rows`. ``t`` is ignored."""
        for buffer, value in zip(
            (self.center, self.scale, self.binary), robust_statistics(x, weight), strict=True
        ):
            buffer.copy_(value)

    def continuous_columns(self) -> list[int]:
        """List the columns that are neither constant nor binary."""
        chosen: list[int] = torch.nonzero(~self.binary & (self.scale > 0))[:, 0].tolist()
        return chosen

    def forward(self, x: Tensor) -> Tensor:
        """Scale and clip: shape (..., n_features) in raw units to the same, dimensionless."""
        return self.clip(self.rescale(x))

    def rescale(self, x: Tensor) -> Tensor:
        """Scale without the clip: shape (..., n_features) to the same, dimensionless."""
        dtype = self.dtype
        if dtype is None:
            dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        divisor = self.scale.masked_fill(self.scale == 0, math.inf)
        z = (self._clamp(x.to(self.center.dtype)) - self.center) / divisor
        return z.clamp(-MAX_SCALED, MAX_SCALED).to(dtype)

    def _clamp(self, x: Tensor) -> Tensor:
        """Clamp raw values; a subclass may."""
        return x

    def clip(self, z: Tensor) -> Tensor:
        """Clip scaled values smoothly: shape (..., n_features)."""
        return torch.where(self.binary, z, z / (1 + (z / LIMIT).square()).sqrt())

    def extra_repr(self) -> str:
        """Show center and scale, and which columns are binary."""
        numbers = f"center={format_values(self.center)}, scale={format_values(self.scale)}"
        if self.binary.ndim == 0:
            return f"{numbers}, binary={bool(self.binary)}"
        which = torch.nonzero(self.binary)[:, 0]
        return f"{numbers}, binary={format_values(which)}" if len(which) else numbers

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # The output dtype follows .to(), as in Standardize.
        if self.dtype is not None:
            self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


class ScaledAndClipped(RobustStandardize):
    r"""Concatenate the output of :class:`RobustStandardize` without and with the smooth clip.

    The input is clamped to the range from ``low`` to ``high``, so that a linear function of values
    without the smooth clip does not extrapolate far. :meth:`from_rows` extends the range of the
    training rows by its width on both sides.

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
        Buffers.

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
            if number.shape not in (torch.Size(), self.center.shape) or not _holds(~number.isnan()):
                raise ValueError(
                    f"ScaledAndClipped({key}=...) expects a number, or one for each column, "
                    f"got {value!r}."
                )
            self.register_buffer(key, number.detach().expand(self.center.shape).clone())

    @classmethod
    def from_rows(
        cls, x: Tensor, weight: Tensor | None = None, *, dtype: torch.dtype | None = None
    ) -> Self:
        """Build the layer from training rows; see :meth:`RobustStandardize.from_rows`."""
        return cls(*robust_statistics(x, weight), *_bounds(x, weight), dtype=dtype)

    def initialize_from(self, x: Tensor, t: Tensor | None, weight: Tensor | None) -> None:
        """Set the buffers from training rows; see :meth:`from_rows`. ``t`` is ignored."""
        super().initialize_from(x, t, weight)
        for buffer, value in zip((self.low, self.high), _bounds(x, weight), strict=True):
            buffer.copy_(value)

    def forward(self, x: Tensor) -> Tensor:
        """Scale: shape (n, n_features) in raw units to (n, 2 * n_features), dimensionless."""
        scaled = self.rescale(x)
        return torch.cat([scaled, self.clip(scaled)], dim=1)

    def _clamp(self, x: Tensor) -> Tensor:
        # Exporters to ONNX would fuse torch.clamp with the smooth clip in the wrong order.
        return torch.where(x > self.high, self.high, torch.where(x < self.low, self.low, x))


def _holds(condition: Tensor) -> bool:
    """Return whether a condition holds everywhere; tensors on the meta device have no values."""
    return condition.is_meta or bool(condition.all())


def _bounds(x: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Extend the range of each column by its width on both sides."""
    if weight is not None:
        x = x[weight > 0]
    least, most = (bound.to(torch.float64) for bound in torch.aminmax(x, dim=0))
    return least - (most - least), most + (most - least)


def robust_statistics(x: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Compute center and scale of each column, and find the binary columns.

    Quartiles are those of ``numpy.quantile(method="averaged_inverted_cdf")``, for which an integer
    weight is equivalent to repeated rows, and the negated column has negated quartiles.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
        One row or more.
    weight : Tensor of shape (n,) or None
        0 or more, and some above 0.

    Returns
    -------
    center, scale : Tensor of shape (n_features,)
        In float64.
    binary : Tensor of bool of shape (n_features,)

    Examples
    --------
    >>> robust_statistics(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.0, 1.0, 2.0]))[0]
    tensor([3.], dtype=torch.float64)
    """
    if weight is not None and bool((weight == 0).any()):
        x, weight = x[weight > 0], weight[weight > 0]
    if not len(x):
        raise ValueError("RobustStandardize expects rows with a weight above 0, got none.")
    blocks = x.split(max(1, _SORT_SIZE // len(x)), dim=1)
    parts = [_column_statistics(block, weight) for block in blocks]
    # several of (n_columns,) -> (n_features,)
    center, scale, binary = (torch.cat(part) for part in zip(*parts, strict=True))
    return center, scale, binary


def _column_statistics(x: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
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
    rounding = _CONSTANT_ROUNDINGS * eps * torch.maximum(least.abs(), most.abs())
    constant = most - least <= rounding
    of_low, of_high = columns == columns[:, :1], columns == columns[:, -1:]
    # Without the extremes: one far value must not make the quartiles of the others equal.
    trimmed = min(max(1, n // 100), (n - 1) // 2)
    inner = torch.maximum(columns[:, trimmed].abs(), columns[:, n - 1 - trimmed].abs())
    inner_rounding = _CONSTANT_ROUNDINGS * eps * inner.to(torch.float64)
    binary = (of_low | of_high).all(dim=1) & ~constant
    # The cumulative weight of the first value is its share.
    first = (reached * of_low).amax(dim=1)
    mean = least * first + most * (1 - first)
    scale = torch.where(binary | (high - low <= inner_rounding), (most - least) / 2, high - low)
    return torch.where(binary, mean, median), scale.masked_fill(constant, 0.0), binary


def _quantile(columns: Tensor, reached: Tensor, p: float) -> Tensor:
    """Compute a quantile of sorted columns with their cumulative weights: (n_columns,)."""
    last = columns.shape[1] - 1
    # The midpoint of the first value that reaches the level and the first beyond it.
    here, beyond = (
        (reached < bound).sum(dim=1, keepdim=True).clamp(max=last)
        for bound in (p - _WEIGHT_TOLERANCE, p + _WEIGHT_TOLERANCE)
    )
    one, other = (columns.gather(1, place)[:, 0].to(torch.float64) for place in (here, beyond))
    return one + (other - one) / 2
