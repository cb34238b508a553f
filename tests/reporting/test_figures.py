"""The figures of a report."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import nn

from torchreg import TorchRegressor
from torchreg.exceptions import EffectivelyLinearWarning
from torchreg.nn import MLP
from torchreg.plotting._labels import labels_of
from torchreg.reporting.figures import (
    MAX_LAYERS,
    MAX_OUTPUTS,
    PAGE_COLORS,
    Figure,
    draw,
    draw_fits,
    draw_network,
    scores,
)


def drawn(reg: TorchRegressor, X: Any, y: Any, units: Any = None) -> dict[str, Figure]:
    """Draw all figures, by title."""
    true, predicted = (np.asarray(v, dtype=float).reshape(len(y), -1) for v in (y, reg.predict(X)))
    labels = labels_of(reg, X, y, units, n_features=reg.n_features_in_, n_outputs=true.shape[1])
    figures = [*draw_fits(reg, X, y, predicted, true, labels), *draw_network(reg, X, labels)]
    return {figure.title: figure for figure in figures}


def test_all_of_a_drawing_is_in_the_colors_of_the_page() -> None:
    def plot(ax: Any) -> None:
        ax.plot([1, 100], [1, 1000], label="a")
        ax.set(xscale="log", yscale="symlog", xlabel="x", ylabel="y", title="t")
        ax.legend(frameon=False)

    svg = draw(plot, (3, 3))
    assert svg.startswith("<svg viewBox=")
    colors = set(re.findall(r"#[0-9a-f]{6}", svg))
    assert colors == {"#1f77b4"}  # of the line, whose color was not asked for
    assert {"var(--ink)", "var(--line)"} <= set(PAGE_COLORS.values())
    assert "var(--ink)" in svg and "var(--line)" in svg and "var(--font)" in svg
    # Texts are texts, and no style or script leaves the drawing.
    assert re.search(r"<text [^>]*>x</text>", svg)
    assert "<style" not in svg and "<!--" not in svg


def test_two_drawings_on_one_page_share_no_names() -> None:
    figure = Figure("title", "words", draw(lambda ax: ax.plot([1, 2], marker="o"), (3, 3)))
    page = figure.svg_for_page(1) + figure.svg_for_page(2)
    names = re.findall(r'\bid="([^"]*)"', page)
    assert len(names) == len(set(names))
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(names)
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(names)


def test_a_straight_line_is_called_one_and_a_bent_line_is_not(
    bent: Any, penguins: pd.DataFrame
) -> None:
    X, y = penguins[["flipper_length_mm"]], penguins["body_mass_g"]
    units = {"flipper_length_mm": "mm", "body_mass_g": "g"}
    words = drawn(bent, X, y, units)["body_mass_g: the fit"].words
    assert re.search(r"It bends at [\d., ]+ mm\.$", words)
    linear = TorchRegressor(module=MLP, module__hidden_sizes=[], max_epochs=20, random_state=0).fit(
        X, y
    )
    assert drawn(linear, X, y)["body_mass_g: the fit"].words.endswith("It is a straight line.")
    smooth = TorchRegressor(
        module=MLP,
        module__hidden_sizes=[20],
        module__activation="tanh",
        optimizer="rprop",
        random_state=0,
    ).fit(X, y)
    assert drawn(smooth, X, y)["body_mass_g: the fit"].words.endswith("333 rows.")


def test_of_many_outputs_and_layers_some_are_drawn_and_it_says_so() -> None:
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(20, 3)), rng.normal(size=(20, MAX_OUTPUTS + 2))

    def deep() -> nn.Module:
        hidden = [layer for _ in range(MAX_LAYERS) for layer in (nn.Linear(3, 3), nn.ELU())]
        return nn.Sequential(*hidden, nn.Linear(3, MAX_OUTPUTS + 2))

    with warnings.catch_warnings():
        # The output of a network this deep hardly depends on its input.
        warnings.simplefilter("ignore", EffectivelyLinearWarning)
        reg = TorchRegressor(deep, max_epochs=1).fit(X, Y)
    figures = drawn(reg, X, Y)
    assert sum("residuals" in title for title in figures) == MAX_OUTPUTS
    assert "The first 6 and the last 6 of" in figures["Activations"].words
    assert "random_state is not an integer" in figures["Parameters"].words


def test_scores_are_those_of_each_output() -> None:
    true = np.array([[1.0, 5.0], [3.0, 5.0]])
    (rmse, r2), (rmse_constant, r2_constant) = scores(true, true + np.array([0.0, 2.0]))
    assert (rmse, r2, rmse_constant) == (0.0, 1.0, 2.0)
    assert np.isnan(r2_constant)


@pytest.mark.parametrize("n", [3, 1000])
def test_a_drawing_of_many_rows_is_small(n: int) -> None:
    X = np.linspace(0, 1, n).reshape(-1, 1)
    reg = TorchRegressor(module=MLP, max_epochs=1, random_state=0).fit(X, X[:, 0])
    figures = drawn(reg, X, X[:, 0])
    assert all(len(figure.svg) < 80_000 for figure in figures.values())
