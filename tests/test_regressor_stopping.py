"""Early stopping, tolerance and Ctrl-C."""

from __future__ import annotations

import itertools
import sys
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests._interrupts import InterruptingModule
from torchreg import InterruptWarning, TorchRegressor
from torchreg.nn import MLP

Array = np.ndarray


def quick(module: Any = MLP, **options: Any) -> TorchRegressor:
    settings = {"max_epochs": 60, "lr": 0.02, "random_state": 0}
    return TorchRegressor(module, **{**settings, **options})


def test_without_early_stopping_or_tol_exactly_max_epochs_run_on_all_rows(
    kink: tuple[Array, Array],
) -> None:
    X, y = kink
    reg = quick(max_epochs=17).fit(X, y)
    assert reg.n_iter_ == reg.best_epoch_ == len(reg.loss_curve_) == len(reg.history_) == 17
    assert reg.validation_loss_curve_ is None
    np.testing.assert_allclose(reg.module_.standardize.mean, X.mean(axis=0), rtol=1e-14)


def test_early_stopping_holds_out_rows_unless_the_user_passes_them(
    noisy: tuple[Array, Array],
) -> None:
    X, y = noisy
    reg = quick(early_stopping=True, validation_fraction=0.3, max_epochs=5).fit(X, y)
    means = reg.module_.standardize.mean.numpy()
    # Statistics of 56 of the 80 rows: another mean than that of all.
    assert np.abs(means - X.mean(axis=0)).min() > 1e-6
    assert len(reg.validation_loss_curve_) == 5
    own = quick(early_stopping=True, max_epochs=5).fit(X, y, X_val=X[:5], y_val=y[:5])
    np.testing.assert_allclose(own.module_.standardize.mean, X.mean(axis=0), atol=1e-14)


def test_validation_rows_without_early_stopping_do_not_change_the_fit(
    noisy: tuple[Array, Array],
) -> None:
    X, y = noisy
    plain = quick(max_epochs=30).fit(X, y)
    watched = quick(max_epochs=30).fit(X, y, X_val=X[:20] + 1, y_val=y[:20])
    np.testing.assert_array_equal(watched.predict(X), plain.predict(X))
    assert len(watched.validation_loss_curve_) == 30


def test_weights_of_validation_rows_equal_their_repetition(noisy: tuple[Array, Array]) -> None:
    X, y = noisy
    weight = np.arange(20) % 3
    weighted = quick(max_epochs=5).fit(X, y, X_val=X[:20], y_val=y[:20], sample_weight_val=weight)
    repeated = quick(max_epochs=5).fit(
        X, y, X_val=X[:20].repeat(weight, axis=0), y_val=y[:20].repeat(weight)
    )
    np.testing.assert_allclose(
        weighted.validation_loss_curve_, repeated.validation_loss_curve_, rtol=1e-12
    )


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_tol_does_not_depend_on_the_units_of_y(unit: float, kink: tuple[Array, Array]) -> None:
    X, y = kink
    reg = quick(tol=1e-3, max_epochs=1000, n_iter_no_change=5, lr=5e-3)
    epochs = reg.fit(X, y).n_iter_
    assert 20 < epochs < 1000
    assert reg.fit(X, y * unit).n_iter_ == epochs


@pytest.mark.parametrize("loss", ["squared_error", "gaussian_nll"])
@pytest.mark.parametrize("on_validation", [False, True])
def test_a_fit_ends_when_no_loss_is_below_the_best_by_tol_times_its_size(
    on_validation: bool, loss: str, kink: tuple[Array, Array]
) -> None:
    X, y = kink
    options = {"tol": 0.2, "n_iter_no_change": 15, "max_epochs": 400, "lr": 0.01, "loss": loss}
    reg = quick(early_stopping=on_validation, **options).fit(X, y, X_val=X, y_val=y)
    curve = reg.validation_loss_curve_ if on_validation else reg.loss_curve_
    best, n_waited, n_epochs = np.inf, 0, 0
    while n_waited < 15:
        value = curve[n_epochs]
        is_better = value < (best - 0.2 * abs(best) if n_epochs else np.inf)
        best, n_waited = (value, 0) if is_better else (best, n_waited + 1)
        n_epochs += 1
    assert reg.n_iter_ == n_epochs < 400
    assert (loss == "gaussian_nll") == (best < 0)


