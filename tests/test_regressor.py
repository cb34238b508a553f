"""What a user of scikit-learn expects of a regressor, and gets."""

from __future__ import annotations

import copy
import functools
import io
import os
import pickle
import signal
import threading
import warnings
from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import sklearn
import torch
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import Tensor, nn

from torchreg import InterruptWarning, TorchRegressor
from torchreg.nn import MLP

Array = np.ndarray


class NeuralNetworkWithReLU(nn.Module):
    """The class of the lesson: one feature, one output, and a hidden size."""

    def __init__(self, hidden_layer_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(1, hidden_layer_size), nn.ReLU(), nn.Linear(hidden_layer_size, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output


class Flat(nn.Module):
    """Returns shape (n,) for its only output."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(x).squeeze(-1)
        return output


@pytest.fixture(scope="module")
def kink() -> tuple[Array, Array]:
    """Flipper lengths (mm), and body masses (g) with a kink at 200 mm."""
    x = np.linspace(170, 230, 120)
    return x[:, None], 4000 + 30 * np.abs(x - 200)


@pytest.fixture(scope="module")
def noisy() -> tuple[Array, Array]:
    """Few noisy rows of many features, which a network overfits."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 12))
    return X, X[:, 0] + rng.normal(size=80)


def quick(module: Any = None, **options: Any) -> TorchRegressor:
    settings = {"max_epochs": 60, "lr": 0.02, "random_state": 0}
    return TorchRegressor(module, **{**settings, **options})


# Modules


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (None, {}),
        (MLP, {"module__hidden_sizes": (20,), "module__activation": "tanh"}),
        (functools.partial(MLP, hidden_sizes=(20,)), {}),
        (lambda in_features: MLP(in_features, 1), {}),
        (NeuralNetworkWithReLU, {"module__hidden_layer_size": 20}),
        (lambda: nn.Sequential(nn.LazyLinear(20), nn.ReLU(), nn.LazyLinear(1)), {}),
        (nn.Sequential(nn.Linear(1, 20), nn.ReLU(), nn.Linear(20, 1)), {}),
        (nn.Sequential(nn.LazyLinear(20), nn.Tanh(), nn.LazyLinear(1)), {}),
        (lambda: nn.Sequential(nn.Linear(1, 20), nn.BatchNorm1d(20), nn.ReLU(), Flat(20)), {}),
    ],
    ids=[
        "default",
        "class",
        "partial",
        "callable",
        "lesson",
        "lazy callable",
        "instance",
        "lazy instance",
        "flat with batch norm",
    ],
)
def test_any_kind_of_module_beats_a_straight_line_on_a_kink(
    module: Any, options: dict[str, Any], kink: tuple[Array, Array]
) -> None:
    X, y = kink
    reg = quick(module, **options, max_epochs=150).fit(X, y)
    assert reg.score(X, y) > 0.9 > LinearRegression().fit(X, y).score(X, y)
    assert isinstance(reg.module_, nn.Module)
    assert not reg.module_.training


def test_an_instance_is_a_template_that_every_fit_starts_from(kink: tuple[Array, Array]) -> None:
    X, y = kink
    module = nn.Sequential(nn.Linear(1, 5), nn.ReLU(), nn.Linear(5, 1))
    reg = quick(module)
    first = reg.fit(X, y).predict(X)
    np.testing.assert_array_equal(reg.fit(X, y).predict(X), first)
    np.testing.assert_array_equal(clone(reg).fit(X, y).predict(X), first)
    assert reg.module_.network is not module


