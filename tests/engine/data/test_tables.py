"""Rows, batches and chunks agree with NumPy and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchreg._estimator import to_sparse_rows
from torchreg.engine.data import (
    LazyRows,
    Table,
    compute_batch_sizes,
    count_distinct_rows,
    iter_chunks,
    iter_shuffled_batches,
    merge_identical,
)

Array = np.ndarray

# Identical rows

TABLES = st.lists(
    st.tuples(st.integers(-1, 1), st.integers(0, 1), st.sampled_from([0.0, -0.0, 0.5])),
    min_size=1,
    max_size=12,
)


def merged(rows: Array, weight: Array | None = None) -> tuple[Array, Array, Array | None]:
    x, y, w = merge_identical(
        torch.from_numpy(rows[:, :2].copy()),
        torch.from_numpy(rows[:, 2:].copy()),
        None if weight is None else torch.from_numpy(weight),
    )
    return x.numpy(), y.numpy(), None if w is None else w.numpy()


@given(rows=TABLES)
def test_merged_rows_are_the_unique_rows_and_their_counts(
    rows: list[tuple[float, float, float]],
) -> None:
    table = np.array(rows, dtype=float)
    expected, counts = np.unique(table, axis=0, return_counts=True)
    x, y, weight = merged(table)
    np.testing.assert_array_equal(np.column_stack([x, y]), expected)
    tensor = torch.from_numpy(table)
    assert count_distinct_rows(tensor[:, :2], tensor[:, 2:]) == len(expected)
    if weight is None:
        assert (counts == counts[0]).all()
    else:
        np.testing.assert_array_equal(weight / weight.sum(), counts / counts.sum())


@given(rows=TABLES, data=st.data())
def test_merged_rows_depend_neither_on_order_nor_on_the_split_of_weights(
    rows: list[tuple[float, float, float]], data: st.DataObject
) -> None:
    table = np.array(rows, dtype=float)
    order = data.draw(st.permutations(range(len(rows))))
    counts = np.array(
        data.draw(st.lists(st.integers(1, 4), min_size=len(rows), max_size=len(rows)))
    )
    plain = merged(table.repeat(counts, axis=0))
    shuffled = merged(table[order].repeat(counts[order], axis=0))
    weighted = merged(table, counts.astype(float))
    for other in (shuffled, weighted):
        np.testing.assert_array_equal(other[0], plain[0])
        np.testing.assert_array_equal(other[1], plain[1])
        if plain[2] is None:
            assert other[2] is None
        else:
            share = plain[2] / plain[2].sum()
            np.testing.assert_array_equal(other[2] / other[2].sum(), share)


def test_rows_with_equal_x_and_different_y_are_not_merged() -> None:
    x, y, weight = merged(np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 4.0]]))
    np.testing.assert_array_equal(x, [[1.0, 2.0], [1.0, 2.0]])
    np.testing.assert_array_equal(y, [[3.0], [4.0]])
    assert weight is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_merged_rows_keep_their_dtype(dtype: torch.dtype) -> None:
    x, y, _ = merge_identical(torch.ones(2, 1, dtype=dtype), torch.ones(2, 1).double(), None)
    assert (x.dtype, y.dtype) == (dtype, torch.float64)


# Batches


@given(n=st.integers(1, 400), batch_size=st.integers(1, 450))
def test_batches_contain_every_row_once_and_none_has_a_single_row(n: int, batch_size: int) -> None:
    sizes = compute_batch_sizes(n, batch_size)
    assert sum(sizes) == n
    assert min(sizes) >= 1
    assert max(sizes) <= batch_size + 1
    if batch_size > 1 and n > 1:
        assert min(sizes) > 1
    # The smallest number of steps; all but the last have the given size.
    assert len(sizes) <= math.ceil(n / batch_size)
    assert set(sizes[:-1]) <= {batch_size}


@given(n=st.integers(0, 50_000), width=st.integers(0, 2_000_000))
def test_chunks_contain_all_rows_in_order_and_have_a_maximum_size(n: int, width: int) -> None:
    n = n if width < 1000 else min(n, 20)
    to_dense = torch.arange(n)
    pieces = [to_dense[piece] for piece in iter_chunks(n, width)]
    assert torch.equal(torch.cat([to_dense[:0], *pieces]), to_dense)
    assert all(0 < len(piece) * width <= max(2**17, width) for piece in pieces if width)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    width=st.sampled_from([1, 1000, 10_000, 300_000]),
    lazy=st.booleans(),
    weighted=st.booleans(),
)
def test_shuffled_batches_contain_every_row_once_in_the_order_of_one_permutation(
    sizes: list[int], width: int, lazy: bool, weighted: bool
) -> None:
    n = sum(sizes)
    x = torch.arange(n).unsqueeze(1).expand(n, width)
    t = torch.arange(n).unsqueeze(1) * 2
    weight = torch.arange(n) * 3 if weighted else None
    table = Table(LazyRows(x, lambda rows: rows) if lazy else x, t, weight)
    batches = list(iter_shuffled_batches(table, sizes, torch.Generator().manual_seed(0)))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    assert [len(batch.t) for batch in batches] == sizes
    assert torch.equal(torch.cat([batch.x[:, -1] for batch in batches]), order)
    assert torch.equal(torch.cat([batch.t[:, 0] for batch in batches]), order * 2)
    for batch in batches:
        assert (
            batch.weight is None
            if weight is None
            else torch.equal(batch.weight * 2, batch.t[:, 0] * 3)
        )


# Sparse rows


@given(
    index=st.lists(st.integers(0, 19), max_size=30),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 20),
)
def test_rows_of_a_sparse_table_are_those_of_scipy(
    index: list[int], density: float, seed: int
) -> None:
    X = scipy.sparse.random_array((20, 7), density=density, rng=seed, format="csr")
    rows = to_sparse_rows(X)
    found = rows[torch.tensor(index, dtype=torch.int64)]
    np.testing.assert_array_equal(found, X.toarray()[index])
    assert len(rows) == 20


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "lil"])
def test_every_sparse_format_of_scipy_gives_the_same_rows(kind: str, dtype: type) -> None:
    X = scipy.sparse.random_array((20, 7), density=0.3, rng=0, format="csr", dtype=dtype)
    rows = to_sparse_rows(X.asformat(kind))
    found = rows[torch.arange(20)]
    assert found.numpy().dtype == dtype
    np.testing.assert_array_equal(found, X.toarray())


def test_a_sparse_table_is_copied_and_not_changed() -> None:
    X = scipy.sparse.csr_array(([1.0, 2.0], [1, 1], [0, 2]), shape=(1, 3))
    rows = to_sparse_rows(X)
    np.testing.assert_array_equal(rows[torch.arange(1)], [[0.0, 3.0, 0.0]])
    np.testing.assert_array_equal(X.data, [1.0, 2.0])
    X.data[:] = 7.0
    np.testing.assert_array_equal(rows[torch.arange(1)], [[0.0, 3.0, 0.0]])
