"""The MLP is equivalent to an nn.Sequential."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchreg.nn import MLP

BY_NAME: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "identity": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def rows(n_features: int) -> Tensor:
    return torch.randn(20, n_features, generator=torch.Generator().manual_seed(0))


def kinds(network: MLP) -> list[type[nn.Module]]:
    return [type(layer) for layer in network.layers]


@pytest.mark.parametrize(
    ("sizes", "in_features", "out_features"),
    [((), 3, 1), ((5,), 1, 1), ((7, 4), 2, 3), ((4, 4, 4, 4), 5, 2)],
)
def test_the_output_is_that_of_a_sequential_with_the_same_weights(
    sizes: tuple[int, ...], in_features: int, out_features: int
) -> None:
    network = MLP(in_features, out_features, hidden_sizes=sizes)
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip((in_features, *sizes), (*sizes, out_features), strict=True):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    by_hand = nn.Sequential(*layers[:-1])
    by_hand.load_state_dict(network.layers.state_dict())
    assert [repr(layer) for layer in network.layers] == [repr(layer) for layer in by_hand]
    x = rows(in_features)
    assert torch.equal(network(x), by_hand(x))
    assert network(x).shape == (20, out_features)
    assert repr(MLP(4)) == repr(MLP(4, 1, hidden_sizes=[100], activation="relu"))


def test_the_same_seed_gives_the_weights_of_the_sequential() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MLP(1, hidden_sizes=[5])
        torch.manual_seed(0)
        by_hand = nn.Sequential(nn.Linear(1, 5), nn.ReLU(), nn.Linear(5, 1))
    for ours, theirs in zip(network.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", BY_NAME)
def test_an_activation_by_name_is_the_module_of_torch(name: str) -> None:
    network = MLP(2, hidden_sizes=[6, 6], activation=name)
    x = rows(2)
    first, second, last = (network.layers[i] for i in (0, 2, 4))
    activation = BY_NAME[name]()
    assert kinds(network) == [nn.Linear, BY_NAME[name], nn.Linear, BY_NAME[name], nn.Linear]
    assert torch.equal(network(x), last(activation(second(activation(first(x))))))


@pytest.mark.parametrize("activation", [nn.Hardswish, lambda: nn.LeakyReLU(0.3)])
def test_an_activation_may_be_a_callable_that_builds_a_module(activation: Any) -> None:
    network = MLP(2, hidden_sizes=[6, 6], activation=activation)
    assert repr(network.layers[1]) == repr(network.layers[3]) == repr(activation())
    assert network.layers[1] is not network.layers[3]


@pytest.mark.parametrize(
    "sizes", [5, np.int64(5), (5,), [5], np.array([5]), (np.int64(5),), range(5, 6)]
)
def test_hidden_sizes_may_be_any_sequence_of_integers_or_one_integer(sizes: Any) -> None:
    assert MLP(1, hidden_sizes=sizes).layers[0].out_features == 5


def test_dropout_follows_every_activation_and_not_the_output() -> None:
    network = MLP(2, hidden_sizes=[6, 5], dropout=0.25)
    hidden = [nn.Linear, nn.ReLU, nn.Dropout]
    assert kinds(network) == [*hidden, *hidden, nn.Linear]
    assert {layer.p for layer in network.layers if isinstance(layer, nn.Dropout)} == {0.25}
    assert nn.Dropout not in kinds(MLP(2, hidden_sizes=[6, 5]))


def test_dropout_sets_its_share_of_units_to_0_only_in_training() -> None:
    network = MLP(1, 1, hidden_sizes=[10_000], activation="identity", dropout=0.25)
    hidden = network.layers[:3]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = float((hidden(torch.ones(1, 1)) == 0).float().mean())
    # Six standard deviations of a binomial share.
    assert abs(dropped - 0.25) < 6 * (0.25 * 0.75 / 10_000) ** 0.5
    network.eval()
    x = rows(1)
    assert torch.equal(network(x), network.layers[3](network.layers[0](x)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_sizes": [0]}, r"layer sizes of 1 or more, got \[1, 0, 1\]"),
        ({"hidden_sizes": [-3]}, r"layer sizes of 1 or more, got \[1, -3, 1\]"),
        ({"hidden_sizes": [2.5]}, r"layer sizes of 1 or more, got \[1, 2\.5, 1\]"),
        ({"hidden_sizes": [5, True]}, r"layer sizes of 1 or more, got \[1, 5, True, 1\]"),
        ({"hidden_sizes": ["a"]}, r"layer sizes of 1 or more, got \[1, 'a', 1\]"),
        ({"hidden_sizes": [math.nan]}, r"layer sizes of 1 or more, got \[1, nan, 1\]"),
        ({"out_features": 0}, r"layer sizes of 1 or more, got \[1, 100, 0\]"),
        ({"hidden_sizes": None}, r"hidden_sizes like \(100, 100\), got None"),
        ({"hidden_sizes": 5.5}, r"hidden_sizes like \(100, 100\), got 5\.5"),
        *(({"dropout": p}, f"dropout from 0 to less than 1, got {p}") for p in (-0.1, 1, math.nan)),
        (
            {"activation": "rellu"},
            "'rellu'.* Did you mean 'relu'.* Known: 'elu', 'gelu', 'identity', .*",
        ),
        ({"activation": 3}, "Unknown activation 3"),
        ({"activation": nn.ReLU()}, r"callable .* nn\.ReLU \(the class, not an"),
        ({"activation": torch.tanh}, r"callable .* nn\.ReLU \(the class, not an"),
    ],
)
def test_invalid_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        MLP(1, **options)
