"""Fixed numbers inside a network: always there, never trained."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import nn

from torchreg.nn import AddConstant, FrozenLinear, MultiplyByConstant

BOTH = pytest.mark.parametrize("layer", [AddConstant, MultiplyByConstant])


def lesson(seed: int) -> nn.Sequential:
    """The network of the lesson: millimetres in, grams out."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            AddConstant(-200),
            MultiplyByConstant(1 / 10),
            nn.Linear(1, 5),
            nn.ReLU(),
            nn.Linear(5, 1),
            MultiplyByConstant(800),
            AddConstant(4200),
        )


@pytest.mark.parametrize("constant", [-200, 0.1, 0, [1.0, -2.0, 3.0], (4,), np.arange(3)])
@pytest.mark.parametrize("shape", [(3,), (5, 3), (1, 3), (2, 4, 3), (0, 3)])
def test_adding_and_multiplying_are_those_of_numpy(constant: Any, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    c = np.asarray(constant, dtype=np.float32)
    np.testing.assert_array_equal(AddConstant(constant)(torch.from_numpy(x)), x + c)
    np.testing.assert_array_equal(MultiplyByConstant(constant)(torch.from_numpy(x)), x * c)


@BOTH
@pytest.mark.parametrize("constant", [-200, [1.0, 2.0]])
def test_a_constant_is_a_buffer_and_not_a_parameter(layer: Any, constant: Any) -> None:
    module = layer(constant)
    assert list(module.parameters()) == []
    assert list(module.state_dict()) == ["constant"]
    assert not module.constant.requires_grad
    np.testing.assert_array_equal(module.state_dict()["constant"], constant)


@BOTH
def test_a_gradient_flows_through_a_constant_but_not_into_it(layer: Any) -> None:
    module = layer([3.0, -2.0])
    x = torch.ones(4, 2, requires_grad=True)
    module(x).sum().backward()
    expected = [1.0, 1.0] if layer is AddConstant else [3.0, -2.0]
    np.testing.assert_array_equal(x.grad, np.tile(expected, (4, 1)))
    assert module.constant.grad is None


@BOTH
def test_a_constant_is_moved_and_cast_with_its_network(layer: Any) -> None:
    network = nn.Sequential(nn.Linear(2, 2), layer([1.0, 2.0]))
    assert network.double()[1].constant.dtype == torch.float64
    assert network.float()[1].constant.dtype == torch.float32
    assert network.to("meta")[1].constant.device.type == "meta"


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_single_number_leaves_the_dtype_of_the_input(layer: Any, dtype: torch.dtype) -> None:
    assert layer(3)(torch.zeros(2, 1, dtype=dtype)).dtype == dtype


@BOTH
@pytest.mark.parametrize("constant", [3, 2.5, [1, 2], np.array([1.0, 2.0])])
def test_float32_input_comes_out_as_float32_for_the_next_layer(layer: Any, constant: Any) -> None:
    network = nn.Sequential(layer(constant), nn.Linear(2, 1))
    assert network(torch.zeros(3, 2)).dtype == torch.float32


@BOTH
def test_a_floating_tensor_keeps_its_dtype_and_is_copied(layer: Any) -> None:
    given = torch.tensor([1.0, 2.0], dtype=torch.float64)
    module = layer(given)
    assert module.constant.dtype == torch.float64
    given += 1
    np.testing.assert_array_equal(module.constant, [1.0, 2.0])
    array = np.array([1.0, 2.0])
    module = layer(array)
    array += 1
    np.testing.assert_array_equal(module.constant, [1.0, 2.0])


@BOTH
@pytest.mark.parametrize(
    ("constant", "shown"),
    [
        (-200, "-200"),
        (1 / 10, "0.1"),
        (2.5, "2.5"),
        (1e-12, "1e-12"),
        ([1, 2.5], "[1, 2.5]"),
        ([7], "[7]"),
        (range(10), "[0, 1, 2, 3, 4, 5, ... 10 in all]"),
        (np.float64(4200), "4200"),
        (torch.tensor(3), "3"),
    ],
)
def test_a_constant_is_shown_as_the_number_that_was_typed(
    layer: Any, constant: Any, shown: str
) -> None:
    assert repr(layer(constant)) == f"{layer.__name__}({shown})"


@BOTH
@pytest.mark.parametrize("constant", [-200, [1.0, 2.0]])
def test_a_copy_computes_the_same(layer: Any, constant: Any) -> None:
    module = layer(constant)
    x = torch.linspace(-3, 3, 8).reshape(4, 2)
    other = layer(np.zeros_like(constant))
    other.load_state_dict(module.state_dict())
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    saved = layer(np.zeros_like(constant))
    saved.load_state_dict(torch.load(file, weights_only=True))
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), other, saved):
        assert torch.equal(twin(x), module(x))
        assert repr(twin) == repr(module)


