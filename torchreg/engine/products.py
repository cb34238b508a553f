"""Small matrix products of many networks, as NumPy computes them: faster than torch.

torch hands them to its library one batch at a time, which for small matrices takes two to three
times as long as the library that comes with NumPy: measured with MKL on processors that are not
Intel's. Both compute in the same precision, and the sums differ in their order at most.
"""

from __future__ import annotations

from torch import Tensor, float32, float64

from torchreg.engine.recorder import Call

#: Multiplications of one product, beyond which OpenBLAS asks other threads for help: they would be
#: in the way of other stacks.
_MOST = 2**18


def is_small_product(call: Call) -> bool:
    """Whether a call multiplies many small matrices, which NumPy does faster.

    Parameters
    ----------
    call : Call

    Returns
    -------
    bool

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
    # What is a sum of one number, or of none, is computed number by number.
    return (
        n_inner > 1
        and 0 < n_rows * n_inner * n_columns <= _MOST
        and all(_is_known_to_blas(matrices) for matrices in [*call.args, call.result])
    )


def _is_known_to_blas(matrices: Tensor) -> bool:
    """Whether rows or columns lie in one piece each; for others NumPy has a slow way."""
    rows, columns = matrices.stride()[1:]
    n_rows, n_columns = matrices.shape[1:]
    in_rows = columns == 1 and rows >= n_columns
    in_columns = rows == 1 and columns >= n_rows
    return (
        matrices.device.type == "cpu"
        and matrices.dtype in (float32, float64)
        and (in_rows or in_columns)
    )
