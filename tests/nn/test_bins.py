"""Laws of the piecewise linear embedding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rtdl_num_embeddings import PiecewiseLinearEncoding, compute_bins
from torch import nn

from torchreg.nn import BinEmbedding
from torchreg.nn.embeddings import bin_edges

rng = np.random.default_rng(0)
X = torch.as_tensor(rng.normal(size=(400, 3)))


def embedding_of(x: torch.Tensor, weight: Any = None, **options: Any) -> BinEmbedding:
    embedding = BinEmbedding(x.shape[1], dtype=x.dtype, **options)
    embedding.initialize_from(x, None, weight)
    return embedding


def test_edges_are_quantiles() -> None:
    (edges,) = bin_edges(X[:, :1].t(), None, 8)
    expected = np.quantile(X[:, 0], np.linspace(0, 1, 9), method="averaged_inverted_cdf")
    np.testing.assert_allclose(edges, expected)


def test_the_encoding_is_that_of_rtdl_num_embeddings_minus_its_mean() -> None:
    embedding = embedding_of(X, n_bins=8, n_outputs=8)
    with torch.no_grad():
        embedding.weight.copy_(torch.eye(8).expand(3, 8, 8))
    theirs = PiecewiseLinearEncoding(compute_bins(X.float(), n_bins=8))
    encoded = theirs(X.float()).double().reshape(400, 3, 8)
    expected = encoded - encoded.mean(dim=0)
    found = embedding(X).detach().reshape(400, 3, 8)
    assert float((found - expected).abs().max()) < 0.1  # quantiles are defined in many ways
    np.testing.assert_allclose(found.mean(dim=0), 0, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_an_integer_weight_is_equivalent_to_repeated_rows(weighted: bool) -> None:
    counts = torch.arange(400) % 3 + 1
    one = embedding_of(X, counts.double() if weighted else torch.ones(400), n_bins=4)
    other = embedding_of(X.repeat_interleave(counts, dim=0) if weighted else X, n_bins=4)
    for name in ("low", "slope", "mean"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name))


def test_rows_of_negligible_weight_add_no_bins() -> None:
    weight = torch.where(torch.arange(400) < 60, 1.0, 1e-15).double()
    edges, expected = bin_edges(X.t(), weight, 16), bin_edges(X[:60].t(), None, 16)
    for one, other in zip(edges, expected, strict=True):
        assert len(one) == len(other) == 4
        torch.testing.assert_close(one[1:-1], other[1:-1])


def test_the_edges_of_a_column_with_few_values_are_just_beyond_these_values() -> None:
    values = torch.tensor([4.0, 1.0, 2.0, 2.0, 9.0] * 30)
    (edges,) = bin_edges(values.reshape(1, -1), None, 16)
    assert edges.tolist() == [1, 2 + 2 / 32, 4 + 5 / 32, 9]


@pytest.mark.parametrize("n_values", [3, 9, 40, 1000])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_inner_edge_is_a_value_of_a_row(n_values: int, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(n_values, (2, 500), generator=generator).double() ** 2
    weight = torch.rand(500, generator=generator, dtype=torch.float64) if weighted else None
    for column, edges in zip(values, bin_edges(values, weight, 8), strict=True):
        assert (edges[0], edges[-1]) == (column.min(), column.max())
        assert len(edges) == min(n_values, 9)
        assert not bool(torch.isin(edges[1:-1], column).any())


def test_few_rows_have_few_bins() -> None:
    embedding = embedding_of(X[:60], n_bins=16)
    assert (embedding.slope > 0).sum(dim=1).tolist() == [3, 3, 3]


def test_the_embedding_is_constant_beyond_the_outer_edges() -> None:
    embedding = embedding_of(X)
    outer = torch.stack([X.amin(0), X.amax(0), X.amin(0) - 5, X.amax(0) + 5])
    inside, outside = embedding(outer).chunk(2)
    torch.testing.assert_close(inside, outside)


def test_the_embedding_is_linear_between_edges() -> None:
    embedding = embedding_of(X[:, :1], n_bins=4)
    low, high = embedding.low[0, 1:3].tolist()
    line = torch.linspace(low, high, 5, dtype=torch.float64)[:, None]
    bent = embedding(line).detach().diff(dim=0).diff(dim=0)
    assert float(bent.abs().max()) < 1e-12


def test_a_network_learns_a_step_between_two_values() -> None:
    torch.manual_seed(0)
    hours = torch.arange(24.0).repeat(20)[:, None]
    t = ((hours == 8) | (hours == 17)).float()
    network = nn.Sequential(embedding_of(hours, n_bins=23, n_outputs=4), nn.Linear(4, 1))
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=200)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(network(hours), t)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert float(closure().detach()) < 1e-4


def test_other_columns_are_not_embedded() -> None:
    embedding = embedding_of(X, columns=[0, 2])
    assert embedding(X).shape == (400, 6) == (400, embedding.out_features)
    moved = X.clone()
    moved[:, 1] = 7
    torch.testing.assert_close(embedding(moved), embedding(X))
    assert embedding_of(X, columns=[])(X).shape == (400, 0)


def test_the_output_is_0_before_initialization() -> None:
    assert not bool(BinEmbedding(3)(torch.randn(5, 3)).any())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": [0, 3]}, "BinEmbedding expects distinct columns from 0 to 2"),
        ({"columns": [1, 1]}, "distinct columns"),
        ({"n_bins": 0}, "BinEmbedding: n_bins must be an integer of 1 or more, got 0"),
        ({"n_outputs": 1.5}, "BinEmbedding: n_outputs .* got 1.5"),
    ],
)
def test_invalid_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BinEmbedding(3, **options)
