"""Stacked batches hold what each table alone gives, and padding has no weight."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

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


def weights_in_mean(weight: Tensor | None, n: int) -> Tensor:
    return (torch.ones(n, dtype=torch.float64) if weight is None else weight) / n


@given(
    n_steps=st.integers(1, 4),
    size=st.integers(2, 5),
    rest=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    weights=st.integers(0, 31),
    features_first=st.booleans(),
    gather_size=st.sampled_from([1, 30, 2**20]),
    copies=st.lists(st.integers(0, 4), max_size=4),
    seeds=st.integers(0, 511),
)
def test_each_table_has_the_rows_and_the_order_that_it_has_alone(
    n_steps: int,
    size: int,
    rest: list[int],
    weights: int,
    features_first: bool,
    gather_size: int,
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
    loader = StackedLoader(
        tables, [size] * len(tables), dealt, features_first=features_first, gather_size=gather_size
    )
    unweighted = all(t.weight is None for t in tables) and len(set(map(tuple, each))) == 1
    # The second epoch has another order.
    for _ in range(2):
        own = [
            list(iter_shuffled_batches(t, sizes, generator))
            for t, sizes, generator in zip(tables, each, alone, strict=True)
        ]
        for step, (batch, counts) in enumerate(loader.batches()):
            assert counts == [sizes[step] for sizes in each]
            assert batch.x.is_contiguous() and batch.t.is_contiguous()
            assert (batch.weight is None) == unweighted
            for index in range(len(tables)):
                expected = own[index][step]
                found = select_table(batch, index, counts, features_first=features_first)
                assert torch.equal(found.x, expected.x) and torch.equal(found.t, expected.t)
                if batch.weight is None:
                    assert found.weight is None
                    continue
                weight = torch.zeros(max(counts), dtype=torch.float64)
                n = counts[index]
                weight[:n] = weights_in_mean(expected.weight, n)
                torch.testing.assert_close(batch.weight[index], weight, rtol=1e-14, atol=0)


@pytest.mark.parametrize("features_first", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("lengths", [[7, 7], [7, 4, 1]])
def test_whole_tables_are_stacked_in_their_order(
    lengths: list[int], weighted: bool, features_first: bool
) -> None:
    tables = [table(n, n, weighted=weighted) for n in lengths]
    tables, lengths = [*tables, tables[0]], [*lengths, lengths[0]]
    batch = stack_tables(tables, features_first=features_first)
    shape = (len(tables), 3, 7) if features_first else (len(tables), 7, 3)
    assert tuple(batch.x.shape) == shape and batch.x.is_contiguous()
    assert (batch.weight is None) == (not weighted and len(set(lengths)) == 1)
    for index, (one, n) in enumerate(zip(tables, lengths, strict=True)):
        found = select_table(batch, index, lengths, features_first=features_first)
        assert torch.equal(found.x, one.x) and torch.equal(found.t, one.t)
        if batch.weight is not None:
            torch.testing.assert_close(batch.weight[index, :n], weights_in_mean(one.weight, n))
            assert not bool(batch.weight[index, n:].any())


def test_selected_rows_are_copies() -> None:
    batch = stack_tables([table(5, 0), table(5, 1)], features_first=False)
    before = batch.x.clone()
    selected = select_table(batch, 0, [5, 5], features_first=False)
    selected.x.zero_()
    selected.t.zero_()
    assert torch.equal(batch.x, before) and bool(batch.t[0].any())