@BOTH
@pytest.mark.parametrize(
    ("constant", "error", "message"),
    [
        ("wide", TypeError, "expects a number or a vector of numbers, got 'wide'"),
        (None, ValueError, "expects finite numbers, got None"),
        ([1, "a"], TypeError, r"expects a number or a vector of numbers, got \[1, 'a'\]"),
        (2 + 1j, TypeError, r"expects a number or a vector of numbers, got \(2\+1j\)"),
        (float("nan"), ValueError, "expects finite numbers, got nan"),
        ([1.0, float("inf")], ValueError, r"expects finite numbers, got \[1.0, inf\]"),
        (torch.tensor([float("nan")]), ValueError, "expects finite numbers"),
        ([[1.0], [2.0]], ValueError, r"expects .* one number per column, got .* shape \(2, 1\)"),
        (1e300, ValueError, "expects finite numbers, got 1e"),
    ],
)
def test_what_is_no_finite_number_is_refused_by_name(
    layer: Any, constant: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{layer.__name__} {message}"):
        layer(constant)


def test_a_fixed_linear_map_is_that_of_a_linear_layer_and_is_never_trained() -> None:
    layer = nn.Linear(3, 2)
    fixed = FrozenLinear(layer.weight, layer.bias)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fixed(x), layer(x), rtol=0, atol=0)
    assert not [*fixed.parameters()]
    assert fixed.state_dict().keys() == layer.state_dict().keys()
    assert fixed.weight.data_ptr() != layer.weight.data_ptr()
    assert repr(fixed) == "FrozenLinear(in_features=3, out_features=2)"


@pytest.mark.parametrize(
    ("weight", "bias", "shapes"),
    [
        (torch.ones(3), torch.ones(1), r"\(3,\) and \(1,\)"),
        (torch.ones(2, 3), torch.ones(3), r"\(2, 3\) and \(3,\)"),
        (torch.ones(2, 3), torch.tensor(1.0), r"\(2, 3\) and \(\)"),
    ],
)
def test_a_fixed_linear_map_whose_shapes_do_not_fit_is_refused(
    weight: torch.Tensor, bias: torch.Tensor, shapes: str
) -> None:
    words = "a matrix, and a vector of one number for each of its rows, got shapes"
    with pytest.raises(ValueError, match=f"^FrozenLinear expects {words} {shapes}"):
        FrozenLinear(weight, bias)


def test_the_networks_of_the_lesson_speak_grams_before_any_training() -> None:
    flipper_mm = torch.linspace(170, 230, 61)[:, None]
    away, away_plain = [], []
    for seed in range(20):
        network = lesson(seed)
        with torch.no_grad():
            away.append((network(flipper_mm) - 4200).abs().mean() / 800)
            away_plain.append((network[2:5](flipper_mm) - 4200).abs().mean() / 800)
    # A standard deviation or two; the same networks without their constants miss by five.
    assert np.max(away) < 3
    assert np.median(away) < 1
    assert np.min(away_plain) > 4.5


def test_the_network_of_the_lesson_learns_in_a_loop_of_ones_own(penguins: pd.DataFrame) -> None:
    X = penguins[["flipper_length_mm"]].to_numpy(np.float32)
    y = penguins[["body_mass_g"]].to_numpy(np.float32)
    x, t = torch.tensor(X), torch.tensor(y)
    line = LinearRegression().fit(X, y)
    network = lesson(seed=0)
    optimizer = torch.optim.Rprop(network.parameters(), lr=0.01)
    for _ in range(500):
        optimizer.zero_grad()
        loss = ((network(x) - t) ** 2).mean()
        loss.backward()
        optimizer.step()
    rmse = float(loss.detach()) ** 0.5
    assert rmse < np.sqrt(np.mean((line.predict(X) - y) ** 2)) - 10
    assert [repr(network[i]) for i in (0, 1, 5, 6)] == [
        "AddConstant(-200)",
        "MultiplyByConstant(0.1)",
        "MultiplyByConstant(800)",
        "AddConstant(4200)",
    ]
