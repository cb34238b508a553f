"""Standardization and its exact inverse as layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from torchreg.nn.constants import Constant, check_constant, format_values


class _Affine(nn.Module):
    """Base class of both layers, with a mean and a scale as float64 buffers."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Constant, scale: Constant) -> None:
        super().__init__()
        name = type(self).__name__
        for key, value in (("mean", mean), ("scale", scale)):
            number = check_constant(value, name=f"{name}({key}=...)", dtype=torch.float64)
            self.register_buffer(key, number)
        if self.mean.shape != self.scale.shape:
            raise ValueError(
                f"{name} expects a mean and a scale of the same shape, got "
                f"{tuple(self.mean.shape)} and {tuple(self.scale.shape)}."
            )
        if bool((self.scale < 0).any()):
            shown = format_values(self.scale)
            raise ValueError(f"{name} expects scales of 0 or more, got {shown}.")

    def extra_repr(self) -> str:
        """Show mean and scale."""
        return f"mean={format_values(self.mean)}, scale={format_values(self.scale)}"


class Standardize(_Affine):
    r"""Standardize raw units: :math:`z = (x - \mathrm{mean}) / \mathrm{scale}`.

    The subtraction has the dtype of the buffers (float64) and precedes the cast to the dtype of
    the following layers, so that a feature such as a Unix time (:math:`1.7\cdot10^9 \pm 100`)
    keeps its digits. The output of a column whose scale is 0, which was constant in the training
    rows, is 0 for any input.

    Parameters
    ----------
    mean : float or array-like of shape (n_features,)
        In the unit of the input.
    scale : float or array-like of shape (n_features,)
        Standard deviation, in the unit of the input; 0 marks a constant column.
    dtype : torch.dtype or None, default=None
        Dtype of the output. ``None``: the dtype of a floating-point input, and torch's default
        dtype for integers. ``.to(dtype)``, ``.float()`` and ``.double()`` change it together with
        the rest of a network.

    Attributes
    ----------
    mean, scale : Tensor of shape () or (n_features,)
        Buffers in float64.

    Raises
    ------
    TypeError, ValueError
        If mean and scale are not finite, differ in shape, or a scale is negative.

    Examples
    --------
    >>> import torch
    >>> layer = Standardize(mean=[200.0, 7.0], scale=[10.0, 0.0])
    >>> layer
    Standardize(mean=[200, 7], scale=[10, 0])
    >>> layer(torch.tensor([[181.0, 7.0], [210.0, 1e9]]))
    tensor([[-1.9000,  0.0000],
            [ 1.0000,  0.0000]])
    """

    def __init__(
        self, mean: Constant, scale: Constant, *, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(mean, scale)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Standardize: shape (..., n_features) in raw units to the same, dimensionless."""
        dtype = self.dtype
        if dtype is None:
            dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        # Any value of a constant column, divided by infinity, is 0, and so is its gradient.
        mean, scale = self.mean, self.scale
        divisor = scale.masked_fill(scale == 0, math.inf)
        return ((x.to(mean.dtype) - mean) / divisor).to(dtype)

    def inverse(self) -> Unstandardize:
        """Build the inverse layer."""
        return Unstandardize(self.mean, self.scale)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # The output dtype follows .to(), .float() and .double(), as the next layers do.
        if self.dtype is not None:
            self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


class Unstandardize(_Affine):
    r"""Convert standardized values to raw units: :math:`y = \mathrm{mean} + \mathrm{scale}\, z`.

    The exact inverse of :class:`Standardize`. A constant target has scale 0 and is predicted
    exactly.

    Parameters
    ----------
    mean : float or array-like of shape (n_outputs,)
        In the unit of the output.
    scale : float or array-like of shape (n_outputs,)
        Standard deviation, in the unit of the output.

    Attributes
    ----------
    mean, scale : Tensor of shape () or (n_outputs,)
        Buffers in float64. With vectors, the output is float64, too.

    Raises
    ------
    TypeError, ValueError
        If mean and scale are not finite, differ in shape, or a scale is negative.

    Examples
    --------
    >>> import torch
    >>> layer = Unstandardize(mean=4200, scale=800)
    >>> layer
    Unstandardize(mean=4200, scale=800)
    >>> layer(torch.tensor([[-1.0], [0.5]]))
    tensor([[3400.],
            [4600.]], dtype=torch.float64)
    """

    def forward(self, z: Tensor) -> Tensor:
        """Unstandardize: shape (..., n_outputs), dimensionless, to the same in raw units."""
        mean = self.mean
        return mean + self.scale * z.to(mean.dtype)

    def inverse(self) -> Standardize:
        """Build the inverse layer."""
        return Standardize(self.mean, self.scale)
