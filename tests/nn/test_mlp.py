"""The built-in network is the nn.Sequential that one would write by hand."""

from __future__ import annotations

from collections.abc import Sequence
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
def test_it_computes_what_a_sequential_with_the_same_weights_computes(
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


def test_the_same_seed_draws_the_weights_of_the_sequential() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MLP(1, hidden_sizes=[5])
        torch.manual_seed(0)
        by_hand = nn.Sequential(nn.Linear(1, 5), nn.ReLU(), nn.Linear(5, 1))
    for ours, theirs in zip(network.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_its_default_is_one_hidden_layer_of_100_relu_units_and_one_output() -> None:
    network = MLP(4)
    assert kinds(network) == [nn.Linear, nn.ReLU, nn.Linear]
    assert network.layers[0].weight.shape == (100, 4)
    assert network(rows(4)).shape == (20, 1)


def test_without_hidden_layers_it_is_linear() -> None:
    network = MLP(3, 2, hidden_sizes=())
    x = rows(3)
    expected = x @ network.layers[0].weight.T + network.layers[0].bias
    np.testing.assert_allclose(network(x).detach(), expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BY_NAME)
def test_an_activation_by_name_is_the_module_of_torch(name: str) -> None:
    network = MLP(2, hidden_sizes=[6, 6], activation=name)
    x = rows(2)
    first, second, last = (network.layers[i] for i in (0, 2, 4))
    activation = BY_NAME[name]()
    assert kinds(network) == [nn.Linear, BY_NAME[name], nn.Linear, BY_NAME[name], nn.Linear]
    assert torch.equal(network(x), last(activation(second(activation(first(x))))))


@pytest.mark.parametrize("activation", [nn.Hardswish, lambda: nn.LeakyReLU(0.3)])
def test_an_activation_may_be_anything_that_builds_a_module(activation: Any) -> None:
    network = MLP(2, hidden_sizes=[6, 6], activation=activation)
    assert repr(network.layers[1]) == repr(network.layers[3]) == repr(activation())
    assert network.layers[1] is not network.layers[3]


@pytest.mark.parametrize("sizes", [5, (5,), [5], np.array([5]), (np.int64(5),), range(5, 6)])
def test_hidden_sizes_may_be_any_sequence_of_integers_or_one_integer(sizes: Any) -> None:
    assert MLP(1, hidden_sizes=sizes).layers[0].out_features == 5


def test_a_single_hidden_size_may_be_an_integer_of_numpy() -> None:
    # As a grid over np.arange hands it over.
    assert MLP(1, hidden_sizes=np.int64(5)).layers[0].out_features == 5


def test_dropout_follows_every_activation_and_not_the_output() -> None:
    network = MLP(2, hidden_sizes=[6, 5], dropout=0.25)
    hidden = [nn.Linear, nn.ReLU, nn.Dropout]
    assert kinds(network) == [*hidden, *hidden, nn.Linear]
    assert {layer.p for layer in network.layers if isinstance(layer, nn.Dropout)} == {0.25}
    assert nn.Dropout not in kinds(MLP(2, hidden_sizes=[6, 5]))


def test_dropout_silences_its_share_of_units_while_training_and_none_after() -> None:
    network = MLP(1, 1, hidden_sizes=[10_000], activation="identity", dropout=0.25)
    hidden = network.layers[:3]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        silenced = float((hidden(torch.ones(1, 1)) == 0).float().mean())
    # Six standard deviations of a binomial share.
    assert abs(silenced - 0.25) < 6 * (0.25 * 0.75 / 10_000) ** 0.5
    network.eval()
    x = rows(1)
    assert torch.equal(network(x), network.layers[3](network.layers[0](x)))


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [
        ([0], r"\[1, 0, 1\]"),
        ([-3], r"\[1, -3, 1\]"),
        ([2.5], r"\[1, 2\.5, 1\]"),
        ([5, True], r"\[1, 5, True, 1\]"),
        (["a"], r"\[1, 'a', 1\]"),
        ([float("nan")], r"\[1, nan, 1\]"),
    ],
)
def test_a_layer_size_that_is_no_positive_integer_is_refused(
    sizes: Sequence[Any], shown: str
) -> None:
    with pytest.raises(ValueError, match=f"MLP expects layer sizes of 1 or more, got {shown}"):
        MLP(1, hidden_sizes=sizes)


@pytest.mark.parametrize("sizes", [None, 5.5])
def test_hidden_sizes_that_are_no_sequence_are_refused_by_name(sizes: Any) -> None:
    with pytest.raises(
        (ValueError, TypeError), match=rf"MLP expects hidden_sizes like \(100, 100\), got {sizes}"
    ):
        MLP(1, hidden_sizes=sizes)


@pytest.mark.parametrize(("widths", "shown"), [((0, 1), r"\[0, 5, 1\]"), ((1, 0), r"\[1, 5, 0\]")])
def test_a_width_of_nothing_is_refused(widths: tuple[int, int], shown: str) -> None:
    with pytest.raises(ValueError, match=f"layer sizes of 1 or more, got {shown}"):
        MLP(*widths, hidden_sizes=[5])


@pytest.mark.parametrize("dropout", [-0.1, 1, 1.5, float("nan")])
def test_a_dropout_that_is_no_probability_below_1_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match=f"dropout from 0 to less than 1, got {dropout}"):
        MLP(1, dropout=dropout)


def test_an_unknown_activation_is_refused_with_the_near_and_all_known_names() -> None:
    with pytest.raises(ValueError, match=r"Unknown activation 'rellu'\. Did you mean 'relu'") as e:
        MLP(1, activation="rellu")
    assert all(repr(name) in str(e.value) for name in BY_NAME)
    assert "A callable such as nn.ReLU works too" in str(e.value)


@pytest.mark.parametrize("activation", [nn.ReLU(), torch.tanh])
def test_an_activation_that_builds_no_module_is_refused_in_our_words(activation: Any) -> None:
    expected = r"MLP expects an activation by name or a callable .* nn\.ReLU \(the class, not an"
    with pytest.raises(TypeError, match=expected):
        MLP(1, activation=activation)


def test_an_activation_that_is_no_name_is_unknown() -> None:
    with pytest.raises(ValueError, match="Unknown activation 3"):
        MLP(1, activation=3)  # type: ignore[arg-type]
