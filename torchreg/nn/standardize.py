"""Standardization as two layers, each the exact inverse of the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from torchreg.nn.constants import Constant, as_constant, show


class _Affine(nn.Module):
    """What both layers share: a mean and a scale as float64 buffers, and how they print."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Constant, scale: Constant) -> None:
        super().__init__()
        name = type(self).__name__
        for key, value in (("mean", mean), ("scale", scale)):
            number = as_constant(value, name=f"{name}({key}=...)", dtype=torch.float64)
            self.register_buffer(key, number)
        if self.mean.shape != self.scale.shape:
            raise ValueError(
                f"{name} expects a mean and a scale of the same shape, got "
                f"{tuple(self.mean.shape)} and {tuple(self.scale.shape)}."
            )
        if bool((self.scale < 0).any()):
            raise ValueError(f"{name} expects scales of 0 or more, got {show(self.scale)}.")

    def extra_repr(self) -> str:
        """Show the numbers themselves."""
        return f"mean={show(self.mean)}, scale={show(self.scale)}"


class Standardize(_Affine):
    r"""Bring raw units to order 1: :math:`z = (x - \mathrm{mean}) / \mathrm{scale}`.

    The subtraction happens in the dtype of the buffers (float64), *before* the cast to the
    dtype of the layers that follow, so that a feature like a Unix time
    (:math:`1.7\cdot10^9 \pm 100`) keeps all its digits. A column whose scale is 0 was
    constant when the statistics were computed: it becomes 0 and contributes nothing,
    whatever it holds later, as in ``LinearRegression``.

    Parameters
    ----------
    mean : float or array-like of shape (n_features,)
        In the unit of the input.
    scale : float or array-like of shape (n_features,)
        Standard deviation, in the unit of the input; 0 marks a constant column.
    dtype : torch.dtype or None, default=None
        Dtype that comes out, whatever goes in. ``None`` gives back a floating input's own
        dtype, and torch's default dtype for integers. ``.to(dtype)``, ``.float()`` and
        ``.double()`` change it together with the rest of a network.

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
        # Whatever a constant column holds, divided by infinity it is 0, and so is its gradient.
        mean, scale = self.mean, self.scale
        divisor = scale.masked_fill(scale == 0, math.inf)
        return ((x.to(mean.dtype) - mean) / divisor).to(dtype)

    def inverse(self) -> Unstandardize:
        """Build the layer that undoes this one."""
        return Unstandardize(self.mean, self.scale)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # What .to(), .float() and .double() do to the layers that follow, the dtype
        # that this layer hands to them must follow.
        if self.dtype is not None:
            self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


class Unstandardize(_Affine):
    r"""Bring order 1 back to raw units: :math:`y = \mathrm{mean} + \mathrm{scale}\, z`.

    The exact inverse of :class:`Standardize` with the same numbers. A target that was
    constant has scale 0 and is predicted exactly.

    Parameters
    ----------
    mean : float or array-like of shape (n_outputs,)
        In the unit of the output.
    scale : float or array-like of shape (n_outputs,)
        Standard deviation, in the unit of the output.

    Attributes
    ----------
    mean, scale : Tensor of shape () or (n_outputs,)
        Buffers in float64; float32 comes in and, with vectors, float64 goes out.

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
        """Build the layer that undoes this one."""
        return Standardize(self.mean, self.scale)
