"""Units that are scaled and shifted copies of others are found, however many there are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from torchreg.diagnosis.activation_slopes import slope_from_output
from torchreg.diagnosis.duplicates import UNEXPLAINED, count_duplicates
from torchreg.diagnosis.hidden_units import count_units


def hidden(n_layers: int, n_units: int, seed: int = 0, n: int = 200) -> Tensor:
    """Give what layers of ReLUs with random weights give: shape (n_layers, n, n_units)."""
    rng = np.random.default_rng(seed)
    x, weight = rng.normal(size=(n, 3)), rng.normal(size=(n_layers, 3, n_units))
    return torch.from_numpy(x @ weight + rng.normal(size=(n_layers, 1, n_units))).relu()


def count(layers: Tensor, which: np.ndarray | None = None) -> list[int]:
    """Count in all layers at once, and require the counts of each layer alone."""
    bending = np.ones((len(layers), layers.shape[2]), dtype=bool) if which is None else which
    found = count_duplicates(layers, bending)
    for number in range(len(layers)):
        alone = slice(number, number + 1)
        assert count_duplicates(layers[alone], bending[alone]) == found[alone]
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_copy_is_counted_once_in_its_own_layer(dtype: torch.dtype) -> None:
    layers = hidden(3, 40)
    assert count(layers.to(dtype)) == [0, 0, 0]
    layers[1, :, 30:] = -3.0 * layers[1, :, 10:20] + 7.0
    layers[2, :, 1:] = layers[2, :, :1] * torch.arange(2, 41)
    # A copy in another layer is none.
    layers[0, :, 0] = layers[2, :, 0]
    assert count(layers.to(dtype)) == [0, 10, 39]


def test_only_the_units_that_are_asked_for_are_compared() -> None:
    layers = hidden(2, 40)
    layers[:, :, 20:] = layers[:, :, :20]
    which = np.zeros((2, 40), dtype=bool)
    which[1, [3, 4, 23]] = True
    assert count(layers, which) == [0, 1]
    assert count(layers, which & False) == [0, 0]


def test_as_much_may_be_left_unexplained_as_the_definition_says() -> None:
    layers = hidden(1, 40)
    first, noise = layers[0, :, 0], layers[0, :, 1]
    first, noise = ((unit - unit.mean()) / unit.std() for unit in (first, noise))
    noise = noise - first * (first @ noise) / (first @ first)
    noise = noise / noise.std()
    for factor, found in ((0.5, 1), (2.0, 0)):
        layers[0, :, 2] = first + noise * (factor * UNEXPLAINED) ** 0.5
        assert count(layers) == [found]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_units_that_are_not_finite_have_no_copies(value: float) -> None:
    layers = hidden(1, 40)
    layers[0, :, 30:] = layers[0, :, :10]
    layers[0, 5, [0, 30]] = value
    assert count_duplicates(layers, np.ones((1, 40), dtype=bool)) == [9]


def test_units_in_bfloat16_are_counted() -> None:
    output = hidden(1, 40)[0].to(torch.bfloat16)
    (layer,) = count_units([1], "relu", *slope_from_output("relu", output))
    on = (output > 0).double().mean(dim=0)
    assert layer.n_bending == int(((on > 0) & (on < 1)).sum())
