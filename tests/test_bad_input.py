"""Whatever is wrong is said in words: what was expected, what came, and what to do.

A fit that fails leaves what was fitted before as it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn.exceptions import NotFittedError
from skorch import callbacks as sk
from torch import Tensor, nn

from torchreg import DivergenceWarning, TorchRegressor
from torchreg._device import devices_present
from torchreg._limits import LIMITS

Array = np.ndarray
NAN, INF = float("nan"), float("inf")
#: What bad input may be refused with, and nothing else.
REFUSAL = (ValueError, TypeError)


def make_rows(n: int = 30, *, seed: int = 0) -> tuple[Array, Array]:
    X = 200 + 10 * np.random.default_rng(seed).normal(size=(n, 3))
    return X, 4000 + 20 * X[:, 0]


def spoilt(array: Array, value: Any, *, dtype: Any = None) -> Array:
    """Copy an array with one value replaced."""
    array = array.astype(dtype or array.dtype)
    array[(4, 1) if array.ndim == 2 else 4] = value
    return array


def quick(module: Any = None, **options: Any) -> TorchRegressor:
    settings: dict[str, Any] = {"max_epochs": 3, "random_state": 0}
    return TorchRegressor(module, **{**settings, **options})


def refuse(
    reg: TorchRegressor,
    message: str,
    *args: Any,
    error: Any = REFUSAL,
    **given: Any,
) -> None:
    """Refit a fitted regressor in a way that fails, and require the bits of before after it."""
    X, y = make_rows()
    args = args or (X, y)
    before = quick().fit(X, y)
    kept = before.predict(X)
    learned = {name: value for name, value in vars(before).items() if name.endswith("_")}
    with pytest.raises(error, match=message):
        before.set_params(**reg.get_params()).fit(*args, **given)
    np.testing.assert_array_equal(before.predict(X), kept)
    assert all(getattr(before, name) is value for name, value in learned.items())
    assert {name for name in vars(before) if name.endswith("_")} == set(learned)
    # A first fit fails for the same reason, and leaves nothing behind.
    fresh = TorchRegressor().set_params(**reg.get_params())
    with pytest.raises(error, match=message):
        fresh.fit(*args, **given)
    with pytest.raises(NotFittedError):
        fresh.predict(X)


# X and y

X, Y = make_rows()
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
    ("complex", lambda a: a + 1j, "[Cc]omplex data not supported"),
    ("a complex tensor", lambda a: torch.from_numpy(a + 1j), "[Cc]omplex data not supported"),
    ("too large", lambda a: spoilt(a, 1.7e308), r"{name} holds 1\.7e\+308; values beyond .*escale"),
]
EACH_BAD_TABLE = pytest.mark.parametrize(
    ("spoil", "message"),
    [case[1:] for case in BAD_TABLES],
    ids=[case[0] for case in BAD_TABLES],
)


@EACH_BAD_TABLE
def test_x_with_anything_but_finite_real_numbers_is_refused(
    spoil: Callable[[Array], Any], message: str
) -> None:
    refuse(quick(), message.format(name="X"), spoil(X), Y)


@EACH_BAD_TABLE
def test_y_with_anything_but_finite_real_numbers_is_refused(
    spoil: Callable[[Array], Any], message: str
) -> None:
    refuse(quick(), message.format(name="y"), X, spoil(Y))
    refuse(quick(), message.format(name="y"), X, spoil(np.column_stack([Y, Y])))


@EACH_BAD_TABLE
def test_validation_rows_with_anything_but_finite_real_numbers_are_refused(
    spoil: Callable[[Array], Any], message: str
) -> None:
    named = message.format(name="X")
    refuse(quick(), f"X_val.*{named}", X, Y, X_val=spoil(X), y_val=Y)
    refuse(quick(), message.format(name="y_val"), X, Y, X_val=X, y_val=spoil(Y))


@EACH_BAD_TABLE
def test_predict_refuses_anything_but_finite_real_numbers(
    spoil: Callable[[Array], Any], message: str
) -> None:
    reg = quick().fit(X, Y)
    with pytest.raises(REFUSAL, match=message.format(name="X")):
        reg.predict(spoil(X))


@pytest.mark.parametrize("kind", ["csr_array", "csc_matrix"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_sparse_x_with_anything_but_finite_numbers_is_refused(kind: str, value: float) -> None:
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
        (np.zeros(30), "{name} must hold at least one non-zero weight; all are zero"),
        (0, "{name} must hold at least one non-zero weight; all are zero"),
        (Y[:-1], r"{name} expects one weight per row, shape \(30,\), got shape \(29,\)"),
        (Y[:, None], r"{name} expects one weight per row, shape \(30,\), got shape \(30, 1\)"),
        (Y + 1j, "[Cc]omplex data not supported"),
        (spoilt(Y, "heavy", dtype=object), "'heavy'"),
    ],
)
def test_weights_that_cannot_weigh_are_refused(bad: Any, message: str) -> None:
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
        (X, 4200.0, "y"),
        (X, np.empty((30, 0)), r"y expects shape \(n_samples,\) or .*, got \(30, 0\)|0 feature"),
        (X, np.zeros((30, 2, 2)), "y|dim 3"),
        (X, [[1], [2, 3]] * 15, "inhomogeneous|y"),
    ],
)
def test_rows_of_the_wrong_shape_are_refused_with_the_shape_that_came(
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
        (
            {"X_val": X, "y_val": np.column_stack([Y, Y])},
            "y_val has 2 outputs, but y has 1",
        ),
        ({"X_val": np.empty((0, 3)), "y_val": Y[:0]}, r"X_val: Found array with 0 sample\(s\)"),
        ({"X_val": X[:, 0], "y_val": Y}, "X_val: Expected 2D array, got 1D"),
    ],
)
def test_validation_rows_that_do_not_fit_the_training_rows_are_refused(
    given: dict[str, Any], message: str
) -> None:
    refuse(quick(), message, X, Y, **given)


def test_validation_columns_of_other_names_are_refused() -> None:
    table = pd.DataFrame(X, columns=["a", "b", "c"])
    other = table.rename(columns={"c": "d"})
    refuse(quick(), r"X_val: The feature names[\s\S]*- d", table, Y, X_val=other, y_val=Y)


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_rows_to_hold_any_out_are_refused_with_what_to_do(n: int) -> None:
    message = (
        rf"holds out validation_fraction=0\.6 of the rows, but with n_samples={n} none would be "
        r"left to train on\. Give X_val and y_val, more rows, or early_stopping=False"
    )
    refuse(quick(early_stopping=True, validation_fraction=0.6), message, X[:n], Y[:n])
    # Enough rows, but not of positive weight.
    weight = np.r_[np.ones(n), np.zeros(30 - n)]
    reg = quick(early_stopping=True, validation_fraction=0.6)
    refuse(reg, message, X, Y, sample_weight=weight)
    reg.fit(X[:n], Y[:n], X_val=X, y_val=Y)


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
def test_predict_says_how_many_features_came_and_were_expected(bad: Any, message: str) -> None:
    reg = quick().fit(X, Y)
    with pytest.raises(ValueError, match=message):
        reg.predict(bad)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_prediction_that_overflows_is_refused_with_its_row(dtype: str) -> None:
    reg = quick(nn.Linear, dtype=dtype, max_epochs=50, lr=0.1).fit(X * 1e-300, Y * 1e200)
    far = X * 1e-300
    far[7] = 1e300
    with pytest.raises(ValueError, match=r"prediction for row 7 is not finite \(1 of 30 rows\)"):
        reg.predict(far)


def test_predictions_too_large_for_the_dtype_of_x_are_refused_with_what_to_do() -> None:
    reg = quick().fit(X, Y * 1e40)
    with pytest.raises(ValueError, match=r"do not fit float32, the dtype of X.* Pass X as float64"):
        reg.predict(X.astype(np.float32))


# Modules


class Tuple(nn.Module):
    """Returns more than a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x), x


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            nn.Linear(2, 1),
            r"rows of 3 features: its first layer, Linear, takes 2 features but X has 3\.",
        ),
        (
            nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1)),
            "its first layer, Linear, takes 4 features but X has 3",
        ),
        (lambda: nn.Linear(5, 1), "takes 5 features but X has 3"),
        (
            nn.Linear(3, 2),
            r"returns shape \((\d+), 2\) for \1 rows, but y has 1 output: shape \(\1, 1\) is "
            "expected. Give the module's last layer as many outputs as y has columns",
        ),
        (nn.Sequential(nn.Linear(3, 4), nn.Flatten(0)), "returns shape .* but y has 1 output"),
        (nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 1)), "could not be evaluated on rows of 3"),
        (Tuple, "must return a tensor, it returned tuple"),
        (nn.ReLU, "no parameter that can be trained|returns shape"),
        (nn.Linear(3, 1).requires_grad_(False), "no parameter that can be trained: all are fixed"),
        (lambda: 3, "must build a torch.nn.Module, it returned int"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_module_that_does_not_fit_is_refused_with_both_widths(module: Any, message: str) -> None:
    refuse(quick(module), message)


def test_a_module_with_too_few_outputs_is_refused_with_both_numbers() -> None:
    message = r"returns shape \(\d+, 1\) .* but y has 2 outputs: shape \(\d+, 2\) is expected"
    refuse(quick(nn.Linear(3, 1)), message, X, np.column_stack([Y, Y]))


class Normalized(nn.Module):
    """Batch normalization, which needs two rows to have a spread."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output


class FourAtATime(nn.Module):
    """Works while it is tried out on a few rows, and fails on all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(x) + x.new_zeros(4, 1)[: len(x)]
        return output


@pytest.mark.parametrize(
    ("rows", "batch_size"),
    [((X[:1], Y[:1]), None), ((X, Y), 1), ((X[:1].repeat(9, axis=0), Y[:1].repeat(9)), None)],
    ids=["one row", "batches of one", "one distinct row"],
)
def test_batch_normalization_of_a_single_row_is_refused_with_the_rows_that_came(
    rows: tuple[Array, Array], batch_size: int | None
) -> None:
    refuse(quick(Normalized, batch_size=batch_size), r"(module|network)[\s\S]* 1 row", *rows)


def test_a_module_that_fails_while_it_is_trained_is_refused_with_the_rows_that_came() -> None:
    refuse(quick(FourAtATime), r"(module|network)[\s\S]* 30 rows")


# Misspelt


def test_a_misspelt_parameter_is_refused_at_once_with_the_near_names() -> None:
    with pytest.raises(TypeError, match=r"no parameter 'max_epoch'\. Did you mean 'max_epochs'"):
        TorchRegressor(max_epoch=3)
    with pytest.raises(ValueError, match=r"no parameter 'max_epoch'\. Did you mean 'max_epochs'"):
        TorchRegressor().set_params(max_epoch=3)
    with pytest.raises(TypeError, match=r"'optimiser__lr'\. Did you mean 'optimizer'"):
        TorchRegressor(optimiser__lr=3)
    with pytest.raises(ValueError, match=r"'modul__width'\. Did you mean 'module'"):
        TorchRegressor().set_params(modul__width=3)


def test_a_refused_set_params_sets_nothing() -> None:
    reg = TorchRegressor()
    before = reg.get_params()
    with pytest.raises(ValueError, match="no parameter 'typo'"):
        reg.set_params(lr=0.5, module__hidden_sizes=[3], typo=1)
    assert reg.get_params() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"module__hiden_sizes": [5]},
            r"module MLP takes no 'hiden_sizes' \(module__hiden_sizes\)\. "
            "Did you mean 'hidden_sizes'",
        ),
        (
            {"module": nn.Linear, "module__baias": True},
            r"module Linear takes no 'baias' \(module__baias\)\. Did you mean 'bias'",
        ),
        (
            {"module": nn.Linear(3, 1), "module__bias": True},
            "instance of Linear, which is already built: module__bias cannot reach it. "
            "Give the class instead",
        ),
        (
            {"module__activation": "rellu"},
            r"Unknown activation 'rellu'\. Did you mean 'relu'",
        ),
        (
            {"optimizer__weigth_decay": 1},
            r"optimizer 'adam' takes no 'weigth_decay' \(optimizer__weigth_decay\)\. "
            "Did you mean 'weight_decay'",
        ),
        (
            {"loss": "huber", "loss__dleta": 1},
            r"loss 'huber' takes no 'dleta' \(loss__dleta\)\. Did you mean 'delta'",
        ),
        (
            {
                "callbacks": [("stop", sk.EarlyStopping(monitor="train_loss"))],
                "callbacks__stpo__patience": 3,
            },
            r"callbacks__stpo__patience names no callback\. Did you mean 'stop'",
        ),
        (
            {
                "callbacks": [("stop", sk.EarlyStopping(monitor="train_loss"))],
                "callbacks__stop__patiense": 3,
            },
            "patiense",
        ),
        ({"callbacks__stop__patience": 3}, r"callbacks__stop__patience.*names no callback"),
        ({"callbacks": [3]}, "callbacks expects skorch callbacks or .* pairs, got 3"),
        ({"optimizer": "adma"}, r"Unknown optimizer 'adma'\. Did you mean .*'adam'.* Known: "),
        ({"loss": "squared_eror"}, r"Unknown loss 'squared_eror'\. Did you mean 'squared_error'"),
    ],
)
def test_what_is_misspelt_below_is_refused_when_it_is_fitted_with_the_near_names(
    options: dict[str, Any], message: str
) -> None:
    refuse(quick(**options), message)


