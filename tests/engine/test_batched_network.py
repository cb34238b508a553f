"""The default network predicts what its module computes, fast, in any state of the module."""

from __future__ import annotations

import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchreg import TorchRegressor
from torchreg.nn import Ensemble

RNG = np.random.default_rng(0)
X = np.column_stack(
    [RNG.normal(size=(120, 2)) * [1.0, 100.0] + [0.0, 1000.0], RNG.integers(0, 2, 120)]
)
Y = np.sin(X[:, 0]) + X[:, 1] / 100
MANY = np.tile(X, (4, 1)) * [1.0, 1.0, 1.0] + RNG.normal(size=(480, 3)) * [0.5, 50.0, 0.0]
SMALL: dict[str, Any] = {
    "n_folds": 3,
    "max_epochs": 1,
    "module__hidden_sizes": (8, 8),
    "random_state": 0,
}


def build(**options: Any) -> TorchRegressor:
    return TorchRegressor(**{**SMALL, **options})


def from_module(reg: TorchRegressor, rows: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        outputs: np.ndarray = reg.module_(torch.from_numpy(rows)).numpy()
    return outputs


def check(reg: TorchRegressor, *, rtol: float = 1e-11) -> np.ndarray:
    """Predict one row and many rows, alike the module; return the predictions."""
    expected = from_module(reg, MANY)
    found = reg.predict(MANY)
    found = found.reshape(len(found), -1)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * scale)
    one = reg.predict(MANY[7:8]).reshape(-1)
    np.testing.assert_allclose(one, found[7], rtol=rtol, atol=rtol * scale)
    return found


@pytest.mark.parametrize(
    ("options", "columns"),
    [
        ({}, [0, 1, 2]),
        ({"n_folds": None}, [0, 1, 2]),
        ({"module__activation": "tanh", "module__dropout": 0.1}, [0, 1]),
        ({"module__activation": "leaky_relu", "module__hidden_sizes": (8,)}, [0, 1, 2]),
        ({"module__hidden_sizes": ()}, [0, 1, 2]),
        ({"standardize": "y"}, [0, 1, 2]),
        ({"standardize": False}, [0, 1, 2]),
        ({}, [2]),
        ({"module__hidden_sizes": (128, 70)}, [0, 1]),
    ],
    ids=str,
)
def test_the_default_network_predicts_what_its_module_computes(
    options: dict[str, Any], columns: list[int]
) -> None:
    rows = X[:, columns]
    y = np.stack([Y, -Y], axis=1) if options else Y
    reg = build(**options).fit(rows, y)
    expected = from_module(reg, MANY[:, columns])
    found = reg.predict(MANY[:, columns]).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11 * np.abs(expected).max())


def test_float32_networks_predict_what_their_module_computes() -> None:
    check(build(dtype="float32").fit(X, Y), rtol=1e-5)


@pytest.mark.parametrize("loss", ["gaussian_nll", "poisson"])
def test_links_follow_the_batched_network(loss: str) -> None:
    reg = build(loss=loss).fit(X, np.abs(Y))
    columns = from_module(reg, MANY)[:, 0]
    np.testing.assert_allclose(reg.predict(MANY), columns, rtol=1e-11)


def test_values_beyond_any_training_row_are_those_of_the_module() -> None:
    reg = build().fit(X, Y)
    rows = np.array([[1e300, -1e300, 7.0], [0.0, 0.0, 0.0], [-1e9, 1e9, -5.0]])
    np.testing.assert_allclose(reg.predict(rows), from_module(reg, rows)[:, 0], rtol=1e-11)


def members_of(reg: TorchRegressor) -> Any:
    return reg.module_.get_submodule("network").members


def last_layer(reg: TorchRegressor, member: int = 1) -> nn.Linear:
    layer = members_of(reg)[member].mlp.layers[-1]
    assert isinstance(layer, nn.Linear)
    return layer


@torch.no_grad()
def double_in_place(reg: TorchRegressor) -> None:
    last_layer(reg).weight.mul_(2)


def double_data(reg: TorchRegressor) -> None:
    members_of(reg)[1].mlp.layers[0].weight.data.mul_(2)


def double_through_numpy(reg: TorchRegressor) -> None:
    weight = members_of(reg)[0].bins.weight.detach().numpy()
    weight *= 2


def replace_data(reg: TorchRegressor) -> None:
    weight = members_of(reg)[2].mlp.layers[2].weight
    weight.data = weight.data * 3


def transpose_data(reg: TorchRegressor) -> None:
    weight = members_of(reg)[2].mlp.layers[2].weight
    weight.data = weight.data.t()


def replace_parameter(reg: TorchRegressor) -> None:
    layer = last_layer(reg)
    layer.bias = nn.Parameter(layer.bias.detach() + 1)


