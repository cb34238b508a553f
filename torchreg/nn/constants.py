"""Layers with constants that are not trained, and checks of arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

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


class FrozenLinear(nn.Module):
    r"""A linear layer that is not trained: :math:`W x + b`.

    Parameters
    ----------
    weight : Tensor of shape (out_features, in_features)
        :math:`W`.
    bias : Tensor of shape (out_features,)
        :math:`b`.

    Attributes
    ----------
    weight, bias : Tensor
        Buffers.

    Raises
    ------
    ValueError
        If the shapes do not match.

    Examples
    --------
    >>> import torch
    >>> FrozenLinear(torch.tensor([[2.0, 0.0]]), torch.tensor([1.0]))(torch.ones(1, 2))
    tensor([[3.]])
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ValueError(
                "FrozenLinear expects a weight of shape (out_features, in_features) and a bias of "
                f"shape (out_features,), got {tuple(weight.shape)} and {tuple(bias.shape)}."
            )
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Multiply and add: shape (..., in_features) to (..., out_features)."""
        return nn.functional.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Show the sizes."""
        n_out, n_in = self.weight.shape
        return f"in_features={n_in}, out_features={n_out}"


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
