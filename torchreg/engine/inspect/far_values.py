"""Values far outside all others of their column: placeholders such as -9999, and errors."""

from __future__ import annotations

import torch
from torch import Tensor

from torchreg.diagnosis.record import Columns, FarValue
from torchreg.engine.data import Rows, SparseRows, far_suspects, far_values, iter_chunks

#: A repeated extreme value is a placeholder if its distance from the others is this many times
#: their range, ...
GAP = 10.0
#: ... and these have as many distinct values: a column of two or three values has no range.
MIN_DISTINCT = 3


def find_far_values(table: str, rows: Rows, columns: Columns) -> list[FarValue]:
    """Find repeated extreme values far from all others, and values that cost others their digits.

    Parameters
    ----------
    table : {"X", "y"}
    rows : Tensor of shape (n, n_columns) or SparseRows
        Raw units. Sparse rows, which have no placeholders but zeros, are not inspected.
    columns : Columns
        Their summary.
    """
    if isinstance(rows, SparseRows):
        return []
    low, high = torch.tensor([columns.low, columns.high], dtype=torch.float64)
    mean, scale = torch.tensor([columns.mean, columns.scale], dtype=torch.float64)
    found = {
        column: _describe(table, column, rows[:, column], far, costs_digits=True)
        for column in far_suspects(mean, scale, low, high)
        if (far := far_values(rows[:, column])) is not None
    }
    for column, value in _repeated_extremes(rows, low, high):
        values = rows[:, column]
        is_extreme = values == value
        if column not in found and len(values[~is_extreme].unique()) >= MIN_DISTINCT:
            found[column] = _describe(table, column, values, is_extreme, costs_digits=False)
    return [found[column] for column in sorted(found)]


def _describe(
    table: str, column: int, values: Tensor, far: Tensor, *, costs_digits: bool
) -> FarValue:
    others = values[~far]
    low, high = (float(bound) for bound in torch.aminmax(others))
    distance = (values - others.median()).abs()
    value = float(values[distance.argmax()])
    return FarValue(table, column, value, int(far.sum()), low, high, costs_digits)


def _repeated_extremes(rows: Tensor, low: Tensor, high: Tensor) -> list[tuple[int, float]]:
    """List columns whose smallest or largest value is repeated and far from the next one."""
    found = []
    for extreme, other, sign in ((low, high, 1.0), (high, low, -1.0)):
        count = torch.zeros_like(low)
        following = torch.full_like(low, torch.inf)
        for chunk in iter_chunks(*rows.shape):
            is_extreme = rows[chunk] == extreme
            count += is_extreme.sum(dim=0)
            values = (sign * rows[chunk]).masked_fill(is_extreme, torch.inf)
            following = torch.minimum(following, values.amin(dim=0))
        gap, width = following - sign * extreme, sign * other - following
        # Zero is a value of its own in many columns, such as amounts.
        far = (count > 1) & (gap > GAP * width) & (width > 0) & (extreme != 0)
        found += [(c, float(extreme[c])) for c in far.nonzero().flatten().tolist()]
    return found
