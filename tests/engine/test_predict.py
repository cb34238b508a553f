"""Predictions are those of the fitted module, in any chunks and for any storage of X."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor, nn

from torchreg import TorchRegressor
from torchreg.nn import MLP

Array = np.ndarray
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)) * [1.0, 100.0, 0.01] + [0.0, 1000.0, 5.0]
Y = np.sin(X[:, 0]) + X[:, 1] / 100
MANY = np.concatenate([X, RNG.normal(size=(49_973, 3)) * [1.0, 100.0, 0.01] + [0.0, 1e3, 5.0]])

#: A short fit of raw y is worse than a constant, which is no matter here.
pytestmark = pytest.mark.filterwarnings(
    "ignore:A constant predicts:torchreg.exceptions.WorseThanConstantWarning"
)


class Overwrites(nn.Module):
    """Overwrites its input."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.mul_(0.5).tanh_())


def build(**options: Any) -> TorchRegressor:
    settings: dict[str, Any] = {"max_epochs": 20, "random_state": 0, "module__hidden_sizes": [7]}
    if "module" in options:
        settings.pop("module__hidden_sizes")
    return TorchRegressor(**{"module": MLP, **settings, **options})


@pytest.fixture(scope="module")
def reg() -> TorchRegressor:
    return build().fit(X, Y)


