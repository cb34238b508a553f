"""Ensembles: mean and spread of their members."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from skorch import callbacks as sk
from torch import nn

from tests._interrupts import InterruptingModule
from torchreg import InterruptWarning, TorchEnsembleRegressor, TorchRegressor
from torchreg._utils import spawn_seeds
from torchreg.ensemble import member_seeds
from torchreg.nn import MLP, Ensemble

Array = np.ndarray
Rows = tuple[Array, Array]


def quick(**options: Any) -> TorchRegressor:
    return TorchRegressor(
        module=MLP, **{"max_epochs": 15, "lr": 0.02, "module__hidden_sizes": [6], **options}
    )


def few(n_estimators: int = 3, bootstrap: bool = False, **options: Any) -> TorchEnsembleRegressor:
    options.setdefault("random_state", None)
    return TorchEnsembleRegressor(
        quick(**options), n_estimators, bootstrap=bootstrap, random_state=0
    )


KINDS: dict[str, dict[str, Any]] = {
    "full batch": {},
    "batches": {"batch_size": 32},
    "rprop": {"optimizer": "rprop"},
    "lbfgs": {"optimizer": "lbfgs", "max_epochs": 3},
    "float32": {"dtype": "float32"},
    "several starts": {"n_init": 2},
    "unscaled inputs": {"standardize": "y", "optimizer": "adam", "lr": 1e-4},
}


# The mean and the spread


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_mean_and_spread_of_regressors_fitted_one_by_one(
    kind: str, noisy: Rows
) -> None:
    X, y = noisy
    ensemble = few(**KINDS[kind]).fit(X, y)
    alone = [
        quick(**KINDS[kind], random_state=seed).fit(X, y).predict(X) for seed in member_seeds(0, 3)
    ]
    mean, std = ensemble.predict(X, return_std=True)
    near = 1e-5 if kind == "float32" else 1e-6
    np.testing.assert_allclose(mean, np.mean(alone, axis=0), atol=near * y.std())
    np.testing.assert_allclose(std, np.std(alone, axis=0), atol=near * y.std())
    np.testing.assert_array_equal(ensemble.predict(X), mean)
    assert std.min() > 0


def test_an_ensemble_of_one_is_the_regressor_with_its_seed(noisy: Rows) -> None:
    X, y = noisy
    ensemble = TorchEnsembleRegressor(quick(), 1, random_state=7).fit(X, y)
    mean, std = ensemble.predict(X, return_std=True)
    np.testing.assert_array_equal(mean, quick(random_state=7).fit(X, y).predict(X))
    np.testing.assert_array_equal(std, np.zeros(len(y)))


def test_the_default_estimator_is_a_default_regressor(kink: Rows) -> None:
    X, y = kink
    ensemble = TorchEnsembleRegressor(n_estimators=2, random_state=0).fit(X, y)
    one = {"n_folds": None, "early_stopping": True, "n_iter_no_change": 60}
    first = TorchRegressor(random_state=0, **one).fit(X, y)
    np.testing.assert_allclose(ensemble.estimators_[0].predict(X), first.predict(X), rtol=1e-9)


def test_far_from_the_data_the_members_disagree_most() -> None:
    X = np.linspace(-2, 2, 80)[:, None]
    ensemble = TorchEnsembleRegressor(
        TorchRegressor(module=MLP, optimizer="rprop", max_epochs=300, module__hidden_sizes=[20]),
        8,
        random_state=0,
    ).fit(X, np.sin(3 * X[:, 0]))
    _, inside = ensemble.predict(X, return_std=True)
    _, outside = ensemble.predict(np.array([[3.5], [-3.5]]), return_std=True)
    assert outside.min() > 3 * inside.max()


@pytest.mark.parametrize("n_outputs", [None, 1, 3])
def test_mean_and_spread_have_the_shape_of_y(n_outputs: int | None, noisy: Rows) -> None:
    X, y = noisy
    Y = y if n_outputs is None else np.column_stack([y * (k + 1) for k in range(n_outputs)])
    mean, std = few().fit(X, Y).predict(X, return_std=True)
    assert mean.shape == std.shape == Y.shape
    if n_outputs == 3:
        # A shape that is broadcast would mix outputs up.
        assert np.corrcoef(mean[:, 2], Y[:, 2])[0, 1] > 0.5


def test_predictions_have_the_dtype_of_x(noisy: Rows) -> None:
    X, y = noisy
    ensemble = few().fit(X, y)
    for dtype in (np.float32, np.float64):
        found = ensemble.predict(X.astype(dtype), return_std=True)
        assert all(part.dtype == dtype for part in found)
    np.testing.assert_array_equal(ensemble.predict(torch.from_numpy(X)), ensemble.predict(X))


# Module


@pytest.mark.parametrize("options", [{}, {"dtype": "float32"}, {"standardize": "X"}], ids=str)
def test_module_predicts_as_the_ensemble(options: dict[str, Any], noisy: Rows) -> None:
    X, y = noisy
    ensemble = few(**options).fit(X, y)
    module = ensemble.module_
    assert isinstance(module, Ensemble) and not module.training
    with torch.no_grad():
        outputs = module.outputs(torch.from_numpy(X))[..., 0]
        mean = module(torch.from_numpy(X))[:, 0]
    predicted, std = ensemble.predict(X, return_std=True)
    near = {"rtol": 1e-5, "atol": 1e-6} if options else {"rtol": 1e-12, "atol": 1e-14}
    np.testing.assert_allclose(mean, predicted, **near)
    np.testing.assert_allclose(outputs.std(0, correction=0), std, **near)


def test_a_state_dict_transfers_an_ensemble(noisy: Rows) -> None:
    X, y = noisy
    one, other = few().fit(X, y), few().fit(X * 3, -y)
    assert (one.predict(X) != other.predict(X)).all()
    other.module_.load_state_dict(one.module_.state_dict())
    np.testing.assert_array_equal(other.predict(X), one.predict(X))
    for a, b in zip(one.estimators_, other.estimators_, strict=True):
        np.testing.assert_array_equal(a.predict(X), b.predict(X))


def test_an_unfitted_ensemble_has_no_module(noisy: Rows) -> None:
    ensemble = few()
    assert not hasattr(ensemble, "module_")
    with pytest.raises(AttributeError, match="module_ is set by fit"):
        _ = ensemble.module_
    for ask in (ensemble.predict, ensemble.to_onnx, ensemble.save):
        with pytest.raises(NotFittedError):
            ask(noisy[0])


# Members


def test_members_are_fitted_regressors(noisy: Rows) -> None:
    X, y = noisy
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(12)])
    ensemble = few().fit(frame, y)
    for member, seed in zip(ensemble.estimators_, member_seeds(0, 3), strict=True):
        assert type(member) is TorchRegressor and member.random_state == seed
        assert member.n_iter_ == len(member.loss_curve_) == 15
        assert isinstance(member.diagnose(frame, y).to_dict(), dict)
        assert list(member.feature_names_in_) == list(ensemble.feature_names_in_)
        again = clone(member).fit(frame, y)
        np.testing.assert_allclose(again.predict(frame), member.predict(frame), rtol=1e-6)


def test_the_estimator_is_not_fitted_or_changed(noisy: Rows) -> None:
    template = quick(random_state=5)
    before = template.get_params()
    TorchEnsembleRegressor(template, 2, random_state=0).fit(*noisy)
    assert not hasattr(template, "module_") and template.get_params() == before


def test_seeds_of_members_and_of_their_networks_differ() -> None:
    starts = [s for seed in member_seeds(3, 20) for s in spawn_seeds(seed, 16)]
    assert len(set(starts)) == 20 * 16


def test_the_same_random_state_gives_the_same_bits(noisy: Rows) -> None:
    X, y = noisy
    options = {"batch_size": 16, "module__dropout": 0.1, "early_stopping": True}
    first = few(bootstrap=True, **options).fit(X, y).predict(X)
    again = few(bootstrap=True, **options)
    again.fit(X, y)
    np.testing.assert_array_equal(again.fit(X, y).predict(X), first)
    other = few(bootstrap=True, **options).set_params(random_state=1).fit(X, y)
    assert (other.predict(X) != first).any()
    states = (np.random.RandomState(3) for _ in range(2))
    a, b = (few(**options).set_params(random_state=s).fit(X, y).predict(X) for s in states)
    np.testing.assert_array_equal(a, b)


def test_early_stopping_holds_out_different_rows_for_each_member(noisy: Rows) -> None:
    X, y = noisy
    ensemble = few(early_stopping=True, validation_fraction=0.25).fit(X, y)
    means = [member.module_.standardize.mean for member in ensemble.estimators_]
    assert not any(torch.equal(means[0], mean) for mean in means[1:])
    alone = clone(ensemble.estimators_[1]).fit(X, y)
    assert torch.equal(alone.module_.standardize.mean, means[1])
    assert all(len(m.validation_loss_curve_) == m.n_iter_ for m in ensemble.estimators_)


def test_all_members_use_the_validation_rows_of_the_user(noisy: Rows) -> None:
    X, y = noisy
    validation = {"X_val": X[:20], "y_val": y[:20], "sample_weight_val": np.arange(20)}
    ensemble = few(early_stopping=True).fit(X[20:], y[20:], **validation)
    for member in ensemble.estimators_:
        alone = clone(member).fit(X[20:], y[20:], **validation)
        np.testing.assert_allclose(
            member.validation_loss_curve_, alone.validation_loss_curve_, rtol=1e-6
        )


# Rows


@pytest.mark.parametrize("weighted", [False, True])
def test_bootstrap_draws_rows_in_proportion_to_their_weights(weighted: bool, noisy: Rows) -> None:
    X, y = noisy
    weight = np.where(np.arange(80) < 20, 3.0, 1.0) * 1e300 if weighted else None
    ensemble = few(bootstrap=True).fit(X, y, weight)
    for member in ensemble.estimators_:
        seed = np.random.SeedSequence(member.random_state, spawn_key=(2,))
        chances = None if weight is None else weight / 1e300 / 120
        drawn = np.random.default_rng(seed).choice(80, size=80, p=chances)
        # In a full batch, a row that is drawn twice has twice the weight.
        counts = np.bincount(drawn, minlength=80)
        assert 35 < (counts > 0).sum() < 62
        alone = clone(member).fit(X, y, counts)
        np.testing.assert_allclose(member.predict(X), alone.predict(X), rtol=1e-6, atol=1e-9)


def test_bootstrap_draws_no_validation_rows(noisy: Rows) -> None:
    X, y = noisy
    seen: list[set[float]] = []

    class Recording(sk.Callback):
        def on_epoch_begin(self, net: Any, **rows: Any) -> None:
            for name in ("dataset_train", "dataset_valid"):
                seen.append({*map(float, rows[name].y.flatten())})

        def on_batch_begin(self, net: Any, **batch: Any) -> None:
            """Listen to batches, so that each member has a copy."""

    few(
        bootstrap=True,
        early_stopping=True,
        validation_fraction=0.3,
        max_epochs=1,
        callbacks=Recording(),
    ).fit(X, y)
    assert len(seen) == 6
    for train, held in zip(seen[::2], seen[1::2], strict=True):
        assert not train & held and len(held) == 24


# In scikit-learn


def test_grid_search_clone_and_pipeline(noisy: Rows) -> None:
    X, y = noisy
    grid = {
        "n_estimators": [1, 3],
        "estimator__lr": [0.01, 0.05],
        "estimator__module__hidden_sizes": [[3]],
    }
    search = GridSearchCV(few(), grid, cv=2, error_score="raise").fit(X, y)
    best = search.best_estimator_
    assert len(best.estimators_) == search.best_params_["n_estimators"]
    assert best.estimators_[0].module_.network.layers[0].out_features == 3
    assert not hasattr(clone(best), "estimators_")
    pipeline = make_pipeline(PolynomialFeatures(), few()).fit(X, y)
    mean, std = pipeline.predict(X, return_std=True)
    assert mean.shape == std.shape == y.shape


@pytest.mark.parametrize("copy_of", ["deepcopy", "pickle", "joblib"])
def test_copies_predict_the_same_bits_and_share_nothing(copy_of: str, noisy: Rows) -> None:
    X, y = noisy
    ensemble = few().fit(X, y)
    if copy_of == "deepcopy":
        other = copy.deepcopy(ensemble)
    elif copy_of == "pickle":
        other = pickle.loads(pickle.dumps(ensemble))
    else:
        file = io.BytesIO()
        joblib.dump(ensemble, file)
        file.seek(0)
        other = joblib.load(file)
    before = ensemble.predict(X)
    np.testing.assert_array_equal(other.predict(X), before)
    other.module_.members[0].network.layers[0].weight.data.zero_()
    np.testing.assert_array_equal(ensemble.predict(X), before)
    assert (other.predict(X) != before).any()


def test_a_failed_fit_keeps_the_fitted_members(noisy: Rows) -> None:
    X, y = noisy
    ensemble = few().fit(X, y)
    before, members = ensemble.predict(X), ensemble.estimators_
    with pytest.raises(ValueError, match="Unknown optimizer 'adma'"):
        ensemble.set_params(estimator__optimizer="adma").fit(X, y)
    with pytest.raises(ValueError, match="before anything was learned"):
        ensemble.set_params(
            estimator__optimizer="adam", estimator__loss=lambda p, t: (p - t) * float("nan")
        ).fit(X, y)
    assert ensemble.estimators_ is members
    np.testing.assert_array_equal(ensemble.predict(X), before)


# Parameters


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("estimator", nn.Linear(1, 1)),
        ("estimator", "torch"),
        ("n_estimators", 0),
        ("n_estimators", 2.5),
        ("bootstrap", "yes"),
        ("random_state", -1),
    ],
)
def test_a_value_outside_its_limits_is_rejected(name: str, value: Any, noisy: Rows) -> None:
    with pytest.raises(ValueError, match=f"'{name}' parameter of TorchEnsembleRegressor must be"):
        few().set_params(**{name: value}).fit(*noisy)


def test_parameters_of_the_members_are_checked_as_those_of_a_regressor(noisy: Rows) -> None:
    with pytest.raises(ValueError, match="'lr' parameter of TorchRegressor must be"):
        few(lr=-1).fit(*noisy)


def test_an_estimator_that_overrides_fit_is_rejected(noisy: Rows) -> None:
    class Own(TorchRegressor):
        def fit(self, X: Any, y: Any) -> Any:
            return super().fit(X, -y)

    with pytest.raises(TypeError, match=r"that of Own .* Use BaggingRegressor"):
        TorchEnsembleRegressor(Own()).fit(*noisy)

    class Same(TorchRegressor):
        pass

    ensemble = TorchEnsembleRegressor(Same(max_epochs=2), 2).fit(*noisy)
    assert all(type(member) is Same for member in ensemble.estimators_)


# Callbacks, output and warnings


def test_one_row_is_printed_for_each_member(
    noisy: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    ensemble = few(verbose=1).fit(*noisy)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "training losses of the standardized target"
    for number, member in enumerate(ensemble.estimators_):
        assert lines[1 + number] == f"member {number + 1} of 3: loss {member.loss_:.6g}"
    assert len(lines) == 5


def test_each_warning_is_issued_once_for_all_members(noisy: Rows) -> None:
    with pytest.warns(ConvergenceWarning) as caught:
        few(tol=1e-6, max_epochs=5).fit(*noisy)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert str(caught[0].message).startswith("3 of 3 members: ")
    assert "max_epochs=5" in str(caught[0].message)


def test_callbacks_stop_all_members_together(noisy: Rows, tmp_path: Path) -> None:
    X, y = noisy
    stop = sk.EarlyStopping(monitor="train_loss", patience=2, threshold=1e-2)
    options = {"callbacks": stop, "max_epochs": 200}
    ensemble = few(**options).fit(X, y)
    (n_iter,) = {member.n_iter_ for member in ensemble.estimators_}
    curve = np.mean([member.loss_curve_ for member in ensemble.estimators_], axis=0)
    assert n_iter == len(curve) < 200
    best = np.inf
    for epoch, loss in enumerate(curve):
        if loss < best * (1 - 1e-2):
            best, last = loss, epoch
    assert n_iter == last + 1 + 2
    with pytest.raises(ValueError, match=r"Checkpoint writes .* 3 networks.* Remove it"):
        few(callbacks=sk.Checkpoint(dirname=str(tmp_path))).fit(X, y)


if hasattr(TorchRegressor, "set_callbacks"):  # scikit-learn 1.9

    class Recorder:
        """Records the events of scikit-learn's callback protocol."""

        def __init__(self) -> None:
            self.events: list[str] = []

        def setup(self, estimator: Any, context: Any) -> None:
            self.events.append("setup")

        def teardown(self, estimator: Any, context: Any) -> None:
            self.events.append("teardown")

        def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
            self.events.append(f"begin {context.task_name}")

        def on_fit_task_end(self, estimator: Any, context: Any) -> None:
            self.events.append(f"end {context.task_name}")

    def test_sklearn_callbacks_observe_each_member_and_are_torn_down(
        noisy: Rows,
    ) -> None:
        recorder = Recorder()
        template = quick(max_epochs=2).set_callbacks(recorder)
        TorchEnsembleRegressor(template, 3, random_state=0).fit(*noisy)
        events = recorder.events
        for event in ("setup", "begin fit", "end fit", "teardown"):
            assert events.count(event) == 3
        assert events.count("end epoch") == 6
        recorder.events.clear()
        with pytest.raises(ValueError, match="before anything was learned"):
            template.set_params(loss=lambda p, t: (p - t).mean() * float("nan"))
            TorchEnsembleRegressor(template, 3, random_state=0).fit(*noisy)
        assert recorder.events.count("setup") == recorder.events.count("teardown") == 3


def interrupted(at: int) -> TorchEnsembleRegressor:
    """Three members that train one after another because of their optimizer, 20 epochs each."""
    InterruptingModule.set_alarm(at)
    template = TorchRegressor(InterruptingModule, max_epochs=20, optimizer="adamax")
    return TorchEnsembleRegressor(template, 3, random_state=0)


def test_ctrl_c_keeps_the_members_that_were_trained(noisy: Rows) -> None:
    X, y = noisy
    with pytest.warns(InterruptWarning, match="2 of 3 members") as caught:
        ensemble = interrupted(26).fit(X, y)
    assert len(caught) == 1
    assert [member.n_iter_ for member in ensemble.estimators_] == [20, 5]
    assert ensemble.predict(X).shape == y.shape
    with pytest.warns(InterruptWarning, match="1 of 3 members"):
        ensemble = interrupted(21).fit(X, y)
    assert [member.n_iter_ for member in ensemble.estimators_] == [20]
    with pytest.raises(KeyboardInterrupt):
        interrupted(1).fit(X, y)
    with pytest.raises(KeyboardInterrupt):
        cross_val_score(interrupted(26), X, y, cv=2)
