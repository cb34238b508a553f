"""Batches of several tables at once, one for each network of a stack.

Every network gets its own rows in its own random order. Batches with fewer rows than others are
padded with rows of weight 0.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence

import torch
from torch import Tensor

from torchreg.engine.data.tables import (
    Batch,
    LazyRows,
    Table,
    compute_batch_sizes,
    count_columns,
    rows_per_chunk,
)

#: Numbers that are gathered at a time, for all tables together.
_GATHER_SIZE = 2**20


def make_generators(seeds: Sequence[int], tables: Sequence[Table]) -> list[torch.Generator]:
    """Create the generators of the orders of rows; equal seeds and lengths share one."""
    generators: dict[tuple[int, int], torch.Generator] = {}
    keys = [(seed, len(table.t)) for seed, table in zip(seeds, tables, strict=True)]
    for key in keys:
        if key not in generators:
            generators[key] = torch.Generator().manual_seed(key[0])
    return [generators[key] for key in keys]


def stack_tables(tables: Sequence[Table], *, features_first: bool) -> Batch:
    """Stack whole tables, in their order, as one batch; see :class:`StackedLoader`."""
    sizes = [len(table.t) for table in tables]
    loader = StackedLoader(tables, sizes, None, features_first=features_first)
    orders = [torch.arange(len(table.t), device=table.t.device) for table in loader.tables]
    gathered = _gather(loader.tables, loader.pad(orders), loader.row_weights)
    return next(loader.split(gathered, loader.batch_widths))


def stack_tables_in_chunks(
    tables: Sequence[Table], max_rows: int, *, features_first: bool
) -> list[Batch]:
    """Stack whole tables, in chunks of at most ``max_rows`` rows."""
    rows = stack_tables(tables, features_first=features_first)
    dim = 2 if features_first else 1
    n_rows = rows.t.shape[dim]
    # Of about the same size, because each size is compiled to a program of its own.
    length = math.ceil(n_rows / math.ceil(n_rows / max_rows))
    x, t = rows.x.split(length, dim), rows.t.split(length, dim)
    weights = [None] * len(x) if rows.weight is None else rows.weight.split(length, 1)
    return [*map(Batch, x, t, weights)]


def select_table(batch: Batch, index: int, counts: Sequence[int], *, features_first: bool) -> Batch:
    """Return the rows of one table in a stacked batch, as a batch of its network alone."""
    n_rows = counts[index]
    x, t = batch.x[index], batch.t[index]
    if features_first:
        # (n_columns, m) -> (m, n_columns)
        x, t = x.t(), t.t()
    weight = None if batch.weight is None else batch.weight[index, :n_rows] * n_rows
    # Copies, because a network or a loss may overwrite its arguments.
    return Batch(x[:n_rows].clone(), t[:n_rows].clone(), weight)


class StackedLoader:
    """Iterates over several tables in step, each in a random order of its own.

    Networks that share table, batch size and order, such as those of a parameter search, also
    share the gathered rows.

    Parameters
    ----------
    tables : sequence of Table
        With the same number of batches; one table may occur several times.
    sizes : sequence of int
        Batch size of each table.
    generators : sequence of torch.Generator or None
        One for each table. Tables of one length may share a generator, and then have the same
        order. ``None`` if no order is drawn.
    features_first : bool
        Whether batches are (n_tables, n_columns, m) instead of (n_tables, m, n_columns).
    gather_size : int, default=2**20
        Numbers that are gathered at a time, for all tables together.

    Attributes
    ----------
    tables : list of Table
        The tables that differ from the others, or have another order.
    table_index : Tensor of shape (n_tables,) or None
        Index in ``tables`` of each given table; ``None`` if all differ.
    batch_counts : list of list of int
        For each batch, its number of rows of each given table.
    batch_widths : list of int
        For each batch, the largest of these numbers.
    row_weights : Tensor of shape (n_tables, sum of the widths) or None
        Weight of each padded row in the mean of its batch, before sample weights; ``None`` if
        all rows count the same.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        sizes: Sequence[int],
        generators: Sequence[torch.Generator] | None,
        *,
        features_first: bool,
        gather_size: int = _GATHER_SIZE,
    ) -> None:
        self.features_first, self.gather_size = features_first, gather_size
        like = tables[0].t
        counts = [
            compute_batch_sizes(len(table.t), size)
            for table, size in zip(tables, sizes, strict=True)
        ]
        self.batch_counts = [list(batch) for batch in zip(*counts, strict=True)]
        self.batch_widths = [max(batch) for batch in self.batch_counts]
        orders = [0] * len(tables) if generators is None else [*map(id, generators)]
        first: dict[Hashable, int] = {}
        keys = [
            (id(table.x), id(table.t), id(table.weight), size, order)
            for table, size, order in zip(tables, sizes, orders, strict=True)
        ]
        for index, key in enumerate(keys):
            first.setdefault(key, index)
        distinct = [*first.values()]
        self.table_index = None
        if len(distinct) < len(tables):
            places = [distinct.index(first[key]) for key in keys]
            self.table_index = torch.tensor(places, device=like.device)
        self.tables = [tables[index] for index in distinct]
        self.generators = [] if generators is None else [generators[index] for index in distinct]
        is_padded = any(len(set(batch)) > 1 for batch in self.batch_counts)
        #: For each padded row, its position in the order; -1 for padding.
        self.positions: list[Tensor] | None = None
        self.row_weights: Tensor | None = None
        own = [counts[index] for index in distinct]
        if is_padded:
            self.positions = [_positions(c, self.batch_widths).to(like.device) for c in own]
        if is_padded or any(table.weight is not None for table in tables):
            self.row_weights = torch.stack([_row_weights(c, self.batch_widths, like) for c in own])

    def pad(self, orders: list[Tensor]) -> Tensor:
        """Pad orders of rows with -1 and stack them: shape (n_tables, sum of the widths)."""
        if self.positions is None:
            return torch.stack(orders)
        padding = orders[0].new_full((1,), -1)
        return torch.stack(
            [
                torch.cat([order, padding])[own]
                for order, own in zip(orders, self.positions, strict=True)
            ]
        )

    def batches(self) -> Iterator[tuple[Batch, list[int]]]:
        """Iterate over one epoch; yield each batch with its number of rows of each table."""
        device = self.tables[0].t.device
        drawn: dict[int, Tensor] = {}
        for table, generator in zip(self.tables, self.generators, strict=True):
            if id(generator) not in drawn:
                order = torch.randperm(len(table.t), generator=generator).to(device)
                drawn[id(generator)] = order
        indices = self.pad([drawn[id(generator)] for generator in self.generators])
        n_columns = count_columns(self.tables[0].x) + self.tables[0].t.shape[1]
        max_rows = rows_per_chunk(self.gather_size, len(self.tables) * n_columns)
        begin = first = 0
        for stop in range(1, len(self.batch_widths) + 1):
            if (
                stop < len(self.batch_widths)
                and sum(self.batch_widths[first : stop + 1]) <= max_rows
            ):
                continue
            widths = self.batch_widths[first:stop]
            part = slice(begin, begin + sum(widths))
            weights = None if self.row_weights is None else self.row_weights[:, part]
            gathered = _gather(self.tables, indices[:, part], weights)
            yield from zip(self.split(gathered, widths), self.batch_counts[first:stop], strict=True)
            begin, first = part.stop, stop

    def split(self, gathered: Batch, widths: list[int]) -> Iterator[Batch]:
        """Split gathered rows into contiguous batches of all given tables.

        Parameters
        ----------
        gathered : Batch
            Rows of ``tables``: x of shape (n_tables, m, n_features).
        widths : list of int
            Rows of each batch, which sum to m.
        """
        x, t = gathered.x.split(widths, dim=1), gathered.t.split(widths, dim=1)
        weight = gathered.weight
        weights = [None] * len(widths) if weight is None else weight.split(widths, 1)
        for batch_x, batch_t, own in zip(x, t, weights, strict=True):
            own = None if own is None else self._expand(own.contiguous())
            yield Batch(self._arrange(batch_x), self._arrange(batch_t), own)

    def _arrange(self, rows: Tensor) -> Tensor:
        # (n_tables, m, n_columns) -> (n_tables, n_columns, m)
        rows = rows.transpose(1, 2) if self.features_first else rows
        return self._expand(rows.contiguous())

    def _expand(self, values: Tensor) -> Tensor:
        """Copy values of the distinct tables to all given tables."""
        return values if self.table_index is None else values.index_select(0, self.table_index)


