"""Rows of a table as tensors: dense or sparse, whole, in batches or in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

#: As many numbers stay in a processor's cache while something is done with them.
CHUNK_SIZE = 2**16
#: As many are gathered at once, which costs less than one batch after the other.
_GATHERED = 2**18
#: Beyond this, the difference of two values may not fit float64.
MAX_MAGNITUDE = 2.0**1020


@dataclass(frozen=True)
class SparseRows:
    """Rows in compressed sparse row form, made dense a few at a time.

    Parameters
    ----------
    starts : Tensor of shape (n + 1,), int64
        Where each row's entries begin.
    columns : Tensor of shape (n_entries,), int64
        Column of each entry.
    values : Tensor of shape (n_entries,)
        Value of each entry; no entry is stored twice.
    n_columns : int
        Width of the table.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor
    n_columns: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Make the rows of ``index`` dense: shape (len(index), n_columns)."""
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
        """Give the row of each entry: shape (n_entries,)."""
        return torch.repeat_interleave(torch.arange(len(self)), self.starts.diff())


Rows = Tensor | SparseRows


class Batch(NamedTuple):
    """Some rows: inputs (n, n_features), targets (n, n_outputs), weights (n,) or ``None``."""

    x: Tensor
    t: Tensor
    weight: Tensor | None


@dataclass(frozen=True)
class LazyRows:
    """Rows in raw units that are prepared for the network when they are asked for.

    Parameters
    ----------
    rows : Tensor of shape (n, n_columns) or SparseRows
        In raw units.
    prepare : callable
        Brings some of them into the network's units.
    chosen : Tensor of shape (m,) or None
        Which of them there are; ``None``: all.
    """

    rows: Rows
    prepare: Callable[[Tensor], Tensor]
    chosen: Tensor | None = None

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Give the prepared rows of ``index``: shape (len(index), n_columns)."""
        if self.chosen is not None:
            index = self.chosen[index.cpu() if isinstance(index, Tensor) else index]
        if isinstance(index, slice):
            return self.prepare(self.rows[index])
        return self.prepare(_gather(self.rows, index.cpu()))


class Table(NamedTuple):
    """All rows that a network sees, standardized: x (n, n_features), t (n, n_outputs)."""

    x: Tensor | LazyRows
    t: Tensor
    weight: Tensor | None

    def whole(self) -> Batch:
        """Give all rows as one batch."""
        x = self.x if isinstance(self.x, Tensor) else self.x[torch.arange(len(self.t))]
        return Batch(x, self.t, self.weight)

    def take(self, index: Tensor) -> Table:
        """Keep some of the rows."""
        here = index.to(self.t.device)
        x: Tensor | LazyRows
        if isinstance(self.x, Tensor):
            x = self.x[here]
        else:
            chosen = index if self.x.chosen is None else self.x.chosen[index]
            x = LazyRows(self.x.rows, self.x.prepare, chosen)
        return Table(x, self.t[here], None if self.weight is None else self.weight[here])

    def rows_at_once(self) -> int:
        """Count the rows that may be gathered together; 1 where each batch is made dense."""
        if isinstance(self.x, LazyRows) and isinstance(self.x.rows, SparseRows):
            return 1
        return rows_per_chunk(_GATHERED, count_columns(self.x))


def to_dense(rows: Rows) -> Tensor:
    """Make all rows dense."""
    return rows if isinstance(rows, Tensor) else rows[torch.arange(len(rows))]


def binary_exponent(largest: Tensor) -> Tensor:
    """Find the power of two that brings numbers of this size to order 1."""
    # Clamped so that 2 ** -exponent is itself a normal number.
    return torch.frexp(largest).exponent.clamp(-1000, 1020)


def rescale_weights(weight: Tensor) -> Tensor:
    """Bring weights to order 1 by a power of two, so that their sum is finite."""
    weight = weight.to(torch.float64)
    return torch.ldexp(weight, -binary_exponent(weight.amax()))


