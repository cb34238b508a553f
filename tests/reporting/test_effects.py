"""Importances and partial dependence in the report."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn.inspection
import torch
from torch import nn

from torchreg import TorchRegressor
from torchreg.plotting._labels import labels_of
from torchreg.reporting.effects import (
    MAX_BARS,
    draw_effects,
    partial_dependence,
    permutation_importances,
)

Array = np.ndarray


@pytest.fixture(scope="module")
def linear() -> tuple[TorchRegressor, Array, Array]:
    """A linear network fitted to y = 300 x0 - 100 x2 + noise, among four features."""
    rng = np.random.default_rng(0)
    X = rng.normal([0, 0, 50, 0], size=(200, 4))
    true = 300 * X[:, [0]] - 100 * X[:, [2]] + 50 * rng.normal(size=(200, 1))
    return TorchRegressor(nn.Linear, optimizer="lbfgs", random_state=0).fit(X, true[:, 0]), X, true


def one_column(reg: TorchRegressor) -> Any:
    return lambda points: reg.predict(points)[:, None]


def test_importances_are_those_of_scikit_learn_up_to_the_shuffles(linear: Any) -> None:
    reg, X, true = linear
    rises = permutation_importances(one_column(reg), X, true)[:, 0]
    theirs = sklearn.inspection.permutation_importance(
        reg, X, true[:, 0], scoring="neg_root_mean_squared_error", n_repeats=20, random_state=0
    ).importances_mean
    np.testing.assert_allclose(rises[[0, 2]], theirs[[0, 2]], rtol=0.1)
    np.testing.assert_allclose(rises[[1, 3]], 0, atol=2)
    # Two independent values of a column differ by sqrt(2) sigma; the noise is as before.
    moved = np.sqrt(2) * X.std(axis=0)[[0, 2]] * [300, 100]
    np.testing.assert_allclose(rises[[0, 2]], np.hypot(moved, 50) - 50, rtol=0.1)


def test_partial_dependence_is_that_of_scikit_learn(kink: Any) -> None:
    rng = np.random.default_rng(0)
    X = np.column_stack([np.tile(kink[0][:, 0], 1), rng.normal(size=(120, 2))])[:100]
    X[:, 2] = X[:, 2].round()
    reg = TorchRegressor(max_epochs=2, n_folds=None, random_state=0).fit(X, kink[1][:100])
    for column in range(3):
        grid, mean = partial_dependence(one_column(reg), X, column)
        theirs = sklearn.inspection.partial_dependence(
            reg, X, [column], custom_values={column: grid}, method="brute", kind="average"
        )
        np.testing.assert_allclose(mean[:, 0], theirs["average"][0], rtol=1e-9)
    # Of few values, all are in the grid.
    np.testing.assert_array_equal(grid, np.unique(X[:, 2]))


def test_figures_begin_with_the_most_important_feature(linear: Any) -> None:
    reg, X, true = linear
    labels = labels_of(reg, X, units={"mass": "g", "x0": "mm"}, n_features=4)
    titles = [figure.title for figure in draw_effects(reg, X, true, labels)]
    assert titles[:3] == ["mass: importances of the features", "mass over x0", "mass over x2"]
    svg = next(iter(draw_effects(reg, X, true, labels))).svg
    assert svg.index(">x0<") < svg.index(">x2<")
    assert ">rise of RMSE of mass (g)<" in svg


def test_every_kind_of_table_has_the_same_figures(linear: Any) -> None:
    reg, X, true = linear
    expected = next(draw_effects(reg, X, true, labels_of(reg, X, n_features=4)))
    names = [f"x{column}" for column in range(4)]
    frame = pd.DataFrame(X, columns=names)
    for given in (frame, scipy.sparse.csr_array(X), torch.from_numpy(X)):
        same = TorchRegressor(nn.Linear, optimizer="lbfgs", random_state=0).fit(given, true[:, 0])
        with warnings.catch_warnings(action="error"):
            found = next(draw_effects(same, given, true, labels_of(same, given, n_features=4)))
        assert found == expected


def test_few_features_have_no_such_figures_and_of_many_the_largest_are_shown() -> None:
    rng = np.random.default_rng(0)
    for width in (2, 20, 501):
        X = rng.normal(size=(30, width))
        reg = TorchRegressor(nn.Linear, max_epochs=1, random_state=0).fit(X, X[:, 0])
        figures = draw_effects(reg, X, X[:, [0]], labels_of(reg, X, n_features=width))
        first = next(figures, None)
        assert (first is None) == (width != 20)
        assert first is None or f"The {MAX_BARS} largest of 20." in first.words
