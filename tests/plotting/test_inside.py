"""What is seen inside a network."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from torchreg.nn import MLP
from torchreg.plotting._inside import KINKS, distances_to_kinks, layer_outputs


def test_every_layer_is_seen_in_order_with_what_it_gives_and_the_module_is_left_alone() -> None:
    module = MLP(2, hidden_sizes=[3], dropout=0.5).double().eval()
    before = copy.deepcopy(module.state_dict())
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = layer_outputs(module, x)
    assert [type(layer.layer) for layer in seen] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    hidden = x
    for layer, (name, part) in zip(seen, module.layers.named_children(), strict=True):
        hidden = part(hidden)
        assert layer.name == f"layers.{name}"
        assert torch.equal(layer.values, hidden)
    assert not any(part._forward_hooks for part in module.modules())
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_what_a_layer_gave_is_kept_where_the_next_one_overwrites_it() -> None:
    module = nn.Sequential(nn.Linear(1, 4), nn.ReLU(inplace=True), nn.Linear(4, 1)).double()
    x = torch.linspace(-3, 3, 7, dtype=torch.float64).reshape(-1, 1)
    linear, relu, _ = layer_outputs(module, x)
    assert torch.equal(linear.values, module[0](x))
    assert torch.equal(relu.values, module[0](x).relu())


ACTIVATIONS: list[tuple[Callable[[Tensor], Tensor], list[float]]] = [
    (nn.ReLU(), [0]),
    (nn.ReLU(inplace=True), [0]),
    (torch.relu, [0]),
    (functional.relu, [0]),
    (lambda x: x.relu(), [0]),
    (nn.LeakyReLU(), [0]),
    (nn.PReLU(), [0]),
    (nn.RReLU().eval(), [0]),
    (nn.SELU(), [0]),
    (nn.ReLU6(), [0, 6]),
    (nn.Hardtanh(-2, 3), [-2, 3]),
    (nn.Hardtanh(), [-1, 1]),
    (nn.Hardsigmoid(), [-3, 3]),
    (nn.Hardswish(), [-3, 3]),
    (nn.Hardshrink(0.7), [-0.7, 0.7]),
    (nn.Softshrink(), [-0.5, 0.5]),
    (nn.Threshold(0.3, 9.0), [0.3]),
    (torch.abs, [0]),
    (lambda x: torch.clamp(x, min=0.2), [0.2]),
    (lambda x: x.clamp(-1, 2), [-1, 2]),
    (nn.Tanh(), []),
    (nn.GELU(), []),
    (nn.Sigmoid(), []),
    (nn.Softplus(), []),
]


class SingleBackend(nn.Module):
    """An activation, and a parameter so that there is a dtype."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.scale * x)


@pytest.mark.parametrize(("activation", "corners"), ACTIVATIONS)
def test_corners_are_where_the_slope_of_an_activation_jumps(
    activation: Callable[[Tensor], Tensor], corners: list[float]
) -> None:
    if isinstance(activation, nn.Module):
        activation = copy.deepcopy(activation).double()
    module = SingleBackend(activation).eval()
    x = torch.linspace(-8, 8, 161, dtype=torch.float64).reshape(-1, 1)
    _, distances = distances_to_kinks(module, x)
    np.testing.assert_allclose([8 - d[-1] for d in distances], corners)
    # An independent look: slopes to both sides of each corner, and of some other place.
    step = 1e-6
    for place in [*corners, 1.2345]:
        points = torch.tensor([place - step, place, place + step], dtype=torch.float64)
        low, middle, high = module(points.reshape(-1, 1)).detach().flatten().tolist()
        jumps = abs((high - middle) - (middle - low)) / step > 1e-3
        assert jumps == (place in corners)


def test_every_name_in_the_table_is_tried() -> None:
    tried = {"abs", "clamp", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu"}
    tried |= {"prelu", "relu", "relu6", "rrelu", "selu", "softshrink", "threshold"}
    assert set(KINKS) == tried
