"""Tables of rows as tensors: dense or sparse, in batches or in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Numbers per chunk, which a processor's cache holds.
CHUNK_SIZE = 2**16
#: Numbers that are gathered at a time: one gather for several batches is faster.
_GATHER_SIZE = 2**18
#: The difference of two larger values may overflow float64.
MAX_MAGNITUDE = 2.0**1020


@dataclass(frozen=True)
class SparseRows:
    """Rows in compressed sparse row format, made dense a few at a time.

    Parameters
    ----------
    starts : Tensor of shape (n + 1,), int64
        Index of the first entry of each row.
    columns : Tensor of shape (n_entries,), int64
        Column of each entry.
    values : Tensor of shape (n_entries,)
        Value of each entry; no entry is stored twice.
    n_columns : int
    """

    starts: Tensor
    columns: Tensor
    values: Tensor
    n_columns: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Return rows as a dense tensor of shape (len(index), n_columns)."""
        if isinstance(index, slice):
            index = torch.arange(len(self))[index]
        begin = self.starts[index]
        lengths = self.starts[index + 1] - begin
        row = torch.repeat_interleave(torch.arange(len(index)), lengths)
        first = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
        entry = torch.arange(len(row)) - first + begin[row]
        dense = torch.zeros(len(index), self.n_columns, dtype=self.values.dtype)
        dense[row, self.columns[entry]] = self.values[entry]
        return dense

    def rows_of_entries(self) -> Tensor:
        """Return the row of each entry: shape (n_entries,)."""
        return torch.repeat_interleave(torch.arange(len(self)), self.starts.diff())


Rows = Tensor | SparseRows


class Batch(NamedTuple):
    """Some rows: inputs (n, n_features), targets (n, n_outputs), weights (n,) or ``None``."""

    x: Tensor
    t: Tensor
    weight: Tensor | None


@dataclass(frozen=True)
class LazyRows:
    """Rows in raw units that are standardized when they are indexed.

    Parameters
    ----------
    rows : Tensor of shape (n, n_columns) or SparseRows
        Raw units.
    prepare : callable
        Converts rows to the network's units.
    chosen : Tensor of shape (m,) or None
        Indices of the rows that belong to the table; ``None`` for all.
    """

    rows: Rows
    prepare: Callable[[Tensor], Tensor]
    chosen: Tensor | None = None

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Return prepared rows: shape (len(index), n_columns)."""
        if self.chosen is not None:
            index = self.chosen[index.cpu() if isinstance(index, Tensor) else index]
        if isinstance(index, slice):
            return self.prepare(self.rows[index])
        return self.prepare(_gather(self.rows, index.cpu()))


class Table(NamedTuple):
    """All rows of a network, standardized: x (n, n_features), t (n, n_outputs), weights (n,)."""

    x: Tensor | LazyRows
    t: Tensor
    weight: Tensor | None

    def as_batch(self) -> Batch:
        """Return all rows as one batch."""
        x = self.x if isinstance(self.x, Tensor) else self.x[torch.arange(len(self.t))]
        return Batch(x, self.t, self.weight)

    def take(self, index: Tensor) -> Table:
        """Return the table of some of the rows."""
        on_device = index.to(self.t.device)
        x: Tensor | LazyRows
        if isinstance(self.x, Tensor):
            x = self.x[on_device]
        else:
            chosen = index if self.x.chosen is None else self.x.chosen[index]
            x = LazyRows(self.x.rows, self.x.prepare, chosen)
        weight = None if self.weight is None else self.weight[on_device]
        return Table(x, self.t[on_device], weight)


def to_dense(rows: Rows) -> Tensor:
    """Return all rows as a dense tensor."""
    return rows if isinstance(rows, Tensor) else rows[torch.arange(len(rows))]


def binary_exponent(largest: Tensor) -> Tensor:
    """Return the exponent of the power of two whose inverse scales numbers to order 1."""
    # Clamped so that 2 ** -exponent is itself a normal number.
    return torch.frexp(largest).exponent.clamp(-1000, 1020)


def rescale_weights(weight: Tensor) -> Tensor:
    """Scale weights to order 1 by a power of two, so that their sum is finite."""
    weight = weight.to(torch.float64)
    return torch.ldexp(weight, -binary_exponent(weight.amax()))


def merge_identical(
    x: Tensor, y: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Merge rows that are identical in X and y, and sum their weights; the result is sorted.

    The result depends on the rows and their total weights alone, not on their order. Repeating a
    row therefore *is* giving it an integer weight, to the last bit, however long a full-batch fit
    runs.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
    y : Tensor of shape (n, n_outputs)
    weight : Tensor of shape (n,) or None

    Returns
    -------
    x, y, weight : tensors of m <= n rows
        The weight is ``None`` if all weights are equal.

    Examples
    --------
    >>> x, y = torch.tensor([[2.0], [1.0], [2.0]]), torch.tensor([[5.0], [6.0], [5.0]])
    >>> merge_identical(x, y, None)[2]
    tensor([1., 2.], dtype=torch.float64)
    """
    table = _join_columns(x, y)
    order = np.lexsort(table.T[::-1])
    table = table[order]
    is_first = np.ones(len(table), dtype=bool)
    is_first[1:] = (table[1:] != table[:-1]).any(axis=1)
    sorted_weight = None if weight is None else rescale_weights(weight).numpy()[order]
    total = np.bincount(is_first.cumsum() - 1, weights=sorted_weight).astype(np.float64)
    unique = torch.from_numpy(table[is_first])
    n_features = x.shape[1]
    merged = None if (total == total[0]).all() else torch.from_numpy(total)
    return unique[:, :n_features].to(x.dtype), unique[:, n_features:], merged


