"""The rows of a fit are there when somebody asks, and in every copy."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

from torchreg import TorchRegressor

X = np.random.default_rng(0).normal(size=(30, 2))
Y = X[:, 0]


def fitted(**options: Any) -> TorchRegressor:
    return TorchRegressor(**{"max_epochs": 4, "n_folds": None, "random_state": 0, **options}).fit(
        X, Y
    )


def test_the_rows_say_of_each_epoch_what_the_curves_say() -> None:
    reg = fitted(schedule="cosine").fit(X, Y, X_val=X[:5], y_val=Y[:5])
    rows = reg.history_
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4] and reg.n_iter_ == 4
    assert [row["loss"] for row in rows] == reg.loss_curve_
    assert [row["validation_loss"] for row in rows] == reg.validation_loss_curve_
    assert all("lr" in row for row in rows)


def test_it_is_always_the_same_list_and_nobody_elses_curve_changes_it() -> None:
    reg = fitted()
    reg.loss_curve_.clear()
    rows = reg.history_
    assert len(rows) == 4 and reg.history_ is rows


def test_who_is_not_fitted_has_none() -> None:
    assert not hasattr(TorchRegressor, "history_")
    assert not hasattr(TorchRegressor(), "history_")
    assert not hasattr(clone(fitted()), "history_")
    with pytest.raises(AttributeError, match="'TorchRegressor' object has no attribute 'history_'"):
        _ = TorchRegressor().history_


def test_copies_have_the_same_rows() -> None:
    reg = fitted()
    for other in (copy.copy(reg), copy.deepcopy(reg), pickle.loads(pickle.dumps(reg))):
        assert other.history_ == reg.history_


def test_a_fit_that_goes_on_goes_on_with_its_rows_and_a_new_one_begins_anew() -> None:
    reg = fitted(warm_start=True)
    first = [*reg.history_]
    reg.fit(X, Y, X_val=X[:5], y_val=Y[:5])
    assert reg.history_[:4] == first
    assert [row["epoch"] for row in reg.history_] == [*range(1, 9)]
    assert np.isnan(reg.validation_loss_curve_[:4]).all()
    reg.set_params(warm_start=False).fit(X, Y)
    assert len(reg.history_) == 4 == len(reg.loss_curve_)
