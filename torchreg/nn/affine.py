"""Layers that add and multiply by constants: raw units to standardized units and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

Constant = float | Sequence[float] | ArrayLike | Tensor


class _Constant(nn.Module):
    """Base class of layers with a buffer ``constant``."""

    constant: Tensor

    def __init__(self, constant: Constant) -> None:
        super().__init__()
        self.register_buffer("constant", check_constant(constant, name=type(self).__name__))

    def extra_repr(self) -> str:
        """Show the constant."""
        return format_values(self.constant)


class AddConstant(_Constant):
    r"""Add a constant: :math:`x + c`.

    Parameters
    ----------
    constant : float or array-like of shape (n_features,)
        :math:`c`, in the unit of the input: one number for all columns, or one per column.

    Attributes
    ----------
    constant : Tensor of shape () or (n_features,)
        A buffer. It has torch's default dtype unless a floating-point tensor was given.

    Raises
    ------
    TypeError, ValueError
        If the constant is not a finite number or a vector of finite numbers.

    Examples
    --------
    >>> import torch
    >>> AddConstant(-200)
    AddConstant(-200)
    >>> AddConstant([1, 2.5])(torch.zeros(2, 2))
    tensor([[1.0000, 2.5000],
            [1.0000, 2.5000]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Add the constant: shape (..., n_features) to (..., n_features)."""
        return x + self.constant


class MultiplyByConstant(_Constant):
    r"""Multiply by a constant: :math:`c\,x`.

    Parameters
    ----------
    constant : float or array-like of shape (n_features,)
        :math:`c`, in units of the output per unit of the input: one number for all columns, or
        one per column.

    Attributes
    ----------
    constant : Tensor of shape () or (n_features,)
        A buffer. It has torch's default dtype unless a floating-point tensor was given.

    Raises
    ------
    TypeError, ValueError
        If the constant is not a finite number or a vector of finite numbers.

    Examples
    --------
    A network whose input is in millimetres and whose output is in grams:

    >>> import torch
    >>> from torch import nn
    >>> network = nn.Sequential(
    ...     AddConstant(-200), MultiplyByConstant(1 / 10),
    ...     nn.Linear(1, 5), nn.ReLU(), nn.Linear(5, 1),
    ...     MultiplyByConstant(800), AddConstant(4200),
    ... )
    >>> network[1]
    MultiplyByConstant(0.1)
    >>> mass = network(torch.tensor([[181.0], [210.0]]))
    >>> bool(((mass - 4200).abs() < 2400).all())
    True
    """

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the constant: shape (..., n_features) to (..., n_features)."""
        return x * self.constant


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


def check_constant(value: Constant, *, name: str, dtype: torch.dtype | None = None) -> Tensor:
    """Check a number or a vector of numbers, and copy it to a tensor."""
    if isinstance(value, Tensor) and value.is_floating_point():
        tensor = value.detach().to(dtype or value.dtype, copy=True)
    else:
        try:
            array = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name} expects a number or a vector of numbers, got {value!r}."
            ) from error
        tensor = torch.tensor(array, dtype=dtype or torch.get_default_dtype())
    if tensor.ndim > 1:
        raise ValueError(
            f"{name} expects a number or a vector with one number per column, "
            f"got an array of shape {tuple(tensor.shape)}."
        )
    # A finite sum has finite terms. The sum of finite terms may overflow.
    if not math.isfinite(float(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} expects finite numbers, got {value!r} as {tensor.dtype}.")
    return tensor


def check_size(value: Any, *, name: str) -> int:
    """Check that a value is an integer of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be an integer of 1 or more, got {value!r}.")
    return int(value)


def check_columns(columns: Sequence[int] | None, n_columns: int, *, name: str) -> list[int]:
    """Check distinct column indices; ``None`` is all columns."""
    chosen = [*range(n_columns)] if columns is None else [int(column) for column in columns]
    if len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(n_columns)):
        raise ValueError(
            f"{name} expects distinct columns from 0 to {n_columns - 1}, got {columns!r}."
        )
    return chosen


def format_values(values: Tensor, *, at_most: int = 6) -> str:
    """Format a constant with few digits: ``-200``, ``0.1``, ``[1, 2.5]``."""
    numbers = values.detach().reshape(-1).tolist()
    words = [f"{number:.6g}" for number in numbers[:at_most]]
    if values.ndim == 0:
        return words[0]
    more = [f"... {len(numbers)} in all"] if len(numbers) > at_most else []
    return f"[{', '.join(words + more)}]"