def merge_identical(
    x: Tensor, y: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Merge rows that are the same in X and y, summing their weights; sort the rest.

    What comes out depends on the rows and their weights alone, not on their order nor on
    how often one was written down. So repeating a row *is* giving it an integer weight,
    to the last bit, however long a full-batch fit runs.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
    y : Tensor of shape (n, n_outputs)
    weight : Tensor of shape (n,) or None

    Returns
    -------
    x, y, weight : tensors of m <= n rows
        The weight is ``None`` where all weights are equal.

    Examples
    --------
    >>> x, y = torch.tensor([[2.0], [1.0], [2.0]]), torch.tensor([[5.0], [6.0], [5.0]])
    >>> merge_identical(x, y, None)[2]
    tensor([1., 2.], dtype=torch.float64)
    """
    # Adding 0 makes one zero out of the two.
    table = torch.cat([x.to(torch.float64), y.to(torch.float64)], dim=1).numpy() + 0.0
    order = np.lexsort(table.T[::-1])
    table = table[order]
    is_first = np.ones(len(table), dtype=bool)
    is_first[1:] = (table[1:] != table[:-1]).any(axis=1)
    counted = None if weight is None else rescale_weights(weight).numpy()[order]
    total = np.bincount(is_first.cumsum() - 1, weights=counted).astype(np.float64)
    unique = torch.from_numpy(table[is_first])
    width = x.shape[1]
    merged = None if (total == total[0]).all() else torch.from_numpy(total)
    return unique[:, :width].to(x.dtype), unique[:, width:], merged


def compute_batch_sizes(n: int, batch_size: int) -> list[int]:
    """Cut n rows into batches: none is dropped, and none is left with a single row.

    A lone last row, on which batch normalization would fail, joins the batch before it.

    Examples
    --------
    >>> compute_batch_sizes(10, 4), compute_batch_sizes(9, 4), compute_batch_sizes(3, 1)
    ([4, 4, 2], [4, 5], [1, 1, 1])
    """
    whole, rest = divmod(n, batch_size)
    sizes = [batch_size] * whole
    if rest == 1 and whole and batch_size > 1:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes


def iter_shuffled_batches(
    table: Table, sizes: list[int], generator: torch.Generator
) -> Iterator[Batch]:
    """Deal all rows out in a fresh random order, without a second copy of them.

    As many batches at once are gathered as memory is kind to, and then sliced; rows that
    are made dense when they are asked for come batch by batch.
    """
    order = torch.randperm(len(table.t), generator=generator).to(table.t.device)
    at_once = table.rows_at_once()
    start = 0
    for group in _groups(sizes, at_once):
        index = order[start : start + sum(group)]
        start += len(index)
        x, t = _gather(table.x, index), _gather(table.t, index)
        weight = None if table.weight is None else table.weight[index]
        for batch_x, batch_t, batch_weight in zip(
            x.split(group),
            t.split(group),
            [None] * len(group) if weight is None else weight.split(group),
            strict=True,
        ):
            yield Batch(batch_x, batch_t, batch_weight)


def _gather(rows: Rows | LazyRows, index: Tensor) -> Tensor:
    # index_select copies rows as a whole, twice as fast as indexing.
    return rows.index_select(0, index) if isinstance(rows, Tensor) else rows[index]


def _groups(sizes: list[int], at_once: int) -> Iterator[list[int]]:
    """Put batches together while they have at most so many rows, but one batch at least."""
    group: list[int] = []
    for size in sizes:
        if group and sum(group) + size > at_once:
            yield group
            group = []
        group.append(size)
    yield group


def iter_batches(table: Table) -> Iterator[Batch]:
    """Deal all rows out in their order, as many at a time as memory is kind to."""
    for piece in iter_chunks(len(table.t), count_columns(table.x)):
        weight = None if table.weight is None else table.weight[piece]
        yield Batch(table.x[piece], table.t[piece], weight)


def iter_chunks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Cut rows into pieces of some 100,000 numbers, which a processor's cache holds.

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
    """Count the rows that so many numbers make, at least one and at most 16,384."""
    return max(1, min(16_384, n_numbers // max(n_columns, 1)))


def count_columns(rows: Rows | LazyRows) -> int:
    """Count the columns."""
    if isinstance(rows, LazyRows):
        return count_columns(rows.rows)
    return rows.n_columns if isinstance(rows, SparseRows) else rows.shape[1]
