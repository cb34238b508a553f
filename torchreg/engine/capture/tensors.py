"""Find, restore and compare tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


def iter_tensors(value: Any) -> Iterator[Tensor]:
    """Iterate over the tensors in nested lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from iter_tensors(item)


def restore_tensors(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy saved values back into tensors, in place."""
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


def all_close(actual: Sequence[Tensor], expected: Sequence[Tensor], *, noise: float = 0.0) -> bool:
    """Whether tensors are equal up to rounding.

    Parameters
    ----------
    actual, expected : sequence of Tensor
    noise : float, default=0.0
        Allowed difference in spacings of the largest number of all tensors: a gradient that is
        zero but for rounding, such as that of a bias before a normalization, has no significant
        digits to compare.
    """
    largest = max((_max_abs(b) for b in expected), default=0.0) if noise else 0.0
    for a, b in zip(actual, expected, strict=True):
        if not (a.is_floating_point() or a.is_complex()):
            if not torch.equal(a, b):
                return False
            continue
        eps = torch.finfo(a.dtype).eps
        rtol = eps**0.5
        atol = max(rtol * _max_abs(b), noise * eps * largest)
        if not torch.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True):
            return False
    return True


def _max_abs(values: Tensor) -> float:
    """Return the largest absolute value of the finite numbers."""
    return float(values.abs().nan_to_num(0.0, 0.0, 0.0).max()) if values.numel() else 0.0
