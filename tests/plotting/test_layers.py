"""The displays of activations and parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchreg import TorchRegressor
from torchreg.nn import MLP
from torchreg.plotting import ActivationDisplay, ParameterDisplay
from torchreg.plotting._rows import Layer


def test_parameters_are_those_of_the_network_before_and_after(kink: Any) -> None:
    X, y = kink
    settings: dict[str, Any] = {"module__hidden_sizes": [5], "random_state": 0}
    reg = TorchRegressor(module=MLP, max_epochs=50, **settings).fit(X, y)
    unmoved = TorchRegressor(module=MLP, max_epochs=1, optimizer="sgd", lr=1e-300, **settings).fit(
        X, y
    )
    display = ParameterDisplay.from_estimator(reg)
    names = ["layers.0.weight (5 × 1)", "layers.0.bias (5)", "layers.2.weight (1 × 5)"]
    assert [layer.name for layer in display.layers] == [*names, "layers.2.bias (1)"]
    for layer, after, before in zip(
        display.layers, reg.module_.parameters(), unmoved.module_.parameters(), strict=True
    ):
        np.testing.assert_array_equal(layer.after, after.detach().flatten())
        np.testing.assert_array_equal(layer.before, before.detach().flatten())
    assert display.ax_.get_xlabel() == "parameter (dimensionless)"


def test_activations_are_what_the_layers_give(kink: Any) -> None:
    X, y = kink
    reg = TorchRegressor(module=MLP, module__hidden_sizes=[5], max_epochs=50, random_state=0).fit(
        X, y
    )
    display = ActivationDisplay.from_estimator(reg, X)
    assert [layer.name for layer in display.layers] == [
        "layers.0: Linear",
        "layers.1: ReLU",
        "layers.2: Linear",
    ]
    hidden = reg.module_.standardize(torch.from_numpy(X))
    with torch.no_grad():
        for layer, part in zip(display.layers, reg.module_.network.layers, strict=True):
            hidden = part(hidden)
            np.testing.assert_array_equal(layer.after, hidden.flatten())
    label = [text.get_text() for text in display.ax_.get_yticklabels()][1]
    zeros, before = (
        (layer == 0).mean() for layer in (display.layers[1].after, display.layers[1].before)
    )
    assert label == f"layers.1: ReLU\n{zeros:.0%} are 0, before {before:.0%}"


def test_without_a_seed_only_the_end_is_shown(kink: Any) -> None:
    X, y = kink
    reg = TorchRegressor(module=MLP, max_epochs=2).fit(X, y)
    for display in (ParameterDisplay.from_estimator(reg), ActivationDisplay.from_estimator(reg, X)):
        assert all(layer.before is None for layer in display.layers)
        legend = display.ax_.get_legend()
        assert [text.get_text() for text in legend.get_texts()] == ["after the fit"]


def test_of_several_starts_that_of_the_network_that_was_kept_is_shown(kink: Any) -> None:
    options = {"optimizer": "sgd", "lr": 1e-30, "max_epochs": 1}
    reg = TorchRegressor(module=MLP, n_init=6, random_state=5, **options).fit(*kink)
    assert np.argmin(reg.init_losses_) > 0
    for layer in ParameterDisplay.from_estimator(reg).layers:
        np.testing.assert_array_equal(layer.before, layer.after)


def test_networks_of_folds_are_pooled_layer_by_layer(kink: Any) -> None:
    X, y = kink
    reg = TorchRegressor(n_folds=3, module__hidden_sizes=[4], max_epochs=2, random_state=0)
    members = reg.fit(X, y).module_.network.members
    display = ParameterDisplay.from_estimator(reg)
    for layer, *of_each in zip(
        display.layers, *(member.named_parameters() for member in members), strict=True
    ):
        assert layer.name.startswith(f"{of_each[0][0]} (")
        values = [parameter.detach().flatten() for _, parameter in of_each]
        np.testing.assert_array_equal(layer.after, torch.cat(values))
    assert display.ax_.get_xlabel() == "parameters of 3 networks\n(dimensionless)"
    names = [layer.name for layer in ActivationDisplay.from_estimator(reg, X).layers]
    assert names[-2:] == ["mlp.layers.1: ReLU", "mlp.layers.2: Linear"]
    assert len(set(names)) == len(names)


def test_of_networks_of_folds_the_starts_are_pooled_too(kink: Any) -> None:
    options = {"optimizer": "sgd", "lr": 1e-30, "max_epochs": 1}
    reg = TorchRegressor(module=MLP, n_folds=3, random_state=5, **options).fit(*kink)
    for display in (
        ParameterDisplay.from_estimator(reg),
        ActivationDisplay.from_estimator(reg, kink[0]),
    ):
        for layer in display.layers:
            np.testing.assert_array_equal(layer.before, layer.after)


@pytest.mark.parametrize("settings", [{}, {"n_folds": None}])
def test_where_a_network_began_from_the_rows_only_the_end_is_shown(
    kink: Any, settings: dict[str, Any]
) -> None:
    reg = TorchRegressor(max_epochs=1, random_state=0, **settings).fit(*kink)
    assert all(layer.before is None for layer in ParameterDisplay.from_estimator(reg).layers)


def test_raw_units_are_not_called_dimensionless(noisy: Any) -> None:
    X, y = noisy
    reg = TorchRegressor(module=MLP, standardize=False, max_epochs=2, random_state=0).fit(X, y)
    assert ParameterDisplay.from_estimator(reg).ax_.get_xlabel() == "parameter"
    assert ActivationDisplay.from_estimator(reg, X).ax_.get_xlabel() == "activation"


def test_pipelines_and_sparse_rows_are_understood(kink: Any) -> None:
    X, y = kink
    pipeline = make_pipeline(
        StandardScaler(), TorchRegressor(module=MLP, max_epochs=2, random_state=0)
    )
    display = ActivationDisplay.from_estimator(pipeline.fit(X, y), X, subsample=7)
    assert len(display.layers[0].after) == 7 * 100
    reg = TorchRegressor(module=MLP, max_epochs=2, random_state=0).fit(X, y)
    dense = ActivationDisplay.from_estimator(reg, X)
    sparse = ActivationDisplay.from_estimator(reg, scipy.sparse.csr_array(X))
    np.testing.assert_array_equal(dense.layers[0].after, sparse.layers[0].after)


def test_one_layer_out_of_all_proportion_bends_the_axis() -> None:
    ordinary = Layer("a", None, np.linspace(-1, 1, 50))
    huge = Layer("b", None, np.linspace(0, 1e4, 50))
    assert ParameterDisplay(layers=[ordinary] * 3).plot().ax_.get_xscale() == "linear"
    display = ParameterDisplay(layers=[ordinary, ordinary, huge])
    assert display.plot().ax_.get_xscale() == "symlog"
    assert display.plot(xscale="linear").ax_.get_xscale() == "linear"
    with pytest.raises(ValueError, match="xscale expects 'auto', 'linear' or 'symlog', got 'log'"):
        display.plot(xscale="log")


@pytest.mark.parametrize("values", [[], [0.0], [3.0, 3.0], [0.0] * 30])
def test_layers_without_a_spread_are_drawn_too(values: list[float]) -> None:
    layer = Layer("a", np.array(values), np.array(values))
    for xscale in ("auto", "symlog"):
        display = ActivationDisplay(layers=[layer]).plot(xscale=xscale)
        display.figure_.draw_without_rendering()
        assert np.isfinite(display.ax_.get_xlim()).all()