def count_distinct_rows(x: Tensor, y: Tensor) -> int:
    """Count the rows that :func:`merge_identical` would keep, without sorting them.

    Examples
    --------
    >>> count_distinct_rows(torch.tensor([[0.0], [1.0], [-0.0]]), torch.ones(3, 1))
    2
    """
    table = _join_columns(x, y)
    # Each row becomes one bytes object.
    return len(set(table.view(f"V{table[:1].nbytes}").ravel().tolist()))


def _join_columns(x: Tensor, y: Tensor) -> NDArray[np.float64]:
    """Join X and y as float64: identical rows have identical bytes."""
    # Adding 0 makes 0.0 of -0.0.
    joined: NDArray[np.float64] = (
        torch.cat([x.to(torch.float64), y.to(torch.float64)], dim=1).numpy() + 0.0
    )
    return joined


def compute_batch_sizes(n: int, batch_size: int) -> list[int]:
    """Split n rows into batches, none of them dropped.

    A last batch of a single row, on which batch normalization would fail, joins the one before.

    Examples
    --------
    >>> compute_batch_sizes(10, 4), compute_batch_sizes(9, 4), compute_batch_sizes(3, 1)
    ([4, 4, 2], [4, 5], [1, 1, 1])
    """
    n_full, rest = divmod(n, batch_size)
    sizes = [batch_size] * n_full
    if rest == 1 and n_full and batch_size > 1:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes


def iter_shuffled_batches(
    table: Table, sizes: list[int], generator: torch.Generator
) -> Iterator[Batch]:
    """Iterate over all rows in random order, without copying the whole table.

    Several batches are gathered at a time and then sliced; sparse rows are made dense batch by
    batch.
    """
    order = torch.randperm(len(table.t), generator=generator).to(table.t.device)
    is_sparse = isinstance(table.x, LazyRows) and isinstance(table.x.rows, SparseRows)
    max_rows = 1 if is_sparse else rows_per_chunk(_GATHER_SIZE, count_columns(table.x))
    start = 0
    for group in _group_batches(sizes, max_rows):
        index = order[start : start + sum(group)]
        start += len(index)
        x, t = _gather(table.x, index), _gather(table.t, index)
        weight = None if table.weight is None else table.weight[index]
        weights = [None] * len(group) if weight is None else weight.split(group)
        yield from map(Batch, x.split(group), t.split(group), weights)


def _gather(rows: Rows | LazyRows, index: Tensor) -> Tensor:
    # index_select copies whole rows, twice as fast as indexing.
    return rows.index_select(0, index) if isinstance(rows, Tensor) else rows[index]


def _group_batches(sizes: list[int], max_rows: int) -> Iterator[list[int]]:
    """Group batches of at most ``max_rows`` rows together, but at least one."""
    group: list[int] = []
    for size in sizes:
        if group and sum(group) + size > max_rows:
            yield group
            group = []
        group.append(size)
    yield group


def iter_batches(table: Table) -> Iterator[Batch]:
    """Iterate over all rows in their order, in chunks."""
    for chunk in iter_chunks(len(table.t), count_columns(table.x)):
        weight = None if table.weight is None else table.weight[chunk]
        yield Batch(table.x[chunk], table.t[chunk], weight)


def iter_chunks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Split rows into chunks of about 65,000 numbers, which a processor's cache holds.

    Examples
    --------
    >>> list(iter_chunks(40_000, 4))
    [slice(0, 16384, None), slice(16384, 32768, None), slice(32768, 40000, None)]
    >>> next(iter_chunks(40_000, 1_000_000))
    slice(0, 1, None)
    """
    size = rows_per_chunk(CHUNK_SIZE, n_columns)
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def rows_per_chunk(n_numbers: int, n_columns: int) -> int:
    """Return how many rows have ``n_numbers`` numbers: at least 1 and at most 16,384."""
    return max(1, min(16_384, n_numbers // max(n_columns, 1)))


def count_columns(rows: Rows | LazyRows) -> int:
    """Return the number of columns."""
    if isinstance(rows, LazyRows):
        return count_columns(rows.rows)
    return rows.n_columns if isinstance(rows, SparseRows) else rows.shape[1]