def test_the_fitted_module_owns_its_parameters(kink: tuple[Array, Array]) -> None:
    reg = quick().fit(*kink)
    for tensor in reg.module_.state_dict().values():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_a_lone_last_row_does_not_break_batch_normalization(kink: tuple[Array, Array]) -> None:
    X, y = kink
    module = nn.Sequential(nn.Linear(1, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
    reg = quick(module, batch_size=40, max_epochs=2).fit(X[:81], y[:81])
    assert np.isfinite(reg.predict(X)).all()


def test_a_hidden_size_is_tuned_by_a_grid_search(kink: tuple[Array, Array]) -> None:
    X, y = kink
    grid = {"module__hidden_layer_size": [1, 10], "optimizer": ["adam", "rprop"]}
    search = GridSearchCV(quick(NeuralNetworkWithReLU), grid, cv=2, error_score="raise")
    order = np.random.default_rng(0).permutation(len(y))
    search.fit(X[order], y[order])
    assert search.best_params_["module__hidden_layer_size"] == 10
    assert len(search.cv_results_["params"]) == 4


# Shapes and kinds of X and y


@pytest.mark.parametrize("shape", [(-1,), (-1, 1), (-1, 3)])
def test_predictions_come_back_in_the_shape_of_y(
    shape: tuple[int, ...], kink: tuple[Array, Array]
) -> None:
    X, y = kink
    y = (y[:, None] * [1, 2, 3] if shape == (-1, 3) else y).reshape(shape)
    reg = quick(max_epochs=3).fit(X, y)
    assert reg.predict(X).shape == y.shape
    assert reg.predict(X[:1]).shape == y[:1].shape
    assert np.isfinite(reg.score(X, y))


def test_outputs_of_very_different_sizes_are_learned_equally_well(
    kink: tuple[Array, Array],
) -> None:
    X, y = kink
    factors = np.array([1e-9, 1.0, 1e9])
    prediction = quick(max_epochs=200).fit(X, y[:, None] * factors).predict(X) / factors
    error = np.abs(prediction - y[:, None]).mean(axis=0) / y.std()
    assert (error < 0.1).all()


@pytest.mark.parametrize(
    "convert",
    [
        lambda X: X.tolist(),
        lambda X: pd.DataFrame(X, columns=["a", "b"]),
        lambda X: pl.DataFrame(X, schema=["a", "b"]),
        torch.from_numpy,
        lambda X: torch.from_numpy(X).requires_grad_(),
        scipy.sparse.csr_matrix,
        scipy.sparse.csc_array,
        scipy.sparse.coo_array,
        np.asfortranarray,
        lambda X: X[::-1][::-1],
        lambda X: X.astype(">f8"),
        lambda X: X.astype(np.longdouble),
        lambda X: X.astype(object),
    ],
)
def test_every_kind_of_table_gives_the_predictions_of_an_array(convert: Any) -> None:
    rng = np.random.default_rng(0)
    X = rng.poisson(0.7, size=(50, 2)).astype(float)
    y = X[:, 0] ** 2 + X[:, 1]
    plain = quick(max_epochs=10).fit(X, y).predict(X)
    other = quick(max_epochs=10).fit(convert(X), y).predict(convert(X))
    assert isinstance(other, np.ndarray)
    np.testing.assert_allclose(other, plain, rtol=1e-12)


@pytest.mark.parametrize("convert", [list, pd.Series, pl.Series, torch.from_numpy, pd.DataFrame])
def test_every_kind_of_target_gives_the_predictions_of_an_array(
    convert: Any, kink: tuple[Array, Array]
) -> None:
    X, y = kink
    plain = quick(max_epochs=5).fit(X, y).predict(X)
    other = quick(max_epochs=5).fit(X, convert(y)).predict(X)
    np.testing.assert_array_equal(other.ravel(), plain)


@pytest.mark.parametrize(
    "dtype",
    [
        "bool",
        "int8",
        "int16",
        "int64",
        "uint8",
        "uint16",
        "uint64",
        "float16",
        "float32",
        "float64",
    ],
)
def test_predictions_are_float32_for_float32_and_float64_for_anything_else(dtype: str) -> None:
    X = np.random.default_rng(0).integers(0, 2, size=(30, 2)).astype(dtype)
    y = np.arange(30).astype(dtype if dtype != "bool" else int)
    prediction = quick(max_epochs=2).fit(X, y).predict(X)
    assert prediction.dtype == (np.float32 if dtype == "float32" else np.float64)


def test_sparse_mini_batches_are_dense_mini_batches() -> None:
    X = scipy.sparse.random(300, 20, density=0.1, random_state=0, format="csr")
    X.data += 1e3
    y = np.asarray(X.sum(axis=1)).ravel()
    weight = np.random.default_rng(0).uniform(size=300)
    reg = quick(batch_size=32, max_epochs=5)
    dense = reg.fit(X.toarray(), y, sample_weight=weight).predict(X.toarray())
    sparse = reg.fit(X, y, sample_weight=weight).predict(X)
    np.testing.assert_allclose(sparse, dense, rtol=1e-9)


def test_sparse_rows_are_made_dense_a_batch_at_a_time() -> None:
    # All rows would be 320 MB dense; a batch of 32 is 5 MB.
    X = scipy.sparse.eye_array(2_000, 20_000, format="csr")
    y = np.arange(2_000.0)
    tallest: list[int] = []

    class Narrow(nn.Module):
        def __init__(self, in_features: int) -> None:
            super().__init__()
            self.linear = nn.Linear(in_features, 1)

        def forward(self, x: Tensor) -> Tensor:
            tallest.append(len(x))
            output: Tensor = self.linear(x)
            return output

    reg = TorchRegressor(Narrow, batch_size=32, max_epochs=1, dtype="float32")
    reg.fit(X, y)
    assert max(tallest) <= 32


def test_columns_are_known_by_name(kink: tuple[Array, Array]) -> None:
    X, y = kink
    table = pd.DataFrame({"flipper": X[:, 0], "bill": 1.0})
    reg = quick(max_epochs=2).fit(table, y)
    assert list(reg.feature_names_in_) == ["flipper", "bill"]
    with pytest.raises(ValueError, match="feature names"):
        reg.predict(table[["bill", "flipper"]])
    reg.fit(X, y)
    assert not hasattr(reg, "feature_names_in_")


# Array API


def test_tensors_in_give_tensors_out_where_dispatch_is_on(kink: tuple[Array, Array]) -> None:
    X, y = kink
    plain = quick(max_epochs=5).fit(X, y).predict(X)
    with sklearn.config_context(array_api_dispatch=True):
        reg = quick(max_epochs=5).fit(torch.from_numpy(X), torch.from_numpy(y))
        prediction = reg.predict(torch.from_numpy(X))
        assert isinstance(prediction, Tensor)
        np.testing.assert_array_equal(prediction.numpy(), plain)
        with pytest.raises(ValueError, match=r"predict\(\) must use the same namespace"):
            reg.predict(X)


# Stopping


def test_without_early_stopping_or_tol_exactly_max_epochs_run_on_all_rows(
    kink: tuple[Array, Array],
) -> None:
    X, y = kink
    reg = quick(max_epochs=17).fit(X, y)
    assert reg.n_iter_ == reg.best_epoch_ == len(reg.loss_curve_) == len(reg.history_) == 17
    assert reg.validation_loss_curve_ is None
    np.testing.assert_allclose(reg.module_.standardize.mean, X.mean(axis=0), rtol=1e-14)


def test_early_stopping_waits_for_patience_and_restores_the_best_weights(
    noisy: tuple[Array, Array],
) -> None:
    X, y = noisy
    reg = quick(early_stopping=True, max_epochs=500, validation_fraction=0.25).fit(
        X[:60], y[:60], X_val=X[60:], y_val=y[60:]
    )
    curve = reg.validation_loss_curve_
    assert reg.n_iter_ == len(curve) < 500
    assert reg.best_epoch_ == int(np.argmin(curve)) + 1 == reg.n_iter_ - 10
    # The validation loss of the restored weights, computed by hand.
    scale = y[:60].std()
    by_hand = np.mean(((reg.predict(X[60:]) - y[60:]) / scale) ** 2)
    np.testing.assert_allclose(by_hand, min(curve), rtol=1e-9)
    assert reg.loss_ == reg.loss_curve_[reg.best_epoch_ - 1]


def test_rows_are_held_out_only_where_early_stopping_asks_for_it(
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


def test_validation_rows_without_early_stopping_are_only_watched(
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
def test_tol_stops_at_the_same_epoch_whatever_the_units_of_y(
    unit: float, kink: tuple[Array, Array]
) -> None:
    X, y = kink
    reg = quick(tol=1e-3, max_epochs=1000, n_iter_no_change=5, lr=5e-3)
    epochs = reg.fit(X, y).n_iter_
    assert 20 < epochs < 1000
    assert reg.fit(X, y * unit).n_iter_ == epochs


def test_a_budget_that_ran_out_while_the_loss_fell_is_a_convergence_warning(
    kink: tuple[Array, Array],
) -> None:
    with pytest.warns(ConvergenceWarning, match="max_epochs=5 ran out while the loss still fell"):
        quick(tol=1e-4, max_epochs=5).fit(*kink)


class _Interrupting(nn.Module):
    """Sends Ctrl-C to its own process in the middle of the sixth pass."""

    calls = 0

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] > 10:
            type(self).calls += 1
            if type(self).calls == 6:
                os.kill(os.getpid(), signal.SIGINT)
        output: Tensor = self.linear(x)
        return output


def test_ctrl_c_keeps_what_was_learned_in_a_fit_that_stands_alone(
    kink: tuple[Array, Array],
) -> None:
    X, y = kink
    _Interrupting.calls = 0
    with pytest.warns(InterruptWarning, match="Interrupted in epoch 6 of 60"):
        reg = quick(_Interrupting).fit(X, y)
    assert reg.n_iter_ == 5
    five = quick(_Interrupting, max_epochs=5).fit(X, y)
    np.testing.assert_array_equal(reg.predict(X), five.predict(X))


def test_ctrl_c_in_a_pipeline_keeps_what_was_learned(kink: tuple[Array, Array]) -> None:
    X, y = kink
    _Interrupting.calls = 0
    with pytest.warns(InterruptWarning):
        pipeline = make_pipeline(StandardScaler(), quick(_Interrupting)).fit(X, y)
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
def test_ctrl_c_inside_a_search_ends_the_search(surround: Any, kink: tuple[Array, Array]) -> None:
    _Interrupting.calls = 0
    with pytest.raises(KeyboardInterrupt):
        surround(quick(_Interrupting), *kink)


# Reproducible


def test_the_same_random_state_gives_the_same_bits(noisy: tuple[Array, Array]) -> None:
    X, y = noisy
    options = {"module__dropout": 0.2, "batch_size": 16, "max_epochs": 5, "early_stopping": True}
    first = quick(**options).fit(X, y).predict(X)
    np.testing.assert_array_equal(quick(**options).fit(X, y).predict(X), first)
    assert (quick(**{**options, "random_state": 1}).fit(X, y).predict(X) != first).any()
    assert (quick(**{**options, "random_state": None}).fit(X, y).predict(X) != first).any()
    state = np.random.RandomState(3)
    again = np.random.RandomState(3)
    a, b = (quick(**{**options, "random_state": s}).fit(X, y).predict(X) for s in (state, again))
    np.testing.assert_array_equal(a, b)


def test_a_warm_start_keeps_the_statistics_and_counts_on(kink: tuple[Array, Array]) -> None:
    X, y = kink
    reg = quick(warm_start=True, max_epochs=20).fit(X, y)
    mean, loss = reg.module_.standardize.mean.clone(), reg.loss_
    reg.fit(X + 5, y)
    assert torch.equal(reg.module_.standardize.mean, mean)
    assert reg.n_iter_ == len(reg.loss_curve_) == reg.best_epoch_ == 40
    assert [row["epoch"] for row in reg.history_] == list(range(1, 41))
    # On the same rows, the second fit goes on from where the first one ended.
    reg = quick(warm_start=True, max_epochs=20).fit(X, y)
    assert reg.fit(X, y).loss_curve_[20] < loss
    with pytest.raises(ValueError, match="goes on from a fit with 1 features"):
        reg.fit(np.column_stack([X, X]), y)


@pytest.mark.parametrize("copy_of", ["deepcopy", "pickle", "joblib"])
def test_copies_predict_the_same_bits(copy_of: str, kink: tuple[Array, Array]) -> None:
    X, y = kink
    reg = quick(max_epochs=5, module__hidden_sizes=[7]).fit(X, y)
    if copy_of == "deepcopy":
        other = copy.deepcopy(reg)
    elif copy_of == "pickle":
        other = pickle.loads(pickle.dumps(reg))
    else:
        file = io.BytesIO()
        joblib.dump(reg, file)
        file.seek(0)
        other = joblib.load(file)
    np.testing.assert_array_equal(other.predict(X), reg.predict(X))
    assert other.get_params().keys() == reg.get_params().keys()


def test_a_pickle_holds_neither_rows_nor_optimizer() -> None:
    rng = np.random.default_rng(0)
    sizes = []
    for n_rows in (50, 5000):
        X = rng.normal(size=(n_rows, 3))
        reg = quick(max_epochs=2, module__hidden_sizes=[5]).fit(X, X[:, 0], X_val=X, y_val=X[:, 1])
        sizes.append(len(pickle.dumps(reg)))
    assert abs(sizes[1] - sizes[0]) < 200
    weights = sum(p.numel() for p in reg.module_.parameters())
    assert sizes[0] < 8 * weights + 8000


def test_a_clone_is_unfitted_and_equal_in_every_parameter() -> None:
    reg = quick(module__hidden_sizes=[3], optimizer__betas=(0.8, 0.9), loss="huber", loss__delta=2)
    other = clone(reg)
    assert other.get_params() == reg.get_params()
    assert not hasattr(other, "module_")
    assert repr(other) == repr(reg)


# Parameters


def test_nested_parameters_are_set_got_and_shown() -> None:
    reg = TorchRegressor(module__hidden_sizes=[5]).set_params(optimizer__eps=1e-7, lr=0.1)
    params = reg.get_params()
    assert (params["module__hidden_sizes"], params["optimizer__eps"]) == ([5], 1e-7)
    assert "module__hidden_sizes=[5]" in repr(reg)
    assert "nested" not in params


def test_standardize_chooses_which_layers_there_are(kink: tuple[Array, Array]) -> None:
    X, y = kink
    layers = {
        choice: [
            name
            for name, _ in quick(standardize=choice, max_epochs=1)
            .fit(X, y)
            .module_.named_children()
        ]
        for choice in (True, "X", "y", False)
    }
    assert layers == {
        True: ["standardize", "network", "unstandardize"],
        "X": ["standardize", "network"],
        "y": ["network", "unstandardize"],
        False: ["network"],
    }


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", torch.float32), ("float64", torch.float64), (torch.float32, torch.float32)],
)
def test_the_network_computes_in_the_dtype_asked_for(
    dtype: Any, expected: torch.dtype, kink: tuple[Array, Array]
) -> None:
    reg = quick(dtype=dtype, max_epochs=3).fit(*kink)
    assert reg.dtype_ == expected
    assert {p.dtype for p in reg.module_.parameters()} == {expected}


def test_dtype_auto_is_float64_for_small_networks_and_float32_beyond(
    kink: tuple[Array, Array],
) -> None:
    assert quick(max_epochs=1).fit(*kink).dtype_ == torch.float64
    wide = quick(max_epochs=1, module__hidden_sizes=[200, 200]).fit(*kink)
    assert wide.dtype_ == torch.float32


def test_verbose_prints_a_readable_table(
    kink: tuple[Array, Array], capsys: pytest.CaptureFixture[str]
) -> None:
    X, y = kink
    quick(verbose=1, max_epochs=40).fit(X, y, X_val=X, y_val=y)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "losses of the standardized target"
    assert lines[1].split() == ["epoch", "loss", "validation", "seconds"]
    assert [int(line.split()[0]) for line in lines[2:-1]] == [1, *range(2, 41, 2)]
    assert len({len(line) for line in lines[1:-1]}) == 1
    assert lines[-1] == "The steps were captured once and repeated."


# Inside scikit-learn


def test_validation_rows_reach_the_regressor_through_a_pipeline(
    noisy: tuple[Array, Array],
) -> None:
    X, y = noisy
    weight = np.linspace(0.5, 1.5, 60)
    with sklearn.config_context(enable_metadata_routing=True):
        reg = quick(early_stopping=True).set_fit_request(
            sample_weight=True, X_val=True, y_val=True, sample_weight_val=True
        )
        pipeline = Pipeline(
            [("scale", MinMaxScaler()), ("regress", reg)], transform_input=["X_val"]
        )
        given = {"sample_weight": weight, "sample_weight_val": weight[:20]}
        pipeline.fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:], **given)
    scaler = MinMaxScaler().fit(X[:60])
    alone = quick(early_stopping=True).fit(
        scaler.transform(X[:60]), y[:60], X_val=scaler.transform(X[60:]), y_val=y[60:], **given
    )
    np.testing.assert_array_equal(pipeline.predict(X), alone.predict(scaler.transform(X)))


