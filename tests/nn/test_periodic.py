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
def test_cosines_of_each_column_are_appended_to_the_columns(columns: Any) -> None:
    torch.manual_seed(0)
    embedding = PeriodicEmbedding(3, columns, n_frequencies=5, n_outputs=2).double()
    x = torch.randn(7, 3, dtype=torch.float64)
    parts = [x]
    for i, column in enumerate(range(3) if columns is None else columns):
        f, phase, w, b = (p[i] for p in embedding.parameters())
        cosines = torch.cos(2 * math.pi * f * x[:, [column]] + phase)
        parts.append(cosines @ w.T + b)
    expected = torch.cat(parts, dim=1)
    torch.testing.assert_close(embedding(x), expected)
    assert embedding.out_features == expected.shape[1]


def test_parameters_are_initialized_as_in_the_paper() -> None:
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


def test_the_index_of_columns_is_moved_but_not_in_the_state_dict() -> None:
    embedding = PeriodicEmbedding(3, [0, 2])
    assert "index" not in embedding.state_dict()
    assert embedding.to("meta").index.is_meta


def test_without_columns_there_are_no_parameters() -> None:
    embedding = PeriodicEmbedding(3, [])
    assert list(embedding.parameters()) == [] and embedding.out_features == 3
    embedding.reset_parameters()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"in_features": 0},
            "PeriodicEmbedding: in_features must be an integer of 1 or more, got 0",
        ),
        ({"n_outputs": 1.5}, "PeriodicEmbedding: n_outputs must be .* got 1.5"),
        ({"frequency_scale": 0.0}, "PeriodicEmbedding expects a frequency_scale above 0"),
        ({"frequency_scale": math.nan}, "PeriodicEmbedding expects a frequency_scale above 0"),
        ({"columns": [0, 3]}, "expects distinct columns from 0 to 2"),
        ({"columns": [1, 1]}, "expects distinct columns from 0 to 2"),
    ],
)
def test_invalid_arguments_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PeriodicEmbedding(**{"in_features": 3} | arguments)


def test_an_oscillating_function_is_learned_faster_than_without_embedding() -> None:
    torch.manual_seed(0)
    x = torch.linspace(-2, 2, 200)[:, None]
    t = torch.sin(6 * x)

    def final_loss(first: nn.Module, width: int) -> float:
        network = nn.Sequential(first, nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 1))
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(200):
            optimizer.zero_grad()
            loss = (network(x) - t).square().mean()
            loss.backward()
            optimizer.step()
        return loss.item()

    assert (
        final_loss(PeriodicEmbedding(1, frequency_scale=0.5), 4) < final_loss(nn.Identity(), 1) / 3
    )
