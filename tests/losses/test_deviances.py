"""Poisson, gamma and Tweedie: scikit-learn's numbers, its linear models, and positive means."""

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
from torchreg.losses import Loss, build_loss
from torchreg.nn import MLP

Array = np.ndarray
#: Each loss by name with its options, and the power of its Tweedie deviance.
LOSSES: list[tuple[str, dict[str, Any], float]] = [
    ("poisson", {}, 1),
    ("gamma", {}, 2),
    ("tweedie", {}, 1.5),
    ("tweedie", {"power": 1}, 1),
    ("tweedie", {"power": 1.9}, 1.9),
    ("tweedie", {"power": 2}, 2),
    ("tweedie", {"power": 3}, 3),
]
EACH = pytest.mark.parametrize(("name", "options", "power"), LOSSES)


def nested(options: dict[str, Any]) -> dict[str, Any]:
    return {f"loss__{key}": value for key, value in options.items()}


@pytest.fixture(scope="module")
def table() -> tuple[Array, Array, Array]:
    """Features of odd units, positive targets, weights."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3)) * [1.0, 20.0, 1e-3] + [0.0, 200.0, 1.0]
    mean = 40 * np.exp(0.5 * X[:, 0] - 0.02 * (X[:, 1] - 200))
    return X, mean * rng.gamma(2.0, 0.5, size=300), rng.uniform(0.1, 3, size=300)


def targets(power: float, y: Array) -> Array:
    """Put zeros among the targets where they are allowed, and counts where they are meant."""
    if power >= 2:
        return y
    y = np.where(np.arange(len(y)) % 7 == 0, 0.0, y)
    return np.round(y) if power == 1 else y


# Values


@EACH
def test_half_the_mean_deviance_is_that_of_scikit_learn(
    name: str, options: dict[str, Any], power: float
) -> None:
    rng = np.random.default_rng(1)
    p, t = rng.normal(size=200), targets(power, rng.gamma(1.0, 1.0, size=200))
    weight = rng.uniform(0.1, 3, size=200)
    loss = build_loss(name, options)
    # (n,) -> (n, 1)
    columns = [torch.from_numpy(v).reshape(-1, 1) for v in (p, t)]
    for w in (None, weight):
        ours = loss.mean(*columns, None if w is None else torch.from_numpy(w / w.mean()))
        theirs = mean_tweedie_deviance(t, np.exp(p), sample_weight=w, power=power) / 2
        assert float(ours) == pytest.approx(theirs, rel=1e-10)


@EACH
def test_the_gradient_is_that_of_scikit_learns_own_loss(
    name: str, options: dict[str, Any], power: float
) -> None:
    rng = np.random.default_rng(2)
    p, t = rng.normal(size=50), targets(power, rng.gamma(1.0, 1.0, size=50))
    theirs = {1: HalfPoissonLoss(), 2: HalfGammaLoss()}.get(power, HalfTweedieLoss(power=power))
    prediction = torch.from_numpy(p)[:, None].requires_grad_()
    loss = build_loss(name, options).function(prediction, torch.from_numpy(t)[:, None])
    (slope,) = torch.autograd.grad(loss.sum(), prediction)
    np.testing.assert_allclose(slope[:, 0], theirs.gradient(y_true=t, raw_prediction=p), rtol=1e-10)


@EACH
def test_a_deviance_is_0_where_the_mean_is_met_and_positive_elsewhere(
    name: str, options: dict[str, Any], power: float
) -> None:
    t = torch.logspace(-3, 3, 61, dtype=torch.float64)[:, None]
    function = build_loss(name, options).function
    zero = function(t.log(), t)
    assert bool((zero.abs() <= 1e-12 * (1 + t ** abs(2 - power))).all())
    assert bool((function(t.log() + 0.1, t) > 0).all())
    assert bool((function(t.log() - 0.1, t) > 0).all())


# Minimizers


@EACH
@pytest.mark.parametrize("weighted", [False, True])
def test_the_constant_with_the_least_deviance_is_the_weighted_mean(
    name: str, options: dict[str, Any], power: float, weighted: bool, table: tuple[Array, ...]
) -> None:
    _, y, weight = table
    y, w = targets(power, y), weight if weighted else None
    reg = TorchRegressor(nn.Linear, loss=name, optimizer="lbfgs", max_epochs=20, **nested(options))
    reg.fit(np.zeros((len(y), 1)), y, sample_weight=w)
    assert reg.predict([[0.0]])[0] == pytest.approx(np.average(y, weights=w), rel=1e-6)


@EACH
@pytest.mark.parametrize("weighted", [False, True])
def test_a_linear_module_is_the_generalized_linear_model_of_scikit_learn(
    name: str, options: dict[str, Any], power: float, weighted: bool, table: tuple[Array, ...]
) -> None:
    X, y, weight = table
    y, w = targets(power, y), weight if weighted else None
    settings: dict[str, Any] = {"alpha": 0, "tol": 1e-8, "max_iter": 1000}
    # Beyond the gamma distribution the deviance is not convex, and Newton's steps fail.
    settings["solver"] = "newton-cholesky" if power <= 2 else "lbfgs"
    theirs = {
        1: PoissonRegressor(**settings),
        2: GammaRegressor(**settings),
    }.get(power, TweedieRegressor(power=power, link="log", **settings))
    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    expected = theirs.fit(scaled, y / y.mean(), sample_weight=w).predict(scaled) * y.mean()
    reg = TorchRegressor(
        nn.Linear, loss=name, optimizer="lbfgs", max_epochs=60, random_state=0, **nested(options)
    )
    ours = reg.fit(X, y, sample_weight=w).predict(X)
    np.testing.assert_allclose(ours, expected, rtol=2e-5)
    assert reg.score(X, y, w) == pytest.approx(theirs.score(scaled, y / y.mean(), w), abs=1e-7)


# Scaling


@EACH
def test_y_is_divided_by_its_weighted_mean_and_not_centred(
    name: str, options: dict[str, Any], power: float, table: tuple[Array, ...]
) -> None:
    X, y, weight = table
    y = targets(power, y)
    reg = TorchRegressor(module=MLP, loss=name, max_epochs=2, **nested(options)).fit(X, y, weight)
    layer = reg.module_.unstandardize
    assert float(layer.mean) == 0.0
    assert float(layer.scale) == pytest.approx(np.average(y, weights=weight), rel=1e-12)
    assert [*dict(reg.module_.named_children())] == [
        "standardize",
        "network",
        "link",
        "unstandardize",
    ]


@EACH
def test_a_network_that_gives_0_predicts_the_mean(
    name: str, options: dict[str, Any], power: float, table: tuple[Array, ...]
) -> None:
    X, y, weight = table
    y = targets(power, y)
    linear = nn.Linear(3, 1)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.zero_()
    options = nested(options) | {"optimizer": "sgd", "lr": 1e-300, "max_epochs": 1}
    reg = TorchRegressor(linear, loss=name, **options).fit(X, y, weight)
    np.testing.assert_allclose(reg.predict(X), np.average(y, weights=weight), rtol=1e-12)


@EACH
@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_units_of_y_do_not_matter(
    name: str,
    options: dict[str, Any],
    power: float,
    factor: float,
    table: tuple[Array, ...],
) -> None:
    X, y, _ = table
    y = targets(power, y)
    reg = TorchRegressor(module=MLP, loss=name, max_epochs=10, random_state=0, **nested(options))
    expected = reg.fit(X, y).predict(X)
    np.testing.assert_allclose(reg.fit(X, factor * y).predict(X), factor * expected, rtol=1e-6)


@EACH
def test_integer_weights_are_repeated_rows(
    name: str, options: dict[str, Any], power: float, table: tuple[Array, ...]
) -> None:
    X, y, _ = table
    X, y = X[:60], targets(power, y)[:60]
    counts = np.arange(60) % 3
    reg = TorchRegressor(module=MLP, loss=name, batch_size=None, max_epochs=20, random_state=0)
    reg.set_params(**nested(options))
    weighted = reg.fit(X, y, sample_weight=counts).predict(X)
    repeated = reg.fit(X.repeat(counts, axis=0), y.repeat(counts)).predict(X)
    np.testing.assert_allclose(weighted, repeated, rtol=1e-9)


@pytest.mark.parametrize("standardize", [False, "X", "y", True])
def test_predictions_are_positive_whatever_is_standardized(
    standardize: Any, table: tuple[Array, ...]
) -> None:
    X, y, _ = table
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    settings: dict[str, Any] = {"loss": "poisson", "standardize": standardize, "random_state": 0}
    reg = TorchRegressor(module=MLP, **settings, max_epochs=50).fit(X, y / y.mean())
    assert (reg.predict(10 * X) > 0).all()
    assert reg.score(X, y / y.mean()) > 0.2


def test_several_outputs_are_scaled_and_learned_each_by_itself(table: tuple[Array, ...]) -> None:
    X, y, _ = table
    both = np.column_stack([y, 1e6 * y[::-1]])
    settings: dict[str, Any] = {"optimizer": "lbfgs", "max_epochs": 60, "random_state": 0}
    together = TorchRegressor(nn.Linear, loss="gamma", **settings).fit(X, both).predict(X)
    for column in (0, 1):
        reg = TorchRegressor(nn.Linear, loss="gamma", **settings).fit(X, both[:, column])
        np.testing.assert_allclose(together[:, column], reg.predict(X), rtol=1e-4)


def test_rows_that_are_all_zero_after_others_were_held_out_are_predicted_as_zero() -> None:
    X, y = np.arange(20.0)[:, None], np.zeros(20)
    seed = 0
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    y[order[0]] = 5.0
    reg = TorchRegressor(
        module=MLP,
        loss="poisson",
        early_stopping=True,
        max_epochs=3,
        random_state=seed,
        n_iter_no_change=1,
    ).fit(X, y)
    assert float(reg.module_.unstandardize.scale) == 0.0
    np.testing.assert_array_equal(reg.predict(X), 0.0)


# Refusals

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
def test_targets_and_options_that_will_not_do_are_refused_and_the_last_fit_is_kept(
    options: dict[str, Any], y: Any, message: str
) -> None:
    reg = TorchRegressor(module=MLP, max_epochs=2, random_state=0).fit(X_ROWS, Y_ROWS)
    before = reg.predict(X_ROWS)
    with pytest.raises(ValueError, match=message):
        reg.set_params(**options).fit(X_ROWS, y)
    np.testing.assert_array_equal(reg.predict(X_ROWS), before)


def test_validation_targets_are_checked_too_and_may_all_be_zero() -> None:
    reg = TorchRegressor(module=MLP, loss="poisson", max_epochs=2)
    with pytest.raises(ValueError, match=r"'poisson' expects y_val of 0 or more, got -1 in row 5"):
        reg.fit(X_ROWS, Y_ROWS, X_val=X_ROWS, y_val=[0, 1, 2, 3, 4, -1])
    reg.fit(X_ROWS, Y_ROWS, X_val=X_ROWS, y_val=np.zeros(6))
    assert np.isfinite(reg.validation_loss_curve_).all()


def test_rows_without_weight_may_hold_any_target() -> None:
    y = Y_ROWS.copy()
    y[2] = -1.0
    weight = np.ones(6)
    weight[2] = 0.0
    reg = TorchRegressor(module=MLP, loss="gamma", max_epochs=2).fit(
        X_ROWS, y, sample_weight=weight
    )
    assert np.isfinite(reg.predict(X_ROWS)).all()


def test_a_loss_without_a_range_takes_any_target() -> None:
    loss = Loss(nn.functional.mse_loss, "mse_loss")
    loss.check_target(torch.tensor([[-1.0]]), name="y")
    assert (loss.link, loss.per_output, loss.center_target) == (None, 1, True)