# Limits

OUTSIDE: dict[str, list[Any]] = {
    "module": [3, "mlp"],
    "loss": [3, None],
    "optimizer": [3, None],
    "lr": [0, -1.0, INF, NAN, "auto"],
    "max_epochs": [0, -1, 2.5, None, "many"],
    "batch_size": [0, -1, 2.5, "all"],
    "standardize": ["x", "both", None, 2],
    "early_stopping": ["auto", None, 2],
    "validation_fraction": [0, 1, 0.0, 1.0, -0.1, 1.5, NAN, None],
    "n_iter_no_change": [0, -1, 2.5, None],
    "tol": [-1e-4, NAN, INF, "auto"],
    "callbacks": [3, "bar"],
    "device": [3, None],
    "dtype": ["float16", "double", None, np.float32],
    "warm_start": ["auto", None, 2],
    "verbose": [-1, "loud", None],
    "random_state": [-1, "seed", 1.5],
}


def test_every_parameter_has_its_limits_and_a_value_outside_them_is_tried() -> None:
    parameters = {name for name in TorchRegressor().get_params() if "__" not in name}
    assert set(LIMITS) == set(OUTSIDE) == parameters


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in OUTSIDE.items() for value in values]
)
def test_a_value_outside_its_limits_is_refused_by_name_with_the_limits(
    name: str, value: Any
) -> None:
    shown = str(value) if isinstance(value, str) else repr(value)
    message = rf"'{name}' parameter of TorchRegressor must be [\s\S]*\. Got .*{shown[:8]}"
    refuse(quick(**{name: value}), message.replace("(", "."))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex64])
