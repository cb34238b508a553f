"""What is seen of a network does not depend on how it is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchreg.diagnosis.forward_known import known_members
from torchreg.diagnosis.network_summary import baseline_of, summarize_network
from torchreg.diagnosis.record import NetworkSummary
from torchreg.nn import MLP, Ensemble, FrozenLinear, TabularMLP
from torchreg.nn.mlp import ACTIVATIONS


class Behind(nn.Module):
    """A network behind a class of its own, which has to be watched call by call."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.network(x)
        return outputs


def look(network: nn.Module, n_outputs: int = 1) -> NetworkSummary:
    rows = torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = rows.clone()
    seen = summarize_network(network, rows, baseline_of(rows, rows[:, :n_outputs] ** 2))
    assert torch.equal(rows, before)
    assert seen is not None
    return seen


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "first an activation, last a scale": lambda: nn.Sequential(
        nn.Tanh(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1), nn.Identity(), nn.Softplus()
    ),
    "nested": lambda: nn.Sequential(
        nn.Sequential(nn.Linear(3, 4), nn.ReLU()), MLP(4, hidden_sizes=[3])
    ),
    "in place": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 1)),
    "normalized": lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)),
    "one layer": lambda: nn.Linear(3, 1),
    **{
        f"built in, {name}": lambda name=name: MLP(
            3, hidden_sizes=[5, 4], activation=name, dropout=0.2
        )
        for name in ACTIVATIONS
    },
}


@pytest.mark.parametrize("name", NETWORKS)
def test_layer_by_layer_as_much_is_seen_as_call_by_call(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().double().eval()
    seen = look(network)
    assert seen == look(Behind(network))
    activations = [m for m in network.modules() if type(m).__module__.endswith("activation")]
    assert len(seen.layers) == len(activations)


@pytest.mark.parametrize("on", ["", "0", "1"])
def test_what_a_hook_or_a_forward_of_its_own_makes_of_a_layer_is_seen(on: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).double().eval()
    plain = look(network)
    layer = network.get_submodule(on)
    handle = layer.register_forward_hook(lambda module, args, output: 3 * output)
    assert look(network) == look(Behind(network)) != plain
    handle.remove()
    forward = layer.forward
    vars(layer)["forward"] = lambda x: forward(x) + 1
    assert look(network) == look(Behind(network)) != plain


ROWS = torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def tabular(two_valued: tuple[int, ...] = (2,), **options: Any) -> TabularMLP:
    """Build a network for rows of which some columns have two values."""
    x = ROWS.clone()
    for column in two_valued:
        x[:, column] = x[:, column].sign()
    network = TabularMLP(3, **{"hidden_sizes": (40, 5), **options}).double()
    network.initialize_from(x, ROWS[:, :1].abs(), None)
    return network


def with_hook(network: nn.Module, on: str) -> nn.Module:
    part = network.get_submodule(on)
    part.register_forward_hook(lambda module, args, output: output + 1)
    return network


ENSEMBLES: dict[str, Callable[[], list[nn.Module]]] = {
    "for tables": lambda: [tabular() for _ in range(3)],
    "for tables, of tanh": lambda: [tabular(activation="tanh") for _ in range(3)],
    "for tables, one": lambda: [tabular()],
    "for tables, other columns embedded": lambda: [tabular((column,)) for column in (0, 2, 1)],
    "for tables, all embedded": lambda: [tabular(()) for _ in range(2)],
    "for tables, nothing embedded": lambda: [tabular((0, 1, 2)) for _ in range(2)],
    "first an activation": lambda: [
        nn.Sequential(nn.Tanh(), nn.Linear(3, 4, bias=False), nn.Sigmoid(), nn.Linear(4, 1))
        for _ in range(3)
    ],
    "several outputs": lambda: [MLP(3, 2, hidden_sizes=[50]) for _ in range(2)],
    "lines": lambda: [nn.Linear(3, 1) for _ in range(2)],
    **{
        f"built in, {name}": lambda name=name: [
            MLP(3, hidden_sizes=[40, 5], activation=name, dropout=0.2) for _ in range(3)
        ]
        for name in ACTIVATIONS
    },
}


def numbers_of(look: NetworkSummary, n_inputs: int) -> list[float]:
    structure = look.structure
    assert structure is not None and look.linear_share is not None
    # Who watches sees the columns and what is embedded of them beside them.
    inputs = [*look.input_mean[:n_inputs], *look.input_scale[:n_inputs]]
    return [*inputs, *look.output_scale, look.linear_share, *structure]


@pytest.mark.parametrize("name", ENSEMBLES)
def test_all_members_at_once_as_much_is_seen_as_call_by_call(name: str) -> None:
    torch.manual_seed(0)
    network = Ensemble(ENSEMBLES[name]()).double().eval()
    assert known_members(network) is not None
    n_outputs = network(ROWS).shape[1]
    seen, watched = look(network, n_outputs), look(Behind(network), n_outputs)
    n_inputs = len(seen.input_mean)
    expected = pytest.approx(numbers_of(watched, n_inputs), rel=1e-9, abs=1e-12)
    assert numbers_of(seen, n_inputs) == expected
    assert seen.layers == watched.layers
    assert seen.input_is_core == watched.input_is_core
    activations = [m for m in network.modules() if type(m).__module__.endswith("activation")]
    assert len(seen.layers) == len(activations)


def own_forward(network: nn.Module, on: str) -> nn.Module:
    part = network.get_submodule(on)
    forward = part.forward
    vars(part)["forward"] = lambda x: forward(x) + 1
    return network


def instead(network: nn.Module, on: str, part: nn.Module) -> nn.Module:
    network.set_submodule(on, part)
    return network


class Louder(FrozenLinear):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


UNKNOWN: dict[str, Callable[[], nn.Module]] = {
    **{
        f"a hook on {on or 'the whole'}": lambda on=on: with_hook(Ensemble([tabular()]), on)
        for on in ("", "members.0", "members.0.line", "members.0.waves", "members.0.mlp.layers.0")
    },
    "a forward of its own": lambda: own_forward(Ensemble([tabular()]), "members.0"),
    "a part of the user's": lambda: instead(
        tabular(), "line", Louder(torch.ones(1, 6, dtype=torch.float64), torch.zeros(1))
    ).double(),
    "another perceptron": lambda: instead(tabular(), "mlp", nn.LazyLinear(1)),
    "members of other widths": lambda: Ensemble([MLP(3), MLP(3, hidden_sizes=[5])]),
    "members of other depths": lambda: Ensemble([MLP(3), MLP(3, hidden_sizes=[100, 5])]),
    "members with other settings": lambda: Ensemble(
        [nn.Sequential(nn.Linear(3, 1), nn.LeakyReLU(slope)) for slope in (0.1, 0.2)]
    ),
    "members of other kinds": lambda: Ensemble([MLP(3), tabular()]),
    "more columns embedded": lambda: Ensemble([tabular(()), tabular((0,))]),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_anything_else_is_watched(name: str) -> None:
    torch.manual_seed(0)
    network = UNKNOWN[name]().double().eval()
    assert known_members(network) is None
    assert look(network) == look(Behind(network))
