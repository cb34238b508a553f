"""Batches of small matrix products, which NumPy computes faster than torch.

torch hands such products to its BLAS one matrix at a time. For small matrices this takes two to
three times as long as NumPy's loop over OpenBLAS (measured with MKL on processors that are not
Intel's). Precision is the same; only the order of summation may differ.
"""

from __future__ import annotations

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
