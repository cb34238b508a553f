"""Laws of a network with a linear skip connection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn

from torchreg import TorchRegressor
from torchreg.nn import MLP, LinearPath, MemberLinear
from torchreg.nn.linear_path import zero_last_layer
from torchreg.nn.tabular import ridge

torch.manual_seed(0)
X = torch.randn(80, 4, dtype=torch.float64)
T = X @ torch.randn(4, 2, dtype=torch.float64) + 0.3 + 0.01 * torch.randn(80, 2)


@pytest.mark.parametrize("n_members", [None, 3])
def test_initialization_gives_the_ridge_solution(n_members: int | None) -> None:
    network = (
        MLP(4, 2, [8])
        if n_members is None
        else nn.Sequential(MemberLinear(3, 4, 8), nn.ReLU(), MemberLinear(3, 8, 2))
    )
    path = LinearPath(network, 4, 2).double()
    before = [p.detach().clone() for p in network.parameters()]
    path.initialize_from(X, T, None)
    slopes, bias, _ = ridge(X, T)
    expected = X @ slopes.T + bias
    output = path(X)
    if n_members is not None:
        assert output.shape == (80, 3, 2)
        expected = expected.unsqueeze(1).expand(80, 3, 2)
    torch.testing.assert_close(output, expected)
    after = list(network.parameters())
    assert all(map(torch.equal, before[:2], after[:2]))
    assert not any(bool(p.any()) for p in after[2:])


@pytest.mark.parametrize("weight", [None, torch.arange(80.0)])
def test_the_network_is_initialized_from_the_residuals(weight: Tensor | None) -> None:
    class Recorder(nn.Linear):
        def initialize_from(self, x: Tensor, t: Tensor, weight: Tensor | None) -> None:
            self.targets = t

    path = LinearPath(Recorder(4, 2), 4, 2).double()
    path.initialize_from(X, T, weight)
    torch.testing.assert_close(path.linear.weight, ridge(X, T, weight)[0])
    torch.testing.assert_close(path.network.targets, T - path.linear(X).detach())


@pytest.mark.parametrize(
    "network",
    [
        nn.Conv1d(1, 1, 1),
        nn.Sequential(nn.Linear(1, 2), nn.Unflatten(1, (2, 1)), nn.Conv1d(2, 1, 1)),
        nn.ReLU(),
    ],
)
def test_another_last_layer_is_not_changed(network: nn.Module) -> None:
    before = [p.detach().clone() for p in network.parameters()]
    zero_last_layer(network)
    assert all(map(torch.equal, before, network.parameters()))


def build(in_features: int, out_features: int) -> nn.Module:
    return LinearPath(MLP(in_features, out_features, [16]), in_features, out_features)


@pytest.mark.parametrize("options", [{}, {"optimizer": "sgd"}, {"dtype": "float32"}], ids=str)
def test_a_regressor_starts_from_the_linear_fit(options: Any) -> None:
    reg = TorchRegressor(build, max_epochs=1, lr=1e-6, random_state=0, **options)
    reg.fit(1e3 + 50 * X.numpy(), T.numpy())
    np.testing.assert_allclose(
        reg.predict(1e3 + 50 * X.numpy()),
        LinearRegression().fit(X, T).predict(X),
        atol=1e-2,
    )
