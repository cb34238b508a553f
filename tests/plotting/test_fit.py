"""The display of the fit itself."""

from __future__ import annotations

import itertools
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.inspection import PartialDependenceDisplay
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchreg import TorchEnsembleRegressor, TorchRegressor
from torchreg.nn import MLP
from torchreg.plotting import FitDisplay
from torchreg.plotting.fit import MAX_LINES

UNITS = {"flipper_length_mm": "mm", "body_mass_g": "g"}


def test_the_curve_is_the_prediction_and_the_points_are_the_data(
    bent: Any, penguins: pd.DataFrame
) -> None:
    X, y = penguins[["flipper_length_mm"]], penguins["body_mass_g"]
    display = FitDisplay.from_estimator(bent, X, y, units=UNITS)
    flipper_mm, mass_g = display.curve_.get_data()
    frame = pd.DataFrame({"flipper_length_mm": flipper_mm})
    np.testing.assert_allclose(mass_g, bent.predict(frame), rtol=1e-12)
    assert flipper_mm.min() < X.min().item() and flipper_mm.max() > X.max().item()
    np.testing.assert_array_equal(display.points_.get_xdata(), X.to_numpy()[:, 0])
    np.testing.assert_array_equal(display.points_.get_ydata(), y)
    assert display.ax_.get_xlabel() == "flipper_length_mm (mm)"
    assert display.ax_.get_ylabel() == "body_mass_g (g)"


def test_bends_lie_on_the_curve_where_its_slope_changes(bent: Any, penguins: pd.DataFrame) -> None:
    X, y = penguins[["flipper_length_mm"]], penguins["body_mass_g"]
    display = FitDisplay.from_estimator(bent, X, y, units=UNITS)
    assert len(display.bends) >= 1

    def predict(flipper_mm: Any) -> Any:
        return bent.predict(pd.DataFrame({"flipper_length_mm": flipper_mm}))

    np.testing.assert_allclose(display.bends_.get_xdata(), display.bends)
    np.testing.assert_allclose(display.bends_.get_ydata(), predict(display.bends), rtol=1e-9)
    step = 0.05
    before, at, after = (predict(display.bends + shift) for shift in (-step, 0, step))
    assert (np.abs(after - 2 * at + before) / step > 0.5).all()
    # Between bends it is a straight line.
    corners = np.concatenate([[172], display.bends, [231]])
    for left, right in itertools.pairwise(corners):
        if right - left > 1:
            line = predict(np.linspace(left + 0.1, right - 0.1, 5))
            np.testing.assert_allclose(np.diff(line, 2), 0, atol=0.5)
    assert display.bends_.get_label() == f"{len(display.bends)} bends"


@pytest.mark.parametrize("frame", [np.asarray, pl.DataFrame, pd.DataFrame])
def test_two_features_are_a_map_with_the_data_in_its_colors(
    frame: Any, penguins: pd.DataFrame
) -> None:
    table = penguins[["flipper_length_mm", "bill_length_mm"]]
    X = frame(table) if frame is not pl.DataFrame else pl.DataFrame(dict(table))
    y = penguins["body_mass_g"]
    reg = TorchRegressor(module=MLP, module__hidden_sizes=[4], max_epochs=20, random_state=0).fit(
        X, y
    )
    display = FitDisplay.from_estimator(reg, X, y, grid_resolution=20)
    assert display.prediction.shape == (20, 20)
    corner = np.array([[display.grid[0][3], display.grid[1][7]]])
    names = table.columns if frame is not np.asarray else None
    row = corner if names is None else type(X)(dict(zip(names, corner.T, strict=True)))
    np.testing.assert_allclose(display.prediction[7, 3], reg.predict(row)[0])
    np.testing.assert_array_equal(display.points_.get_array(), y)
    assert display.points_.norm is display.map_.norm
    expected = list(table.columns) if names is not None else ["x0", "x1"]
    assert [display.ax_.get_xlabel(), display.ax_.get_ylabel()] == expected


def test_lines_of_the_map_are_where_units_of_the_first_layer_switch(penguins: pd.DataFrame) -> None:
    X, y = penguins[["flipper_length_mm", "bill_length_mm"]], penguins["body_mass_g"]
    reg = TorchRegressor(module=MLP, module__hidden_sizes=[6], max_epochs=20, random_state=0).fit(
        X, y
    )
    display = FitDisplay.from_estimator(reg, X, y)
    layer, scaling = reg.module_.network.layers[0], reg.module_.standardize
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    assert len(display.bends) >= 1
    for line in display.bends:
        z = (line - scaling.mean.numpy()) / scaling.scale.numpy()
        distance = np.abs(z @ weight.T + bias)
        assert distance.max(axis=0).min() < 1e-6
        assert len(line) == 2  # straight, with nothing but its ends


@pytest.mark.parametrize(
    "estimator",
    [
        TorchRegressor(n_folds=3, max_epochs=2, random_state=0),
        TorchEnsembleRegressor(TorchRegressor(MLP, max_epochs=2), 3, random_state=0),
    ],
    ids=["folds", "ensemble"],
)
@pytest.mark.parametrize("n_features", [1, 2])
def test_the_mean_of_several_networks_is_drawn_without_bends(
    estimator: Any, n_features: int, penguins: pd.DataFrame
) -> None:
    X, y = penguins[["flipper_length_mm", "bill_length_mm"][:n_features]], penguins["body_mass_g"]
    display = FitDisplay.from_estimator(estimator.fit(X, y), X, y)
    assert display.bends is None and display.bends_ is None


