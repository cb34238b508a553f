"""Modules, tables and targets of every kind."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import sklearn
import torch
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from torch import Tensor, nn

from torchreg import TorchRegressor
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


def quick(module: Any = MLP, **options: Any) -> TorchRegressor:
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
        (lambda in_features, **others: MLP(in_features, **others), {"module__activation": "tanh"}),
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
        "callable that takes any other option",
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


def test_an_instance_is_copied_for_every_fit(kink: tuple[Array, Array]) -> None:
    X, y = kink
    module = nn.Sequential(nn.Linear(1, 5), nn.ReLU(), nn.Linear(5, 1))
    reg = quick(module)
    first = reg.fit(X, y).predict(X)
    np.testing.assert_array_equal(reg.fit(X, y).predict(X), first)
    np.testing.assert_array_equal(clone(reg).fit(X, y).predict(X), first)
    assert reg.module_.network is not module


KINDS: list[dict[str, Any]] = [{"n_init": 2}, {"n_folds": 2}, {"early_stopping": True}]
KINDS += [{"optimizer": name} for name in ("adam", "rprop", "lbfgs", "nadam")]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_the_fitted_module_owns_its_parameters(
    options: dict[str, Any], kink: tuple[Array, Array]
) -> None:
    reg = quick(**options, max_epochs=17).fit(*kink)
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
def test_predictions_have_the_shape_of_y(shape: tuple[int, ...], kink: tuple[Array, Array]) -> None:
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


def test_sparse_rows_are_converted_batch_by_batch() -> None:
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


def test_feature_names_are_stored_and_checked(kink: tuple[Array, Array]) -> None:
    X, y = kink
    table = pd.DataFrame({"flipper": X[:, 0], "bill": 1.0})
    reg = quick(max_epochs=2).fit(table, y)
    assert list(reg.feature_names_in_) == ["flipper", "bill"]
    with pytest.raises(ValueError, match="feature names"):
        reg.predict(table[["bill", "flipper"]])
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        reg.predict(np.ascontiguousarray(table.to_numpy()))
    reg.fit(X, y)
    assert not hasattr(reg, "feature_names_in_")


# Array API


def test_array_api_dispatch_returns_tensors_for_tensors(kink: tuple[Array, Array]) -> None:
    X, y = kink
    plain = quick(max_epochs=5).fit(X, y).predict(X)
    with sklearn.config_context(array_api_dispatch=True):
        reg = quick(max_epochs=5).fit(torch.from_numpy(X), torch.from_numpy(y))
        prediction = reg.predict(torch.from_numpy(X))
        assert isinstance(prediction, Tensor)
        np.testing.assert_array_equal(prediction.numpy(), plain)
        with pytest.raises(ValueError, match=r"predict\(\) must use the same namespace"):
            reg.predict(X)
