"""Batches of small matrix products, which NumPy computes faster than torch.

torch hands such products to its BLAS one matrix at a time. For small matrices this takes two to
three times as long as NumPy's loop over OpenBLAS (measured with MKL on processors that are not
Intel's). Precision is the same; only the order of summation may differ.
"""

from __future__ import annotations

import math

from torch import Tensor, float32, float64

from torchreg.engine.capture.recorder import Call

#: Multiplications of one product beyond which OpenBLAS uses several threads, which would compete
#: with the threads of other stacks.
_MAX_MULTIPLICATIONS = 2**18


def is_small_product(call: Call) -> bool:
    """Whether a call multiplies many small matrices, which NumPy does faster.

    Examples
    --------
    >>> import torch
    >>> a, b = torch.ones(2, 3, 4), torch.ones(2, 4, 5)
    >>> is_small_product(Call(torch.ops.aten.bmm.default, (a, b), {}, a @ b))
    True
    """
    if call.name != "bmm":
        return False
    (n_rows, n_inner), n_columns = call.args[0].shape[1:], call.args[1].shape[2]
    # A sum of one product, or of none, is elementwise.
    return (
        n_inner > 1
        and 0 < n_rows * n_inner * n_columns <= _MAX_MULTIPLICATIONS
        and all(_is_blas_compatible(matrices) for matrices in [*call.args, call.result])
    )


def merge_products(first: Tensor, second: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Merge products with the same second factor to one, whose first factor has more rows.

    Consecutive networks of a stack often have the same rows, as the settings of a search do.

    Parameters
    ----------
    first : Tensor of shape (n_networks, n_rows, n_inner)
    second : Tensor of shape (n_networks, n_inner, n_columns)
        Constant.
    out : Tensor of shape (n_networks, n_rows, n_columns)
        Where the products are written.

    Returns
    -------
    first, second, out : Tensor
        Views of shapes (n_products, m * n_rows, n_inner), (n_products, n_inner, n_columns) and
        (n_products, m * n_rows, n_columns), where n_products * m = n_networks.

    Examples
    --------
    >>> import torch
    >>> a, b = torch.ones(6, 2, 4), torch.rand(2, 4, 5).repeat_interleave(3, dim=0)
    >>> [tuple(tensor.shape) for tensor in merge_products(a, b, torch.empty(6, 2, 5))]
    [(2, 6, 4), (2, 4, 5), (2, 6, 5)]
    """
    n_networks, n_inner, n_columns = second.shape
    n_rows = first.shape[1]
    if not (first.is_contiguous() and out.is_contiguous()):
        return first, second, out
    # (n_networks - 1,)
    differs = (second[1:] != second[:-1]).flatten(1).any(dim=1)
    run = math.gcd(n_networks, *(differs.nonzero().flatten() + 1).tolist())
    largest = max(1, _MAX_MULTIPLICATIONS // (n_rows * n_inner * n_columns))
    m = max(m for m in range(1, min(run, largest) + 1) if run % m == 0)
    # (n_networks, n_rows, ...) -> (n_networks / m, m * n_rows, ...)
    first, out = (tensor.view(-1, m * n_rows, tensor.shape[2]) for tensor in (first, out))
    return first, second[::m], out


def _is_blas_compatible(matrices: Tensor) -> bool:
    """Whether the rows or the columns of each matrix are contiguous; NumPy is slow otherwise."""
    row_stride, column_stride = matrices.stride()[1:]
    n_rows, n_columns = matrices.shape[1:]
    has_contiguous_rows = column_stride == 1 and row_stride >= n_columns
    has_contiguous_columns = row_stride == 1 and column_stride >= n_rows
    return (
        matrices.device.type == "cpu"
        and matrices.dtype in (float32, float64)
        and (has_contiguous_rows or has_contiguous_columns)
    )
