"""Regressors whose loss has a link: prediction, training in stacks, ensembles, files, displays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skorch.callbacks import EpochScoring
from torch import nn

import torchreg
from tests._stacks import assert_same, both_ways
from torchreg import TorchEnsembleRegressor, TorchRegressor
from torchreg.nn import MLP, LinearPath, MemberLinear

Array = np.ndarray
LINKED: dict[str, dict[str, Any]] = {
    "poisson": {"loss": "poisson"},
    "gamma": {"loss": "gamma"},
    "tweedie": {"loss": "tweedie", "loss__power": 1.3},
    "quantile": {"loss": "quantile", "loss__quantile": 0.8},
    "quantiles": {"loss": "quantile", "loss__quantile": [0.1, 0.5, 0.9]},
    "gaussian_nll": {"loss": "gaussian_nll"},
}
EACH = pytest.mark.parametrize("options", LINKED.values(), ids=LINKED)
PER_OUTPUT = {"quantiles": 3, "gaussian_nll": 2}


rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3)) * [1.0, 10.0, 1e-3]
Y = 30 * np.exp(0.5 * X[:, 0]) * rng.gamma(3.0, 1 / 3, size=60)


def fitted(options: dict[str, Any], X: Any = X, y: Array = Y, **more: Any) -> TorchRegressor:
    settings = {"max_epochs": 10, "random_state": 0, "module__hidden_sizes": [8]}
    return TorchRegressor(**{"module": MLP, **settings, **options, **more}).fit(X, y)


def predict_all(reg: TorchRegressor, X: Array) -> list[Array]:
    """Predict in every way that the loss allows."""
    found = [reg.predict(X)]
    if reg.loss == "gaussian_nll":
        found += [*reg.predict(X, return_std=True), reg.predict(X, quantiles=[0.1, 0.7])]
    if reg.loss == "quantile":
        found.append(reg.predict(X, quantiles=reg.module_.link.levels))
    return found


def assert_equal(found: list[Array], expected: list[Array]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


# Prediction


@pytest.mark.parametrize("name", LINKED)
def test_the_module_computes_all_columns(name: str) -> None:
    reg = fitted(LINKED[name], y=np.column_stack([Y, 100 * Y]))
    per_output = PER_OUTPUT.get(name, 1)
    with torch.no_grad():
        columns = reg.module_(torch.from_numpy(X)).numpy()
    assert columns.shape == (60, 2 * per_output)
    index = reg.module_.link.index
    np.testing.assert_array_equal(columns[:, index::per_output], reg.predict(X))
    if name == "quantiles":
        # (n, n_outputs * n_levels) -> (n, n_outputs, n_levels)
        found = reg.predict(X, quantiles=[0.1, 0.5, 0.9])
        np.testing.assert_array_equal(columns.reshape(60, 2, 3), found)
        assert reg.predict(X, quantiles=0.1).shape == (60, 2)
    if name == "gaussian_nll":
        mean, std = reg.predict(X, return_std=True)
        np.testing.assert_array_equal(columns[:, ::2], mean)
        np.testing.assert_array_equal(columns[:, 1::2], std)


def test_quantiles_have_a_column_for_each_level_and_one_level_is_a_vector() -> None:
    for name in ("quantiles", "gaussian_nll"):
        reg = fitted(LINKED[name])
        both = reg.predict(X, quantiles=[0.9, 0.1])
        assert both.shape == (60, 2)
        assert (both[:, 0] > both[:, 1]).all()
        np.testing.assert_array_equal(reg.predict(X, quantiles=0.9), both[:, 0])
        found = reg.predict(X.astype(np.float32), quantiles=[0.1])
        assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "quantiles",
            {"quantiles": [0.25]},
            r"quantiles expects levels that were trained; this fit learned the levels 0\.1, 0\.5, "
            r"0\.9, got 0\.25\. Fit with loss='quantile' and loss__quantile",
        ),
        ("poisson", {"quantiles": 0.5}, r"this fit learned a point prediction, got 0\.5"),
        ("quantiles", {"quantiles": []}, r"quantiles expects one level or more, got none"),
        ("gaussian_nll", {"quantiles": [0.0]}, r"quantiles expects levels between 0 and 1, got 0"),
        ("gaussian_nll", {"quantiles": "0.5"}, r"quantiles expects levels between 0 and 1, got '0"),
        (
            "gaussian_nll",
            {"quantiles": 0.5, "return_std": True},
            r"predict expects return_std or quantiles, not both at once",
        ),
        (
            "quantiles",
            {"return_std": True},
            r"return_std=True expects a fit with loss='gaussian_nll', which learns a standard "
            r"deviation; this one learned the levels 0\.1",
        ),
        ("gamma", {"return_std": True}, r"this one learned a point prediction"),
    ],
)
def test_predictions_that_were_not_learned_are_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    reg = fitted(LINKED[name])
    with pytest.raises(ValueError, match=message):
        reg.predict(X, **options)
    if "return_std" not in options:
        ensemble = TorchEnsembleRegressor(reg, 2, random_state=0).fit(X, Y)
        with pytest.raises(ValueError, match=message):
            ensemble.predict(X, **options)


# Training


@EACH
def test_fits_in_a_stack_are_those_of_single_fits(options: dict[str, Any]) -> None:

    def fits() -> list[tuple[TorchRegressor, dict[str, Any]]]:
        settings = {"optimizer": "sgd", "lr": 0.02, "max_epochs": 12, "dtype": "float64"}
        settings |= {"module__hidden_sizes": [6], "early_stopping": True, "batch_size": 16}
        return [
            (
                TorchRegressor(module=MLP, random_state=k, **settings, **options),
                {"X": X[k:], "y": Y[k:]},
            )
            for k in range(3)
        ]

    together, alone, seen = both_ways(fits)
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)
    assert seen.sizes == [3]


@EACH
def test_a_warm_start_keeps_the_scaling(options: dict[str, Any]) -> None:
    reg = fitted(options, warm_start=True)
    scale = reg.module_.unstandardize.scale.clone()
    before = reg.loss_
    reg.fit(X, 1.01 * Y)
    assert reg.n_iter_ == 20 and reg.loss_ < before + 0.1
    np.testing.assert_array_equal(reg.module_.unstandardize.scale, scale)


@pytest.mark.parametrize(
    ("name", "then", "message"),
    [
        (
            "poisson",
            {"loss": "squared_error"},
            r"continues a network that ends in Exponential\(\), but the loss 'squared_error' "
            r"expects none\. Set warm_start=False",
        ),
        ("quantiles", {"loss__quantile": [0.2, 0.5]}, r"'quantile' expects Quantiles\(levels=\(0"),
    ],
)
def test_a_warm_start_with_another_link_is_refused_and_the_last_fit_is_kept(
    name: str, then: dict[str, Any], message: str
) -> None:
    reg = fitted(LINKED[name], warm_start=True)
    before = reg.predict(X)
    with pytest.raises(ValueError, match=message):
        reg.set_params(**then).fit(X, Y)
    np.testing.assert_array_equal(reg.predict(X), before)
    reg = fitted({"loss": "squared_error"}, warm_start=True)
    with pytest.raises(ValueError, match=r"ends in no link, but the loss 'gamma' expects Exponen"):
        reg.set_params(loss="gamma").fit(X, Y)


@EACH
def test_callbacks_see_predictions_and_targets_in_raw_units(options: dict[str, Any]) -> None:
    scoring = EpochScoring("neg_mean_absolute_error", name="mae", lower_is_better=False)
    reg = fitted(options, callbacks=[scoring], max_epochs=4).fit(X, Y, X_val=X, y_val=Y)
    expected = -np.abs(reg.predict(X) - Y).mean()
    assert reg.history_[-1]["mae"] == pytest.approx(expected, rel=1e-5)


# Networks with members, and data-dependent initialization


def with_members(in_features: int, out_features: int) -> nn.Module:
    return nn.Sequential(
        MemberLinear(4, in_features, 6), nn.Tanh(), MemberLinear(4, 6, out_features)
    )


@EACH
def test_members_predict_their_mean_and_are_saved(options: dict[str, Any], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_epochs": 6, "random_state": 0, **options}
    reg = TorchRegressor(with_members, **settings).fit(X, Y)
    module = reg.module_
    with torch.no_grad():
        each = module.link(module.network(module.standardize(torch.from_numpy(X))))
        columns = module.unstandardize(each.mean(dim=1))
    np.testing.assert_allclose(
        module.link.point_prediction(columns)[:, 0], reg.predict(X), rtol=1e-12
    )
    assert each.shape[:2] == (60, 4) and reg.loss_ < reg.loss_curve_[0]
    reg.save(tmp_path / "reg")
    other = torchreg.load(tmp_path / "reg", module=with_members)
    assert_equal(predict_all(other, X), predict_all(reg, X))


def with_skip_connection(in_features: int, out_features: int) -> nn.Module:
    return LinearPath(nn.Linear(in_features, out_features), in_features, out_features)


@EACH
def test_initialization_from_a_linear_fit_has_a_lower_loss_than_the_mean(
    options: dict[str, Any],
) -> None:
    settings: dict[str, Any] = {"optimizer": "sgd", "lr": 1e-30, "max_epochs": 1, **options}
    linear = TorchRegressor(with_skip_connection, **settings).fit(X, Y)
    zero = nn.Linear(3, linear.module_.link.per_output)
    nn.init.zeros_(zero.weight)
    nn.init.zeros_(zero.bias)
    constant = TorchRegressor(zero, **settings).fit(X, Y)
    assert linear.loss_ < constant.loss_


# Ensembles


@EACH
def test_an_ensemble_predicts_the_mean_of_its_members(options: dict[str, Any]) -> None:
    template = TorchRegressor(module=MLP, max_epochs=5, module__hidden_sizes=[6], **options)
    ensemble = TorchEnsembleRegressor(template, 3, random_state=0).fit(X, Y)
    each = np.stack([member.predict(X) for member in ensemble.estimators_])
    np.testing.assert_allclose(ensemble.predict(X), each.mean(axis=0), rtol=1e-12)
    mean, std = ensemble.predict(X, return_std=True)
    np.testing.assert_allclose(mean, each.mean(axis=0), rtol=1e-12)
    if options["loss"] != "gaussian_nll":
        np.testing.assert_allclose(std, each.std(axis=0), rtol=1e-9)
        return
    own = np.stack([member.predict(X, return_std=True)[1] for member in ensemble.estimators_])
    # The law of total variance.
    variance = (own**2).mean(axis=0) + each.var(axis=0)
    np.testing.assert_allclose(std, np.sqrt(variance), rtol=1e-9)
    np.testing.assert_allclose(ensemble.predict(X, quantiles=0.5), mean, rtol=1e-12)


def test_an_ensemble_of_quantiles_averages_them_level_by_level() -> None:
    template = TorchRegressor(module=MLP, max_epochs=5, **LINKED["quantiles"])
    ensemble = TorchEnsembleRegressor(template, 3, random_state=0).fit(X, Y)
    each = [member.predict(X, quantiles=[0.1, 0.9]) for member in ensemble.estimators_]
    np.testing.assert_allclose(
        ensemble.predict(X, quantiles=[0.1, 0.9]), np.mean(each, axis=0), rtol=1e-12
    )


# Files


class Own(nn.Module):
    """A network that is not described in files."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.layer = nn.Linear(in_features, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.sin(x))


