"""Calling a sequence of known layers is equivalent to calling the network."""

from __future__ import annotations

from functools import reduce

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from torchreg.nn import MLP, AddConstant
from torchreg.nn.mlp import ACTIVATIONS, sequential_layers


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_calling_the_layers_is_equivalent_to_calling_the_network(activation: str) -> None:
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


def with_forward_attribute() -> nn.Module:
    layer = nn.Linear(3, 1)
    layer.forward = lambda x: x[:, :1]
    return layer


def with_hook(network: nn.Module, on: str) -> nn.Module:
    network.get_submodule(on).register_forward_hook(lambda module, args, output: 2 * output)
    return network


OTHERS = {
    "a subclass": lambda: Doubling(3, 1),
    "an unknown layer": lambda: nn.Sequential(AddConstant(1.0), nn.Linear(3, 1)),
    "normalization": lambda: nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1)),
    "in place": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 1)),
    "a forward attribute": with_forward_attribute,
    "a hook": lambda: with_hook(nn.Linear(3, 1), ""),
    "a hook on a child": lambda: with_hook(MLP(3), "layers"),
    "a parametrized weight": lambda: parametrizations.weight_norm(nn.Linear(3, 1)),
    "a pruned weight": lambda: prune.random_unstructured(nn.Linear(3, 1), "weight", amount=1),
    "a lazy layer": lambda: nn.LazyLinear(1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_are_not_recognized(name: str) -> None:
    assert sequential_layers(OTHERS[name]()) is None
