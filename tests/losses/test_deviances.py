"""Poisson, gamma and Tweedie deviances agree with scikit-learn; predictions are positive."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn._loss.loss import HalfGammaLoss, HalfPoissonLoss, HalfTweedieLoss
from sklearn.linear_model import GammaRegressor, PoissonRegressor, TweedieRegressor
from sklearn.metrics import mean_tweedie_deviance
from torch import nn

from torchreg import TorchRegressor
from torchreg.losses import GammaDeviance, PoissonDeviance, TweedieDeviance
from torchreg.nn import MLP

Array = np.ndarray
EACH = pytest.mark.parametrize(
    "loss",
    [PoissonDeviance(), GammaDeviance(), *map(TweedieDeviance, (1.5, 1, 1.9, 2, 3))],
    ids=repr,
)
rng = np.random.default_rng(0)
#: Features with different units, positive targets, weights.
X = rng.normal(size=(300, 3)) * [1.0, 20.0, 1e-3] + [0.0, 200.0, 1.0]
Y = 40 * np.exp(0.5 * X[:, 0] - 0.02 * (X[:, 1] - 200)) * rng.gamma(2.0, 0.5, size=300)
WEIGHT = rng.uniform(0.1, 3, size=300)


def targets(loss: TweedieDeviance, y: Array = Y) -> Array:
    """Include zeros if the power allows them, and round to counts for Poisson."""
    if loss.power >= 2:
        return y
    y = np.where(np.arange(len(y)) % 7 == 0, 0.0, y)
    return np.round(y) if loss.power == 1 else y


# Values


@EACH
def test_half_the_mean_deviance_is_that_of_scikit_learn(loss: TweedieDeviance) -> None:
    rng = np.random.default_rng(1)
    p, t = rng.normal(size=200), targets(loss, rng.gamma(1.0, 1.0, size=200))
    weight = rng.uniform(0.1, 3, size=200)
    # (n,) -> (n, 1)
    columns = [torch.from_numpy(v).reshape(-1, 1) for v in (p, t)]
    for w in (None, weight):
        ours = loss.mean(*columns, None if w is None else torch.from_numpy(w / w.mean()))
        theirs = mean_tweedie_deviance(t, np.exp(p), sample_weight=w, power=loss.power) / 2
        assert float(ours) == pytest.approx(theirs, rel=1e-10)


@EACH
def test_the_gradient_is_that_of_scikit_learn(loss: TweedieDeviance) -> None:
    rng = np.random.default_rng(2)
    p, t = rng.normal(size=50), targets(loss, rng.gamma(1.0, 1.0, size=50))
    same: dict[float, Any] = {1: HalfPoissonLoss(), 2: HalfGammaLoss()}
    theirs = same.get(loss.power, HalfTweedieLoss(power=loss.power))
    prediction = torch.from_numpy(p)[:, None].requires_grad_()
    values = loss(prediction, torch.from_numpy(t)[:, None])
    (slope,) = torch.autograd.grad(values.sum(), prediction)
    np.testing.assert_allclose(slope[:, 0], theirs.gradient(y_true=t, raw_prediction=p), rtol=1e-10)


@EACH
def test_the_deviance_is_0_at_the_target_and_positive_elsewhere(loss: TweedieDeviance) -> None:
    t = torch.logspace(-3, 3, 61, dtype=torch.float64)[:, None]
    zero = loss(t.log(), t)
    assert bool((zero.abs() <= 1e-12 * (1 + t ** abs(2 - loss.power))).all())
    assert bool((loss(t.log() + 0.1, t) > 0).all() and (loss(t.log() - 0.1, t) > 0).all())


# Minimizers


@EACH
@pytest.mark.parametrize("weighted", [False, True])
def test_a_linear_module_agrees_with_the_generalized_linear_models_of_scikit_learn(
    loss: TweedieDeviance, weighted: bool
) -> None:
    y, w = targets(loss), WEIGHT if weighted else None
    settings: dict[str, Any] = {"alpha": 0, "tol": 1e-8, "max_iter": 1000}
    # For larger powers the deviance is not convex, and Newton's method fails.
    settings["solver"] = "newton-cholesky" if loss.power <= 2 else "lbfgs"
    same = {1: PoissonRegressor(**settings), 2: GammaRegressor(**settings)}
    theirs = same.get(loss.power, TweedieRegressor(power=loss.power, link="log", **settings))
    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    expected = theirs.fit(scaled, y / y.mean(), sample_weight=w).predict(scaled) * y.mean()
    reg = TorchRegressor(nn.Linear, loss=loss, optimizer="lbfgs", max_epochs=60, random_state=0)
    ours = reg.fit(X, y, sample_weight=w).predict(X)
    np.testing.assert_allclose(ours, expected, rtol=2e-5)
    assert reg.score(X, y, w) == pytest.approx(theirs.score(scaled, y / y.mean(), w), abs=1e-7)


# Scaling


@EACH
def test_y_is_divided_by_its_weighted_mean_and_not_centred(loss: TweedieDeviance) -> None:
    y = targets(loss)
    reg = TorchRegressor(module=MLP, loss=loss, max_epochs=2).fit(X, y, WEIGHT)
    layer = reg.module_.unstandardize
    assert float(layer.mean) == 0.0
    assert float(layer.scale) == pytest.approx(np.average(y, weights=WEIGHT), rel=1e-12)
    children = ["standardize", "network", "link", "unstandardize"]
    assert [*dict(reg.module_.named_children())] == children


@EACH
def test_a_network_with_output_0_predicts_the_mean(loss: TweedieDeviance) -> None:
    y = targets(loss)
    linear = nn.Linear(3, 1)
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    reg = TorchRegressor(linear, loss=loss, optimizer="sgd", lr=1e-300, max_epochs=1).fit(
        X, y, WEIGHT
    )
    np.testing.assert_allclose(reg.predict(X), np.average(y, weights=WEIGHT), rtol=1e-12)


@EACH
@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_predictions_are_equivariant_to_the_unit_of_y(loss: TweedieDeviance, factor: float) -> None:
    y = targets(loss)
    reg = TorchRegressor(module=MLP, loss=loss, max_epochs=10, random_state=0)
    expected = reg.fit(X, y).predict(X)
    np.testing.assert_allclose(reg.fit(X, factor * y).predict(X), factor * expected, rtol=1e-6)


@pytest.mark.parametrize("standardize", [False, "X", "y", True])
def test_predictions_are_positive_with_any_standardization(standardize: Any) -> None:
    x, y = (X - X.mean(axis=0)) / X.std(axis=0), Y / Y.mean()
    settings: dict[str, Any] = {"loss": "poisson", "standardize": standardize, "random_state": 0}
    reg = TorchRegressor(module=MLP, **settings, max_epochs=50).fit(x, y)
    assert (reg.predict(10 * x) > 0).all()
    assert reg.score(x, y) > 0.2


def test_training_targets_that_are_all_0_are_predicted_as_0() -> None:
    X, y = np.arange(20.0)[:, None], np.zeros(20)
    # The first row of this order is a validation row.
    y[torch.randperm(20, generator=torch.Generator().manual_seed(0))[0]] = 5.0
    settings: dict[str, Any] = {"early_stopping": True, "n_iter_no_change": 1, "max_epochs": 3}
    reg = TorchRegressor(MLP, loss="poisson", random_state=0, **settings).fit(X, y)
    assert float(reg.module_.unstandardize.scale) == 0.0
    np.testing.assert_array_equal(reg.predict(X), 0.0)


# Errors

X_ROWS, Y_ROWS = np.arange(12.0).reshape(6, 2), np.arange(1.0, 7.0)


@pytest.mark.parametrize(
    ("options", "y", "message"),
    [
        (
            {"loss": "poisson"},
            [1, 2, -3, 4, 5, -6],
            r"'poisson' expects y of 0 or more, got -3 in row 2 \(2 of 6 rows.*'squared_error'",
        ),
        (
            {"loss": "gamma"},
            [1, 2, 3, 0, 5, 6],
            r"The loss 'gamma' expects y above 0, got 0 in row 3 \(1 of 6",
        ),
        (
            {"loss": "tweedie", "loss__power": 2.5},
            [1, 2, 3, 0, 5, 6],
            r"The loss 'tweedie' of power 2\.5 expects y above 0, got 0 in row 3",
        ),
        ({"loss": "tweedie"}, [1, 2, -1, 0, 5, 6], r"'tweedie' of power 1\.5 expects y of 0 or m"),
        (
            {"loss": "poisson"},
            [0] * 6,
            r"'poisson' expects y with a mean above 0, but all of it is 0",
        ),
        (
            {"loss": "poisson"},
            np.column_stack([Y_ROWS, 0 * Y_ROWS]),
            r"expects y with a mean above 0, but all of a column is 0",
        ),
        (
            {"loss": "tweedie", "loss__power": 0},
            Y_ROWS,
            r"tweedie expects a power of 1 or more .*, got 0\.",
        ),
        ({"loss": "poisson", "loss__power": 1}, Y_ROWS, r"loss 'poisson' takes no 'power'"),
    ],
)
def test_invalid_targets_and_options_are_refused_and_the_last_fit_is_kept(
    options: dict[str, Any], y: Any, message: str
) -> None:
    reg = TorchRegressor(module=MLP, max_epochs=2, random_state=0).fit(X_ROWS, Y_ROWS)
    before = reg.predict(X_ROWS)
    with pytest.raises(ValueError, match=message):
        reg.set_params(**options).fit(X_ROWS, y)
    np.testing.assert_array_equal(reg.predict(X_ROWS), before)


def test_validation_targets_are_checked_and_may_all_be_0() -> None:
    reg = TorchRegressor(module=MLP, loss="poisson", max_epochs=2)
    with pytest.raises(ValueError, match=r"'poisson' expects y_val of 0 or more, got -1 in row 5"):
        reg.fit(X_ROWS, Y_ROWS, X_val=X_ROWS, y_val=[0, 1, 2, 3, 4, -1])
    reg.fit(X_ROWS, Y_ROWS, X_val=X_ROWS, y_val=np.zeros(6))
    assert np.isfinite(reg.validation_loss_curve_).all()


def test_rows_of_weight_0_may_have_any_target() -> None:
    y, weight = np.array([1.0, 2.0, -1.0, 4.0, 5.0, 6.0]), np.array([1, 1, 0, 1, 1, 1])
    reg = TorchRegressor(MLP, loss="gamma", max_epochs=2).fit(X_ROWS, y, sample_weight=weight)
    assert np.isfinite(reg.predict(X_ROWS)).all()
