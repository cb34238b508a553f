"""Laws of periodic embeddings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchreg.nn import PeriodicEmbedding


@pytest.mark.parametrize("columns", [None, [0, 1, 2], [2, 0], [1], []], ids=str)
def test_each_column_has_waves_of_its_own_and_stays(columns: Any) -> None:
    torch.manual_seed(0)
    embedding = PeriodicEmbedding(3, columns, n_frequencies=5, n_outputs=2).double()
    x = torch.randn(7, 3, dtype=torch.float64)
    parts = [x]
    for place, column in enumerate(range(3) if columns is None else columns):
        f, phase, w, b = (p[place] for p in embedding.parameters())
        waves = torch.cos(2 * math.pi * f * x[:, [column]] + phase)
        parts.append(waves @ w.T + b)
    expected = torch.cat(parts, dim=1)
    torch.testing.assert_close(embedding(x), expected)
    assert embedding.out_features == expected.shape[1]


def test_it_begins_as_the_paper_says() -> None:
    torch.manual_seed(0)
    embedding = PeriodicEmbedding(400)
    f, phase, w, b = (p.detach().numpy() for p in embedding.parameters())
    assert f.std() == pytest.approx(0.1, rel=0.03) and f.mean() == pytest.approx(0, abs=0.005)
    assert np.abs(phase).max() <= math.pi
    assert phase.std() == pytest.approx(math.pi / 3**0.5, rel=0.03)
    for values in (w, b):
        assert np.abs(values).max() <= 0.25
        assert values.std() == pytest.approx(0.25 / 3**0.5, rel=0.03)
    assert embedding.out_features == 400 * 4


def test_its_slopes_are_those_of_differences() -> None:
    embedding = PeriodicEmbedding(3, [0, 2], n_frequencies=4).double()
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(embedding, (x,))


def test_the_columns_move_with_it_and_are_no_part_of_its_state() -> None:
    embedding = PeriodicEmbedding(3, [0, 2])
    assert "index" not in embedding.state_dict()
    assert embedding.to("meta").index.is_meta


def test_without_columns_there_is_nothing_to_learn() -> None:
    embedding = PeriodicEmbedding(3, [])
    assert list(embedding.parameters()) == [] and embedding.out_features == 3
    embedding.reset_parameters()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": 0}, "PeriodicEmbedding: in_features of 1 or more"),
        ({"n_outputs": 1.5}, "PeriodicEmbedding: n_outputs of 1 or more"),
        ({"frequency_scale": 0.0}, "PeriodicEmbedding expects a frequency_scale above 0"),
        ({"frequency_scale": math.nan}, "PeriodicEmbedding expects a frequency_scale above 0"),
        ({"columns": [0, 3]}, "expects columns from 0 to 2, each named once"),
        ({"columns": [1, 1]}, "expects columns from 0 to 2, each named once"),
    ],
)
def test_what_is_no_embedding_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PeriodicEmbedding(**{"in_features": 3} | arguments)


def test_what_wiggles_is_learned_sooner_than_by_a_plain_network() -> None:
    torch.manual_seed(0)
    x = torch.linspace(-2, 2, 200)[:, None]
    t = torch.sin(6 * x)

    def left(first: nn.Module, width: int) -> float:
        network = nn.Sequential(first, nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 1))
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(200):
            optimizer.zero_grad()
            loss = (network(x) - t).square().mean()
            loss.backward()
            optimizer.step()
        return loss.item()

    assert left(PeriodicEmbedding(1, frequency_scale=0.5), 4) < left(nn.Identity(), 1) / 3
