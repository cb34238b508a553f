"""Invalid data are rejected with the expected and the received value and a remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
import torch
from sklearn.exceptions import NotFittedError

from tests._refusals import INF, NAN, REFUSAL, Array, X, Y, quick, refuse, spoilt

BAD_TABLES: list[tuple[str, Callable[[Array], Any], str]] = [
    ("NaN", lambda a: spoilt(a, NAN), "{name} contains NaN"),
    ("infinity", lambda a: spoilt(a, INF), "{name} contains infinity"),
    ("minus infinity", lambda a: spoilt(a, -INF), "{name} contains infinity"),
    ("a list with NaN", lambda a: spoilt(a, NAN).tolist(), "{name} contains NaN"),
    ("a frame with NaN", lambda a: pd.DataFrame(spoilt(a, NAN)), "{name} contains NaN"),
    ("float32 with NaN", lambda a: spoilt(a, NAN, dtype=np.float32), "{name} contains NaN"),
    ("a tensor with NaN", lambda a: torch.from_numpy(spoilt(a, NAN)), "{name} contains NaN"),
    ("None", lambda a: spoilt(a, None, dtype=object), "{name}.*(NaN|None)"),
    ("a word", lambda a: spoilt(a, "wide", dtype=object), "'wide'"),
    ("digits in words", lambda a: a.astype(str), "(numbers|strings|numeric)"),
    ("too many digits", lambda a: spoilt(a, 10**400, dtype=object), "(too large|beyond)"),
    ("dates", lambda a: a.astype(int).astype("datetime64[s]"), "{name} expects numbers, got .*19"),
    ("durations", lambda a: a.astype("timedelta64[s]"), r"{name} expects numbers, got '\d+ sec"),
    ("no values", lambda a: torch.empty(a.shape, device="meta"), "meta device has no values"),
    ("complex", lambda a: a + 1j, "[Cc]omplex data not supported"),
    ("a complex tensor", lambda a: torch.from_numpy(a + 1j), "[Cc]omplex data not supported"),
    ("too large", lambda a: spoilt(a, 1.7e308), r"{name} has a value of 1\.7e\+308"),
]
EACH_BAD_TABLE = pytest.mark.parametrize(
    ("spoil", "message"), [case[1:] for case in BAD_TABLES], ids=[case[0] for case in BAD_TABLES]
)


@EACH_BAD_TABLE
def test_x_with_anything_but_finite_real_numbers_is_rejected(
    spoil: Callable[[Array], Any], message: str
) -> None:
    refuse(quick(), message.format(name="X"), spoil(X), Y)


@EACH_BAD_TABLE
def test_y_with_anything_but_finite_real_numbers_is_rejected(
    spoil: Callable[[Array], Any], message: str
) -> None:
    refuse(quick(), message.format(name="y"), X, spoil(Y))
    refuse(quick(), message.format(name="y"), X, spoil(np.column_stack([Y, Y])))


@EACH_BAD_TABLE
def test_validation_rows_with_anything_but_finite_real_numbers_are_rejected(
    spoil: Callable[[Array], Any], message: str
) -> None:
    named = message.format(name="X")
    refuse(quick(), f"X_val.*{named}", X, Y, X_val=spoil(X), y_val=Y)
    refuse(quick(), message.format(name="y_val"), X, Y, X_val=X, y_val=spoil(Y))


@EACH_BAD_TABLE
def test_predict_rejects_anything_but_finite_real_numbers(
    spoil: Callable[[Array], Any], message: str
) -> None:
    reg = quick().fit(X, Y)
    with pytest.raises(REFUSAL, match=message.format(name="X")):
        reg.predict(spoil(X))


@pytest.mark.parametrize("kind", ["csr_array", "csc_matrix"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_sparse_x_with_anything_but_finite_numbers_is_rejected(kind: str, value: float) -> None:
    message = "X contains (NaN|infinity)"
    refuse(quick(), message, getattr(scipy.sparse, kind)(spoilt(X, value)), Y)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (spoilt(Y, NAN), "{name} contains NaN"),
        (spoilt(Y, INF), "{name} contains infinity"),
        (
            spoilt(Y, -1),
            r"Negative values in {name}: weights must be 0 or more, got -1\.0 in row 4",
        ),
        (np.zeros(30), "{name} expects at least one weight above 0; all are zero"),
        (0, "{name} expects at least one weight above 0; all are zero"),
        (Y[:-1], r"{name} expects one weight per row, shape \(30,\), got shape \(29,\)"),
        (Y[:, None], r"{name} expects one weight per row, shape \(30,\), got shape \(30, 1\)"),
        (Y + 1j, "[Cc]omplex data not supported"),
        (spoilt(Y, "heavy", dtype=object), "'heavy'"),
    ],
)
def test_invalid_weights_are_rejected(bad: Any, message: str) -> None:
    refuse(quick(), message.format(name="sample_weight"), X, Y, sample_weight=bad)
    validation = {"X_val": X, "y_val": Y, "sample_weight_val": bad}
    refuse(quick(), message.format(name="sample_weight_val"), X, Y, **validation)


@pytest.mark.parametrize(
    ("bad_x", "bad_y", "message"),
    [
        (np.empty((0, 3)), np.empty(0), r"Found array with 0 sample\(s\) \(shape=\(0, 3\)\)"),
        (np.empty((30, 0)), Y, r"0 feature\(s\) \(shape=\(30, 0\)\) while a minimum of 1"),
        ([], [], "Expected 2D array, got 1D array"),
        (X[:, 0], Y, r"Expected 2D array, got 1D array[\s\S]*reshape"),
        (X[:, :, None], Y, "Found array with dim 3"),
        (3.0, Y, "Expected 2D array, got scalar"),
        (X, Y[:-1], r"inconsistent numbers of samples: \[30, 29\]"),
        (X[:-1], Y, r"inconsistent numbers of samples: \[29, 30\]"),
        (X, None, "requires y to be passed, but the target y is None"),
        (X, 4200.0, "at least 1 dimension"),
        (X, np.empty((30, 0)), r"0 feature\(s\) \(shape=\(30, 0\)\)"),
        (X, np.zeros((30, 2, 2)), "Found array with dim 3"),
        (X, [[1], [2, 3]] * 15, "inhomogeneous"),
    ],
)
def test_rows_of_the_wrong_shape_are_rejected_with_their_shape(
    bad_x: Any, bad_y: Any, message: str
) -> None:
    refuse(quick(), message, bad_x, bad_y)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"X_val": X}, "X_val and y_val belong together; y_val is missing"),
        ({"y_val": Y}, "X_val and y_val belong together; X_val is missing"),
        ({"sample_weight_val": Y}, "sample_weight_val was given without X_val and y_val"),
        ({"X_val": X, "y_val": Y[:-1]}, r"inconsistent numbers of samples: \[30, 29\]"),
        ({"X_val": X[:, :2], "y_val": Y}, "X_val: X has 2 features.* expecting 3 features"),
        ({"X_val": X, "y_val": np.column_stack([Y, Y])}, "y_val has 2 outputs, but y has 1"),
        ({"X_val": np.empty((0, 3)), "y_val": Y[:0]}, r"X_val: Found array with 0 sample\(s\)"),
        ({"X_val": X[:, 0], "y_val": Y}, "X_val: Expected 2D array, got 1D"),
    ],
)
def test_validation_rows_that_do_not_fit_the_training_rows_are_rejected(
    given: dict[str, Any], message: str
) -> None:
    refuse(quick(), message, X, Y, **given)


def test_validation_columns_of_other_names_are_rejected() -> None:
    table = pd.DataFrame(X, columns=["a", "b", "c"])
    other = table.rename(columns={"c": "d"})
    refuse(quick(), r"X_val: The feature names[\s\S]*- d", table, Y, X_val=other, y_val=Y)


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_rows_for_validation_are_rejected_with_a_remedy(n: int) -> None:
    message = (
        rf"validation_fraction=0\.6 .* n_samples={n} .* "
        r"Pass X_val and y_val, pass more rows, or set early_stopping=False"
    )
    refuse(quick(early_stopping=True, validation_fraction=0.6), message, X[:n], Y[:n])
    # Enough rows, but not of positive weight.
    weight = np.r_[np.ones(n), np.zeros(30 - n)]
    reg = quick(early_stopping=True, validation_fraction=0.6)
    refuse(reg, message, X, Y, sample_weight=weight)
    reg.fit(X[:n], Y[:n], X_val=X[:n], y_val=Y[:n])


def test_predict_before_fit_says_so() -> None:
    with pytest.raises(NotFittedError, match=r"not fitted yet. Call 'fit'"):
        quick().predict(X)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (X[:, :2], "X has 2 features, but TorchRegressor is expecting 3 features"),
        (np.column_stack([X, X]), "X has 6 features, but TorchRegressor is expecting 3"),
        (scipy.sparse.csr_array(X[:, :2]), "X has 2 features.*expecting 3"),
        (X[0], r"Expected 2D array, got 1D array[\s\S]*reshape"),
        (X[:0], r"Found array with 0 sample\(s\)"),
    ],
)
def test_predict_reports_the_expected_number_of_features(bad: Any, message: str) -> None:
    reg = quick().fit(X, Y)
    with pytest.raises(ValueError, match=message):
        reg.predict(bad)


def test_numbers_beyond_float64_are_rejected_with_a_remedy() -> None:
    refuse(quick(), "X has a number too large for float64", spoilt(X, 10**400, dtype=object), Y)
    refuse(quick(), "y has a number too large for float64", X, spoilt(Y, 10**400, dtype=object))
    value = r"has a value of 1\.7e\+308.* 1\.12e\+307 overflow in float64\."
    refuse(quick(), rf"X {value} Rescale X\.", spoilt(X, 1.7e308), Y)
    refuse(quick(), rf"y {value} Rescale y\.", X, spoilt(Y, -1.7e308))


@pytest.mark.parametrize("name", ["X", "y", "sample_weight"])
def test_complex_tensors_are_rejected_where_arrays_are_not_converted(name: str) -> None:
    given = {"X": torch.from_numpy(X), "y": torch.from_numpy(Y), "sample_weight": torch.ones(30)}
    given[name] = given[name] + 1j
    with (
        sklearn.config_context(array_api_dispatch=True),
        pytest.raises(ValueError, match=f"Complex data not supported: {name} expects real numbers"),
    ):
        quick().fit(**given)
