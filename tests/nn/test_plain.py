"""A plain network is its layers, one after the other."""

from __future__ import annotations

from functools import reduce

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from torchreg.nn import MLP, AddConstant
from torchreg.nn.mlp import ACTIVATIONS
from torchreg.nn.plain import is_plain, sequential_layers


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_to_call_the_layers_is_to_call_the_network(activation: str) -> None:
    torch.manual_seed(0)
    built_in = MLP(3, hidden_sizes=[4, 5], activation=activation, dropout=0.5)
    network = nn.Sequential(nn.Sequential(nn.Identity(), built_in), nn.Tanh()).eval()
    layers = sequential_layers(network)
    assert layers is not None
    assert len(layers) == 9
    x = torch.randn(7, 3)
    assert torch.equal(reduce(lambda values, layer: layer(values), layers, x), network(x))


class Doubling(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def with_forward_of_its_own() -> nn.Module:
    layer = nn.Linear(3, 1)
    layer.forward = lambda x: x[:, :1]  # type: ignore[method-assign]
    return layer


def with_hook(network: nn.Module, on: str) -> nn.Module:
    network.get_submodule(on).register_forward_hook(lambda module, args, output: 2 * output)
    return network


OTHERS = {
    "a class of the user's": lambda: Doubling(3, 1),
    "a layer that is not known": lambda: nn.Sequential(AddConstant(1.0), nn.Linear(3, 1)),
    "normalization": lambda: nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1)),
    "in place": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 1)),
    "a forward of its own": with_forward_of_its_own,
    "a hook": lambda: with_hook(nn.Linear(3, 1), ""),
    "a hook on the whole": lambda: with_hook(MLP(3), "layers"),
    "a parametrized weight": lambda: parametrizations.weight_norm(nn.Linear(3, 1)),
    "a pruned weight": lambda: prune.random_unstructured(nn.Linear(3, 1), "weight", amount=1),
    "a lazy layer": lambda: nn.LazyLinear(1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_anything_else_is_not_plain(name: str) -> None:
    network = OTHERS[name]()
    assert sequential_layers(network) is None
    assert not is_plain(network, in_features=3, out_features=1)


def test_widths_are_those_of_the_linear_layers() -> None:
    network = nn.Sequential(nn.Tanh(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert is_plain(network, in_features=3, out_features=2)
    assert not is_plain(network, in_features=2, out_features=2)
    assert not is_plain(network, in_features=3, out_features=1)
    network[2] = nn.Linear(5, 4)
    assert not is_plain(network, in_features=3, out_features=2)
    # Without a linear layer, as many columns come out as went in.
    assert is_plain(nn.Identity(), in_features=2, out_features=2)
    assert not is_plain(nn.Identity(), in_features=2, out_features=1)