def test_lines_that_would_hide_the_map_are_not_drawn() -> None:
    axis = np.linspace(0, 1, 5)
    line = np.array([[0.0, 0.0], [1.0, 1.0]])
    for n_lines in (MAX_LINES, MAX_LINES + 1):
        display = FitDisplay(
            X=np.ones((1, 2)),
            y=np.ones(1),
            grid=[axis, axis],
            prediction=np.add.outer(axis, axis),
            bends=[line] * n_lines,
        ).plot()
        assert (display.bends_ is None) == (n_lines > MAX_LINES)
        title = display.ax_.get_title(loc="left")
        assert ("lines" in title) == (n_lines <= MAX_LINES)


def test_pipelines_and_other_regressors_are_drawn_without_bends(penguins: pd.DataFrame) -> None:
    X, y = penguins[["flipper_length_mm"]], penguins["body_mass_g"]
    pipeline = make_pipeline(
        StandardScaler(), TorchRegressor(module=MLP, max_epochs=2, random_state=0)
    )
    for estimator in (pipeline, LinearRegression()):
        display = FitDisplay.from_estimator(estimator.fit(X, y), X)
        assert display.bends is None
        assert display.bends_ is None and display.points_ is None
        expected = estimator.predict(pd.DataFrame({"flipper_length_mm": display.grid[0]}))
        np.testing.assert_allclose(display.curve_.get_ydata(), expected)


def test_one_of_several_outputs_is_chosen_with_its_own_bends(kink: Any) -> None:
    X, y = kink
    Y = np.stack([y, 2 * X[:, 0]], axis=1)
    reg = TorchRegressor(
        module=MLP, module__hidden_sizes=[5], optimizer="rprop", max_epochs=200, random_state=0
    ).fit(X, Y)
    for target in (0, 1):
        display = FitDisplay.from_estimator(reg, X, Y, target=target)
        grid = display.grid[0].reshape(-1, 1)
        np.testing.assert_allclose(display.curve_.get_ydata(), reg.predict(grid)[:, target])
        np.testing.assert_array_equal(display.points_.get_ydata(), Y[:, target])
        assert display.ax_.get_ylabel() == f"y{target}"
    for target in (2, -1):
        with pytest.raises(ValueError, match="an output from 0 to 1"):
            FitDisplay.from_estimator(reg, X, Y, target=target)


def test_many_bends_are_counted_and_few_are_listed_to_three_digits_of_the_range() -> None:
    grid = [np.linspace(1e6, 1e6 + 10, 50)]
    flat = np.zeros(50)
    few = FitDisplay(X=np.zeros((1, 1)), y=None, grid=grid, prediction=flat, bends=[1e6 + 1.234])
    assert few.plot().bends_.get_label() == "bend at 1000001.23"
    many = FitDisplay(X=np.zeros((1, 1)), y=None, grid=grid, prediction=flat, bends=grid[0][5:15])
    assert many.plot().bends_.get_label() == "10 bends"


def test_a_constant_feature_and_smooth_units_are_drawn_without_bends() -> None:
    X, y = np.full((10, 1), 7.0), np.arange(10.0)
    reg = TorchRegressor(module=MLP, module__activation="tanh", max_epochs=2, random_state=0)
    assert len(FitDisplay.from_estimator(reg.fit(X, y), X, y).bends) == 0
    wide = np.linspace(-3, 3, 50).reshape(-1, 1)
    assert len(FitDisplay.from_estimator(reg.fit(wide, wide[:, 0]), wide).bends) == 0


def test_more_than_two_features_are_referred_to_partial_dependence(noisy: Any) -> None:
    X, y = noisy
    reg = TorchRegressor(module=MLP, max_epochs=2, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="one or two features, X has 12"):
        FitDisplay.from_estimator(reg, X, y)


def test_scikit_learns_partial_dependence_display_works(penguins: pd.DataFrame) -> None:
    columns = ["flipper_length_mm", "bill_length_mm", "bill_depth_mm"]
    X, y = penguins[columns], penguins["body_mass_g"]
    reg = TorchRegressor(module=MLP, module__hidden_sizes=[10], max_epochs=30, random_state=0).fit(
        X, y
    )
    display = PartialDependenceDisplay.from_estimator(
        reg, X, ["flipper_length_mm", ("flipper_length_mm", "bill_length_mm")], grid_resolution=5
    )
    (values,), (average,) = (display.pd_results[0]["grid_values"], display.pd_results[0]["average"])
    by_hand = [reg.predict(X.assign(flipper_length_mm=value)).mean() for value in values]
    np.testing.assert_allclose(average, by_hand)


def test_the_users_axes_and_keywords_are_used(bent: Any, penguins: pd.DataFrame) -> None:
    X, y = penguins[["flipper_length_mm"]], penguins["body_mass_g"]
    figure, ax = plt.subplots()
    display = FitDisplay.from_estimator(
        bent, X, y, ax=ax, subsample=10, point_kwargs={"marker": "x"}, curve_kwargs={"c": "red"}
    )
    assert display.ax_ is ax and display.figure_ is figure
    assert display.points_.get_marker() == "x"
    assert len(display.points_.get_xdata()) == 10
    assert display.curve_.get_color() == display.bends_.get_markeredgecolor() == "red"
