"""The score of a regressor depends on what its loss estimates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import d2_absolute_error_score, d2_pinball_score, d2_tweedie_score, r2_score
from torch import nn

from torchreg import TorchEnsembleRegressor, TorchRegressor
from torchreg.nn import MLP

Array = np.ndarray


rng = np.random.default_rng(0)
X = rng.normal(size=(90, 2))
Y = np.exp(0.5 * X[:, 0]) * rng.gamma(3.0, 1 / 3, size=90)
WEIGHT = rng.uniform(1, 3, size=90)


def pinball(level: float) -> Any:
    return lambda *pair, **options: d2_pinball_score(*pair, alpha=level, **options)


def deviance(power: float) -> Any:
    return lambda *pair, **options: d2_tweedie_score(*pair, power=power, **options)


SCORES: list[tuple[dict[str, Any], Any]] = [
    ({"loss": "squared_error"}, r2_score),
    ({"loss": "huber"}, r2_score),
    ({"loss": nn.SmoothL1Loss}, r2_score),
    ({"loss": "gaussian_nll"}, r2_score),
    ({"loss": "absolute_error"}, d2_absolute_error_score),
    ({"loss": "quantile"}, d2_absolute_error_score),
    ({"loss": "quantile", "loss__quantile": 0.8}, pinball(0.8)),
    ({"loss": "quantile", "loss__quantile": [0.1, 0.9]}, pinball(0.5)),
    ({"loss": "poisson"}, deviance(1)),
    ({"loss": "gamma"}, deviance(2)),
    ({"loss": "tweedie"}, deviance(1.5)),
    ({"loss": "tweedie", "loss__power": 3}, deviance(3)),
]


def name_of(value: Any) -> str:
    return str(value)[:50] if isinstance(value, dict) else "score"


@pytest.mark.parametrize(("options", "metric"), SCORES, ids=name_of)
def test_the_score_is_the_explained_share_of_the_loss(options: dict[str, Any], metric: Any) -> None:
    reg = TorchRegressor(module=MLP, max_epochs=20, random_state=0, **options).fit(X, Y)
    for w in (None, WEIGHT):
        expected = metric(Y, reg.predict(X), sample_weight=w)
        assert reg.score(X, Y, sample_weight=w) == pytest.approx(expected, rel=1e-12)
    assert reg.score(X, Y) > 0
    ensemble = TorchEnsembleRegressor(reg, 2, random_state=0).fit(X, Y)
    assert ensemble.score(X, Y) == pytest.approx(metric(Y, ensemble.predict(X)), rel=1e-12)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "quantile", "poisson"])
def test_the_score_of_several_outputs_is_their_mean_score(loss: str) -> None:
    both = np.column_stack([Y, 1000 * Y[::-1]])
    reg = TorchRegressor(module=MLP, loss=loss, max_epochs=20, random_state=0).fit(X, both)
    metric = dict((o["loss"], m) for o, m in SCORES if len(o) == 1)[loss]
    each = [metric(both[:, j], reg.predict(X)[:, j]) for j in (0, 1)]
    assert reg.score(X, both) == pytest.approx(np.mean(each), rel=1e-10)
    assert reg.score(X, both.tolist()) == reg.score(X, both)


@pytest.mark.parametrize("n", [2, 3, 9, 90])
def test_r2_equals_that_of_scikit_learn(n: int) -> None:
    reg = TorchRegressor(module=MLP, max_epochs=5, random_state=0).fit(X, Y)
    for rows in (slice(n), slice(None, None, -(90 // n))):
        for offset in (0.0, 1e6):
            truth = Y[rows] + offset
            assert reg.score(X[rows], truth) == r2_score(truth, reg.predict(X[rows]))


@pytest.mark.parametrize(
    "truth",
    [
        np.ones(90),
        np.full(90, np.nan),
        np.r_[np.inf, np.zeros(89)],
        np.full(90, 1e200) * np.arange(90),
        np.arange(89.0),
        np.arange(90.0).reshape(-1, 1),
        np.arange(90),
        np.arange(90.0, dtype=np.float32),
        np.arange(90.0).tolist(),
        np.array(["a"] * 90),
    ],
    ids=["constant", "nan", "inf", "huge", "short", "column", "int", "float32", "list", "text"],
)
@pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")
def test_r2_of_unusual_targets_is_that_of_scikit_learn_or_its_error(truth: Any) -> None:
    reg = TorchRegressor(module=MLP, max_epochs=5, random_state=0).fit(X, Y)

    def outcome(score: Any) -> Any:
        try:
            return repr(float(score()))
        except (ValueError, TypeError) as error:
            return type(error), str(error)

    expected = outcome(lambda: r2_score(truth, reg.predict(X)))
    assert outcome(lambda: reg.score(X, truth)) == expected


def test_the_tag_positive_only_is_set_for_losses_of_positive_targets() -> None:
    expected = {"poisson": True, "tweedie": True, "huber": False, nn.L1Loss: False}
    for loss, positive in expected.items():
        reg = TorchRegressor(module=MLP, loss=loss)
        for estimator in (reg, TorchEnsembleRegressor(reg)):
            assert estimator.__sklearn_tags__().target_tags.positive_only is positive