@pytest.mark.parametrize("standardize", [True, "X", "y", False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_predictions_of_many_rows_are_those_of_the_module_on_all_rows_at_once(
    n_outputs: int, dtype: str, standardize: Any
) -> None:
    y = np.stack([Y, -Y], axis=1)[:, :n_outputs]
    # Without standardization, rows of order 1.
    shift, scale = (
        ([0.0, 1000.0, 5.0], [1.0, 100.0, 0.01]) if standardize is not True else (0.0, 1.0)
    )
    few, many = (X - shift) / scale, (MANY - shift) / scale
    reg = build(standardize=standardize, dtype=dtype).fit(few, y)
    raw = torch.from_numpy(many)
    with torch.no_grad():
        whole = reg.module_(
            raw if "standardize" in dict(reg.module_.named_children()) else raw.to(reg.dtype_)
        )
    assert whole.shape == (len(many), n_outputs)
    tolerance = 1e-13 if dtype == "float64" else 1e-6
    np.testing.assert_allclose(reg.predict(many), whole.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "module", [None, Overwrites, lambda: nn.Sequential(nn.ReLU(True), nn.Linear(3, 1))]
)
def test_the_prediction_of_a_row_does_not_depend_on_other_rows(module: Any) -> None:
    reg = build(module=module).fit(X, Y) if module else build().fit(X, Y)
    together = reg.predict(MANY[:20_000])
    alone = [reg.predict(MANY[row : row + 1])[0] for row in (0, 7, 16_383, 16_384, 19_999)]
    np.testing.assert_allclose(alone, together[[0, 7, 16_383, 16_384, 19_999]], rtol=1e-7)


def test_no_chunk_loses_repeats_or_moves_a_row(reg: TorchRegressor) -> None:
    order = RNG.permutation(len(MANY))
    together = reg.predict(MANY)
    assert together.shape == (len(MANY),)
    np.testing.assert_allclose(reg.predict(MANY[order]), together[order], rtol=1e-12)


def test_sparse_rows_are_predicted_like_dense_ones(reg: TorchRegressor) -> None:
    dense = np.where(MANY > 0.5, MANY, 0.0)
    sparse = scipy.sparse.csr_array(dense)
    np.testing.assert_allclose(reg.predict(sparse), reg.predict(dense), rtol=1e-13)


def test_a_prediction_that_is_not_finite_raises_an_error_that_names_the_row() -> None:
    reg = build(module=nn.Linear, standardize=False).fit((X - X.mean(0)) / X.std(0), Y)
    far = np.zeros((30_000, 3))
    far[20_001] = 1e300
    with torch.no_grad():
        reg.module_.network.weight.fill_(1e30)
    with pytest.raises(ValueError, match=r"row 20001 is not finite \(1 of 30000 rows\)"):
        reg.predict(far)


class Subclass(np.ndarray):
    """An array of another class."""


STORAGES: dict[str, Callable[[Array], Any]] = {
    "float32": lambda rows: rows.astype(np.float32),
    "one row": lambda rows: rows[:1].copy(),
    "slice of rows": lambda rows: rows[5:9],
    "every other row": lambda rows: rows[::2],
    "rows backwards": lambda rows: rows[::-1],
    "Fortran order": np.asfortranarray,
    "big endian": lambda rows: rows.astype(">f8"),
    "float16": lambda rows: rows.astype(np.float16),
    "integers": lambda rows: rows.astype(np.int64),
    "long double": lambda rows: rows.astype(np.longdouble),
    "list": lambda rows: rows.tolist(),
    "objects": lambda rows: rows.astype(object),
    "subclass": lambda rows: rows.view(Subclass),
}


@pytest.mark.parametrize("name", STORAGES)
def test_predictions_depend_on_the_values_of_X_alone(name: str, reg: TorchRegressor) -> None:
    rows = STORAGES[name](X.copy())
    expected = reg.predict(np.array(rows, dtype=np.float64, order="C"))
    found = reg.predict(rows)
    np.testing.assert_array_equal(found, expected.astype(found.dtype))


def test_read_only_arrays_are_predicted_like_others(reg: TorchRegressor) -> None:
    rows = X.copy()
    rows.flags.writeable = False
    np.testing.assert_array_equal(reg.predict(rows), reg.predict(X))


def with_value(value: float, dtype: Any = np.float64) -> Array:
    rows = X.astype(dtype)
    rows[3, 1] = value
    return rows


BAD: dict[str, Any] = {
    "NaN": with_value(np.nan),
    "inf": with_value(np.inf),
    "-inf": with_value(-np.inf),
    "NaN in float32": with_value(np.nan, np.float32),
    "inf in float32": with_value(np.inf, np.float32),
    "inf and NaN": np.where(X > 0, np.inf, np.nan),
    "too large": with_value(1.5e308),
    "very negative": with_value(-1.5e308),
    "two columns": X[:, :2].copy(),
    "four columns": np.ones((2, 4)),
    "one dimension": X[0].copy(),
    "three dimensions": X[None].copy(),
    "no rows": X[:0].copy(),
    "no columns": X[:, :0].copy(),
    "words": np.array([["a", "b", "c"]]),
    "complex": X.astype(complex),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_raise_the_same_error_in_any_order_of_memory(
    name: str, reg: TorchRegressor
) -> None:
    with pytest.raises(ValueError) as found:
        reg.predict(BAD[name])
    with pytest.raises(ValueError) as expected:
        reg.predict(np.asfortranarray(BAD[name]))
    assert str(found.value) == str(expected.value)


def test_values_far_beyond_the_training_rows_are_predicted() -> None:
    # tanh is flat there, so that predictions stay finite.
    reg = build(module__activation="tanh").fit(X, Y)
    rows = with_value(1e300)
    np.testing.assert_array_equal(reg.predict(rows), reg.predict(np.asfortranarray(rows)))


@pytest.mark.parametrize("standardize", [True, "X", "y", False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("core", ["float64", "float32"])
def test_a_module_that_works_in_place_leaves_X_unchanged(
    core: str, dtype: Any, standardize: Any
) -> None:
    rows = ((X - X.mean(0)) / X.std(0)).astype(dtype)
    kept = rows.copy()
    reg = build(module=Overwrites, dtype=core, standardize=standardize).fit(rows, Y)
    np.testing.assert_array_equal(rows, kept)
    first = reg.predict(rows)
    np.testing.assert_array_equal(rows, kept)
    np.testing.assert_array_equal(reg.predict(rows), first)
    tensor = torch.from_numpy(rows)
    reg.predict(tensor)
    np.testing.assert_array_equal(rows, kept)


class Noisy(nn.Sequential):
    """With buffers that training changes, and dropout."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))


def test_predicting_changes_nothing_in_the_module() -> None:
    reg = build(module=Noisy).fit(X, Y)
    reg.module_.eval()
    before = {name: tensor.clone() for name, tensor in reg.module_.state_dict().items()}
    with torch.random.fork_rng():
        state = torch.get_rng_state()
        first, second = reg.predict(X), reg.predict(X)
        assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(first, second)
    assert not any(module.training for module in reg.module_.modules())
    for name, tensor in reg.module_.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.grad is None and p.requires_grad for p in reg.module_.parameters())


def test_the_caller_may_overwrite_predictions(reg: TorchRegressor) -> None:
    first = reg.predict(X)
    kept = first.copy()
    first[:] = 0.0
    np.testing.assert_array_equal(reg.predict(X), kept)