def test_max_epochs_below_what_tol_needs_is_a_convergence_warning(
    kink: tuple[Array, Array],
) -> None:
    with pytest.warns(ConvergenceWarning, match=r"max_epochs=5 .*tol=0\.0001.* Increase"):
        quick(tol=1e-4, max_epochs=5).fit(*kink)
    # No loss is below the first one by 90 %.
    quick(tol=0.9, max_epochs=5).fit(*kink)


@pytest.mark.parametrize("n_batches", [1, 2])
def test_ctrl_c_anywhere_between_two_steps_keeps_the_best_epoch(
    n_batches: int, noisy: tuple[Array, Array]
) -> None:
    X, y = noisy
    n_ended = []

    class Interrupted(torch.optim.SGD):
        """Ctrl-C arrives at a call of the engine after the steps of the eighth epoch."""

        n_steps = n_calls = at = 0

        def step(self, closure: Any = None) -> Any:
            loss = super().step(closure)
            Interrupted.n_steps += 1
            if Interrupted.n_steps >= 8 * n_batches:
                sys.settrace(self.trace if Interrupted.n_steps == 8 * n_batches else None)
            return loss

        @staticmethod
        def trace(frame: FrameType, event: str, arg: Any) -> None:
            Interrupted.n_calls += "engine" in frame.f_code.co_filename
            if Interrupted.n_calls == Interrupted.at:
                sys.settrace(None)
                raise KeyboardInterrupt

    before = sys.gettrace()
    for at in itertools.count(1):
        Interrupted.n_steps, Interrupted.n_calls, Interrupted.at = 0, 0, at
        options = {"early_stopping": True, "max_epochs": 9, "batch_size": 60 // n_batches}
        reg = quick(optimizer=Interrupted, **options)
        try:
            with pytest.warns(InterruptWarning):
                reg.fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
        except pytest.fail.Exception:
            break
        finally:
            sys.settrace(before)
        n_ended.append(reg.n_iter_)
        loss = np.mean(((reg.predict(X[60:]) - y[60:]) / y[:60].std()) ** 2)
        assert reg.best_epoch_ == reg.n_iter_ == len(reg.validation_loss_curve_)
        np.testing.assert_allclose(loss, reg.validation_loss_curve_[-1], rtol=1e-9)
    # In the eighth epoch, and in the ninth before its step.
    assert set(n_ended) == {7, 8}


def test_ctrl_c_in_a_pipeline_keeps_the_weights_until_then(kink: tuple[Array, Array]) -> None:
    X, y = kink
    InterruptingModule.set_alarm(6)
    with pytest.warns(InterruptWarning):
        pipeline = make_pipeline(StandardScaler(), quick(InterruptingModule)).fit(X, y)
    assert pipeline[-1].n_iter_ == 5


@pytest.mark.parametrize(
    "surround",
    [
        lambda reg, X, y: GridSearchCV(reg, {"lr": [0.01, 0.02]}, cv=2).fit(X, y),
        lambda reg, X, y: cross_val_score(reg, X, y, cv=2),
        lambda reg, X, y: MultiOutputRegressor(reg).fit(X, y[:, None]),
    ],
    ids=["search", "cross-validation", "meta-estimator"],
)
def test_ctrl_c_in_a_search_ends_the_search(surround: Any, kink: tuple[Array, Array]) -> None:
    InterruptingModule.set_alarm(6)
    with pytest.raises(KeyboardInterrupt):
        surround(quick(InterruptingModule), *kink)