def test_a_dtype_that_networks_do_not_train_in_is_refused(dtype: torch.dtype) -> None:
    refuse(quick(dtype=dtype), rf"dtype expects 'auto', 'float32' or 'float64', got {dtype}")


@pytest.mark.parametrize("device", ["cuda:99", "xpu", "hpu:3", "warp", "", "meta"])
def test_an_absent_device_is_refused_with_those_that_are_present(device: str) -> None:
    message = rf"device='{device}' is .* Present here: 'cpu'"
    refuse(quick(device=device), message)
    with pytest.raises(ValueError, match=message) as error:
        quick(device=device).fit(X, Y)
    assert all(repr(name) in str(error.value) for name in devices_present())


# Losses that cease to be finite


class Fuse(nn.Module):
    """A linear network that returns NaN from a given training pass on."""

    def __init__(self, in_features: int, burns_at: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, 1)
        self.burns_at, self.passes = burns_at, 0

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(x)
        # Trying a module out takes few rows; training takes all of them.
        if self.training and len(x) > 10:
            self.passes += 1
            if self.passes >= self.burns_at:
                output = output * NAN
        return output


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_loss_that_ceases_to_be_finite_ends_the_fit_and_keeps_the_best_finite_weights(
    early_stopping: bool,
) -> None:
    given = {"X_val": X, "y_val": Y} if early_stopping else {}
    options: dict[str, Any] = {"optimizer": "sgd", "lr": 0.01, "early_stopping": early_stopping}
    reg = quick(Fuse, module__burns_at=6, max_epochs=50, **options)
    with pytest.warns(
        DivergenceWarning,
        match=r"ceased to be finite in epoch 6 \(it was nan\): the fit stopped there, and the "
        r"weights of epoch \d were kept.* Likely cause: lr=0\.01 .*optimizer='sgd'.* Lower it",
    ):
        reg.fit(X, Y, **given)
    assert reg.n_iter_ == 6
    # With full batches a loss belongs to the weights before its step: 4 steps are known
    # to be good, and validation rows vouch for the fifth.
    good = 5 if early_stopping else 4
    assert reg.best_epoch_ == good
    twin = quick(Fuse, module__burns_at=99, max_epochs=good, **options).fit(X, Y, **given)
    np.testing.assert_array_equal(reg.predict(X), twin.predict(X))


