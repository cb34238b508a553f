"""Jobs on equal rows share what is made of them, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.model_selection import GridSearchCV

from torchreg import TorchEnsembleRegressor, TorchRegressor
from torchreg.engine.build import FitCache
from torchreg.engine.spec import RawData
from torchreg.nn import MLP

X, Y = torch.arange(6.0).reshape(3, 2), torch.ones(3, 1)


def rows(**changes: torch.Tensor | None) -> RawData:
    return RawData(**{"x": X.clone(), "y": Y.clone(), "weight": None, **changes})  # type: ignore[arg-type]


def test_equal_rows_are_the_same_rows() -> None:
    shared = FitCache(finds_equal=True)
    weight = torch.ones(3)
    assert shared.rows(rows()) is shared.rows(rows())
    assert shared.rows(rows(weight=weight)) is shared.rows(rows(weight=weight.clone()))
    # (3, 2) -> (2, 3) -> (3, 2), in another layout
    assert shared.rows(rows(x=X.T.contiguous().T)) is shared.rows(rows())


@pytest.mark.parametrize(
    "change",
    [
        {"x": X + 1},
        {"x": X.to(torch.float64)},
        {"x": X.reshape(2, 3)},
        {"y": Y * 2},
        {"weight": torch.ones(3)},
        {"weight": torch.tensor([1.0, 1.0, 2.0])},
    ],
)
def test_rows_that_differ_in_anything_stay_apart(change: dict[str, torch.Tensor]) -> None:
    shared = FitCache(finds_equal=True)
    shared.rows(rows())
    other = rows(**change)
    assert shared.rows(other) is other


def test_something_is_made_once_for_each_rows_and_each_way() -> None:
    shared, made = FitCache(finds_equal=True), []

    def make(name: str) -> Callable[[], int]:
        def count() -> int:
            made.append(name)
            return len(made)

        return count

    first, second = shared.rows(rows()), shared.rows(rows(y=2 * Y))
    answers = [
        shared.once("sum", first, make=make("a")),
        shared.once("sum", first, make=make("b")),
        shared.once("sum", first, "float32", make=make("c")),
        shared.once("sum", second, make=make("d")),
        shared.once("mean", first, make=make("e")),
    ]
    assert answers == [1, 1, 2, 3, 4]
    assert made == ["a", "c", "d", "e"]


def test_a_lone_job_shares_nothing_and_is_not_looked_at() -> None:
    shared = FitCache(finds_equal=False)
    first, second = rows(), rows()
    assert shared.rows(first) is first
    assert shared.rows(second) is second
    assert [shared.once("sum", first, make=lambda n=n: n) for n in (1, 2)] == [1, 2]  # type: ignore[misc]


def test_jobs_that_standardize_in_other_ways_share_no_table() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(0.3, 1.5, size=(30, 2)), rng.normal(0.5, 2, size=30)
    grid = {"standardize": [True, "X", "y", False], "dtype": ["float32", "float64"]}
    reg = TorchRegressor(module=MLP, max_epochs=20, random_state=0, module__activation="tanh")
    search = GridSearchCV(reg, grid, cv=3, refit=False)
    alone = search.fit(X, y).cv_results_["mean_test_score"]
    with parallel_config(backend="torchreg"):
        together = search.fit(X, y).cv_results_["mean_test_score"]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_what_is_said_of_a_fit_is_its_own_though_it_was_computed_once() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(200, 10, size=(30, 2)), rng.normal(4000, 800, size=30)
    ensemble = TorchEnsembleRegressor(
        TorchRegressor(module=MLP, max_epochs=2), 2, random_state=0
    ).fit(X, y)
    first, second = (member.fit_summary_ for member in ensemble.estimators_)
    assert first["x"] == second["x"]
    first["x"]["mean"][0] = first["y"]["scale"][0] = 0.0
    first["copies"].append((0, 1))
    assert second["x"]["mean"][0] == pytest.approx(X[:, 0].mean())
    assert second["y"]["scale"][0] == pytest.approx(y.std())
    assert second["copies"] == []
