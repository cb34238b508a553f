"""Rows of many tables side by side: padded with rows of no weight, each dealt by its own seed."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence

import torch
from torch import Tensor

from torchreg.engine.data.tables import (
    Batch,
    Table,
    compute_batch_sizes,
    count_columns,
    rows_per_chunk,
)

#: As many numbers are gathered at once, for all tables together.
_GATHERED = 2**20


def gather_stacked(tables: Sequence[Table], places: Tensor, share: Tensor | None) -> Batch:
    """Gather rows of each table into one batch.

    Parameters
    ----------
    tables : sequence of Table
    places : Tensor of shape (n_tables, m), int64
        Which rows of each; -1 is a row that is none.
    share : Tensor of shape (n_tables, m) or None
        Of each row in the mean of its table, before its own weight; ``None`` where all rows are
        there, and none has a weight.

    Returns
    -------
    Batch
        x (n_tables, m, n_features), t (n_tables, m, n_outputs), and the shares with the rows'
        weights.
    """
    chosen = places.clamp(min=0)
    x = _gathered([table.x for table in tables], chosen)
    t = _gathered([table.t for table in tables], chosen)
    if share is not None and any(table.weight is not None for table in tables):
        share = torch.stack(
            [
                own if table.weight is None else own * table.weight[row]
                for table, row, own in zip(tables, chosen, share, strict=True)
            ]
        )
    return Batch(x, t, share)


def _gathered(rows: Sequence[object], places: Tensor) -> Tensor:
    """Gather (n_tables, m) rows of tables: shape (n_tables, m, n_columns)."""
    tables = [table for table in rows if isinstance(table, Tensor)]
    gathered = tables[0].new_empty((*places.shape, tables[0].shape[1]))
    for table, index, into in zip(tables, places, gathered, strict=True):
        torch.index_select(table, 0, index, out=into)
    return gathered


def _turned(values: Tensor) -> Tensor:
    """Put columns before rows: shape (n_tables, m, n_columns) to (n_tables, n_columns, m)."""
    return values.transpose(1, 2).contiguous()


def stack_tables(tables: Sequence[Table], *, features_first: bool) -> Batch:
    """Put whole tables side by side; see :class:`StackedLoader`."""
    deal = StackedLoader(
        tables, [len(table.t) for table in tables], None, features_first=features_first
    )
    places = [torch.arange(len(table.t), device=table.t.device) for table in deal.tables]
    gathered = gather_stacked(deal.tables, deal.seat(places), deal.share)
    return next(deal.split(gathered, deal.batch_widths))


def stack_tables_in_chunks(
    tables: Sequence[Table], at_once: int, *, features_first: bool
) -> list[Batch]:
    """Put whole tables side by side, in pieces of at most ``at_once`` rows."""
    rows = stack_tables(tables, features_first=features_first)
    dim = 2 if features_first else 1
    n_rows = rows.t.shape[dim]
    # Of about one size: each other size is another program.
    length = math.ceil(n_rows / math.ceil(n_rows / at_once))
    x, t = rows.x.split(length, dim), rows.t.split(length, dim)
    shares = [None] * len(x) if rows.weight is None else rows.weight.split(length, 1)
    return [Batch(*piece) for piece in zip(x, t, shares, strict=True)]


def make_generators(seeds: Sequence[int], tables: Sequence[Table]) -> list[torch.Generator]:
    """Give each table a generator from which its orders are drawn: one for all that are equal."""
    made: dict[tuple[int, int], torch.Generator] = {}
    generators = []
    for seed, table in zip(seeds, tables, strict=True):
        key = seed, len(table.t)
        if key not in made:
            made[key] = torch.Generator().manual_seed(seed)
        generators.append(made[key])
    return generators


def select_table(batch: Batch, place: int, counts: Sequence[int], *, features_first: bool) -> Batch:
    """Take the rows of one table out of a batch, as its network sees them alone."""
    n_rows = counts[place]
    x, t = batch.x[place], batch.t[place]
    if features_first:
        # (n_columns, m) -> (m, n_columns)
        x, t = x.t(), t.t()
    weight = None if batch.weight is None else batch.weight[place, :n_rows] * n_rows
    # Copies: a network or a loss may write to what it is given.
    return Batch(x[:n_rows].clone(), t[:n_rows].clone(), weight)


class StackedLoader:
    """Deals the rows of each table out in a random order of its own.

    Networks that differ in nothing but their settings see the same rows in the same order: what
    several of them share is gathered once, and then repeated.

    Parameters
    ----------
    tables : sequence of Table
        That make the same number of batches; one may come several times.
    sizes : sequence of int
        Rows of a batch of each.
    generators : sequence of torch.Generator or None
        One for each table; tables of one length may share one, and then have the same order.
        ``None`` if no order is drawn.
    features_first : bool
        Whether columns come before rows.

    Attributes
    ----------
    counts : list of list of int
        Of each batch, how many rows of each table are in it.
    tables : list of Table
        Those that differ, or have another order.
    which : Tensor of shape (n_tables,) or None
        Which of them each of those given is; ``None``: they are the same.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        sizes: Sequence[int],
        generators: Sequence[torch.Generator] | None,
        *,
        features_first: bool,
    ) -> None:
        self.features_first = features_first
        like = tables[0].t
        each = [compute_batch_sizes(len(t.t), size) for t, size in zip(tables, sizes, strict=True)]
        self.batch_counts = [list(step) for step in zip(*each, strict=True)]
        self.batch_widths = [max(step) for step in self.batch_counts]
        orders = [0] * len(tables) if generators is None else [*map(id, generators)]
        known: dict[Hashable, int] = {}
        first: list[int] = []
        which: list[int] = []
        for place, (table, size, order) in enumerate(zip(tables, sizes, orders, strict=True)):
            key = id(table.x), id(table.t), id(table.weight), size, order
            if key not in known:
                known[key] = len(first)
                first.append(place)
            which.append(known[key])
        self.which = None
        if len(first) < len(tables):
            self.which = torch.tensor(which, device=like.device)
        self.tables = [tables[place] for place in first]
        self.generators = [] if generators is None else [generators[place] for place in first]
        own_sizes = [each[place] for place in first]
        padded = any(len(set(step)) > 1 for step in self.batch_counts)
        #: Where each row of an order is seated: -1, its last element, where there is no row.
        self.seats: list[Tensor] | None = None
        self.share: Tensor | None = None
        if padded:
            self.seats = [_seats(own, self.batch_widths).to(like.device) for own in own_sizes]
        if padded or any(table.weight is not None for table in tables):
            self.share = torch.stack([_shares(own, self.batch_widths, like) for own in own_sizes])

    def seat(self, orders: list[Tensor]) -> Tensor:
        """Put orders of unequal length side by side: shape (n_tables, sum of the widths)."""
        if self.seats is None:
            return torch.stack(orders)
        none = orders[0].new_full((1,), -1)
        return torch.stack(
            [torch.cat([order, none])[own] for order, own in zip(orders, self.seats, strict=True)]
        )

    def batches(self) -> Iterator[tuple[Batch, list[int]]]:
        """Deal all rows out anew, as many batches at once as memory is kind to."""
        device = self.tables[0].t.device
        drawn: dict[int, Tensor] = {}
        for table, generator in zip(self.tables, self.generators, strict=True):
            if id(generator) not in drawn:
                order = torch.randperm(len(table.t), generator=generator).to(device)
                drawn[id(generator)] = order
        places = self.seat([drawn[id(generator)] for generator in self.generators])
        width = len(self.tables) * (count_columns(self.tables[0].x) + self.tables[0].t.shape[1])
        at_once = rows_per_chunk(_GATHERED, width)
        begin = first = 0
        for step in range(1, len(self.batch_widths) + 1):
            if (
                step < len(self.batch_widths)
                and sum(self.batch_widths[first : step + 1]) <= at_once
            ):
                continue
            group = self.batch_widths[first:step]
            piece = slice(begin, begin + sum(group))
            share = None if self.share is None else self.share[:, piece]
            gathered = gather_stacked(self.tables, places[:, piece], share)
            yield from zip(self.split(gathered, group), self.batch_counts[first:step], strict=True)
            begin, first = piece.stop, step

    def split(self, gathered: Batch, widths: list[int]) -> Iterator[Batch]:
        """Cut what was gathered into batches, each in memory of its own, with all tables in it.

        Parameters
        ----------
        gathered : Batch
            Of :func:`gather_stacked`.
        widths : list of int
            Rows of each batch.
        """
        x, t = gathered.x.split(widths, dim=1), gathered.t.split(widths, dim=1)
        weight = gathered.weight
        shares = [None] * len(widths) if weight is None else weight.split(widths, 1)
        for batch_x, batch_t, share in zip(x, t, shares, strict=True):
            own = None if share is None else self._repeat(share.contiguous())
            yield Batch(self._arrange(batch_x), self._arrange(batch_t), own)

    def _arrange(self, rows: Tensor) -> Tensor:
        return self._repeat(_turned(rows) if self.features_first else rows.contiguous())

    def _repeat(self, values: Tensor) -> Tensor:
        """Give each table what is its own, in memory of its own."""
        return values if self.which is None else values.index_select(0, self.which)


def _seats(sizes: list[int], widths: list[int]) -> Tensor:
    """Give each place of padded batches the row of an order that sits there, or -1."""
    seats = torch.full((sum(widths),), -1, dtype=torch.int64)
    begin = dealt = 0
    for size, width in zip(sizes, widths, strict=True):
        seats[begin : begin + size] = torch.arange(dealt, dealt + size)
        begin, dealt = begin + width, dealt + size
    return seats


def _shares(sizes: list[int], widths: list[int], like: Tensor) -> Tensor:
    """Give each place of padded batches the share of its row in the mean of its batch."""
    share = torch.zeros(sum(widths), dtype=like.dtype, device=like.device)
    begin = 0
    for size, width in zip(sizes, widths, strict=True):
        share[begin : begin + size] = 1 / size
        begin += width
    return share
