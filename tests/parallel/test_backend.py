"""Meta-estimators give the same result with the backend, and train their fits in batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.base import clone
from sklearn.ensemble import BaggingRegressor, StackingRegressor, VotingRegressor
from sklearn.experimental import enable_halving_search_cv  # noqa: F401 - the import enables the next
from sklearn.feature_selection import RFECV
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
)
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from tests._deadline import within
from torchreg import TorchRegressor
from torchreg.nn import MLP

Array = np.ndarray
RNG = np.random.default_rng(0)
X = 200 + 10 * RNG.normal(size=(48, 3))
Y = 4000 + 20 * X[:, 0] + 5 * X[:, 1] + RNG.normal(size=48)
Y2 = np.column_stack([Y, X[:, 2]])
LR = [0.001, 0.01, 0.1]


def network(**options: Any) -> TorchRegressor:
    return TorchRegressor(
        module=MLP,
        **{
            "module__hidden_sizes": (3,),
            "module__activation": "tanh",
            "max_epochs": 3,
            "random_state": 0,
            **options,
        },
    )


def importance(reg: TorchRegressor) -> Array:
    weight = next(reg.module_.network.parameters())
    return np.abs(weight.detach().numpy()).sum(axis=0)


def cv_results(search: Any) -> Array:
    return np.append(search.cv_results_["mean_test_score"], search.predict(X))


def permutation_scores(reg: Any) -> Array:
    score, others, _ = permutation_test_score(reg, X, Y, cv=3, n_permutations=4, random_state=0)
    return np.append(others, score)


def stacking(reg: Any) -> StackingRegressor:
    pipeline = make_pipeline(StandardScaler(), clone(reg).set_params(lr=0.1))
    return StackingRegressor([("a", reg), ("b", pipeline)], final_estimator=clone(reg), cv=2)


def search(reg: Any, **options: Any) -> GridSearchCV:
    return GridSearchCV(reg, {"lr": LR[:2]}, cv=2, **options)


def nested_stacking(reg: Any) -> Any:
    return GridSearchCV(stacking(reg), {"a__lr": LR[:2]}, cv=2, refit=False)


def evaluated(reg: Any) -> Array:
    return cross_validate(reg, X, Y, cv=2, error_score="raise")["test_score"]


#: What is computed, and the sizes of the batches.
CASES: dict[str, tuple[Callable[[Any], Any], list[int]]] = {
    "grid": (lambda reg: cv_results(GridSearchCV(reg, {"lr": LR}, cv=3).fit(X, Y)), [9]),
    "halving": (
        lambda reg: cv_results(
            HalvingGridSearchCV(reg, {"lr": LR}, cv=2, random_state=0, min_resources=16).fit(X, Y)
        ),
        [6, 2],
    ),
    "score": (lambda reg: cross_val_score(reg, X, Y, cv=4), [4]),
    "predict": (lambda reg: cross_val_predict(reg, X, Y, cv=4), [4]),
    "learning curve": (lambda reg: learning_curve(reg, X, Y, cv=3, train_sizes=[0.5, 1.0])[2], [6]),
    # Each permutation fits one fold after another.
    "permutation": (permutation_scores, [4, 4, 4]),
    "bagging": (
        lambda reg: BaggingRegressor(reg, n_estimators=6, random_state=0).fit(X, Y).predict(X),
        [6],
    ),
    "multioutput": (lambda reg: MultiOutputRegressor(reg).fit(X, Y2).predict(X), [2]),
    "voting": (
        lambda reg: VotingRegressor([("a", reg), ("b", network(lr=0.1))]).fit(X, Y).predict(X),
        [2],
    ),
    "stacking": (lambda reg: stacking(reg).fit(X, Y).predict(X), [2, 4]),
    # Three features, then two, then one, in each of three folds.
    "rfecv": (
        lambda reg: (
            RFECV(reg, cv=3, importance_getter=importance).fit(X, Y).cv_results_["mean_test_score"]
        ),
        [3, 3, 3],
    ),
    "pipeline in grid": (
        lambda reg: cv_results(
            GridSearchCV(
                make_pipeline(StandardScaler(), reg), {"torchregressor__lr": LR}, cv=3
            ).fit(X, Y)
        ),
        [9],
    ),
    # Nested: each of two folds searches, over two folds each of two settings, and refits.
    "grid in score": (lambda reg: evaluated(search(reg)), [8, 2]),
    # The regressors, those of its folds, the final one: at each of 2 settings by 2 folds.
    "stacking in grid": (lambda reg: cv_results_of_folds(nested_stacking(reg)), [8, 16, 4]),
    # The same in each of 2 folds: three levels, and six with the folds of the stacks.
    "stacking in grid in score": (
        lambda reg: evaluated(nested_stacking(reg).set_params(refit=True)),
        [16, 32, 8, 4, 8, 2],
    ),
    "multioutput of grid in predict": (
        lambda reg: cross_val_predict(MultiOutputRegressor(search(reg)), X, Y2, cv=2),
        [16, 4],
    ),
}


def cv_results_of_folds(search: GridSearchCV) -> Array:
    return search.fit(X, Y).cv_results_["mean_test_score"]


@pytest.mark.parametrize("name", CASES)
@within(60)
def test_the_result_is_that_without_the_backend_and_batches_are_as_large_as_possible(
    name: str, sizes: list[int], set_timeouts: Callable[..., None]
) -> None:
    set_timeouts(1000.0, 1000.0)
    compute, expected_sizes = CASES[name]
    expected = compute(network())
    assert sizes == []
    with parallel_config(backend="torchreg"):
        found = compute(network())
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert sizes == expected_sizes


@within(60)
def test_other_estimators_in_the_same_search_run_as_without_the_backend(
    sizes: list[int], set_timeouts: Callable[..., None]
) -> None:
    set_timeouts(1000.0, 1000.0)
    pipeline = Pipeline([("regressor", LinearRegression())])
    grid = [
        {"regressor": [LinearRegression()], "regressor__fit_intercept": [True, False]},
        {"regressor": [network()], "regressor__lr": LR},
    ]
    expected = cv_results(GridSearchCV(pipeline, grid, cv=3).fit(X, Y))
    with parallel_config(backend="torchreg"):
        found = cv_results(GridSearchCV(pipeline, grid, cv=3).fit(X, Y))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert sizes == [9]
