"""Laws of the embedding of numbers in bins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rtdl_num_embeddings import PiecewiseLinearEncoding, compute_bins
from torch import nn

from torchreg.nn import BinEmbedding
from torchreg.nn.bins import bin_edges

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


def test_shares_are_those_of_the_package_less_their_mean() -> None:
    embedding = embedding_of(X, n_bins=8, n_outputs=8)
    with torch.no_grad():
        embedding.weight.copy_(torch.eye(8).expand(3, 8, 8))
    theirs = PiecewiseLinearEncoding(compute_bins(X.float(), n_bins=8))
    made = theirs(X.float()).double().reshape(400, 3, 8)
    # Theirs goes on beyond the outer edges; no training row lies there.
    expected = made - made.mean(dim=0)
    found = embedding(X).detach().reshape(400, 3, 8)
    assert float((found - expected).abs().max()) < 0.1  # quantiles are defined in many ways
    np.testing.assert_allclose(found.mean(dim=0), 0, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_weight_is_worth_as_many_rows(weighted: bool) -> None:
    counts = torch.arange(400) % 3 + 1
    one = embedding_of(X, counts.double() if weighted else torch.ones(400), n_bins=4)
    other = embedding_of(X.repeat_interleave(counts, dim=0) if weighted else X, n_bins=4)
    for name in ("low", "slope", "mean"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name))


def test_few_values_are_their_own_edges() -> None:
    values = torch.tensor([4.0, 1.0, 2.0, 2.0, 9.0] * 30)
    (edges,) = bin_edges(values.reshape(1, -1), None, 16)
    assert edges.tolist() == [1, 2, 4, 9]


def test_of_few_rows_there_are_few_bins() -> None:
    embedding = embedding_of(X[:60], n_bins=16)
    assert (embedding.slope > 0).sum(dim=1).tolist() == [3, 3, 3]


def test_beyond_the_outer_edges_nothing_changes() -> None:
    embedding = embedding_of(X)
    outer = torch.stack([X.amin(0), X.amax(0), X.amin(0) - 5, X.amax(0) + 5])
    made = embedding(outer)
    torch.testing.assert_close(made[:2], made[2:])


def test_between_edges_it_is_a_straight_line() -> None:
    embedding = embedding_of(X[:, :1], n_bins=4)
    low, high = embedding.low[0, 1:3].tolist()
    line = torch.linspace(low, high, 5, dtype=torch.float64)[:, None]
    bent = embedding(line).detach().diff(dim=0).diff(dim=0)
    assert float(bent.abs().max()) < 1e-12


def test_a_step_between_neighbours_is_learned_where_waves_are_slow() -> None:
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

    optimizer.step(closure)  # type: ignore[arg-type]
    assert float(closure().detach()) < 1e-4


def test_columns_that_are_not_named_are_left_out() -> None:
    embedding = embedding_of(X, columns=[0, 2])
    assert embedding(X).shape == (400, 6) == (400, embedding.out_features)
    moved = X.clone()
    moved[:, 1] = 7
    torch.testing.assert_close(embedding(moved), embedding(X))
    assert embedding_of(X, columns=[])(X).shape == (400, 0)


def test_before_it_has_seen_rows_nothing_comes_out() -> None:
    assert not bool(BinEmbedding(3)(torch.randn(5, 3)).any())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": [0, 3]}, "BinEmbedding expects columns from 0 to 2"),
        ({"columns": [1, 1]}, "each named once"),
        ({"n_bins": 0}, "BinEmbedding: n_bins of 1 or more"),
        ({"n_outputs": 1.5}, "BinEmbedding: n_outputs of 1 or more"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BinEmbedding(3, **options)
