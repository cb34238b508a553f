"""Quantiles and the normal distribution: values, minimizers, calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.linear_model import QuantileRegressor
from sklearn.metrics import mean_pinball_loss
from torch import nn

from torchreg import TorchRegressor
from torchreg.losses import GaussianNLL, PinballLoss, build_loss
from torchreg.nn import MLP, Normal, Quantiles

Array = np.ndarray
LEVELS = [0.1, 0.25, 0.5, 0.9]


def columns(*arrays: Array) -> list[torch.Tensor]:
    # (n,) -> (n, 1)
    return [torch.from_numpy(v.reshape(len(v), -1)) for v in arrays]


# Values


@pytest.mark.parametrize("quantile", [0.3, [0.1, 0.9], [0.9, 0.5, 0.1]])
def test_the_attribute_quantile_builds_an_equal_loss(quantile: Any) -> None:
    loss = PinballLoss(quantile)
    assert PinballLoss(loss.quantile).link.levels == loss.link.levels


@pytest.mark.parametrize("level", [0.05, 0.5, 0.9])
def test_the_pinball_loss_is_that_of_scikit_learn(level: float) -> None:
    rng = np.random.default_rng(0)
    q, t, weight = rng.normal(size=100), rng.normal(size=100), rng.uniform(0.1, 3, size=100)
    loss = build_loss("quantile", {"quantile": level})
    p, target = columns(q - norm.ppf(level), t)
    for w in (None, weight):
        ours = loss.mean(p, target, None if w is None else torch.from_numpy(w / w.mean()))
        theirs = mean_pinball_loss(t, q, sample_weight=w, alpha=level)
        assert float(ours) == pytest.approx(theirs, rel=1e-10)


def test_the_loss_of_several_levels_is_the_mean_of_their_pinball_losses() -> None:
    rng = np.random.default_rng(0)
    p, t = rng.normal(size=(50, 2 * len(LEVELS))), rng.normal(size=(50, 2))
    loss = build_loss("quantile", {"quantile": LEVELS})
    values = loss.function(*columns(p, t))
    assert values.shape == (50, 2)
    # (n, n_outputs * n_levels) -> (n, n_outputs, n_levels)
    q = Quantiles(LEVELS)(torch.from_numpy(p)).reshape(50, 2, -1).numpy()
    for output in (0, 1):
        each = [
            mean_pinball_loss(t[:, output], q[:, output, i], alpha=level)
            for i, level in enumerate(LEVELS)
        ]
        assert float(values[:, output].mean()) == pytest.approx(np.mean(each), rel=1e-10)


def test_the_normal_loss_is_the_negative_log_density() -> None:
    rng = np.random.default_rng(0)
    p, t, weight = rng.normal(size=(60, 4)), rng.normal(size=(60, 2)), rng.uniform(size=60)
    mean, std = (v.numpy() for v in Normal().mean_and_std(torch.from_numpy(p)))
    expected = -norm.logpdf(t, mean, std)
    values = GaussianNLL()(*columns(p, t)).numpy()
    np.testing.assert_allclose(values, expected, rtol=1e-10, atol=1e-12)
    w = torch.from_numpy(weight / weight.mean())
    weighted = build_loss("gaussian_nll", {}).mean(*columns(p, t), w)
    assert float(weighted) == pytest.approx(np.average(expected.mean(axis=1), weights=weight))


# Minimizers


rng = np.random.default_rng(0)
#: Two groups of 51 and 41 skewed targets with different variances, and weights.
GROUP = np.repeat([0.0, 1.0], [51, 41])
X = GROUP[:, None]
Y = 4200 + 800 * rng.exponential(size=92) * (1 + 2 * GROUP) - 1000 * GROUP
WEIGHT = rng.uniform(0.1, 3, size=92)


def weighted_quantile(y: Array, weight: Array, level: float) -> float:
    order = np.argsort(y)
    index = np.searchsorted(np.cumsum(weight[order]), level * weight.sum())
    return float(y[order][index])


def linear(**options: Any) -> TorchRegressor:
    settings: dict[str, Any] = {"optimizer": "rprop", "max_epochs": 500, "random_state": 0}
    return TorchRegressor(nn.Linear, **(settings | options))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("quantile", [0.5, 0.83, LEVELS, [0.31]], ids=str)
def test_predicted_quantiles_of_groups_are_their_weighted_quantiles(
    quantile: Any, weighted: bool
) -> None:
    w = WEIGHT if weighted else np.ones(92)
    # A parameter for each group: if two share one, a piecewise linear loss converges slowly.
    reg = linear(loss="quantile", loss__quantile=quantile, standardize="y", module__bias=False)
    reg.set_params(optimizer="adam", lr=0.01, max_epochs=3000)
    reg.fit(np.hstack([1 - X, X]), Y, sample_weight=w if weighted else None)
    levels = reg.module_.link.levels
    assert {*levels} == ({quantile} if isinstance(quantile, float) else {*quantile, 0.5})
    found = reg.predict(np.eye(2), quantiles=levels)
    for group in (0, 1):
        own = group == GROUP
        expected = [weighted_quantile(Y[own], w[own], level) for level in levels]
        np.testing.assert_allclose(found[group], expected, atol=0.015 * Y.std())


@pytest.mark.parametrize("weighted", [False, True])
def test_predicted_means_and_standard_deviations_of_groups_are_theirs(weighted: bool) -> None:
    w = WEIGHT if weighted else np.ones(92)
    reg = linear(loss="gaussian_nll", optimizer="lbfgs", max_epochs=50)
    reg.fit(X, Y, sample_weight=w if weighted else None)
    mean, std = reg.predict([[0.0], [1.0]], return_std=True)
    for group in (0, 1):
        own = group == GROUP
        expected = np.average(Y[own], weights=w[own])
        variance = np.average((Y[own] - expected) ** 2, weights=w[own])
        assert mean[group] == pytest.approx(expected, rel=1e-6)
        assert std[group] == pytest.approx(np.sqrt(variance), rel=1e-5)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.8])
def test_a_linear_module_agrees_with_quantile_regressor(level: float) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(101, 2)) * [1.0, 30.0] + [0.0, 200.0]
    y = 500 + 40 * X[:, 0] - 3 * X[:, 1] + 30 * rng.standard_t(3, size=101)
    theirs = QuantileRegressor(quantile=level, alpha=0).fit(X, y)
    reg = linear(loss="quantile", loss__quantile=level, optimizer="adam", lr=0.002, max_epochs=3000)
    reg.fit(X, y)
    least = mean_pinball_loss(y, theirs.predict(X), alpha=level)
    assert mean_pinball_loss(y, reg.predict(X), alpha=level) <= least * (1 + 2e-4)
    np.testing.assert_allclose(reg.predict(X), theirs.predict(X), atol=5e-3 * y.std())


@pytest.mark.parametrize("loss", ["quantile", "gaussian_nll"])
@pytest.mark.parametrize(("factor", "offset"), [(1e-12, 0.0), (2.0**40, 0.0), (1.0, 2.0**20)])
def test_predictions_are_equivariant_to_the_unit_of_y(
    loss: str, factor: float, offset: float
) -> None:
    y = np.round(Y)
    options = {"loss__quantile": LEVELS} if loss == "quantile" else {}
    reg = TorchRegressor(module=MLP, loss=loss, max_epochs=20, random_state=0, **options)
    expected = reg.fit(X, y).predict(X, quantiles=LEVELS)
    found = reg.fit(X, factor * y + offset).predict(X, quantiles=LEVELS)
    np.testing.assert_allclose(found - offset, factor * expected, rtol=1e-7)


# Calibration


def heteroscedastic(n: int, seed: int) -> tuple[Array, Array]:
    """Normal targets whose mean bends, and whose spread grows sixfold along x."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, size=(n, 1))
    std = 100 * np.exp(0.45 * X[:, 0])
    return X, 4200 + 500 * np.sin(2 * X[:, 0]) + std * rng.normal(size=n)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "options",
    [{"loss": "quantile", "loss__quantile": [0.1, 0.5, 0.9]}, {"loss": "gaussian_nll"}],
    ids=["quantile", "gaussian_nll"],
)
def test_80_percent_of_new_targets_are_between_the_quantiles_of_10_and_90_percent(
    options: dict[str, Any], seed: int
) -> None:
    X, y = heteroscedastic(5000, seed)
    X_new, y_new = heteroscedastic(20_000, 99)
    settings: dict[str, Any] = {"max_epochs": 60, "schedule": "cosine", "random_state": 0}
    reg = TorchRegressor(module=MLP, **settings, **options).fit(X, y)
    low, high = reg.predict(X_new, quantiles=[0.1, 0.9]).T
    inside = (low <= y_new) & (y_new <= high)
    assert inside.mean() == pytest.approx(0.8, abs=0.02)
    # Also where the variance is small or large.
    for half in (X_new[:, 0] < 0, X_new[:, 0] >= 0):
        assert inside[half].mean() == pytest.approx(0.8, abs=0.03)
    assert ((y_new < low).mean(), (y_new > high).mean()) == pytest.approx((0.1, 0.1), abs=0.02)
    np.testing.assert_allclose(
        reg.predict(X_new), 4200 + 500 * np.sin(2 * X_new[:, 0]), atol=0.35 * y.std()
    )


