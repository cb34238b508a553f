"""Standardize and Unstandardize are exact inverses."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler
from torch import nn

from torchreg.nn import Standardize, Unstandardize

Array = np.ndarray
EPS64, EPS32 = np.finfo(np.float64).eps, np.finfo(np.float32).eps
BOTH = pytest.mark.parametrize("layer", [Standardize, Unstandardize])


def of(X: Array, **options: Any) -> Standardize:
    """Standardize by the mean and standard deviation of some rows."""
    return Standardize(X.mean(axis=0), X.std(axis=0), **options)


def assert_round_trip(X: Array, layer: Standardize, *, eps: float) -> None:
    """Compare the error of a round trip with the sum of the rounding errors of its operations."""
    x = torch.from_numpy(X)
    back = layer.inverse()(layer(x)).numpy()
    exact = X.astype(np.float64)
    bound = (2 * EPS64 + eps) * np.abs(exact - layer.mean.numpy()) + EPS64 * np.abs(exact)
    assert back.shape == X.shape
    assert back.dtype == np.float64
    assert (np.abs(back - exact) <= bound).all()


# Round trips


@pytest.mark.parametrize("shape", [(50, 3), (50, 1), (2, 3), (4, 5, 3), (0, 3)])
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12, 1e-150, 1e150])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e6])
def test_a_round_trip_returns_the_input(shape: tuple[int, ...], size: float, offset: float) -> None:
    rng = np.random.default_rng(0)
    width = shape[-1]
    layer = of(size * (offset + rng.normal(size=(50, width))))
    assert_round_trip(size * (offset + rng.normal(size=shape)), layer, eps=EPS64)


@pytest.mark.parametrize(
    ("dtype", "eps"),
    [("float64", EPS64), ("float32", EPS32), ("float16", np.finfo(np.float16).eps)],
)
def test_a_round_trip_is_accurate_to_the_dtype(dtype: str, eps: float) -> None:
    X = np.random.default_rng(0).normal(200, 10, size=(50, 3)).astype(dtype)
    assert_round_trip(X, of(X.astype(np.float64)), eps=eps)
    assert_round_trip(X, of(X.astype(np.float64), dtype=torch.float64), eps=EPS64)


@pytest.mark.parametrize("constant", [0.0, 7.0, 0.1, 1e-12, -1e12, 1.7e9])
def test_a_constant_column_makes_an_exact_round_trip(constant: float) -> None:
    X = np.full((5, 2), constant)
    layer = Standardize([constant, constant], [0.0, 0.0])
    assert not layer(torch.from_numpy(X)).any()
    np.testing.assert_array_equal(layer.inverse()(layer(torch.from_numpy(X))), X)


@given(
    exponents=st.lists(st.integers(-400, 400), min_size=3, max_size=3),
    offsets=st.lists(st.integers(-1000, 1000), min_size=3, max_size=3),
)
def test_a_round_trip_with_powers_of_two_as_scales_is_exact(
    exponents: list[int], offsets: list[int]
) -> None:
    scale = 2.0 ** np.array(exponents)
    mean = scale * offsets
    steps = np.random.default_rng(0).integers(-64, 64, size=(10, 3)) / 8
    X = mean + scale * steps
    layer = Standardize(mean, scale)
    np.testing.assert_array_equal(layer(torch.from_numpy(X)), steps)
    np.testing.assert_array_equal(layer.inverse()(torch.from_numpy(steps)), X)


# Values


def test_standardize_agrees_with_standard_scaler() -> None:
    X = np.random.default_rng(0).normal(200, 10, size=(50, 3))
    expected = StandardScaler().fit_transform(X)
    np.testing.assert_allclose(of(X)(torch.from_numpy(X)), expected, rtol=1e-12, atol=1e-12)
    back = StandardScaler().fit(X).inverse_transform(expected)
    np.testing.assert_allclose(of(X).inverse()(torch.from_numpy(expected)), back, rtol=1e-14)


def test_a_large_offset_is_subtracted_before_the_cast() -> None:
    seconds = np.arange(-100.0, 101.0)[:, None]
    layer = Standardize([1.7e9], [64.0], dtype=torch.float32)
    z = layer(torch.from_numpy(seconds + 1.7e9))
    assert z.dtype == torch.float32
    np.testing.assert_array_equal(z, (seconds / 64).astype(np.float32))


@pytest.mark.parametrize("value", [7.0, -1e300, 1e300])
def test_a_constant_column_is_0_for_any_input_and_has_gradient_0(value: float) -> None:
    x = torch.tensor([[210.0, value]], dtype=torch.float64, requires_grad=True)
    z = Standardize([200.0, 7.0], [10.0, 0.0])(x)
    z.sum().backward()
    np.testing.assert_array_equal(z.detach(), [[1.0, 0.0]])
    np.testing.assert_allclose(x.grad, [[0.1, 0.0]])


def test_a_constant_target_is_predicted_exactly() -> None:
    z = torch.tensor([[-3.0], [1e6]])
    np.testing.assert_array_equal(Unstandardize([0.1], [0.0])(z), [[0.1], [0.1]])


# Modules


@BOTH
@pytest.mark.parametrize(("mean", "scale"), [(4200, 800), ([1.0, 2.0], [3.0, 0.0])])
def test_mean_and_scale_are_float64_buffers_and_not_parameters(
    layer: Any, mean: Any, scale: Any
) -> None:
    module = layer(mean, scale)
    assert list(module.parameters()) == []
    state = module.state_dict()
    assert list(state) == ["mean", "scale"]
    assert {value.dtype for value in state.values()} == {torch.float64}
    np.testing.assert_array_equal(state["mean"], mean)
    np.testing.assert_array_equal(state["scale"], scale)


@BOTH
def test_a_layer_is_printed_with_its_statistics(layer: Any) -> None:
    name = layer.__name__
    assert repr(layer(4200, 800)) == f"{name}(mean=4200, scale=800)"
    assert repr(layer([200, 0.1], [10, 1e-12])) == f"{name}(mean=[200, 0.1], scale=[10, 1e-12])"
    eight = np.arange(8)
    assert repr(layer(eight, eight)).count("... 8 in all") == 2


@BOTH
@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_a_copy_computes_the_same(layer: Any, dtype: torch.dtype | None) -> None:
    options = {} if layer is Unstandardize else {"dtype": dtype}
    module = layer([200.0, 7.0], [10.0, 0.0], **options)
    x = torch.tensor([[181.0, 7.0], [210.0, 9.0]], dtype=torch.float64)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    loaded = layer([0.0, 0.0], [1.0, 1.0], **options)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded):
        assert torch.equal(twin(x), module(x))
        assert twin(x).dtype == module(x).dtype
        assert repr(twin) == repr(module)


# dtypes


@pytest.mark.parametrize("of_input", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64])
def test_the_output_has_the_given_dtype_or_that_of_the_input(
    of_input: torch.dtype, dtype: torch.dtype | None
) -> None:
    layer, x = Standardize([1.0], [2.0], dtype=dtype), torch.zeros(3, 1, dtype=of_input)
    assert layer(x).dtype == (dtype or of_input)
    # Only casts change it, and not the dtype of the input.
    assert layer.to("meta").dtype == dtype and layer.mean.dtype == torch.float64
    assert Standardize([1.0], [2.0]).double().dtype is None


@pytest.mark.parametrize(
    ("cast", "expected"),
    [
        (nn.Module.float, torch.float32),
        (nn.Module.double, torch.float64),
        (lambda network: network.to(torch.float32), torch.float32),
        (lambda network: network.to("cpu", torch.float64), torch.float64),
        (lambda network: network.to(torch.zeros(1, dtype=torch.float64)), torch.float64),
    ],
)
@pytest.mark.parametrize("core", [torch.float32, torch.float64])
def test_casting_a_network_casts_the_output_of_standardize(
    cast: Any, expected: torch.dtype, core: torch.dtype
) -> None:
    network = nn.Sequential(Standardize([200.0], [10.0], dtype=core), nn.Linear(1, 1).to(core))
    cast(network)
    assert network[0].dtype == network[1].weight.dtype == expected
    x = torch.tensor([[181.0]], dtype=torch.float64)
    assert network(x).dtype == expected
    np.testing.assert_allclose(network[0](x), [[-1.9]], rtol=1e-6)


# Errors


@BOTH
@pytest.mark.parametrize(
    ("mean", "scale", "error", "message"),
    [
        ([1.0, 2.0], [1.0], ValueError, r"same shape, got \(2,\) and \(1,\)"),
        (1.0, [1.0], ValueError, r"same shape, got \(\) and \(1,\)"),
        ([1.0, 2.0], [1.0, -3.0], ValueError, r"scales of 0 or more, got \[1, -3\]"),
        (float("nan"), 1.0, ValueError, r"\(mean=\.\.\.\) expects finite numbers, got nan"),
        (0.0, float("inf"), ValueError, r"\(scale=\.\.\.\) expects finite numbers, got inf"),
        ("wide", 1.0, TypeError, r"\(mean=\.\.\.\) expects a number or a vector .* got 'wide'"),
        ([[1.0]], [[1.0]], ValueError, r"one number per column, got an array of shape \(1, 1\)"),
    ],
)
def test_invalid_statistics_are_refused(
    layer: Any, mean: Any, scale: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{layer.__name__}.*{message}"):
        layer(mean, scale)
