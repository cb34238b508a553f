"""Statistics of columns agree with NumPy and with exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchreg._estimator import to_sparse_rows
from torchreg.engine.data import ColumnStatistics, compute_column_statistics, find_imprecise_columns

Array = np.ndarray


def statistics(X: Array, weight: Array | None = None, *, sparse: bool = False) -> tuple[Array, ...]:
    rows = to_sparse_rows(scipy.sparse.csr_array(X)) if sparse else torch.from_numpy(X)
    found = compute_column_statistics(rows, None if weight is None else torch.from_numpy(weight))
    assert found.mean.dtype == found.scale.dtype == torch.float64
    return found.mean.numpy(), found.scale.numpy()


def exact(column: Array, weight: Array | None = None) -> tuple[float, float]:
    """Mean and standard deviation in fractions, rounded once at the end."""
    values = [Fraction(float(value)) for value in column]
    shares = [Fraction(1)] * len(values)
    if weight is not None:
        shares = [Fraction(float(w)) for w in weight]
    mean = sum(w * v for w, v in zip(shares, values, strict=True)) / sum(shares)
    variance = sum(w * (v - mean) ** 2 for w, v in zip(shares, values, strict=True)) / sum(shares)
    # Out of the range of float, whose square root may be within it.
    size = Fraction(2) ** (math.frexp(float(max(abs(v) for v in values)) or 1.0)[1])
    return float(mean), math.sqrt(variance / size**2) * float(size)


@pytest.fixture(scope="module")
def table() -> tuple[Array, Array]:
    """Columns with many zeros, and weights."""
    rng = np.random.default_rng(0)
    X = np.where(rng.uniform(size=(80, 4)) < 0.3, rng.normal(5, 2, size=(80, 4)), 0.0)
    X[:, 3] += 10.0
    return X, rng.uniform(0.1, 4, size=80)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_statistics_are_those_of_numpy(
    sparse: bool, weighted: bool, table: tuple[Array, Array]
) -> None:
    X, weight = table
    w = weight if weighted else None
    mean, scale = statistics(X, w, sparse=sparse)
    expected = np.average(X, axis=0, weights=w)
    np.testing.assert_allclose(mean, expected, rtol=1e-14)
    np.testing.assert_allclose(
        scale, np.sqrt(np.average((X - expected) ** 2, axis=0, weights=w)), rtol=1e-14
    )


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e-12, 1.0, 1e12, 1e200, 1e300])
def test_columns_of_any_size_have_the_statistics_of_exact_fractions(
    sparse: bool, size: float, table: tuple[Array, Array]
) -> None:
    X, weight = table
    X = X * size
    for w in (None, weight):
        mean, scale = statistics(X, w, sparse=sparse)
        for j in range(X.shape[1]):
            np.testing.assert_allclose((mean[j], scale[j]), exact(X[:, j], w), rtol=1e-13)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("offset", [1e6, 1.7e9, -1e12])
def test_a_large_offset_loses_no_more_digits_of_the_scale_than_of_the_data(
    sparse: bool, offset: float
) -> None:
    X = np.random.default_rng(0).normal(size=(200, 2)) + offset
    mean, scale = statistics(X, sparse=sparse)
    for j in range(2):
        expected_mean, expected_scale = exact(X[:, j])
        assert mean[j] == pytest.approx(expected_mean, rel=4e-16)
        # A mean wrong by one spacing adds its square to the variance.
        spacing = np.spacing(abs(offset))
        assert scale[j] == pytest.approx(expected_scale, abs=2 * spacing**2 + 1e-13)


def test_explicit_zeros_of_sparse_rows_are_zeros_and_repeated_entries_are_added() -> None:
    rows = [0, 0, 0, 2, 2, 3]
    columns = [1, 1, 0, 2, 0, 1]
    values = [3.0, 4.0, 0.0, -2.0, 5.0, 1.0]
    X = scipy.sparse.coo_array((values, (rows, columns)), shape=(5, 4))
    found = compute_column_statistics(to_sparse_rows(X), None)
    np.testing.assert_allclose(found.mean, X.toarray().mean(axis=0), rtol=1e-15)
    np.testing.assert_allclose(found.scale, X.toarray().std(axis=0), rtol=1e-15)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.1, -7.0, 1e-300, 5e-324, 1e300, 1.7e9, 1 / 3])
@pytest.mark.parametrize("n", [1, 3, 10, 1001])
def test_a_constant_column_has_its_value_as_mean_and_0_as_scale(
    sparse: bool, value: float, n: int
) -> None:
    weight = np.random.default_rng(0).uniform(0.1, 3, size=n)
    for w in (None, weight):
        mean, scale = statistics(np.full((n, 2), value), w, sparse=sparse)
        np.testing.assert_array_equal(scale, 0.0)
        np.testing.assert_allclose(mean, value, rtol=1e-15, atol=0)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("size", [1e-300, 1.0, 1e300])
def test_a_column_that_differs_in_a_few_digits_is_not_constant(sparse: bool, size: float) -> None:
    X = size * (1 + 1e-12 * np.arange(10.0)[:, None])
    _, scale = statistics(X, sparse=sparse)
    assert scale[0] == pytest.approx(exact(X[:, 0])[1], rel=1e-2)


@given(
    values=st.lists(st.floats(-1e300, 1e300, allow_subnormal=True), min_size=1, max_size=12),
    weights=st.lists(st.floats(1e-3, 1e3), min_size=12, max_size=12),
)
def test_the_mean_is_between_the_extremes_and_exact_to_rounding(
    values: list[float], weights: list[float]
) -> None:
    X = np.array(values)[:, None]
    w = np.array(weights[: len(values)])
    largest = np.abs(X).max()
    expected_mean, expected_scale = exact(X[:, 0], w)
    for sparse in (False, True):
        mean, scale = statistics(X, w, sparse=sparse)
        bound = 1e-14 * largest + 5e-324
        assert abs(mean[0] - expected_mean) <= bound
        assert abs(scale[0] - expected_scale) <= bound or (
            scale[0] == 0.0 and expected_scale <= 8 * np.finfo(float).eps * largest
        )


@given(exponent=st.integers(-900, 900), seed=st.integers(0, 50))
def test_statistics_of_columns_times_a_power_of_two_are_the_same_bits_times_it(
    exponent: int, seed: int
) -> None:
    X = np.random.default_rng(seed).normal(3, 1, size=(20, 2))
    for sparse in (False, True):
        plain, scaled = statistics(X, sparse=sparse), statistics(X * 2.0**exponent, sparse=sparse)
        np.testing.assert_array_equal(scaled, np.array(plain) * 2.0**exponent)


def test_integer_weights_are_equivalent_to_repeated_rows(table: tuple[Array, Array]) -> None:
    X, _ = table
    counts = np.arange(1, 81) % 4 + 1
    for sparse in (False, True):
        np.testing.assert_allclose(
            statistics(X, counts.astype(float), sparse=sparse),
            statistics(X.repeat(counts, axis=0), sparse=sparse),
            rtol=1e-13,
        )


# Imprecise columns


@pytest.mark.parametrize(
    ("offset", "spread", "dtype", "lost"),
    [
        (0.0, 100, np.float32, []),
        (200.0, 10, np.float32, []),
        (1.7e9, 100, np.float32, [0]),
        (1.7e9, 100, np.float64, []),
        (1.7e18, 3000, np.float64, [0]),
        (1.7e9, 100, np.int64, []),
    ],
)
def test_a_column_is_imprecise_if_its_standard_deviation_spans_few_numbers(
    offset: float, spread: float, dtype: type, lost: list[int]
) -> None:
    X = (np.random.default_rng(0).normal(scale=spread, size=(500, 1)) + offset).astype(dtype)
    found = compute_column_statistics(torch.from_numpy(X), None)
    assert find_imprecise_columns(found, torch.from_numpy(X).dtype) == lost
    # Such rows have few distinct values.
    if dtype is not np.int64:
        assert (len(np.unique(X)) < 100) == bool(lost)


def test_a_constant_column_is_not_imprecise() -> None:
    found = ColumnStatistics(torch.tensor([1.7e9]).double(), torch.zeros(1).double())
    assert find_imprecise_columns(found, torch.float32) == []


def test_a_table_of_many_chunks_has_the_statistics_of_numpy() -> None:
    rng = np.random.default_rng(0)
    X, weight = rng.normal(loc=1e6, size=(40_000, 3)), rng.uniform(size=40_000)
    mean, scale = statistics(X, weight)
    np.testing.assert_allclose(mean, np.average(X, axis=0, weights=weight), rtol=1e-14)
    expected = np.average((X - mean) ** 2, axis=0, weights=weight) ** 0.5
    np.testing.assert_allclose(scale, expected, rtol=1e-12)
