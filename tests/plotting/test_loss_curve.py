"""The display of losses."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from torchreg import TorchRegressor
from torchreg.nn import MLP
from torchreg.plotting import LossCurveDisplay

UNITS = {"flipper_length_mm": "mm", "body_mass_g": "g"}


@pytest.fixture(scope="module")
def stopped(noisy: Any) -> TorchRegressor:
    X, y = noisy
    return TorchRegressor(
        module=MLP, max_epochs=60, early_stopping=True, n_iter_no_change=5, lr=0.03, random_state=0
    ).fit(X, y)


def test_the_curves_are_those_of_the_regressor(stopped: TorchRegressor) -> None:
    display = LossCurveDisplay.from_estimator(stopped)
    epochs = np.arange(1, stopped.n_iter_ + 1)
    for line, curve in (
        (display.training_line_, stopped.loss_curve_),
        (display.validation_line_, stopped.validation_loss_curve_),
    ):
        np.testing.assert_array_equal(line.get_xdata(), epochs)
        np.testing.assert_array_equal(line.get_ydata(), curve)


def test_the_kept_epoch_is_marked_on_the_curve_that_chose_it(stopped: TorchRegressor) -> None:
    display = LossCurveDisplay.from_estimator(stopped)
    (epoch,), (loss,) = display.best_point_.get_data()
    assert epoch == stopped.best_epoch_ < stopped.n_iter_
    assert loss == min(stopped.validation_loss_curve_)
    assert f"epoch {epoch}" in display.best_point_.get_label()


def test_the_raw_axis_is_the_rmse_of_the_predictions(bent: Any, penguins: pd.DataFrame) -> None:
    display = LossCurveDisplay.from_estimator(bent, units=UNITS)
    assert display.ax_.get_ylabel() == "squared error (standardized)"
    assert display.raw_axis_.get_ylabel() == "RMSE of body_mass_g (g)"
    # The last loss is that of the weights before the last step; they hardly move any more.
    raw = LossCurveDisplay.from_estimator(bent, units=UNITS, in_units="raw")
    predicted = bent.predict(penguins[["flipper_length_mm"]])
    rmse = np.sqrt(np.mean((predicted - penguins["body_mass_g"]) ** 2))
    np.testing.assert_allclose(raw.training_line_.get_ydata()[-1], rmse, rtol=1e-3)
    assert raw.ax_.get_ylabel() == "RMSE of body_mass_g (g)"
    assert raw.raw_axis_ is None


def test_both_axes_tell_the_same_losses(bent: Any) -> None:
    display = LossCurveDisplay.from_estimator(bent)
    display.figure_.draw_without_rendering()
    std = float(bent.module_.unstandardize.scale)
    low, high = display.ax_.get_ylim()
    np.testing.assert_allclose(display.raw_axis_.get_ylim(), np.sqrt([low, high]) * std, rtol=1e-6)


def test_an_absolute_error_becomes_an_mae_of_y(kink: Any) -> None:
    X, y = kink
    reg = TorchRegressor(module=MLP, loss="absolute_error", max_epochs=3, random_state=0).fit(X, y)
    display = LossCurveDisplay.from_estimator(reg, units={"mass": "g"}, in_units="raw")
    assert display.ax_.get_ylabel() == "MAE of mass (g)"
    expected = np.array(reg.loss_curve_) * float(reg.module_.unstandardize.scale)
    np.testing.assert_allclose(display.training_line_.get_ydata(), expected)


@pytest.mark.parametrize("loss", [torch.nn.MSELoss, "squared_error"])
def test_a_loss_in_raw_units_is_drawn_in_raw_units(noisy: Any, loss: Any) -> None:
    X, y = noisy
    reg = TorchRegressor(
        module=MLP, loss=loss, standardize=False, max_epochs=3, random_state=0
    ).fit(X, y)
    display = LossCurveDisplay.from_estimator(reg)
    np.testing.assert_allclose(display.training_line_.get_ydata(), np.sqrt(reg.loss_curve_))
    assert display.ax_.get_ylabel() == "RMSE of y"
    assert display.raw_axis_ is None
    with pytest.raises(ValueError, match="in_units='standardized' expects a fit that"):
        LossCurveDisplay.from_estimator(reg, in_units="standardized")


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_loss_without_a_unit_is_not_given_one(kink: Any, outputs: int) -> None:
    X, y = kink
    loss = "huber" if outputs == 1 else "squared_error"
    Y = y if outputs == 1 else np.stack([y, y], axis=1)
    reg = TorchRegressor(module=MLP, loss=loss, max_epochs=3, random_state=0).fit(X, Y)
    display = LossCurveDisplay.from_estimator(reg)
    assert display.raw_axis_ is None
    assert display.ax_.get_ylabel() == f"{loss.replace('_', ' ')} (standardized)"
    with pytest.raises(ValueError, match="in_units='raw' expects one output and one of the losses"):
        LossCurveDisplay.from_estimator(reg, in_units="raw")


def test_losses_that_are_not_above_0_and_gaps_are_drawn_on_a_linear_axis() -> None:
    display = LossCurveDisplay(
        loss_curve=[1.0, -2.0, -3.0], validation_loss_curve=[np.nan, 0.5, 0.4], best_epoch=1
    ).plot()
    assert display.ax_.get_yscale() == "linear"
    assert display.best_point_ is None
    assert display.ax_.get_ylabel() == "loss (in units of y)"


def test_one_epoch_is_a_point_and_a_constant_target_has_no_raw_axis() -> None:
    display = LossCurveDisplay(loss_curve=[0.5], loss="squared_error", scale=0.0).plot()
    assert display.training_line_.get_marker() == "o"
    assert display.raw_axis_ is None


def test_the_users_axes_and_keywords_are_used(bent: Any) -> None:
    figure, ax = plt.subplots()
    display = LossCurveDisplay.from_estimator(
        bent, ax=ax, xscale="linear", yscale="linear", training_kwargs={"c": "red", "lw": 5}
    )
    assert display.ax_ is ax and display.figure_ is figure
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "linear")
    assert display.training_line_.get_color() == "red"
    assert display.training_line_.get_linewidth() == 5
    with pytest.raises(ValueError, match="in_units expects one of both, standardized, raw"):
        LossCurveDisplay.from_estimator(bent, in_units="grams")


def test_networks_of_folds_have_a_best_epoch_in_common_but_kept_their_own(kink: Any) -> None:
    reg = TorchRegressor(module=MLP, n_folds=3, max_epochs=4, random_state=0).fit(*kink)
    display = LossCurveDisplay.from_estimator(reg)
    assert display.best_point_.get_label() == f"best: epoch {reg.best_epoch_}"
