"""The display of predictions and residuals."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import PredictionErrorDisplay, r2_score, root_mean_squared_error

from torchreg.plotting import PredictionDisplay


def test_it_shows_what_scikit_learns_own_display_shows(bent: Any, penguins: pd.DataFrame) -> None:
    X, y = penguins[["flipper_length_mm"]], penguins["body_mass_g"]
    for kind in ("actual_vs_predicted", "residual_vs_predicted"):
        ours = PredictionDisplay.from_estimator(bent, X, y, kind=kind)
        theirs = PredictionErrorDisplay.from_estimator(bent, X, y, kind=kind)
        points = np.stack(ours.axes_[0, 0].lines[0].get_data(), axis=1)
        np.testing.assert_allclose(points, theirs.scatter_.get_offsets())


def test_its_scores_are_scikit_learns(bent: Any, penguins: pd.DataFrame) -> None:
    X, y = penguins[["flipper_length_mm"]], penguins["body_mass_g"]
    ((rmse, r2),) = PredictionDisplay.from_estimator(bent, X, y, subsample=10).scores_
    np.testing.assert_allclose(rmse, root_mean_squared_error(y, bent.predict(X)))
    np.testing.assert_allclose(r2, r2_score(y, bent.predict(X)))


def test_axes_carry_names_and_units(bent: Any, penguins: pd.DataFrame) -> None:
    units = {"flipper_length_mm": "mm", "body_mass_g": "g"}
    X, y = penguins[["flipper_length_mm"]], penguins["body_mass_g"]
    upper, lower = PredictionDisplay.from_estimator(bent, X, y, units=units).axes_[:, 0]
    assert upper.get_ylabel() == "actual body_mass_g (g)"
    assert lower.get_ylabel() == "actual − predicted (g)"
    assert lower.get_xlabel() == "predicted body_mass_g (g)"
    assert "RMSE 372" in upper.get_title(loc="left") + upper.get_title()
    assert upper.get_shared_x_axes().joined(upper, lower)


def test_every_output_has_its_panels_and_any_regressor_will_do() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 3))
    Y = X @ rng.normal(size=(3, 2))
    display = PredictionDisplay.from_estimator(LinearRegression().fit(X, Y), X, Y)
    assert display.axes_.shape == (2, 2)
    assert [ax.get_xlabel() for ax in display.axes_[1]] == ["predicted y0", "predicted y1"]
    assert all(r2 > 0.999 for _, r2 in display.scores_)


def test_a_residual_of_0_is_in_the_middle() -> None:
    display = PredictionDisplay.from_predictions(
        [1.0, 2.0], [0.5, 1.0], kind="residual_vs_predicted"
    )
    low, high = display.axes_[0, 0].get_ylim()
    assert low == -high


def test_no_more_rows_are_drawn_than_asked_for() -> None:
    y = np.arange(500.0)
    for subsample, drawn in ((100, 100), (None, 500), (1000, 500)):
        display = PredictionDisplay.from_predictions(y, y, subsample=subsample)
        assert len(display.axes_[0, 0].lines[0].get_xdata()) == drawn


def test_a_constant_target_has_no_r2() -> None:
    ((rmse, r2),) = PredictionDisplay.from_predictions([3.0, 3.0], [3.0, 4.0]).scores_
    assert rmse == np.sqrt(0.5)
    assert np.isnan(r2)


def test_the_users_axes_and_keywords_are_used() -> None:
    figure, axes = plt.subplots(2)
    display = PredictionDisplay.from_predictions(
        [1.0, 2.0], [1.0, 2.0], ax=axes, scatter_kwargs={"marker": "x"}, line_kwargs={"c": "red"}
    )
    assert list(display.axes_[:, 0]) == list(axes)
    assert display.figure_ is figure
    assert axes[0].lines[0].get_marker() == "x"
    assert axes[1].lines[1].get_color() == "red"
    again = display.plot(kind="actual_vs_predicted")
    assert again is display
    assert display.figure_ is not figure


def test_what_does_not_fit_is_an_error_that_says_what_does() -> None:
    with pytest.raises(
        ValueError, match=r"y_true and y_pred expect the same shape, got \(3, 1\) and \(2, 1\)"
    ):
        PredictionDisplay.from_predictions([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="kind expects one of both, actual_vs_predicted"):
        PredictionDisplay.from_predictions([1, 2], [1, 2], kind="residuals")
    with pytest.raises(ValueError, match="units expects names"):
        PredictionDisplay.from_predictions([1, 2], [1, 2], units={"a": "g", "b": "mm"})
