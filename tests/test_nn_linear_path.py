"""Laws of a linear path beside a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge
from torch import Tensor, nn

from torchreg import TorchRegressor
from torchreg.nn import MLP, LinearPath, MemberLinear
from torchreg.nn.linear_path import ridge, zero_output

torch.manual_seed(0)
X = torch.randn(80, 4, dtype=torch.float64)
T = X @ torch.randn(4, 2, dtype=torch.float64) + 0.3 + 0.01 * torch.randn(80, 2)
WEIGHT = torch.randint(1, 4, (80,)).double()


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["alike", "weights"])
def test_with_little_noise_the_line_is_that_of_least_squares(weight: Tensor | None) -> None:
    slopes, bias = ridge(X, T, weight)
    expected = LinearRegression().fit(X, T, weight)
    np.testing.assert_allclose(slopes, expected.coef_, rtol=1e-3)
    np.testing.assert_allclose(bias, expected.intercept_, rtol=1e-3)


def test_columns_that_are_copies_share_their_weight() -> None:
    twice = torch.cat([X, X[:, :1]], dim=1)
    slopes, bias = ridge(twice, T)
    torch.testing.assert_close(slopes[:, 0], slopes[:, 4])
    np.testing.assert_allclose(
        (twice @ slopes.T + bias).numpy(),
        LinearRegression().fit(X, T).predict(X),
        atol=1e-3,
    )


@pytest.mark.parametrize("shape", [(30, 8), (30, 29), (30, 200)], ids=str)
def test_the_penalty_is_the_best_of_generalized_cross_validation(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    t = x[:, :3].sum(1, keepdim=True)
    t = t + 2 * torch.randn(t.shape, generator=generator, dtype=torch.float64)
    slopes, _ = ridge(x, t)
    n, centred = len(x), (x - x.mean(0)).numpy()
    mean_variance = np.square(centred).sum() / shape[1]
    errors = []
    for penalty in 10.0 ** np.arange(-6, 2.5, 0.5) * mean_variance:
        model = Ridge(alpha=penalty).fit(x, t[:, 0])
        values = np.linalg.svd(centred, compute_uv=False) ** 2
        free = 1 - (1 + (values / (values + penalty)).sum()) / n
        error = np.square(model.predict(x) - t[:, 0].numpy()).sum() / free**2
        errors.append((error if free >= 0.05 else np.inf, model.coef_))
    np.testing.assert_allclose(slopes[0], min(errors, key=lambda e: e[0])[1], rtol=1e-6)


def test_where_nothing_varies_the_line_is_the_mean() -> None:
    slopes, bias = ridge(torch.ones(5, 3), torch.arange(5.0)[:, None])
    assert slopes.tolist() == [[0, 0, 0]] and bias.tolist() == [2]


@pytest.mark.parametrize("n_members", [None, 3])
def test_it_begins_at_the_linear_answer(n_members: int | None) -> None:
    network = (
        MLP(4, 2, [8])
        if n_members is None
        else nn.Sequential(MemberLinear(3, 4, 8), nn.ReLU(), MemberLinear(3, 8, 2))
    )
    path = LinearPath(network, 4, 2).double()
    before = [p.detach().clone() for p in network.parameters()]
    path.initialize_from(X, T, None)
    slopes, bias = ridge(X, T)
    expected = X @ slopes.T + bias
    output = path(X)
    if n_members is not None:
        assert output.shape == (80, 3, 2)
        expected = expected.unsqueeze(1).expand(80, 3, 2)
    torch.testing.assert_close(output, expected)
    after = list(network.parameters())
    assert all(map(torch.equal, before[:2], after[:2]))
    assert not any(bool(p.any()) for p in after[2:])


def test_the_network_is_asked_about_what_the_line_leaves() -> None:
    class Asked(nn.Linear):
        def initialize_from(self, x: Tensor, t: Tensor, weight: Tensor | None) -> None:
            self.left = t

    path = LinearPath(Asked(4, 2), 4, 2).double()
    path.initialize_from(X, T, None)
    torch.testing.assert_close(path.network.left, T - path.linear(X).detach())


@pytest.mark.parametrize(
    "network",
    [
        nn.Conv1d(1, 1, 1),
        nn.Sequential(nn.Linear(1, 2), nn.Unflatten(1, (2, 1)), nn.Conv1d(2, 1, 1)),
        nn.ReLU(),
    ],
)
def test_a_network_whose_last_layer_is_another_is_left_alone(network: nn.Module) -> None:
    before = [p.detach().clone() for p in network.parameters()]
    zero_output(network)
    assert all(map(torch.equal, before, network.parameters()))


def build(in_features: int, out_features: int) -> nn.Module:
    return LinearPath(MLP(in_features, out_features, [16]), in_features, out_features)


@pytest.mark.parametrize("options", [{}, {"optimizer": "sgd"}, {"dtype": "float32"}], ids=str)
def test_a_regressor_has_the_linear_answer_after_one_step(options: Any) -> None:
    reg = TorchRegressor(build, max_epochs=1, lr=1e-6, random_state=0, **options)
    reg.fit(1e3 + 50 * X.numpy(), T.numpy())
    np.testing.assert_allclose(
        reg.predict(1e3 + 50 * X.numpy()),
        LinearRegression().fit(X, T).predict(X),
        atol=1e-2,
    )
