"""Validation rows in other units than the training rows are found, and warned of by ``fit``."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import torchreg
from torchreg import TorchEnsembleRegressor, TorchRegressor, ValidationWarning
from torchreg.diagnosis import Diagnosis
from torchreg.nn import MLP

DISTANT = "distant-validation-rows"


def birds(n: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"flipper_mm": rng.normal(200, 14, n), "bill_mm": rng.normal(44, 5, n)})
    z = (X.flipper_mm - 200) / 14
    return X, np.exp(8 + 0.5 * z.to_numpy() + 0.05 * rng.normal(size=n))


X, Y = birds(120, 0)
X_VAL, Y_VAL = birds(40, 1)


def network(**options: Any) -> TorchRegressor:
    return TorchRegressor(
        MLP, module__hidden_sizes=[8], **{"max_epochs": 12, "random_state": 0, **options}
    )


def diagnosed(reg: Any, X: Any, y: Any, X_val: Any, y_val: Any) -> Diagnosis:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return reg.fit(X, y, X_val=X_val, y_val=y_val).diagnose()


def test_validation_rows_past_a_scaler_are_named_with_their_units_and_the_remedy() -> None:
    pipe = make_pipeline(StandardScaler(), network(early_stopping=True))
    rows = {"torchregressor__X_val": X_VAL.to_numpy(), "torchregressor__y_val": Y_VAL}
    with pytest.warns(ValidationWarning, match=r'X column 0 .* transform_input=\["X_val"\]'):
        pipe.fit(X, Y, **rows)
    report = pipe[-1].diagnose()
    assert report[DISTANT].severity == "severe"
    assert report[DISTANT].numbers["columns"] == [0, 1]
    assert "in X_val (trained on 0 ± 1)" in report[DISTANT].message
    assert "overfitting" not in report


def test_the_remedy_that_the_warning_names_works() -> None:
    with config_context(enable_metadata_routing=True):
        reg = network(early_stopping=True).set_fit_request(X_val=True, y_val=True)
        pipe = make_pipeline(StandardScaler(), reg, transform_input=["X_val"])
        report = pipe.fit(X, Y, X_val=X_VAL, y_val=Y_VAL)[-1].diagnose()
    assert DISTANT not in report


def test_a_y_val_that_was_not_transformed_as_y_is_named() -> None:
    reg = TransformedTargetRegressor(network(), func=np.log, inverse_func=np.exp)
    with pytest.warns(ValidationWarning, match=r"y is about .* in y_val \(trained on 8.*y_val in"):
        reg.fit(X, Y, X_val=X_VAL, y_val=Y_VAL)
    assert reg.regressor_.diagnose()[DISTANT].numbers["tables"] == ["y_val"]


@pytest.mark.parametrize(
    ("X_val", "y_val", "columns"),
    [
        (X_VAL / 10, Y_VAL, [0, 1]),
        (X_VAL.assign(bill_mm=X_VAL.bill_mm / 1000), Y_VAL, [1]),
        ((X_VAL - X.mean()) / X.std(), Y_VAL, [0, 1]),
        (X_VAL, Y_VAL / 1000, [0]),
        (X_VAL, np.log(Y_VAL), [0]),
        (X_VAL, 1000 * Y_VAL, [0]),
    ],
    ids=["cm", "one column", "scaled", "kg", "log y", "mg"],
)
def test_the_columns_in_other_units_are_named(X_val: Any, y_val: Any, columns: list[int]) -> None:
    finding = diagnosed(network(), X, Y, X_val, y_val)[DISTANT]
    assert finding.numbers["columns"] == columns
    named = "bill_mm is about" in finding.message
    assert named == ("X_val" in finding.numbers["tables"])


def test_columns_that_were_all_scaled_around_0_are_found_inside_the_training_range() -> None:
    centred, centred_val = X - X.mean(), X_VAL - X.mean()
    assert DISTANT in diagnosed(network(), centred, Y, centred_val / 1000, Y_VAL)
    assert DISTANT not in diagnosed(network(), centred, Y, centred_val, Y_VAL)


@pytest.mark.filterwarnings("error")
def test_other_rows_in_the_units_of_the_training_rows_are_not_distant() -> None:
    rng = np.random.default_rng(2)
    time = np.sort(rng.uniform(0, 150, 160))
    rare = (np.arange(160) % 40 == 0).astype(float)
    X = np.column_stack([time, rare, rng.normal(size=160)])
    y = 50 + time + rng.normal(size=160)
    # A later period, only rows of the rare kind, a single row, a constant column.
    for held in (time > 120, (rare > 0) & (time <= 120), np.arange(160) == 159):
        network().fit(X[~held], y[~held], X_val=X[held], y_val=y[held])
    same = np.tile(X[3], (20, 1))
    network().fit(X, y, X_val=same, y_val=np.full(20, y[3]))


def test_the_finding_survives_a_file_and_an_ensemble_warns_too(tmp_path: Any) -> None:
    report = diagnosed(reg := network(max_epochs=2), X, Y, X_VAL / 10, Y_VAL)
    reg.save(tmp_path / "reg.safetensors")
    assert str(torchreg.load(tmp_path / "reg.safetensors").diagnose()[DISTANT]) == str(
        report[DISTANT]
    )
    with pytest.warns(ValidationWarning, match="2 of 2 members"):
        TorchEnsembleRegressor(reg, n_estimators=2).fit(X, Y, X_val=X_VAL / 10, y_val=Y_VAL)
