"""Layers with constants compute what NumPy does and are not trained."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchreg.nn import AddConstant, FrozenLinear, MultiplyByConstant

BOTH = pytest.mark.parametrize("layer", [AddConstant, MultiplyByConstant])


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
def test_a_constant_is_moved_and_cast_with_its_network(layer: Any) -> None:
    network = nn.Sequential(nn.Linear(2, 2), layer([1.0, 2.0]))
    assert network.double()[1].constant.dtype == torch.float64
    assert network.float()[1].constant.dtype == torch.float32
    assert network.to("meta")[1].constant.device.type == "meta"


@BOTH
@pytest.mark.parametrize("constant", [3, 2.5, [1, 2], np.array([1.0, 2.0])])
def test_float32_input_gives_float32_output(layer: Any, constant: Any) -> None:
    assert layer(constant)(torch.zeros(3, 2)).dtype == torch.float32
    assert layer(3)(torch.zeros(3, 2, dtype=torch.float64)).dtype == torch.float64


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
def test_a_constant_is_printed_with_few_digits(layer: Any, constant: Any, shown: str) -> None:
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
def test_other_constants_are_refused(
    layer: Any, constant: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{layer.__name__} {message}"):
        layer(constant)


def test_a_frozen_linear_layer_computes_what_a_linear_layer_does_and_is_not_trained() -> None:
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
def test_shapes_that_do_not_match_are_refused(
    weight: torch.Tensor, bias: torch.Tensor, shapes: str
) -> None:
    with pytest.raises(ValueError, match=f"^FrozenLinear expects .* got {shapes}"):
        FrozenLinear(weight, bias)
