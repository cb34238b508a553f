"""Names and units on the axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchreg import TorchRegressor
from torchreg.nn import MLP
from torchreg.plotting._labels import labels_of, regressor_in


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_names_come_from_the_tables_that_were_given(frame: Any) -> None:
    X, y = frame({"a": [1.0], "b": [2.0]}), frame({"c": [1.0], "d": [2.0]})
    labels = labels_of(None, X, y, {"a": "mm", "d": "g"}, n_features=2, n_outputs=2)
    assert [labels.feature(0), labels.feature(1)] == ["a (mm)", "b"]
    assert [labels.target(0), labels.target(1)] == ["c", "d (g)"]
    assert labels.of_target("RMSE", 1) == "RMSE of d (g)"


def test_names_come_from_the_fit_where_the_data_have_none(bent: Any) -> None:
    labels = labels_of(bent)
    assert (labels.features, labels.targets) == (("flipper_length_mm",), ("body_mass_g",))


def test_what_has_no_name_is_numbered_as_scikit_learn_does() -> None:
    labels = labels_of(None, n_features=2, n_outputs=2)
    assert (labels.features, labels.targets) == (("x0", "x1"), ("y0", "y1"))
    assert labels_of(None, n_features=1).targets == ("y",)


def test_a_unit_of_what_is_no_feature_names_the_target() -> None:
    labels = labels_of(None, np.zeros((3, 1)), np.zeros(3), {"x0": "mm", "mass": "g"}, n_features=1)
    assert labels.target(0) == "mass (g)"


def test_a_unit_of_what_is_not_there_is_an_error_that_names_what_is() -> None:
    with pytest.raises(ValueError, match=r"got 'flippr'.* Did you mean 'flipper'"):
        labels_of(None, pd.DataFrame({"flipper": [1.0]}), None, {"flippr": "mm", "y": "g"})


def test_the_regressor_is_found_in_pipelines_searches_and_target_transformers() -> None:
    X, y = np.arange(40.0).reshape(20, 2), np.arange(20.0)
    reg = TorchRegressor(module=MLP, max_epochs=1)
    pipeline = make_pipeline(StandardScaler(), reg).fit(X, y)
    found, inner = regressor_in(pipeline, X)
    assert found is pipeline[-1]
    np.testing.assert_allclose(inner, StandardScaler().fit_transform(X))
    search = GridSearchCV(pipeline, {"torchregressor__lr": [0.1]}, cv=2).fit(X, y)
    assert regressor_in(search)[0] is search.best_estimator_[-1]
    transformed = TransformedTargetRegressor(reg).fit(X, y)
    assert regressor_in(transformed)[0] is transformed.regressor_


def test_what_is_not_fitted_or_holds_no_network_is_refused() -> None:
    with pytest.raises(NotFittedError):
        regressor_in(TorchRegressor(module=MLP))
    with pytest.raises(
        TypeError, match=r"Expected a fitted TorchRegressor, or a .*, got LinearRegression"
    ):
        regressor_in(LinearRegression().fit([[1.0], [2.0]], [1.0, 2.0]))
