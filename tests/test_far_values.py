"""One absurd value costs no other value its digits; placeholders are named; masks are refused."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

from torchreg import PrecisionWarning, TorchRegressor
from torchreg.nn import MLP

rng = np.random.default_rng(0)
X = rng.normal(size=(240, 3))
Y = np.tanh(X[:, 0] * X[:, 1]) + 0.05 * rng.normal(size=240)
PLACEHOLDER = "placeholder-values"


def with_cell(values: np.ndarray, value: float, *, row: int = 7) -> np.ndarray:
    values = values.copy()
    values[row if values.ndim == 1 else (row, 0)] = value
    return values


def fitted(X: Any, y: Any, weight: Any = None, **options: Any) -> TorchRegressor:
    options = {"module": MLP, "module__hidden_sizes": [8], "max_epochs": 5, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TorchRegressor(**options, random_state=0).fit(X, y, weight)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        *((value, "float32") for value in (1e10, 1e20, -3.4e38)),
        *((value, "float64") for value in (1e16, 1e20, 9.97e36, 1e200)),
    ],
)
def test_the_default_learns_as_well_with_one_absurd_cell(value: float, dtype: str) -> None:
    options = {"module": None, "n_folds": None, "max_epochs": 30, "dtype": dtype}
    plain = fitted(X, Y, **options).score(X, Y)
    spoilt = with_cell(X, value)
    score = fitted(spoilt, Y, **options).score(np.delete(spoilt, 7, axis=0), np.delete(Y, 7))
    assert score > plain - 0.05 > 0.8


@pytest.mark.parametrize("value", [1e10, 1e20, -9.97e36])
@pytest.mark.parametrize("row", [0, 7])
def test_statistics_are_those_of_the_other_values(value: float, row: int) -> None:
    others = np.delete(np.arange(240), row)
    reg = fitted(with_cell(X, value, row=row), with_cell(Y, value, row=row))
    x, y = reg.module_.standardize, reg.module_.unstandardize
    expected = [X[others, 0].mean(), *X[:, 1:].mean(axis=0)]
    np.testing.assert_allclose(x.mean, expected, rtol=1e-12, atol=1e-15)
    floor = 2.0**-100 * abs(value)
    np.testing.assert_allclose(x.scale[0], max(X[others, 0].std(), floor), rtol=1e-9)
    np.testing.assert_allclose(y.mean, Y[others].mean(), rtol=1e-12)
    np.testing.assert_allclose(y.scale, max(Y[others].std(), floor), rtol=1e-9)


def test_units_and_weights_do_not_matter_to_statistics_without_an_absurd_cell() -> None:
    spoilt, weight = with_cell(X, 1e20), np.arange(1.0, 241.0)
    reg, in_other_units = fitted(spoilt, Y, weight), fitted(2.0**-30 * spoilt, Y, weight)
    layer = reg.module_.standardize
    np.testing.assert_array_equal(2.0**-30 * layer.mean, in_other_units.module_.standardize.mean)
    np.testing.assert_array_equal(2.0**-30 * layer.scale, in_other_units.module_.standardize.scale)
    others = np.delete(np.arange(240), 7)
    mean = np.average(X[others, 0], weights=weight[others])
    assert float(layer.mean[0]) == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize(
    "column",
    [
        np.exp(5 * rng.normal(size=240)),
        rng.standard_cauchy(size=240),
        (np.arange(240) == 3).astype(float),
        np.where(np.arange(240) == 3, 1e20, 0.0),
        np.where(np.arange(240) % 3 > 0, 0.0, rng.normal(size=240)),
        7 + 1e-15 * rng.integers(-2, 3, size=240) + (np.arange(240) == 3),
        np.where(np.arange(240) % 4 == 0, 0.0, 100 + rng.normal(size=240)),
        np.arange(240.0) ** 4,
    ],
    ids=["log-normal", "Cauchy", "rare", "two values", "zeros", "noise", "doses", "powers"],
)
def test_other_columns_keep_the_plain_mean_and_standard_deviation(column: np.ndarray) -> None:
    reg = fitted(np.column_stack([column, X[:, 1]]), Y)
    layer = reg.module_.standardize
    assert float(layer.mean[0]) == pytest.approx(column.mean(), rel=1e-10, abs=1e-12)
    assert float(layer.scale[0]) == pytest.approx(column.std(), rel=1e-10)
    assert PLACEHOLDER not in reg.diagnose()


def test_a_robust_loss_learns_as_well_with_one_absurd_y() -> None:
    options = {"module__hidden_sizes": [20], "lr": 0.02, "max_epochs": 150}
    plain = fitted(X, Y, loss="huber", **options)
    spoilt = fitted(X, with_cell(Y, 1e20), loss="huber", **options)
    others = np.delete(np.arange(240), 7)
    r2 = [1 - np.mean((r.predict(X[others]) - Y[others]) ** 2) / Y.var() for r in (plain, spoilt)]
    assert r2[1] > r2[0] - 0.05 > 0.7


def test_the_default_stays_near_the_other_values_with_one_absurd_y() -> None:
    reg = fitted(X, with_cell(Y, 1e20), module=None, max_epochs=10)
    others = np.delete(np.arange(240), 7)
    assert np.abs(reg.predict(X[others]) - Y[others]).max() < 20 * Y.std()


@pytest.mark.parametrize("table", ["X", "y"])
def test_a_value_that_costs_digits_is_warned_of_with_its_column_and_range(table: str) -> None:
    frame = pd.DataFrame(with_cell(X, 1e20) if table == "X" else X, columns=["lat", "lon", "t"])
    y = pd.Series(with_cell(Y, 1e20) if table == "y" else Y, name="flux")
    name, column = {"X": ("lat", 0), "y": ("flux", 0)}[table]
    with pytest.warns(PrecisionWarning, match=rf"{name} is 1e\+20 in 1 row and -.* in all others"):
        reg = TorchRegressor(MLP, max_epochs=2, random_state=0).fit(frame, y)
    numbers = reg.diagnose()[PLACEHOLDER].numbers
    assert (numbers["tables"], numbers["columns"]) == ([table], [column])
    assert (numbers["values"], numbers["n_rows"]) == ([1e20], [1])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [-9999.0, -999.0, 1e4])
def test_a_repeated_far_value_is_a_finding_and_no_warning(value: float) -> None:
    spoilt, missing = X.copy(), rng.random(240) < 0.1
    spoilt[missing, 1] = value
    reg = TorchRegressor(MLP, max_epochs=2, random_state=0)
    finding = reg.fit(spoilt, Y).diagnose()[PLACEHOLDER]
    assert f"X column 1 is {value:.6g} in {missing.sum()} rows" in finding.message
    assert (finding.numbers["columns"], finding.numbers["values"]) == ([1], [value])
    in_y = reg.fit(X, np.where(missing, value, Y)).diagnose()[PLACEHOLDER]
    assert in_y.numbers["tables"] == ["y"]


def test_many_fill_values_cost_the_default_no_digits() -> None:
    spoilt = X.copy()
    spoilt[rng.random(240) < 0.1, 0] = 1e20
    options = {"module": None, "n_folds": None, "max_epochs": 30}
    assert fitted(spoilt, Y, **options).score(spoilt, Y) > 0.7


@pytest.mark.parametrize("name", ["X", "y", "sample_weight", "X_val", "y_val"])
def test_masked_entries_are_refused_and_masks_without_any_are_accepted(name: str) -> None:
    rows: dict[str, Any] = {"X": X, "y": Y, "sample_weight": np.ones(240)}
    rows |= {"X_val": X, "y_val": Y}
    reg = TorchRegressor(MLP, max_epochs=2, random_state=0)
    expected = reg.fit(**rows).predict(X)
    masked = np.ma.masked_array(rows[name], mask=np.zeros_like(rows[name], dtype=bool))
    np.testing.assert_array_equal(reg.fit(**rows | {name: masked}).predict(X), expected)
    masked[3] = np.ma.masked
    n_masked = masked.mask.sum()
    with pytest.raises(ValueError, match=rf"{name}.* {n_masked} masked entries of {masked.size}"):
        reg.fit(**rows | {name: masked})
    np.testing.assert_array_equal(reg.predict(X), expected)


def test_masked_rows_are_refused_by_every_method_of_a_fit() -> None:
    reg = TorchRegressor(MLP, max_epochs=2, random_state=0).fit(X, Y)
    rows, target = (np.ma.masked_greater(values, 1.0) for values in (X, Y))
    for call in (
        lambda: reg.predict(rows),
        lambda: reg.score(X, target),
        lambda: reg.diagnose(X, target),
        lambda: reg.diagnose(rows),
    ):
        with pytest.raises(ValueError, match="masked entries"):
            call()