@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", torch.optim.SGD])
def test_a_learning_rate_far_too_large_is_named_as_the_likely_cause(
    optimizer: Any, batch_size: int | None
) -> None:
    reg = quick(optimizer=optimizer, lr=1e200, batch_size=batch_size, max_epochs=50)
    with pytest.warns(DivergenceWarning, match=r"Likely cause: lr=1e\+200 is too large"):
        reg.fit(X, Y)
    assert np.isfinite(reg.predict(X)).all()
    # No worse than the untrained network, which is within a few standard deviations of y.
    assert np.abs(reg.predict(X) - Y.mean()).max() < 10 * Y.std()


def test_a_fit_that_diverges_after_a_warm_start_keeps_what_the_first_had_learned() -> None:
    reg = quick(nn.Linear, warm_start=True, max_epochs=50, lr=0.05).fit(X, Y)
    kept = reg.predict(X)
    reg.set_params(optimizer="sgd", lr=1e200)
    with pytest.warns(DivergenceWarning, match="weights of epoch 50 were kept"):
        reg.fit(X, Y)
    np.testing.assert_array_equal(reg.predict(X), kept)


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (Fuse, {"module__burns_at": 1}),
        (None, {"loss": lambda p, t: (p - t).log()}),
        (None, {"loss": lambda p, t: (p - t) ** 2 / 0.0}),
        # Not a number, but with a gradient that is one.
        (None, {"loss": lambda p, t: (p - t) ** 2 + NAN}),
    ],
)
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "rmsprop"])
@pytest.mark.parametrize("batch_size", [None, 16])
def test_a_loss_that_never_was_finite_is_an_error_with_its_likely_causes(
    module: Any, options: dict[str, Any], optimizer: str, batch_size: int | None
) -> None:
    message = (
        r"The loss .* is (nan|inf) at the first step, before anything was learned\. "
        "Likely causes: a loss that is not defined"
    )
    refuse(quick(module, optimizer=optimizer, batch_size=batch_size, **options), message)


def test_nothing_but_the_divergence_itself_is_warned_about() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quick(optimizer="sgd", lr=1e200, max_epochs=50).fit(X, Y)
    assert [item.category for item in caught] == [DivergenceWarning]
