"""What is seen of a network does not depend on how it is looked at."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torchreg.diagnosis.record import Look
from torchreg.diagnosis.statistics import lines_of, look_inside
from torchreg.nn import MLP
from torchreg.nn.mlp import ACTIVATIONS


class Behind(nn.Module):
    """A network behind a class of its own, which has to be watched call by call."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.network(x)
        return outputs


def look(network: nn.Module) -> Look:
    rows = torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = rows.clone()
    seen = look_inside(network, rows, lines_of(rows, rows[:, :1] ** 2))
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
    layer.forward = lambda x: forward(x) + 1  # type: ignore[method-assign]
    assert look(network) == look(Behind(network)) != plain
