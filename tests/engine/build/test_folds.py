"""Cross-validation folds: one network per fold, and the mean of their predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from torchreg import TorchRegressor, load
from torchreg._utils import spawn_seeds
from torchreg.engine.build import assign_folds
from torchreg.nn import MLP, Ensemble, TabularMLP

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)) * [1, 10, 100]
Y = X[:, 0] * 5 + np.abs(X[:, 1]) + 0.1 * RNG.normal(size=60)


def folds(**settings: object) -> TorchRegressor:
    given = {"module": MLP, "module__hidden_sizes": [8], "max_epochs": 6, "random_state": 0}
    return TorchRegressor(**(given | {"n_folds": 4} | settings))


def test_every_row_is_in_one_fold_and_fold_sizes_differ_by_at_most_one() -> None:
    for n, k in ((17, 4), (8, 8), (100, 3)):
        counts = assign_folds(n, k, seed=1).bincount(minlength=k)
        assert int(counts.sum()) == n
        assert int(counts.max() - counts.min()) <= 1


def test_the_prediction_is_the_mean_of_the_networks() -> None:
    reg = folds().fit(X, Y)
    ensemble = reg.module_.network
    assert isinstance(ensemble, Ensemble)
    assert len(ensemble.members) == 4
    x = reg.module_.standardize(torch.from_numpy(X))
    by_hand = torch.stack([network(x) for network in ensemble.members]).mean(dim=0)
    expected = reg.module_.unstandardize(by_hand)[:, 0].detach().numpy()
    np.testing.assert_allclose(reg.predict(X), expected, rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_each_network_has_the_weights_with_the_lowest_mean_loss_on_its_fold(weighted: bool) -> None:
    weight = RNG.uniform(0.1, 3.0, size=60) if weighted else np.ones(60)
    reg = folds(max_epochs=30).fit(X, Y, sample_weight=weight)
    # Rows are sorted, because identical ones are merged.
    order = np.lexsort(np.column_stack([X, Y]).T[::-1])
    fold = assign_folds(len(X), 4, seed=0).numpy()
    mean = np.average(Y, weights=weight)
    t = (Y[order] - mean) / np.average((Y - mean) ** 2, weights=weight) ** 0.5
    x = reg.module_.standardize(torch.from_numpy(X[order]))
    for number, network in enumerate(reg.module_.network.members):
        held = fold == number
        error = network(x[held])[:, 0].detach().numpy() - t[held]
        expected = np.average(error**2, weights=weight[order][held])
        assert reg.init_losses_[number] == pytest.approx(expected, rel=1e-9)
    one = folds(max_epochs=1).fit(X, Y, sample_weight=weight)
    assert one.validation_loss_curve_ == pytest.approx([np.mean(one.init_losses_)])


def test_a_network_does_not_depend_on_the_rows_of_its_fold() -> None:
    order = np.lexsort(np.column_stack([X, Y]).T[::-1])
    held = order[assign_folds(len(X), 4, seed=0).numpy() == 2]
    x, y = X, Y.copy()
    first = folds(max_epochs=2, standardize=False).fit(x, y)
    y[held] += 1.0
    second = folds(max_epochs=2, standardize=False).fit(x, y)
    pairs = zip(first.module_.network.members, second.module_.network.members, strict=True)
    same = [torch.equal(a.layers[0].weight, b.layers[0].weight) for a, b in pairs]
    assert same == [False, False, True, False]


@pytest.mark.parametrize("module", [MLP, None])
def test_an_integer_weight_equals_repetitions_and_fractions_of_a_row(module: type | None) -> None:
    weight = RNG.integers(1, 4, size=len(X))
    weighted = folds(module=module).fit(X, Y, sample_weight=weight)
    repeated = folds(module=module).fit(np.repeat(X, weight, axis=0), np.repeat(Y, weight))
    np.testing.assert_array_equal(weighted.predict(X), repeated.predict(X))
    parts = np.concatenate([0.25 * weight, 0.75 * weight])
    split = folds(module=module).fit(np.tile(X, (2, 1)), np.tile(Y, 2), sample_weight=parts)
    np.testing.assert_array_equal(weighted.predict(X), split.predict(X))


def test_curves_have_one_value_per_epoch_and_the_best_epoch_has_the_lowest() -> None:
    reg = folds(max_epochs=12).fit(X, Y)
    assert len(reg.loss_curve_) == len(reg.validation_loss_curve_) == reg.n_iter_ == 12
    assert reg.best_epoch_ == 1 + int(np.argmin(reg.validation_loss_curve_))


def test_the_mean_curve_counts_a_network_that_has_stopped_by_its_lowest_loss() -> None:
    order = np.lexsort(np.column_stack([X, Y]).T[::-1])
    x, y, fold = X[order] / [1, 10, 100], Y[order] / 10, assign_folds(60, 3, seed=0).numpy()
    options = {"standardize": False, "batch_size": None, "lr": 0.05, "max_epochs": 80}
    options |= {"early_stopping": True, "n_iter_no_change": 3, "optimizer": "adam"}
    curves = [
        folds(**options, n_folds=None, random_state=seed)
        .fit(x[fold != k], y[fold != k], X_val=x[fold == k], y_val=y[fold == k])
        .validation_loss_curve_
        for k, seed in enumerate(spawn_seeds(0, 3))
    ]
    n_epochs = [len(curve) for curve in curves]
    assert len(set(n_epochs)) == 3
    full = [curve + [min(curve)] * (max(n_epochs) - len(curve)) for curve in curves]
    found = folds(**options, n_folds=3).fit(x, y).validation_loss_curve_
    np.testing.assert_allclose(found, np.mean(full, axis=0), rtol=1e-9)


def test_early_stopping_stops_folds() -> None:
    patient = folds(max_epochs=300, early_stopping=True, n_iter_no_change=3, lr=0.05).fit(X, Y)
    assert patient.n_iter_ < 300


@pytest.mark.parametrize("module", [MLP, TabularMLP])
def test_save_and_load_preserve_all_networks(tmp_path: object, module: type) -> None:
    reg = folds(module=module).fit(X, Y)
    reg.save(f"{tmp_path}/folds.safetensors")
    again = load(f"{tmp_path}/folds.safetensors")
    np.testing.assert_array_equal(again.predict(X), reg.predict(X))


def test_warm_start_continues_with_every_network() -> None:
    reg = folds(warm_start=True, max_epochs=3).fit(X, Y)
    before = reg.predict(X)
    reg.fit(X, Y)
    assert reg.n_iter_ == 6
    assert len(reg.module_.network.members) == 4
    assert not np.array_equal(before, reg.predict(X))


def test_a_search_over_n_folds_equals_separate_fits() -> None:
    search = GridSearchCV(folds(), {"n_folds": [None, 3]}, cv=2).fit(X, Y)
    alone = clone(folds()).set_params(**search.best_params_).fit(X, Y)
    np.testing.assert_allclose(search.best_estimator_.predict(X), alone.predict(X), rtol=1e-9)


@pytest.mark.parametrize(
    ("settings", "given", "words"),
    [
        ({"n_init": 2}, {}, "n_folds=4 expects n_init=1, got 2"),
        ({}, {"X_val": X, "y_val": Y}, "n_folds=4 .* X_val and y_val .*n_folds=None"),
        ({}, {"checkpoint": "fit.checkpoint"}, "checkpoint expects n_folds=None, got"),
        ({"n_folds": 61}, {}, r"at least 61 distinct rows.* got 60\. Lower n_folds"),
    ],
)
def test_invalid_combinations_raise(
    settings: dict[str, object], given: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        folds(**settings).fit(X, Y, **given)


def test_binary_columns_are_not_embedded() -> None:
    x = np.column_stack([X, X[:, 0] > 0])
    reg = folds(module=TabularMLP).fit(x, Y)
    first = reg.module_.network.members[0]
    assert first.waves.columns == first.bins.columns == [0, 1, 2]


def test_diagnose_reads_every_network() -> None:
    reg = folds(max_epochs=30).fit(X, Y)
    assert "members.3.layers.0" in str(reg.fit_summary_)
    reg.diagnose(X, Y)
