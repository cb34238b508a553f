"""Small matrix products of many networks, as NumPy computes them: faster than torch.

torch hands them to its library one batch at a time, which for small matrices takes two to three
times as long as the library that comes with NumPy: measured with MKL on processors that are not
Intel's. Both compute in the same precision, and the sums differ in their order at most.
"""

from __future__ import annotations

import math

from torch import Tensor, float32, float64

from torchreg.engine.capture.recorder import Call

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


def as_larger_products(first: Tensor, second: Tensor, result: Tensor) -> tuple[Tensor, ...]:
    """Take products with the same second factor as one, whose first factor has more rows.

    Networks of a search that have the same rows, one after another in a stack, share them.

    Parameters
    ----------
    first : Tensor of shape (n_networks, n_rows, n_inner)
    second : Tensor of shape (n_networks, n_inner, n_columns)
        Its values are those of all steps.
    result : Tensor of shape (n_networks, n_rows, n_columns)
        Where the products go.

    Returns
    -------
    tuple of Tensor
        Views of the three, of shapes (n, m n_rows, n_inner), (n, n_inner, n_columns) and
        (n, m n_rows, n_columns), where n m networks come in n runs of m.

    Examples
    --------
    >>> import torch
    >>> a, b = torch.ones(6, 2, 4), torch.rand(2, 4, 5).repeat_interleave(3, dim=0)
    >>> [tuple(tensor.shape) for tensor in as_larger_products(a, b, torch.empty(6, 2, 5))]
    [(2, 6, 4), (2, 4, 5), (2, 6, 5)]
    """
    n_networks, n_inner, n_columns = second.shape
    n_rows = first.shape[1]
    if not (first.is_contiguous() and result.is_contiguous()):
        return first, second, result
    # (n_networks - 1,)
    differ = (second[1:] != second[:-1]).flatten(1).any(dim=1)
    common = math.gcd(n_networks, *(differ.nonzero().flatten() + 1).tolist())
    most = max(1, _MOST // (n_rows * n_inner * n_columns))
    length = max(m for m in range(1, min(common, most) + 1) if common % m == 0)
    # (n m, n_rows, ...) -> (n, m n_rows, ...)
    first, result = (t.view(-1, length * n_rows, t.shape[2]) for t in (first, result))
    return first, second[::length], result


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
