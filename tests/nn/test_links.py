"""Links: positive means, quantiles that never cross, a mean with its standard deviation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from torchreg.nn import Exponential, Link, Normal, Quantiles, Unstandardize
from torchreg.nn.links import (
    columns_per_output,
    link_of,
    point_prediction,
    prediction_column,
    repeat_per_column,
    target_layer,
)

LEVELS = [[0.5], [0.9], [0.1, 0.9], [0.05, 0.3, 0.5], np.linspace(0.01, 0.99, 99)]
EACH_LEVELS = pytest.mark.parametrize("levels", LEVELS, ids=lambda levels: str(len(levels)))


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@EACH_LEVELS
def test_zeros_give_the_quantiles_of_the_standard_normal_distribution(levels: Any) -> None:
    found = Quantiles(levels)(torch.zeros(2, len(levels), dtype=torch.float64))
    np.testing.assert_allclose(found, [norm.ppf(levels)] * 2, atol=1e-12)


@EACH_LEVELS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantiles_of_any_input_do_not_cross(levels: Any, dtype: torch.dtype) -> None:
    for scale in (1e-3, 1.0, 1e3, 1e30):
        found = Quantiles(levels)((scale * normal(500, 3 * len(levels))).to(dtype))
        assert found.dtype == dtype and bool(torch.isfinite(found).all())
        # (n, n_outputs * n_levels) -> (n, n_outputs, n_levels)
        quantiles = found.reshape(500, 3, -1)
        assert bool((quantiles.diff(dim=-1) >= 0).all())


@EACH_LEVELS
def test_any_ascending_quantiles_can_be_represented(levels: Any) -> None:
    wanted = normal(20, len(levels)).exp().cumsum(dim=1)
    layer = Quantiles(levels)
    m = layer.index
    steps = wanted.diff(dim=1).expm1().log()
    parts = [steps[:, :m], wanted[:, m : m + 1], steps[:, m:]]
    found = layer(torch.cat(parts, dim=1) - layer.offset)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_the_columns_of_an_output_are_adjacent_and_independent_of_other_outputs() -> None:
    layer, p = Quantiles([0.1, 0.5, 0.9]), normal(7, 6)
    both = layer(p)
    np.testing.assert_array_equal(both[:, :3], layer(p[:, :3]))
    np.testing.assert_array_equal(both[:, 3:], layer(p[:, 3:]))
    np.testing.assert_array_equal(layer.point_prediction(both), p[:, [1, 4]])
    np.testing.assert_array_equal(layer(p.reshape(7, 1, 6))[:, 0], both)


@pytest.mark.parametrize(
    ("levels", "ordered", "index"),
    [
        ([0.9, 0.5, 0.1], (0.1, 0.5, 0.9), 1),
        ([0.5, 0.6, 0.7], (0.5, 0.6, 0.7), 0),
        ([0.1, 0.2, 0.3], (0.1, 0.2, 0.3), 1),
        ([0.8], (0.8,), 0),
    ],
)
def test_levels_are_sorted_and_the_median_is_the_prediction(
    levels: list[float], ordered: tuple[float, ...], index: int
) -> None:
    layer = Quantiles(levels)
    assert (layer.levels, layer.index, layer.per_output) == (ordered, index, len(ordered))


def test_a_level_is_found_despite_rounding() -> None:
    layer = Quantiles([0.1, 0.3])
    assert [layer.find_level(level) for level in (0.1 + 0.2, 0.1, 0.2)] == [1, 0, None]


def test_zeros_give_the_standard_normal_distribution_and_the_std_is_positive() -> None:
    np.testing.assert_allclose(Normal()(torch.zeros(1, 4)), [[0, 1, 0, 1]], atol=1e-6)
    p = torch.tensor([[3.0, -1e30], [-2.0, 1e30]], dtype=torch.float64)
    mean, std = Normal().mean_and_std(p)
    np.testing.assert_array_equal(mean[:, 0], [3.0, -2.0])
    np.testing.assert_allclose(std[:, 0], [1e-3, 1e30])
    np.testing.assert_array_equal(Normal()(p), torch.cat([mean, std], dim=1))


@pytest.mark.parametrize("link", [Exponential(), Normal(), Quantiles([0.1, 0.5, 0.9])], ids=repr)
def test_the_gradient_of_a_link_is_that_of_finite_differences(link: Link) -> None:
    p = normal(5, 2 * link.per_output).requires_grad_()
    assert torch.autograd.gradcheck(link, (p,))


def test_means_and_scales_are_repeated_for_each_column_and_a_difference_has_mean_0() -> None:
    mean, scale = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    for link, means, scales in (
        (None, [1, 2], [10, 20]),
        (Exponential(), [1, 2], [10, 20]),
        (Normal(), [1, 0, 2, 0], [10, 10, 20, 20]),
        (Quantiles([0.1, 0.2, 0.3]), [1, 1, 1, 2, 2, 2], [10, 10, 10, 20, 20, 20]),
    ):
        found = repeat_per_column(link, mean, scale)
        np.testing.assert_array_equal(found[0], means)
        np.testing.assert_array_equal(found[1], scales)
        children: dict[str, nn.Module] = {"network": nn.Identity()}
        children |= {} if link is None else {"link": link}
        module = nn.Sequential()
        for name, child in {**children, "unstandardize": Unstandardize(*found)}.items():
            module.add_module(name, child)
        layer = target_layer(module)
        assert layer is not None
        np.testing.assert_array_equal(layer.mean, mean)
        np.testing.assert_array_equal(layer.scale, scale)
        assert link_of(module) is link
        assert columns_per_output(module) == len(means) // 2
        values = normal(3, len(means))
        predicted = point_prediction(module, values)
        assert predicted.shape == (3, 2)
        for output in (0, 1):
            np.testing.assert_array_equal(
                predicted[:, output], values[:, prediction_column(module, output)]
            )
    assert target_layer(nn.Sequential()) is None


def test_initial_targets_are_approximate_network_outputs() -> None:
    t = torch.tensor([[0.0, 1.0], [0.5, 3.0]])
    found = Exponential().initial_target(t)
    np.testing.assert_allclose(found, [[-1, 0], [-0.5, np.log(3)]], rtol=1e-6)
    np.testing.assert_array_equal(Normal().initial_target(t), [[0, 0, 1, 0], [0.5, 0, 3, 0]])
    found = Quantiles([0.2, 0.5]).initial_target(t)
    np.testing.assert_array_equal(found, [[0, 0, 0, 1], [0, 0.5, 0, 3]])


def test_the_offsets_of_quantiles_are_in_the_state_dict() -> None:
    assert [*Quantiles([0.1, 0.5]).state_dict()] == ["offset"]
    assert not Normal().state_dict() and not Exponential().state_dict()