@EACH
@pytest.mark.parametrize("module", [None, Own])
def test_a_saved_and_loaded_regressor_predicts_the_same(
    module: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    if module is Own:
        reg = TorchRegressor(Own, max_epochs=5, random_state=0, **options)
        reg.fit(X, np.column_stack([Y, Y]))
    else:
        reg = fitted(options)
    reg.save(tmp_path / "reg")
    other = torchreg.load(tmp_path / "reg", **({} if module is None else {"module": Own}))
    assert_equal(predict_all(other, X), predict_all(reg, X))
    assert repr(other.module_) == repr(reg.module_)


def test_a_module_with_another_link_is_not_saved(tmp_path: Path) -> None:
    reg = fitted(LINKED["gaussian_nll"])
    reg.module_.link = nn.Softplus()
    with pytest.raises(TypeError, match=r"layer link is Softplus.*, which fit does not build"):
        reg.save(tmp_path / "reg")


@pytest.mark.parametrize("name", LINKED)
def test_an_onnx_file_computes_all_columns_of_the_module(name: str, tmp_path: Path) -> None:
    import onnxruntime

    reg = fitted(LINKED[name])
    reg.to_onnx(tmp_path / "reg.onnx", target_units="g")
    session = onnxruntime.InferenceSession(str(tmp_path / "reg.onnx"))
    (found,) = session.run(None, {"X": X})
    with torch.no_grad():
        expected = reg.module_(torch.from_numpy(X)).numpy()
    assert found.shape == (60, PER_OUTPUT.get(name, 1))
    np.testing.assert_allclose(found, expected, atol=1e-4 * Y.std())


# Diagnosis and displays


@EACH
def test_a_diagnosis_compares_the_point_prediction_with_y(options: dict[str, Any]) -> None:
    reg = fitted(options, max_epochs=100)
    structure = reg.fit_summary_["network"]["structure"]
    expected = 1 - ((Y - reg.predict(X)) ** 2).mean() / Y.var()
    assert structure["network_r2"] == pytest.approx(expected, abs=1e-6)
    assert reg.fit_summary_["y"]["mean"] == pytest.approx([Y.mean()])
    assert reg.fit_summary_["y"]["scale"] == pytest.approx([Y.std()])


@EACH
def test_displays_draw_the_point_prediction(options: dict[str, Any]) -> None:
    from torchreg import plotting

    reg = fitted(options, X[:, :1])
    drawn = plotting.FitDisplay.from_estimator(reg, X[:, :1], Y)
    np.testing.assert_array_equal(drawn.prediction, reg.predict(drawn.grid[0][:, None]))
    plotting.LossCurveDisplay.from_estimator(reg)
    plotting.PredictionDisplay.from_estimator(reg, X[:, :1], Y)
    weights = plotting.ParameterDisplay.from_estimator(reg)
    assert all(layer.before is not None for layer in weights.layers)


@EACH
def test_with_folds_the_link_is_applied_to_the_mean_output_of_the_networks(
    options: dict[str, Any],
) -> None:
    reg = fitted(options, n_folds=3)
    module, x = reg.module_, torch.from_numpy(X)
    with torch.no_grad():
        each = torch.stack([m(module.standardize(x)) for m in module.network.members])
        columns = module.unstandardize(module.link(each.mean(dim=0)))
    np.testing.assert_allclose(
        module.link.point_prediction(columns)[:, 0], reg.predict(X), rtol=1e-12
    )
