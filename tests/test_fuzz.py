"""Law 8: any input gives finite predictions or an error with a known reason."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from torchreg import PrecisionWarning, TorchRegressor, ValidationWarning
from torchreg.nn import MLP

Array = np.ndarray

#: Messages of the errors that input may raise.
REASONS = [
    r"(X|y|X_val: X|y_val) has a value of .* overflow in float64\. Rescale",
    r"Input (X|y|X_val|y_val) contains (NaN|infinity or a value too large for dtype)",
    r"The loss '\w+' is (inf|nan) at the first step, before anything was learned. Likely causes",
    r"The prediction for row \d+ is not finite .* Check the units of X",
    r"A prediction exceeds the range of float32, the dtype of X.* pass X as float64",
    r"holds out validation_fraction=.* but with n_samples=\d+ no training rows would be left",
    r"sample_weight expects at least one weight above 0; all are zero",
]

SIZES = st.sampled_from(
    [0.0, 5e-324, 1e-310, 1e-300, 1e-160, 1e-12, 1.0, 1e3, 1e12, 1e160, 1e300, 1e307, 1.7e308]
)
FLOATS = ["float16", "float32", "float64"]
INTEGERS = ["bool", "int8", "uint8", "int32", "int64", "uint64"]


@st.composite
def columns(draw: st.DrawFn, n: int) -> Array:
    """One column: constant, of few values, on an offset, or of many sizes at once."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    kind = draw(st.sampled_from(["constant", "few", "offset", "extreme"]))
    if kind == "constant":
        return np.full(n, draw(st.sampled_from([-1.0, 1.0, 0.1])) * draw(SIZES))
    if kind == "few":
        return rng.integers(0, 2, size=n) * draw(SIZES)
    if kind == "offset":
        size = draw(SIZES)
        offset = draw(st.sampled_from([0.0, 1.0, -200.0, 2.0**30, 1.7e9, 1e15, 1e17]))
        with np.errstate(over="ignore"):
            column = size * (offset + rng.normal(size=n))
        return np.clip(column, -1.7e308, 1.7e308)
    return np.array(draw(st.lists(st.floats(-1.7e308, 1.7e308), min_size=n, max_size=n)))


@st.composite
def tables(draw: st.DrawFn, n: int, width: int) -> Array:
    """A table of some dtype, clipped to its range."""
    table = np.column_stack([draw(columns(n)) for _ in range(width)])
    dtype = np.dtype(draw(st.sampled_from(["float64", *FLOATS, *INTEGERS])))
    if dtype.kind == "f":
        limits: Any = np.finfo(dtype)
        return np.clip(table, float(limits.min), float(limits.max)).astype(dtype)
    if dtype.kind == "b":
        return table > 0
    limits = np.iinfo(dtype)
    # The largest 64-bit integers are not floats; what is just below them is.
    return np.clip(table, float(limits.min), float(limits.max) * (1 - 1e-15)).astype(dtype)


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Parameters of a short fit."""
    optimizers = ["adam", "sgd", "rprop", "lbfgs", "adamw", "rmsprop", torch.optim.Adadelta]
    options: dict[str, Any] = {
        "optimizer": draw(st.sampled_from(optimizers)),
        "standardize": draw(st.sampled_from([True, True, True, "X", "y", False])),
        "early_stopping": draw(st.booleans()),
        "validation_fraction": draw(st.sampled_from([0.1, 0.5, 0.9])),
        "batch_size": draw(st.sampled_from(["auto", None, 1, 2, 5])),
        "loss": draw(st.sampled_from(["squared_error", "absolute_error", "huber"])),
        "lr": draw(st.sampled_from([None, None, 1e-3, 1.0, 1e3])),
        "tol": draw(st.sampled_from([None, 0.0, 1e-3])),
        "dtype": draw(st.sampled_from(["auto", "float32", "float64"])),
        "max_epochs": 3,
        "random_state": 0,
    }
    if draw(st.booleans()):
        options["module"] = nn.Linear
    else:
        options["module__hidden_sizes"] = draw(st.sampled_from([(), (3,), (3, 2)]))
        options["module__dropout"] = draw(st.sampled_from([0.0, 0.3]))
    return options


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    """All arguments of fit, and rows to predict."""
    n, width, outputs = draw(st.integers(1, 9)), draw(st.integers(1, 4)), draw(st.integers(0, 3))
    X, y = draw(tables(n, width)), draw(tables(n, max(outputs, 1)))
    if draw(st.booleans()):
        # Duplicated rows.
        index = draw(st.lists(st.integers(0, n - 1), min_size=n, max_size=n))
        X, y = X[index], y[index]
    weight = None
    if draw(st.booleans()):
        weights = st.sampled_from([0.0, 5e-324, 1e-300, 0.5, 1.0, 3.0, 1e300, 1.7e308])
        weight = np.array(draw(st.lists(weights, min_size=n, max_size=n)))
    validation = {}
    if draw(st.integers(0, 3)) == 0:
        n_val = draw(st.integers(1, 4))
        validation = {"X_val": draw(tables(n_val, width)), "y_val": draw(tables(n_val, y.shape[1]))}
    later = draw(tables(draw(st.integers(1, 4)), width))
    sparse = X.dtype.kind == "f" and X.dtype.itemsize > 2 and draw(st.integers(0, 3)) == 0
    return {
        "X": scipy.sparse.csr_array(X) if sparse else X,
        "y": y[:, 0] if outputs == 0 else y,
        "sample_weight": weight,
        **validation,
        "later": later,
        "options": draw(configurations()),
    }


def assert_finite_or_refused(reg: TorchRegressor, later: list[Any], **given: Any) -> None:
    """Fit and predict; accept finite predictions and errors with known reasons."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for category in (PrecisionWarning, ValidationWarning, ConvergenceWarning):
                # A loss that diverges (DivergenceWarning) is a kind of the second.
                warnings.simplefilter("ignore", category)
            reg.fit(**given)
            for rows in later:
                prediction = reg.predict(rows)
                assert prediction.shape == (rows.shape[0], *given["y"].shape[1:])
                # float64 for float32 X, too, where float32 does not resolve y.
                assert (
                    prediction.dtype == np.float64 or prediction.dtype == rows.dtype == np.float32
                )
                assert np.isfinite(prediction).all()
    except (ValueError, TypeError) as error:
        if not any(re.search(reason, str(error)) for reason in REASONS):
            raise AssertionError(f"The reason is not known: {error}") from error


@given(problem=problems())
def test_any_input_gives_finite_predictions_or_an_error_with_a_known_reason(
    problem: dict[str, Any],
) -> None:
    options, later = problem.pop("options"), problem.pop("later")
    reg = TorchRegressor(**{"module": MLP} | options)
    assert_finite_or_refused(reg, [problem["X"], later], **problem)


@given(problem=problems())
def test_a_constant_target_is_predicted_exactly_for_any_features(
    problem: dict[str, Any],
) -> None:
    options = {**problem.pop("options"), "standardize": True, "lr": None}
    del problem["later"]
    problem["y"] = np.full_like(problem["y"], problem["y"].flat[0])
    problem.pop("X_val", None), problem.pop("y_val", None)
    reg = TorchRegressor(**{"module": MLP} | options)
    assert_finite_or_refused(reg, [problem["X"]], **problem)
    if hasattr(reg, "module_"):
        target = problem["y"].flat[0]
        np.testing.assert_array_equal(reg.predict(problem["X"]), float(target))