def test_the_predicted_standard_deviation_is_that_of_the_noise() -> None:
    X, y = heteroscedastic(5000, 0)
    settings: dict[str, Any] = {"max_epochs": 60, "schedule": "cosine", "random_state": 0}
    reg = TorchRegressor(module=MLP, loss="gaussian_nll", **settings).fit(X, y)
    grid = np.linspace(-1.8, 1.8, 50)
    _, std = reg.predict(grid[:, None], return_std=True)
    np.testing.assert_allclose(std, 100 * np.exp(0.45 * grid), rtol=0.2)


# Crossing


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_quantiles_do_not_cross_far_from_the_training_rows(dtype: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = X[:, 0] + rng.normal(size=200) * np.abs(X[:, 1])
    levels = np.linspace(0.01, 0.99, 99).tolist()
    reg = TorchRegressor(
        module=MLP,
        loss="quantile",
        loss__quantile=levels,
        max_epochs=30,
        dtype=dtype,
        random_state=0,
    ).fit(X, y)
    far = np.concatenate([scale * rng.normal(size=(200, 3)) for scale in (1, 1e2, 1e6, 1e12)])
    found = reg.predict(far, quantiles=levels)
    assert found.shape == (800, 99)
    assert (np.diff(found, axis=1) >= 0).all()
    np.testing.assert_array_equal(reg.predict(far), found[:, 49])


def test_a_constant_target_is_predicted_exactly_with_standard_deviation_0() -> None:
    X, y = np.arange(10.0)[:, None], np.full(10, 4200.0)
    reg = TorchRegressor(module=MLP, loss="quantile", loss__quantile=LEVELS, max_epochs=3).fit(X, y)
    np.testing.assert_array_equal(reg.predict(X, quantiles=LEVELS), 4200.0)
    reg = TorchRegressor(module=MLP, loss="gaussian_nll", max_epochs=3).fit(X, y)
    for found, expected in zip(reg.predict(X, return_std=True), (4200.0, 0.0), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_fit_without_noise_is_finite_and_has_a_small_standard_deviation() -> None:
    X = np.linspace(0, 1, 50)[:, None]
    reg = linear(loss="gaussian_nll", optimizer="adam", lr=0.05, max_epochs=1000)
    mean, std = reg.fit(X, 10 * X[:, 0]).predict(X, return_std=True)
    spread = (10 * X[:, 0]).std()
    assert (std < 0.1 * spread).all() and (std >= 1e-3 * spread * (1 - 1e-6)).all()
    np.testing.assert_allclose(mean, 10 * X[:, 0], atol=0.05 * spread)


# Levels


def test_a_list_without_the_median_is_completed_by_it() -> None:
    assert PinballLoss([0.9, 0.1]).link.levels == (0.1, 0.5, 0.9)
    assert PinballLoss(np.array([0.5, 0.2])).link.levels == (0.2, 0.5)
    assert PinballLoss([0.3]).link.levels == (0.3, 0.5)


@pytest.mark.parametrize(
    ("quantile", "error", "message"),
    [
        (1.0, ValueError, r"Quantiles expects levels between 0 and 1, got 1\.0"),
        ([0.1, 0.0], ValueError, r"expects levels between 0 and 1, got 0\.0"),
        ([0.1, "0.2"], ValueError, r"expects levels between 0 and 1, got '0\.2'"),
        ([], ValueError, r"Quantiles expects one level or more, got none"),
        ([0.1, 0.1], ValueError, r"Quantiles expects levels that differ, got \[0\.1, 0\.1, 0\.5\]"),
        ("0.5", TypeError, r"quantile expects a level between 0 and 1, or a list of levels, got"),
        (None, TypeError, r"quantile expects a level between 0 and 1, or a list"),
    ],
)
def test_invalid_levels_are_refused(quantile: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TorchRegressor(module=MLP, loss="quantile", loss__quantile=quantile).fit(
            [[1.0], [2.0]], [1.0, 2.0]
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "gaussian_nll"}, r"y has 1 output.* 2 numbers.*shape \(\d+, 2\)"),
        (
            {"loss": "quantile", "loss__quantile": [0.1, 0.5, 0.9]},
            r"3 numbers.*shape \(\d+, 3\) is expected\..* 3 outputs.*out_features=3",
        ),
    ],
)
def test_a_module_with_too_few_outputs_is_refused_with_the_number_needed(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TorchRegressor(nn.Linear(1, 1), **options).fit([[1.0], [2.0]], [1.0, 2.0])
