"""Axes, colors and texts that the displays share."""

from __future__ import annotations

import sys
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from torchreg.plotting import (
    ActivationDisplay,
    FitDisplay,
    LossCurveDisplay,
    ParameterDisplay,
    PredictionDisplay,
)
from torchreg.plotting._axes import new_panels, plain, readable_log_ticks


def test_a_text_is_drawn_as_it_is_written_whatever_it_holds() -> None:
    for hostile in ("$a_b$", "a\\$b$c", r"$\frac", "_hidden", "50 % of $", "<b>&", "日本語"):
        figure, ax = plt.subplots()
        (line,) = ax.plot([0, 1], label=plain(hostile))
        ax.set_xlabel(plain(hostile))
        legend = ax.legend()
        figure.draw_without_rendering() if hostile.isascii() else None
        shown = legend.get_texts()[0]
        assert not shown.get_text().startswith("_")
        # matplotlib's own reading of the text: no formula, and the same characters.
        text, is_math = shown._preprocess_math(shown.get_text())
        assert text.lstrip("\u200b") == hostile
        assert is_math is False
        assert line.get_label() == shown.get_text()


def test_a_long_name_is_cut() -> None:
    assert plain("x" * 100, at_most=10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("low", "high"), [(1, 1.5), (0.2, 0.9), (300, 800), (1, 50), (1e-6, 1e3), (200, 201)]
)
def test_a_logarithmic_axis_has_a_few_labels_in_plain_numbers(low: float, high: float) -> None:
    figure, ax = plt.subplots(figsize=(6, 4))
    ax.plot([low, high])
    ax.set_yscale("log")
    readable_log_ticks(ax.yaxis, low, high)
    ax.set_ylim(low, high)
    figure.draw_without_rendering()
    inside = [
        label.get_text()
        for tick, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)
        if low <= tick <= high and label.get_text()
    ]
    assert 2 <= len(inside) <= 10
    assert all(float(text) for text in inside)


def test_one_axes_is_divided_and_an_array_of_axes_is_used_as_it_is() -> None:
    figure, (left, right) = plt.subplots(1, 2)
    panels = new_panels(left, 2, 1, figsize=(3, 3))
    assert panels.shape == (2, 1)
    assert all(panel.figure is figure for panel in panels.flat)
    assert not left.axison
    own = np.array([left, right])
    assert list(new_panels(own, 2, 1, figsize=(3, 3)).flat) == [left, right]
    with pytest.raises(ValueError, match="ax expects one axes, or an array of 3, got 2"):
        new_panels(own, 3, 1, figsize=(3, 3))
    with pytest.raises(ValueError, match="placed by hand"):
        new_panels(figure.add_axes((0, 0, 1, 1)), 2, 1, figsize=(3, 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda reg, X, y: LossCurveDisplay.from_estimator(reg),
        lambda reg, X, y: LossCurveDisplay(loss_curve=[1.0, 0.5]).plot(),
        lambda reg, X, y: FitDisplay.from_estimator(reg, X, y),
        lambda reg, X, y: PredictionDisplay.from_estimator(reg, X, y),
        lambda reg, X, y: PredictionDisplay.from_predictions(y, y),
        lambda reg, X, y: ActivationDisplay.from_estimator(reg, X),
        lambda reg, X, y: ParameterDisplay.from_estimator(reg),
    ],
)
def test_without_matplotlib_the_error_says_how_to_get_it(
    make: Any, bent: Any, penguins: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "torch-regressor\[plot\]"'):
        make(bent, penguins[["flipper_length_mm"]], penguins["body_mass_g"])


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_displays_follow_the_style_in_use_and_change_none(
    style: str, bent: Any, penguins: Any
) -> None:
    X, y = penguins[["flipper_length_mm"]], penguins["body_mass_g"]
    with plt.style.context(style):
        before = dict(plt.rcParams)
        text_color = plt.rcParams["text.color"]
        fit = FitDisplay.from_estimator(bent, X, y)
        assert fit.points_.get_color() == text_color
        assert LossCurveDisplay.from_estimator(bent).best_point_.get_color() == text_color
        assert dict(plt.rcParams) == before
