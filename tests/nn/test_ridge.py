"""Laws of ridge regression with a penalty from the restricted likelihood."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import null_space
from scipy.stats import multivariate_normal
from sklearn.linear_model import LinearRegression, Ridge
from torch import Tensor

from torchreg.nn.tabular import ridge

torch.manual_seed(0)
X = torch.randn(80, 4, dtype=torch.float64)
T = X @ torch.randn(4, 2, dtype=torch.float64) + 0.3 + 0.01 * torch.randn(80, 2)
WEIGHT = torch.randint(1, 4, (80,)).double()


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
def test_with_little_noise_the_fit_is_least_squares(weight: Tensor | None) -> None:
    slopes, bias, _ = ridge(X, T, weight)
    expected = LinearRegression().fit(X, T, weight)
    np.testing.assert_allclose(slopes, expected.coef_, rtol=1e-3)
    np.testing.assert_allclose(bias, expected.intercept_, rtol=1e-3)


def test_identical_columns_have_equal_weights() -> None:
    twice = torch.cat([X, X[:, :1]], dim=1)
    slopes, bias, _ = ridge(twice, T)
    torch.testing.assert_close(slopes[:, 0], slopes[:, 4])
    np.testing.assert_allclose(
        (twice @ slopes.T + bias).numpy(), LinearRegression().fit(X, T).predict(X), atol=1e-3
    )


@pytest.mark.parametrize("shape", [(30, 8), (30, 29), (30, 200)], ids=str)
@pytest.mark.parametrize("noise", [0.2, 2.0])
def test_the_penalty_maximizes_the_density_of_contrasts_of_the_targets(
    shape: tuple[int, int], noise: float
) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape)
    t = x[:, :3].sum(axis=1) + noise * rng.normal(size=len(x))
    centred = x - x.mean(axis=0)
    contrasts = null_space(np.ones((1, len(x)))).T  # (n - 1, n), orthonormal
    contrast = contrasts @ t
    found = []
    for penalty in 10.0 ** np.arange(-6, 2.5, 0.5) * np.square(centred).sum() / shape[1]:
        covariance = np.eye(len(x)) + centred @ centred.T / penalty
        covariance = contrasts @ covariance @ contrasts.T
        variance = contrast @ np.linalg.solve(covariance, contrast) / len(contrast)
        density = multivariate_normal(cov=variance * covariance).logpdf(contrast)
        found.append((density, Ridge(alpha=penalty).fit(x, t).coef_))
    slopes, _, deviance = ridge(torch.as_tensor(x), torch.as_tensor(t)[:, None])
    density, expected = max(found, key=lambda pair: pair[0])
    np.testing.assert_allclose(slopes[0], expected, rtol=1e-6, atol=1e-9)
    # The deviance has an additive constant: only differences are comparable.
    other = ridge(torch.as_tensor(x), 3 * torch.as_tensor(t)[:, None])[2]
    np.testing.assert_allclose(other - deviance, 2 * (len(x) - 1) * np.log(3))


def test_rows_of_negligible_weight_and_the_unit_of_weights_change_nothing() -> None:
    x = torch.cat([X[:20], torch.randn(300, 4, dtype=torch.float64)])
    t = x @ torch.ones(4, 2, dtype=torch.float64) + torch.randn(320, 2, dtype=torch.float64)
    weight = torch.cat([torch.ones(20), torch.full((300,), 1e-12)]).double()
    expected = ridge(x[:20], t[:20])
    for unit in (1.0, 1e-3, 1e6):
        found = ridge(x, t, unit * weight)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)


def test_repeated_targets_have_the_penalty_of_one_and_outputs_share_it() -> None:
    t = X[:20, :1] + 2 * torch.randn(20, 1, dtype=torch.float64)
    slopes, bias, deviance = ridge(X[:20], t)
    twice = ridge(X[:20], t.repeat(1, 3))
    torch.testing.assert_close(twice[0], slopes.repeat(3, 1))
    torch.testing.assert_close(twice[1], bias.repeat(3))
    assert twice[2] == pytest.approx(3 * deviance)


def test_the_table_that_generated_the_targets_has_the_lower_deviance() -> None:
    x = torch.randn(200, 3, dtype=torch.float64)
    t = x.sum(dim=1, keepdim=True) + 0.5 * torch.randn(200, 1, dtype=torch.float64)
    assert ridge(x, t)[2] < ridge(x.tanh(), t)[2]
    t = x.tanh().sum(dim=1, keepdim=True) + 0.1 * torch.randn(200, 1, dtype=torch.float64)
    assert ridge(x.tanh(), t)[2] < ridge(x, t)[2]


def test_the_fit_on_constant_columns_is_the_mean() -> None:
    slopes, bias, _ = ridge(torch.ones(5, 3), torch.arange(5.0)[:, None])
    assert slopes.tolist() == [[0, 0, 0]] and bias.tolist() == [2]