def test_it_takes_a_place_beside_linear_regression(kink: tuple[Array, Array]) -> None:
    X, y = kink
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order], y[order]
    scores = {
        type(model).__name__: cross_val_score(model, X, y, cv=3).mean()
        for model in (
            LinearRegression(),
            quick(max_epochs=150),
            TransformedTargetRegressor(quick()),
        )
    }
    assert scores["TorchRegressor"] > 0.95 > scores["LinearRegression"]
    assert scores["TransformedTargetRegressor"] > 0.9


def test_worker_processes_and_threads_give_the_scores_of_one_process(
    kink: tuple[Array, Array],
) -> None:
    X, y = kink
    alone = cross_val_score(quick(max_epochs=5), X, y, cv=3)
    for backend in ("threading", "loky"):
        with joblib.parallel_config(backend=backend, n_jobs=2):
            np.testing.assert_array_equal(cross_val_score(quick(max_epochs=5), X, y, cv=3), alone)


def test_a_fit_in_a_thread_of_its_own_warns_nobody_and_works(kink: tuple[Array, Array]) -> None:
    results: list[Array] = []
    thread = threading.Thread(
        target=lambda: results.append(quick(max_epochs=3).fit(*kink).loss_curve_)
    )
    thread.start()
    thread.join()
    assert len(results[0]) == 3


def test_predict_leaves_the_caller_in_peace(kink: tuple[Array, Array]) -> None:
    X, y = kink
    reg = quick(
        max_epochs=3,
        standardize=False,
        module=nn.Sequential(nn.ReLU(inplace=True), nn.Linear(1, 1)),
    )
    X = X - 200
    kept = X.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reg.fit(X, y).predict(X)
    np.testing.assert_array_equal(X, kept)
