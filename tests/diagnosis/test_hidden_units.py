"""Units are counted as an independent look at their weights and outputs counts them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from torchreg import TorchRegressor
from torchreg.diagnosis.activations import SHARE, exceeds_chance, is_overparametrized
from torchreg.diagnosis.evidence import pool_layers
from torchreg.diagnosis.network_summary import baseline_of, summarize_network
from torchreg.diagnosis.record import FitSummary, Layer
from torchreg.nn import MLP

X = torch.linspace(-2, 2, 101, dtype=torch.float64).reshape(-1, 1)


def layer_of(activation: nn.Module, weight: list[float], bias: list[float]) -> Layer:
    """Look at one hidden layer with these weights."""
    hidden, n = nn.Linear(1, len(weight)), len(weight)
    with torch.no_grad():
        hidden.weight.copy_(torch.tensor(weight).reshape(-1, 1))  # (n,) -> (n, 1)
        hidden.bias.copy_(torch.tensor(bias))
    outputs = n // 2 if isinstance(activation, nn.GLU) else n
    network = nn.Sequential(hidden, activation, nn.Linear(outputs, 1)).double().eval()
    look = summarize_network(network, X, baseline_of(X, None))
    assert look is not None
    (layer,) = look.layers
    return layer


# Activations whose left end is flat, and whose right end is a line.
@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(), nn.ReLU(inplace=True), nn.ELU(), nn.SELU(), nn.CELU(), nn.GELU(), nn.SiLU(),
     nn.Mish(), nn.Softplus(), nn.Hardswish(), nn.LeakyReLU(), nn.PReLU(init=0.001),
     nn.RReLU(0.001, 0.002), nn.Threshold(0.0, 0.0)],
    ids=lambda module: type(module).__name__,
)  # fmt: skip
def test_a_unit_is_dead_bending_or_always_on_by_its_bias(activation: nn.Module) -> None:
    layer = layer_of(activation, [1.0, 1.0, 1.0], [-50.0, 0.1, 50.0])
    assert (layer.n_dead, layer.n_bending, layer.n_always_on) == (1, 1, 1)
    assert not layer.bounded


@pytest.mark.parametrize(
    "activation", [nn.Tanh(), nn.Sigmoid(), nn.Hardtanh(), nn.Hardsigmoid(), nn.ReLU6()],
    ids=lambda module: type(module).__name__,
)  # fmt: skip
def test_a_unit_with_floor_and_ceiling_saturates_at_both(activation: nn.Module) -> None:
    layer = layer_of(activation, [1.0, 1.0, 1.0, 3.0], [-50.0, 50.0, 1000.0, 0.5])
    assert (layer.n_saturated, layer.n_bending, layer.n_dead) == (3, 1, 0)
    assert layer.bounded
    # Beyond 2.2, where tanh is steeper than 0.05, for three rows of four
    assert layer_of(nn.Tanh(), [0.8], [2.9]).n_bending == 1


def test_a_gate_is_a_sigmoid_of_the_second_half() -> None:
    layer = layer_of(nn.GLU(), [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 50.0])
    assert (layer.n_units, layer.n_saturated, layer.n_bending) == (2, 1, 1)


def test_every_elementwise_activation_module_of_torch_is_seen() -> None:
    no_units = {"MultiheadAttention", "Softmax", "Softmax2d", "Softmin", "LogSoftmax"}
    modules = {name for name in nn.modules.activation.__all__ if name not in no_units}
    for name in modules - {"GLU"}:
        options = (0.1, 0.0) if name == "Threshold" else ()
        layer = layer_of(getattr(nn, name)(*options), [1.0], [0.2])
        assert layer.n_units == 1, name


def test_relu_units_are_counted_like_their_signs() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 1)).double().eval()
    rows = torch.randn(200, 3, dtype=torch.float64) * 0.3
    look = summarize_network(network, rows, baseline_of(rows, None))
    assert look is not None
    on = (network[0](rows) > 0).to(torch.float64).mean(dim=0)
    (layer,) = look.layers
    assert layer.n_dead == int((on == 0).sum())
    assert layer.n_always_on == int((on == 1).sum())
    assert layer.n_bending == int(((on > 0) & (on < 1)).sum())


def test_units_that_are_scaled_or_mirrored_copies_are_duplicates() -> None:
    assert layer_of(nn.ReLU(), [1.0, 2.0, 1.0], [0.5, 1.0, 0.4]).n_duplicates == 1
    assert layer_of(nn.Tanh(), [1.0, -1.0, 1.01], [0.5, -0.5, 0.5]).n_duplicates == 1


class Plain(nn.Module):
    """Calls functions, in place and not, and counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(1, 4), nn.Linear(4, 5), nn.Linear(5, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.c(torch.relu_(self.b(nn.functional.silu(self.a(x)).tanh())))


def test_functions_are_seen_like_modules_and_the_network_is_left_as_it_was() -> None:
    network = Plain().double().eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    rows = X.clone()
    look = summarize_network(network, rows, baseline_of(rows, None))
    assert look is not None
    assert [(layer.function, layer.n_units) for layer in look.layers] == [
        ("silu", 4), ("tanh", 4), ("relu", 5),
    ]  # fmt: skip
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert torch.equal(rows, X)
    assert not network._forward_hooks and not network.a._forward_hooks


def test_what_chance_does_to_a_layer_is_not_worth_a_word() -> None:
    rng = np.random.default_rng(0)
    for n_units in (5, 10, 50, 100):
        weight, bias = rng.uniform(-1, 1, size=(2, 400, n_units))
        # Of units that start at random, before a standardized uniform feature
        dead = ((bias + np.abs(weight) * 3**0.5) < 0).sum(axis=1)
        n_reported = sum(exceeds_chance("dead-units", int(n), n_units) for n in dead)
        assert n_reported <= 8, n_units
        assert exceeds_chance("dead-units", n_units, n_units)
    assert set(SHARE) == {"dead-units", "always-on-units", "saturated-units", "duplicate-units"}


def counted(number: int, n_dead: int, function: str = "relu") -> Layer:
    return Layer(f"hidden layer {number}", function, False, 9, n_dead, 0, 0, 0, 9 - n_dead)


def test_the_same_layer_of_several_networks_is_counted_as_one() -> None:
    first, second = pool_layers([counted(1, 1), counted(2, 4), counted(3, 2), counted(4, 8)], 2)
    assert (first.name, first.n_units, first.n_dead, first.n_bending) == (
        "hidden layer 1",
        18,
        3,
        15,
    )
    assert (second.name, second.n_dead) == ("hidden layer 2", 12)


@pytest.mark.parametrize(
    ("layers", "n_networks"),
    [
        ([counted(1, 1), counted(2, 2)], 1),
        ([counted(1, 1), counted(2, 2), counted(3, 3)], 2),
        ([counted(1, 1), counted(2, 2, "tanh")], 2),
    ],
    ids=["one network", "a layer too many", "other activations"],
)
def test_layers_that_do_not_match_are_left_as_they_are(
    layers: list[Layer], n_networks: int
) -> None:
    assert pool_layers(layers, n_networks) == layers


def test_a_network_can_spare_units_as_long_as_the_others_could_memorize_the_rows() -> None:
    reg = TorchRegressor(MLP, module__hidden_sizes=[20, 20], max_epochs=1).fit(X, X[:, 0])
    summary = FitSummary.from_dict(reg.fit_summary_)
    assert summary.n_parameters == 481 and summary.n_rows == 101
    assert is_overparametrized(summary, 0.5)
    assert not is_overparametrized(summary, 0.6)
    assert not is_overparametrized(summary, 1.0)