def replace_layer(reg: TorchRegressor) -> None:
    members_of(reg)[0].mlp.layers[1] = nn.Tanh()


def replace_all_activations(reg: TorchRegressor) -> None:
    for member in members_of(reg):
        member.mlp.layers[1] = nn.GELU()


def replace_member(reg: TorchRegressor) -> None:
    members_of(reg)[0] = members_of(reg)[1]


def remove_member(reg: TorchRegressor) -> None:
    reg.module_.network = Ensemble(list(members_of(reg))[:2])


def load_other_state(reg: TorchRegressor) -> None:
    state = {key: value * 1.5 for key, value in reg.module_.state_dict().items() if "mlp" in key}
    reg.module_.load_state_dict(state, strict=False)


def add_hook(reg: TorchRegressor) -> None:
    last_layer(reg).register_forward_hook(lambda module, args, output: output + 1)


def add_hook_to_root(reg: TorchRegressor) -> None:
    reg.module_.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


def override_forward(reg: TorchRegressor) -> None:
    layer = last_layer(reg)
    layer.forward = lambda x: nn.functional.linear(x, layer.weight) + 5


def shift_scale_of_one(reg: TorchRegressor) -> None:
    members_of(reg)[2].scale.center.data.add_(0.5)


def shift_scale_of_all(reg: TorchRegressor) -> None:
    for member in members_of(reg):
        member.scale.center.data.add_(0.5)


def shift_target(reg: TorchRegressor) -> None:
    reg.module_.get_submodule("unstandardize").mean.data.add_(10)


def shift_inputs(reg: TorchRegressor) -> None:
    reg.module_.get_submodule("standardize").mean.data.add_(0.5)


def append_layer(reg: TorchRegressor) -> None:
    reg.module_.add_module("twice", Doubled())


class Doubled(nn.Module):
    """Doubles its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


@pytest.mark.parametrize(
    "change",
    [
        double_in_place,
        double_data,
        double_through_numpy,
        replace_data,
        transpose_data,
        replace_parameter,
        replace_layer,
        replace_all_activations,
        replace_member,
        remove_member,
        load_other_state,
        add_hook,
        add_hook_to_root,
        override_forward,
        shift_scale_of_one,
        shift_scale_of_all,
        shift_target,
        shift_inputs,
        append_layer,
    ],
)
def test_predict_sees_each_change_of_the_module(
    change: Callable[[TorchRegressor], None], fitted: bytes
) -> None:
    reg = pickle.loads(fitted)
    before = check(reg)
    change(reg)
    after = check(reg)
    assert np.abs(after - before).max() > 1e-6
    # The check of a changed module must not keep its state.
    double_in_place(reg)
    check(reg)


@pytest.fixture(scope="module")
def fitted() -> bytes:
    return pickle.dumps(build().fit(X, Y))


def test_casts_of_the_module_are_seen(fitted: bytes) -> None:
    reg = pickle.loads(fitted)
    exact = reg.predict(MANY)
    reg.module_.float()
    found = reg.predict(MANY)
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-3 * np.abs(exact).max())
    np.testing.assert_allclose(found, from_module(reg, MANY)[:, 0], rtol=1e-4)


def test_what_predict_keeps_is_in_no_pickle_and_keeps_no_module_alive(fitted: bytes) -> None:
    reg = pickle.loads(fitted)
    size = len(pickle.dumps(reg))
    reg.predict(X)
    assert len(pickle.dumps(reg)) == size
    module = weakref.ref(reg.module_)
    del reg
    gc.collect()
    assert module() is None


def test_predictions_have_the_same_bits_with_any_number_of_threads(fitted: bytes) -> None:
    reg = pickle.loads(fitted)
    before = torch.get_num_threads()
    found = []
    try:
        for n_threads in (1, 2, 5):
            torch.set_num_threads(n_threads)
            found.append(reg.predict(MANY))
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(other, found[0]) for other in found)


def test_gradients_of_the_default_at_training_rows_are_its_slopes() -> None:
    rows = np.column_stack([RNG.integers(0, 12, 300), RNG.integers(0, 90, 300)]).astype(float)
    reg = build().fit(rows, rows[:, 0] ** 2 + rows[:, 1])
    inner = rows[((rows > rows.min(0)) & (rows < rows.max(0))).all(axis=1)]
    x = torch.from_numpy(inner).requires_grad_()
    reg.module_(x).sum().backward()
    assert x.grad is not None
    for column in (0, 1):
        step = np.zeros(2)
        step[column] = 1e-6
        slopes = (reg.predict(inner + step) - reg.predict(inner - step)) / 2e-6
        np.testing.assert_allclose(x.grad[:, column], slopes, rtol=1e-4, atol=1e-4)