def _gather(tables: Sequence[Table], indices: Tensor, row_weights: Tensor | None) -> Batch:
    """Gather rows of each table into one batch.

    Parameters
    ----------
    tables : sequence of Table
    indices : Tensor of shape (n_tables, m), int64
        -1 for padding.
    row_weights : Tensor of shape (n_tables, m) or None
        See :class:`StackedLoader`; multiplied with the sample weights.

    Returns
    -------
    Batch
        x (n_tables, m, n_features), t (n_tables, m, n_outputs) and weight (n_tables, m).
    """
    indices = indices.clamp(min=0)
    x = _gather_rows([table.x for table in tables], indices)
    t = _gather_rows([table.t for table in tables], indices)
    if row_weights is not None and any(table.weight is not None for table in tables):
        row_weights = torch.stack(
            [
                own if table.weight is None else own * table.weight[index]
                for table, index, own in zip(tables, indices, row_weights, strict=True)
            ]
        )
    return Batch(x, t, row_weights)


def _gather_rows(tables: Sequence[Tensor | LazyRows], indices: Tensor) -> Tensor:
    """Gather rows of shape (n_tables, m, n_columns); stacks have no lazy rows."""
    dense = [table for table in tables if isinstance(table, Tensor)]
    gathered = dense[0].new_empty((*indices.shape, dense[0].shape[1]))
    for table, index, out in zip(dense, indices, gathered, strict=True):
        torch.index_select(table, 0, index, out=out)
    return gathered


def _positions(counts: list[int], widths: list[int]) -> Tensor:
    """Return the position in the order of each row of padded batches; -1 for padding."""
    positions = torch.full((sum(widths),), -1, dtype=torch.int64)
    begin = position = 0
    for count, width in zip(counts, widths, strict=True):
        positions[begin : begin + count] = torch.arange(position, position + count)
        begin, position = begin + width, position + count
    return positions


def _row_weights(counts: list[int], widths: list[int], like: Tensor) -> Tensor:
    """Return the weight of each row of padded batches in the mean of its batch."""
    weights = torch.zeros(sum(widths), dtype=like.dtype, device=like.device)
    begin = 0
    for count, width in zip(counts, widths, strict=True):
        weights[begin : begin + count] = 1 / count
        begin += width
    return weights
