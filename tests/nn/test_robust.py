"""Laws of robust scaling."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from torchreg.nn import RobustStandardize, ScaledAndClipped, TabularMLP
from torchreg.nn.robust import robust_statistics

rng = np.random.default_rng(0)
ROWS = torch.as_tensor(np.exp(rng.normal(size=(41, 5))) * [1, 1e3, 1e-6, 10, 1e8])


def quartiles(x: np.ndarray) -> Any:
    return np.quantile(x, [0.25, 0.5, 0.75], axis=0, method="averaged_inverted_cdf")


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 39, 40, 41])
@pytest.mark.parametrize("weighted", [False, True])
def test_center_and_scale_are_numpys_quartiles(n: int, weighted: bool) -> None:
    x = ROWS[:n]
    weight = torch.as_tensor(rng.integers(0, 4, n)) + torch.eye(n, dtype=torch.int64)[0]
    many = x.repeat_interleave(weight, 0) if weighted else x
    # The unit of the weights is arbitrary.
    center, scale, _ = robust_statistics(x, weight / 3 if weighted else None)
    low, median, high = quartiles(many.numpy())
    several = (many.unique(dim=0).shape[0] > 2) & (high > low)
    np.testing.assert_allclose(center[several], median[several], rtol=1e-12)
    np.testing.assert_allclose(scale[several], (high - low)[several], rtol=1e-12)


def test_a_continuous_column_is_scaled_by_quartiles_and_clipped_smoothly() -> None:
    low, median, high = quartiles(ROWS.numpy())
    z = (ROWS.numpy() - median) / (high - low)
    layer = RobustStandardize.from_rows(ROWS)
    np.testing.assert_allclose(layer(ROWS), z / np.sqrt(1 + (z / 3) ** 2), rtol=1e-12)


def test_scaled_columns_precede_clipped_ones() -> None:
    layer, both = RobustStandardize.from_rows(ROWS), ScaledAndClipped.from_rows(ROWS)
    assert torch.equal(both(ROWS), torch.cat([layer.rescale(ROWS), layer(ROWS)], dim=1))


@pytest.mark.parametrize("weighted", [False, True])
def test_values_are_clamped_to_the_range_of_the_rows_extended_by_its_width(weighted: bool) -> None:
    rows = torch.tensor([[170.0], [200.0], [210.0], [230.0]])
    weight = torch.tensor([1.0, 2.0, 1.0, 1.0]) if weighted else None
    if weighted:  # a row of weight 0 does not count
        rows, weight = torch.cat([rows, torch.tensor([[1e6]])]), torch.tensor([1.0, 2, 1, 1, 0])
    layer = ScaledAndClipped.from_rows(rows, weight)
    assert (float(layer.low), float(layer.high)) == (110, 290)
    near, far = torch.tensor([[111.0], [289.0]]), torch.tensor([[-1e9], [1e9]])
    plain = RobustStandardize(layer.center, layer.scale)
    assert torch.equal(layer.rescale(near), plain.rescale(near))
    assert torch.equal(layer(far), layer(torch.tensor([[110.0], [290.0]])))


@pytest.mark.parametrize("low", [[1.0, 2.0], float("nan"), [[0.0]]])
def test_invalid_bounds_are_refused(low: Any) -> None:
    with pytest.raises(ValueError, match=r"ScaledAndClipped\(low=...\) expects a number, or one"):
        ScaledAndClipped([0.0], [1.0], low=low)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clipped_values_are_within_3(dtype: torch.dtype) -> None:
    layer = RobustStandardize([0.0], [1.0])
    far = torch.tensor([[1e30], [-1e30], [1e9], [1e3]], dtype=dtype)
    expected = torch.tensor([[3.0], [-3.0], [3.0], [3.0]], dtype=dtype)
    torch.testing.assert_close(layer(far), expected, rtol=1e-5, atol=0)


def test_the_output_is_independent_of_the_unit() -> None:
    for factor, offset in ((1e-3, 0.0), (-254.0, 17.0)):
        other = factor * ROWS + offset
        expected = np.sign(factor) * RobustStandardize.from_rows(ROWS)(ROWS)
        torch.testing.assert_close(
            RobustStandardize.from_rows(other)(other), expected, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("n_ones", [1, 10, 500, 999])
@pytest.mark.parametrize("values", [(0.0, 1.0), (-7.5, 1e6)])
def test_a_binary_column_has_mean_0_and_range_2_however_rare_a_value_is(
    n_ones: int, values: tuple[float, float]
) -> None:
    x = torch.full((1000, 1), values[0], dtype=torch.float64)
    x[:n_ones] = values[1]
    layer = RobustStandardize.from_rows(x)
    z = layer(x)
    assert layer.binary.all()
    assert float(z.amax() - z.amin()) == pytest.approx(2)
    assert float(z.mean()) == pytest.approx(0, abs=1e-12)
    assert float(z.abs().amax()) <= 2


def test_a_constant_column_is_0() -> None:
    x = torch.tensor([[7.0, 0.3], [7.0, 0.1 + 0.2]], dtype=torch.float64)
    layer = RobustStandardize.from_rows(x)
    assert layer.scale.tolist() == [0, 0]
    assert layer(torch.tensor([[1e9, -1e9]])).tolist() == [[0, 0]]


def test_the_scale_is_half_the_range_if_the_quartiles_coincide() -> None:
    x = torch.tensor([[0.0]] * 10 + [[1.0], [5.0]])
    assert robust_statistics(x)[1].tolist() == [2.5]
    # Rounding errors of ties are no interquartile range.
    noise = torch.tensor([[0.3], [0.1 + 0.2]] * 5 + [[1.0], [5.0]], dtype=torch.float64)
    assert float(robust_statistics(noise)[1]) == pytest.approx(2.35)


def test_rows_of_weight_0_do_not_count() -> None:
    x = torch.tensor([[1.0], [2.0], [3.0], [1e6]])
    one = robust_statistics(x, torch.tensor([2.0, 2.0, 2.0, 0.0]))
    assert all(map(torch.equal, one, robust_statistics(x[:3])))
    with pytest.raises(ValueError, match="expects rows with a weight above 0, got none"):
        robust_statistics(x, torch.zeros(4))


def test_the_subtraction_precedes_the_cast() -> None:
    time = torch.tensor([[1.7e9], [1.7e9 + 50], [1.7e9 + 100], [1.7e9 + 7]], dtype=torch.float64)
    layer = RobustStandardize.from_rows(time, dtype=torch.float32)
    centred = RobustStandardize.from_rows(time - 1.7e9, dtype=torch.float32)
    assert layer(time).dtype == torch.float32
    assert torch.equal(layer(time), centred(time - 1.7e9))
    assert layer.double()(time).dtype == torch.float64


def test_standardized_rows_give_the_same_output() -> None:
    standard = (ROWS - ROWS.mean(0)) / ROWS.std(0)
    layer = RobustStandardize(torch.zeros(5), torch.ones(5)).float()
    layer.initialize_from(standard.float(), None, None)
    expected = RobustStandardize.from_rows(ROWS)(ROWS).float()
    torch.testing.assert_close(layer(standard.float()), expected, rtol=1e-4, atol=1e-5)


def test_a_state_dict_restores_the_layer() -> None:
    x = torch.cat([ROWS, (ROWS[:, :1] > 1).double(), torch.ones(len(ROWS), 1)], dim=1)
    layer = RobustStandardize.from_rows(x)
    assert layer.continuous_columns() == [0, 1, 2, 3, 4]
    other = RobustStandardize(torch.zeros(7), torch.ones(7))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    assert repr(copy.deepcopy(layer)) == repr(layer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [1.0, 2.0]), "expects one scale for each center, got 2 for 1"),
        (([[1.0]], [[1.0]]), r"RobustStandardize\(center=...\) expects a finite number, or one"),
        (([1.0], [float("nan")]), r"RobustStandardize\(scale=...\) expects a finite number"),
        (([1.0], [-1.0]), "RobustStandardize expects scales of 0 or more"),
        (([1.0], [1.0], [0.5]), "expects binary as a bool, or one for each column"),
        (([1.0], [1.0], [True, False]), "expects binary as a bool, or one for each column"),
    ],
)
def test_invalid_arguments_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RobustStandardize(*arguments)


def test_the_built_in_network_can_be_built_without_memory() -> None:
    with torch.device("meta"):
        network = TabularMLP(3)
    assert all(parameter.is_meta for parameter in network.parameters())
    assert network(torch.zeros(5, 3, device="meta")).shape == (5, 1)
