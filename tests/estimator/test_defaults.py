"""The rules behind ``"auto"``."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from sklearn.model_selection import train_test_split

from torchreg import TorchEnsembleRegressor, TorchRegressor
from torchreg._estimator import batch_size_for, n_folds_for
from torchreg.nn import MLP, Ensemble, TabularMLP

Array = Any


def bent(n_rows: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 2))
    return X, np.abs(X[:, 0]) + 0.5 * X[:, 1] + 0.1 * rng.normal(size=n_rows)


def quick(**options: Any) -> TorchRegressor:
    return TorchRegressor(**{"max_epochs": 3, "random_state": 0, **options})


def test_the_default_is_a_tabular_mlp_for_each_fold() -> None:
    reg = quick().fit(*bent(60))
    assert isinstance(reg.module_.network, Ensemble)
    members = [*reg.module_.network.members]
    assert {type(member) for member in members} == {TabularMLP}
    assert len(members) == len(reg.init_losses_) == reg.chosen_params_["n_folds"]


@pytest.mark.parametrize("n_rows", [5, 40, 300])
@pytest.mark.parametrize("options", [{}, {"optimizer": "rprop"}, {"n_init": 2}, {"loss": "huber"}])
def test_chosen_params_repeat_the_fit(n_rows: int, options: dict[str, Any]) -> None:
    X, y = bent(n_rows)
    left = quick(**options).fit(X, y)
    named = quick(**options, **{"max_epochs": 3, **left.chosen_params_}).fit(X, y)
    np.testing.assert_array_equal(left.predict(X), named.predict(X))
    assert named.chosen_params_ == {}


@pytest.mark.parametrize("module", [MLP, MLP(2)])
def test_a_given_module_is_trained_as_one_network_on_all_rows(module: Any) -> None:
    X, y = bent(40)
    left = TorchRegressor(module, random_state=0).fit(X, y)
    expected = {"n_folds": None, "schedule": "constant", "max_epochs": 200, "n_iter_no_change": 10}
    assert left.chosen_params_ == expected
    named = TorchRegressor(module, random_state=0, **expected).fit(X, y)
    np.testing.assert_array_equal(left.predict(X), named.predict(X))
    assert left.validation_loss_curve_ is None


def test_given_parameters_are_not_chosen() -> None:
    given = {
        "module__hidden_sizes": (7,),
        "module__n_frequencies": 5,
        "module__n_bins": 4,
        "lr": 0.01,
        "schedule": "one_cycle",
        "max_epochs": 2,
        "batch_size": 10,
        "n_folds": 3,
        "n_iter_no_change": 2,
    }
    reg = TorchRegressor(random_state=0, **given).fit(*bent(60))
    assert reg.chosen_params_ == {}
    assert reg.n_iter_ == 2 and len(reg.module_.network.members) == 3
    for member in reg.module_.network.members:
        assert len(member.mlp.layers) == 3
        assert (member.waves.n_frequencies, member.bins.n_bins) == (5, 4)


def test_the_lr_of_optimizer_options_is_not_replaced() -> None:
    reg = quick(optimizer__lr=0.01, schedule="constant").fit(*bent(40))
    assert "lr" not in reg.chosen_params_
    assert reg.fit_summary_["lr"] == 0.01


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array], ids=["dense", "sparse"])
def test_the_rules_use_the_number_of_distinct_rows(form: Any) -> None:
    X, y = bent(30)
    counts = np.arange(30) % 4 + 1
    weighted = quick().fit(form(X), y, sample_weight=counts)
    repeated = quick().fit(form(X.repeat(counts, axis=0)), y.repeat(counts))
    assert weighted.chosen_params_ == repeated.chosen_params_
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), atol=1e-12)


def test_the_batch_size_does_not_decrease_with_the_number_of_rows() -> None:
    sizes = [batch_size_for(n) for n in range(1, 60_000, 50)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (32, 512)


def test_each_fold_has_at_least_four_rows() -> None:
    for n_rows in [*range(1, 6_000), 29_999, 30_000, 49_999, 50_000]:
        n_folds = n_folds_for(n_rows)
        assert n_folds is None or (n_folds >= 2 and n_rows // n_folds >= 4)


@pytest.mark.parametrize("n_rows", [1, 2, 7])
def test_few_rows_are_all_used_for_training(n_rows: int) -> None:
    X, y = bent(n_rows)
    reg = quick().fit(X, y)
    assert reg.chosen_params_["n_folds"] is None
    assert reg.validation_loss_curve_ is None
    assert np.isfinite(reg.predict(X)).all()


def test_validation_rows_of_the_user_replace_the_folds() -> None:
    X, X_val, y, y_val = train_test_split(*bent(80), random_state=0)
    reg = TorchRegressor(max_epochs=40, lr=0.1, schedule="constant", random_state=0)
    reg.fit(X, y, X_val=X_val, y_val=y_val)
    curve = reg.validation_loss_curve_
    assert isinstance(reg.module_.network, TabularMLP)
    assert reg.best_epoch_ == 1 + int(np.argmin(curve))
    assert reg.n_iter_ == len(curve) == min(40, reg.best_epoch_ + 10)


def test_patience_is_a_quarter_of_the_epochs() -> None:
    X, y = bent(60)
    y = y + np.random.default_rng(0).normal(size=60)
    reg = TorchRegressor(max_epochs=90, lr=0.05, random_state=0).fit(X, y)
    assert reg.chosen_params_["n_iter_no_change"] == 23
    alone = TorchRegressor(n_folds=8, max_epochs=90, lr=0.05, random_state=0).fit(X, y)
    assert reg.n_iter_ < alone.n_iter_ == 90


@pytest.mark.parametrize("options", [{"early_stopping": True}, {"n_init": 3}])
def test_early_stopping_and_n_init_replace_the_folds(options: dict[str, Any]) -> None:
    reg = quick(**options).fit(*bent(60))
    assert isinstance(reg.module_.network, TabularMLP)
    assert len(reg.validation_loss_curve_) == 3


def test_members_of_an_ensemble_have_one_network_each() -> None:
    ensemble = TorchEnsembleRegressor(quick(), n_estimators=3, random_state=0).fit(*bent(60))
    for member in ensemble.estimators_:
        assert isinstance(member.module_.network, TabularMLP)
        assert member.validation_loss_curve_ is not None


def test_a_warm_start_keeps_the_number_and_the_sizes_of_the_networks() -> None:
    X, y = bent(60)
    reg = quick(warm_start=True, n_iter_no_change=3).fit(X[:16], y[:16])
    first = reg.chosen_params_
    reg.fit(X, y)
    assert len(reg.module_.network.members) == first["n_folds"] == 4
    for key in ("module__hidden_sizes", "module__n_frequencies", "module__n_bins"):
        assert reg.chosen_params_[key] == first[key]
    assert reg.n_iter_ == 6


def test_chosen_params_are_saved(tmp_path: Any) -> None:
    import torchreg

    X, y = bent(60)
    reg = quick().fit(X, y)
    reg.save(tmp_path / "fit.safetensors")
    loaded = torchreg.load(tmp_path / "fit.safetensors")
    assert loaded.chosen_params_ == reg.chosen_params_
    np.testing.assert_array_equal(loaded.predict(X), reg.predict(X))


def test_a_checkpoint_with_folds_is_rejected_with_a_remedy(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"n_folds=None, got 8.*early_stopping=True"):
        quick().fit(*bent(60), checkpoint=tmp_path / "state")


def test_the_default_is_at_least_as_good_as_linear_regression() -> None:
    from sklearn.linear_model import LinearRegression

    X, y = bent(400)
    rng = np.random.default_rng(1)
    for target, factor in ((y, 0.5), (X @ [1.0, -2.0] + 0.3 * rng.normal(size=400), 1.02)):
        line = LinearRegression().fit(X[:300], target[:300]).predict(X[300:])
        with warnings.catch_warnings(action="error"):
            net = TorchRegressor(random_state=0).fit(X[:300], target[:300]).predict(X[300:])
        errors = [np.sqrt(np.mean((p - target[300:]) ** 2)) for p in (net, line)]
        assert errors[0] <= factor * errors[1]


def test_more_than_500_columns_are_not_embedded() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 501))
    for width, n_embedded in ((501, 0), (500, 500)):
        reg = quick(max_epochs=1, n_folds=2).fit(X[:, :width], X[:, 0])
        waves = reg.module_.network.members[0].waves
        assert waves.out_features == width + 3 * n_embedded
