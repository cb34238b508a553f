"""Rows side by side: each table deals as it deals alone, and what is padded has no weight."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import torchreg.engine.data.stacked_loader as stacked_rows
from torchreg.engine.data import (
    StackedLoader,
    Table,
    compute_batch_sizes,
    iter_shuffled_batches,
    make_generators,
    select_table,
    stack_tables,
)


def table(n: int, seed: int, *, weighted: bool = False) -> Table:
    generator = torch.Generator().manual_seed(seed)
    x, t = (torch.randn(n, width, generator=generator, dtype=torch.float64) for width in (3, 2))
    weight = torch.rand(n, generator=generator, dtype=torch.float64) + 0.5 if weighted else None
    return Table(x, t, weight)


def shares_of(table: Table, weight: Tensor | None) -> Tensor:
    own = torch.ones(len(table.t), dtype=torch.float64) if weight is None else weight
    return own / len(own)


@given(
    n_steps=st.integers(1, 4),
    size=st.integers(2, 5),
    rest=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    weights=st.integers(0, 31),
    turned=st.booleans(),
    gathered=st.sampled_from([1, 30, 2**20]),
    copies=st.lists(st.integers(0, 4), max_size=4),
    seeds=st.integers(0, 511),
)
def test_each_table_deals_out_the_rows_that_it_deals_alone_in_the_same_order(
    n_steps: int,
    size: int,
    rest: list[int],
    weights: int,
    turned: bool,
    gathered: int,
    copies: list[int],
    seeds: int,
) -> None:
    tables = [
        table(size * n_steps + more, k, weighted=bool(weights >> k & 1))
        for k, more in enumerate(rest)
    ]
    each = [compute_batch_sizes(len(t.t), size) for t in tables]
    if len({len(own) for own in each}) > 1:
        tables, each = tables[:1], each[:1]
    # Some networks see the same rows, in the same order or in another one.
    chosen = [*range(len(tables)), *(copy % len(tables) for copy in copies)]
    tables, each = [tables[k] for k in chosen], [each[k] for k in chosen]
    own_seeds = [10 + (seeds >> k & 1) for k in range(len(tables))]
    dealt = make_generators(own_seeds, tables)
    alone = [torch.Generator().manual_seed(seed) for seed in own_seeds]
    before, stacked_rows._GATHERED = stacked_rows._GATHERED, gathered
    try:
        deal = StackedLoader(tables, [size] * len(tables), dealt, features_first=turned)
        # Twice: the second epoch has another order.
        for _ in range(2):
            batches = list(deal.batches())
            own = [
                list(iter_shuffled_batches(t, sizes, generator))
                for t, sizes, generator in zip(tables, each, alone, strict=True)
            ]
            for step, (batch, counts) in enumerate(batches):
                assert counts == [sizes[step] for sizes in each]
                assert batch.x.is_contiguous() and batch.t.is_contiguous()
                plain = all(t.weight is None for t in tables) and len(set(map(tuple, each))) == 1
                assert (batch.weight is None) == plain
                for place, one in enumerate(tables):
                    expected = own[place][step]
                    seen = select_table(batch, place, counts, features_first=turned)
                    assert torch.equal(seen.x, expected.x) and torch.equal(seen.t, expected.t)
                    if batch.weight is None:
                        assert seen.weight is None
                        continue
                    share = torch.zeros(max(counts), dtype=torch.float64)
                    share[: counts[place]] = shares_of(
                        Table(expected.x, expected.t, None), expected.weight
                    )
                    torch.testing.assert_close(batch.weight[place], share, rtol=1e-14, atol=0)
                    assert one.t.dtype == batch.weight.dtype
    finally:
        stacked_rows._GATHERED = before


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("lengths", [[7, 7], [7, 4, 1]])
def test_whole_tables_lie_side_by_side_in_their_order(
    lengths: list[int], weighted: bool, turned: bool
) -> None:
    tables = [table(n, n, weighted=weighted) for n in lengths]
    tables, lengths = [*tables, tables[0]], [*lengths, lengths[0]]
    batch = stack_tables(tables, features_first=turned)
    shape = (len(tables), 3, 7) if turned else (len(tables), 7, 3)
    assert tuple(batch.x.shape) == shape and batch.x.is_contiguous()
    assert (batch.weight is None) == (not weighted and len(set(lengths)) == 1)
    for place, one in enumerate(tables):
        seen = select_table(batch, place, lengths, features_first=turned)
        assert torch.equal(seen.x, one.x) and torch.equal(seen.t, one.t)
        if batch.weight is not None:
            share = shares_of(one, one.weight)
            torch.testing.assert_close(batch.weight[place, : lengths[place]], share)
            assert not bool(batch.weight[place, lengths[place] :].any())


def test_what_several_networks_see_is_gathered_once() -> None:
    one, other, longer = table(6, 0), table(6, 1), table(7, 2)
    tables = [one, other, one, one, longer]
    drawn = make_generators([5, 5, 5, 6, 5], tables)
    # The order of more rows is another one.
    assert drawn[0] is drawn[1] is drawn[2]
    assert len({id(generator) for generator in drawn}) == 3
    deal = StackedLoader(tables, [3] * 5, drawn, features_first=False)
    assert deal.tables == [one, other, one, longer]
    assert deal.which is not None and deal.which.tolist() == [0, 1, 0, 2, 3]
    assert StackedLoader([one, other], [3, 3], None, features_first=False).which is None


def test_rows_that_are_taken_out_can_be_written_to() -> None:
    batch = stack_tables([table(5, 0), table(5, 1)], features_first=False)
    before = batch.x.clone()
    seen = select_table(batch, 0, [5, 5], features_first=False)
    seen.x.zero_()
    seen.t.zero_()
    assert torch.equal(batch.x, before) and bool(batch.t[0].any())
