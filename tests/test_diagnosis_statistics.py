"""Looks that are taken together are the looks that are taken alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchreg.diagnosis.following import Member, kind_of, known_members
from torchreg.diagnosis.lines import LinearBaseline
from torchreg.diagnosis.record import NetworkSummary
from torchreg.diagnosis.statistics import lines_of, look_inside, look_inside_each
from torchreg.nn import MLP, TabularMLP
from torchreg.nn.mlp import ACTIVATIONS


def rows(n: int = 60, n_columns: int = 3) -> Tensor:
    return torch.randn(
        n, n_columns, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def tabular(**options: Any) -> TabularMLP:
    """Build a network for rows of which one column has two values."""
    x = rows()
    x[:, 2] = x[:, 2].sign()
    network = TabularMLP(3, **options).double()
    network.initialize_from(x, x[:, :1].abs(), None)
    return network


def dead() -> MLP:
    """Build a network of which units are off for every row, each time as many more."""
    network = MLP(3, hidden_sizes=[6, 5])
    with torch.no_grad():
        network.layers[0].bias[: int(torch.randint(7, ()))] = -1e3
    return network


def doubled() -> MLP:
    """Build a network of which some units are scaled copies of others."""
    network = MLP(3, hidden_sizes=[7])
    with torch.no_grad():
        hidden = network.layers[0]
        for parameter in (hidden.weight, hidden.bias):
            n = int(torch.randint(4, ()))
            parameter[:n] = 3 * parameter[4 : 4 + n]
            parameter[n] = parameter[0]
    return network


def undone() -> nn.Sequential:
    """Build a network whose last layer is followed by a straight line."""
    return nn.Sequential(MLP(3, hidden_sizes=[4]), nn.LeakyReLU(1.0))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "a line": lambda: nn.Linear(3, 1),
    "no hidden layer": lambda: MLP(3, hidden_sizes=[]),
    "no layer that learns": lambda: nn.Sequential(nn.Tanh()),
    "first an activation": lambda: nn.Sequential(nn.Tanh(), nn.Linear(3, 1, bias=False)),
    "last an activation": lambda: nn.Sequential(nn.Linear(3, 1), nn.Softplus()),
    "last a line": undone,
    "several outputs": lambda: MLP(3, 2, hidden_sizes=[4]),
    "many units": lambda: MLP(3, hidden_sizes=[100, 3]),
    "for tables": tabular,
    "for tables, small": lambda: tabular(hidden_sizes=(5,), activation="tanh"),
    "dead units": dead,
    "copies": doubled,
    **{
        f"built in, {name}": lambda name=name: MLP(
            3, hidden_sizes=[5, 4], activation=name, dropout=0.2
        )
        for name in ACTIVATIONS
    },
}


def built(name: str, count: int = 5) -> list[nn.Module]:
    torch.manual_seed(0)
    return [NETWORKS[name]().double().eval() for _ in range(count)]


def members_of(networks: list[nn.Module]) -> list[Member]:
    known = [known_members(network) for network in networks]
    members = [one for found in known if found is not None for one in found]
    assert len(members) == len(networks)
    assert len(set(map(kind_of, members))) == 1
    return members


def together_and_alone(
    networks: list[nn.Module], x: Tensor, lines: LinearBaseline
) -> list[tuple[NetworkSummary | None, NetworkSummary | None]]:
    before = x.clone(), copy.deepcopy([network.state_dict() for network in networks])
    together = look_inside_each(members_of(networks), x, lines)
    assert torch.equal(x, before[0])
    for network, state in zip(networks, before[1], strict=True):
        for key, value in network.state_dict().items():
            torch.testing.assert_close(value, state[key], rtol=0, atol=0, equal_nan=True)
    alone = [look_inside(network, x, lines) for network in networks]
    return list(zip(together, alone, strict=True))


def assert_same(together: NetworkSummary | None, alone: NetworkSummary | None) -> None:
    """Compare exactly what was counted, and all else but for the order of sums."""
    assert (together is None) == (alone is None)
    if together is None or alone is None:
        return
    assert together.layers == alone.layers
    assert together.n_rows == alone.n_rows
    assert together.input_is_core == alone.input_is_core
    assert (together.structure is None) == (alone.structure is None)
    for field in ("input_mean", "input_scale", "target_mean", "target_scale", "output_scale",
                  "linear_share", "structure"):  # fmt: skip
        expected = getattr(alone, field)
        assert getattr(together, field) == (
            None if expected is None else pytest.approx(expected, rel=1e-9, abs=1e-12)
        ), field


@pytest.mark.parametrize("name", NETWORKS)
def test_looks_taken_together_are_the_looks_taken_alone(name: str) -> None:
    x, networks = rows(), built(name)
    n_outputs = networks[0](x).shape[1]
    for t in (x[:, :n_outputs] ** 2, None):
        pairs = together_and_alone(networks, x, lines_of(x, t))
        for together, alone in pairs:
            assert alone is not None
            assert_same(together, alone)


@pytest.mark.parametrize("name", ["dead units", "copies"])
def test_units_of_each_network_are_its_own(name: str) -> None:
    x = rows()
    looks = look_inside_each(members_of(built(name, 12)), x, lines_of(x, x[:, :1]))
    field = {"dead units": "n_dead", "copies": "n_duplicates"}[name]
    counts = {getattr(look.layers[0], field) for look in looks if look is not None}
    assert len(counts) > 2


@pytest.mark.parametrize("name", ["built in, relu", "built in, tanh", "for tables, small"])
def test_in_float32_looks_taken_together_count_what_looks_taken_alone_count(name: str) -> None:
    x, networks = rows().float(), [network.float() for network in built(name)]
    for together, alone in together_and_alone(networks, x, lines_of(x, x[:, :1] ** 2)):
        assert together is not None and alone is not None
        assert together.layers == alone.layers
        assert together.output_scale == pytest.approx(alone.output_scale, rel=1e-5)
        assert together.structure == pytest.approx(alone.structure, rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_whose_output_is_not_finite_has_no_look_and_costs_no_other_its(
    value: float,
) -> None:
    x, networks = rows(), built("built in, relu")
    with torch.no_grad():
        networks[2].get_submodule("layers")[-1].bias.fill_(value)
    pairs = together_and_alone(networks, x, lines_of(x, x[:, :1]))
    assert [together is None for together, _ in pairs] == [False, False, True, False, False]
    for together, alone in pairs:
        assert_same(together, alone)


@pytest.mark.parametrize("n_rows", [0, 1, 2, 5, 19, 20])
def test_of_few_rows_as_much_is_seen_together_as_alone(n_rows: int) -> None:
    x = rows(n_rows)
    lines = lines_of(x, x[:, :1]) if n_rows else lines_of(rows(), None)
    for together, alone in together_and_alone(built("built in, relu"), x, lines):
        assert (alone is None) == (n_rows < 2)
        assert_same(together, alone)


@pytest.mark.parametrize("what", ["targets", "columns", "outputs"])
def test_what_is_constant_is_constant_together_as_alone(what: str) -> None:
    x, networks = rows(), built("built in, relu")
    t = x[:, :1] ** 2
    if what == "targets":
        t = torch.full_like(t, 0.1)
    elif what == "columns":
        x = torch.full_like(x, 0.1)
    else:
        with torch.no_grad():
            for network in networks:
                network.get_submodule("layers")[-1].weight.zero_()
    for together, alone in together_and_alone(networks, x, lines_of(x, t)):
        assert alone is not None
        assert_same(together, alone)
        assert together is not None
        assert (together.output_scale == [0.0]) == (what != "targets")


def test_columns_that_are_not_finite_leave_no_look() -> None:
    x = rows()
    x[3, 0] = float("nan")
    looks = look_inside_each(members_of(built("a line")), x, lines_of(x, x[:, 1:2]))
    assert looks == [None] * 5


def test_networks_of_other_kinds_are_told_apart() -> None:
    torch.manual_seed(0)
    kinds = [
        nn.Linear(3, 1),
        nn.Linear(3, 1, bias=False),
        nn.Linear(3, 2),
        MLP(3, hidden_sizes=[5]),
        MLP(3, hidden_sizes=[5], activation="tanh"),
        MLP(3, hidden_sizes=[5]).double(),
        nn.Sequential(nn.Linear(3, 1), nn.LeakyReLU(0.1)),
        nn.Sequential(nn.Linear(3, 1), nn.LeakyReLU(0.2)),
        tabular(hidden_sizes=(5,)),
        tabular(hidden_sizes=(5,), n_bins=8),
        tabular(hidden_sizes=(5,), n_frequencies=8),
        tabular(hidden_sizes=(5,)).float(),
    ]
    found = [known_members(network) for network in kinds]
    assert len({kind_of(one) for members in found if members for one in members}) == len(kinds)


def test_the_rate_of_dropout_makes_no_other_kind() -> None:
    members_of([MLP(3, hidden_sizes=[5], dropout=rate) for rate in (0.1, 0.2, 0.5)])
