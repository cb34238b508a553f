"""Fits on equal rows share what is computed from the rows, and nothing else."""

from __future__ import annotations

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
    return RawData(**{"x": X.clone(), "y": Y.clone(), "weight": None, **changes})


def test_equal_rows_are_recognized() -> None:
    cache = FitCache(finds_equal=True)
    weight = torch.ones(3)
    assert cache.unique(rows()) is cache.unique(rows())
    assert cache.unique(rows(weight=weight)) is cache.unique(rows(weight=weight.clone()))
    # (3, 2) -> (2, 3) -> (3, 2), in another memory layout
    assert cache.unique(rows(x=X.T.contiguous().T)) is cache.unique(rows())


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
def test_rows_that_differ_in_anything_are_not_equal(change: dict[str, torch.Tensor]) -> None:
    cache = FitCache(finds_equal=True)
    cache.unique(rows())
    other = rows(**change)
    assert cache.unique(other) is other


def test_fits_that_standardize_differently_share_no_table() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(0.3, 1.5, size=(30, 2)), rng.normal(0.5, 2, size=30)
    grid = {"standardize": [True, "X", "y", False], "dtype": ["float32", "float64"]}
    reg = TorchRegressor(module=MLP, max_epochs=20, random_state=0, module__activation="tanh")
    search = GridSearchCV(reg, grid, cv=3, refit=False)
    alone = search.fit(X, y).cv_results_["mean_test_score"]
    with parallel_config(backend="torchreg"):
        together = search.fit(X, y).cv_results_["mean_test_score"]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_summaries_of_fits_on_equal_rows_are_independent() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(200, 10, size=(30, 2)), rng.normal(4000, 800, size=30)
    ensemble = TorchEnsembleRegressor(
        TorchRegressor(module=MLP, max_epochs=2), 2, random_state=0
    ).fit(X, y)
    first, second = (member.fit_summary_ for member in ensemble.estimators_)
    assert first["x"] == second["x"]
    first["x"]["mean"][0] = first["y"]["scale"][0] = 0.0
    first["duplicate_columns"].append((0, 1))
    assert second["x"]["mean"][0] == pytest.approx(X[:, 0].mean())
    assert second["y"]["scale"][0] == pytest.approx(y.std())
    assert second["duplicate_columns"] == []
