"""Layers that come first and only scale are found, and leaving them out changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from tests._stacks import assert_same, both_ways
from torchreg import TorchRegressor
from torchreg.engine.stack.leading import leading_layers, send_through
from torchreg.engine.stack.vmap_objective import leave_out
from torchreg.nn import RobustStandardize

X = torch.linspace(-2, 5, 18).reshape(6, 3)


class Part(nn.Module):
    """What a function makes of its input, and of a buffer and a count of its own."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.count = function, 0
        self.register_buffer("shift", torch.tensor([1.0, 2.0, 3.0]))
        self.register_buffer("moved", torch.zeros(3))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def after(part: nn.Module, *, last: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(part, last or nn.Linear(3, 1))


def found(network: nn.Module, x: Tensor = X) -> list[str]:
    return leading_layers(network, mse_loss, x)


def writes(part: Any, x: Tensor) -> Tensor:
    part.moved += 1
    return x + part.shift


def counts(part: Any, x: Tensor) -> Tensor:
    part.count += 1
    return x * 2


def overwrites(part: Any, x: Tensor) -> Tensor:
    return x.mul_(2)


LEADING: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a buffer": lambda part, x: (x - part.shift) / 2,
    "a frozen parameter": lambda part, x: x * part.frozen,
    "float64 meanwhile": lambda part, x: (x.double() - part.shift).clamp(-1, 1).float(),
    "another way while it trains": lambda part, x: x * (3.0 if part.training else 2.0),
    "where": lambda part, x: torch.where(x > part.shift, x, x.sinh()),
}
OTHERS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a mean over rows": lambda part, x: x - x.mean(dim=0),
    "a mean over columns": lambda part, x: x - x.mean(dim=1, keepdim=True),
    "other rows": lambda part, x: x + x.flip(0),
    "the number of rows": lambda part, x: x / len(x),
    "values that Python looks at": lambda part, x: x * 2 if x.max() > 0 else x,
    "values that NumPy looks at": lambda part, x: x * float(x.detach().numpy().max()),
    "random numbers": lambda part, x: x + torch.rand_like(x),
    "random numbers while it trains": lambda part, x: torch.dropout(x, 0.5, part.training),
    "a buffer that it writes to": writes,
    "a count in Python": counts,
    "work in place": overwrites,
    "another shape": lambda part, x: torch.cat([x, x], dim=1)[:, 1:4],
    "nothing": lambda part, x: x,
    "an operand with a row for each row": lambda part, x: x + torch.arange(18.0).reshape(6, 3),
}


@pytest.mark.parametrize("kind", LEADING)
def test_a_layer_of_elementwise_work_leads(kind: str) -> None:
    network = after(Part(LEADING[kind]))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert found(network) == ["0"]
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())
    for training in (True, False):
        (sent,) = send_through(network, ["0"], [X], training=training)
        expected = network.train(training)(X)
        assert torch.equal(network[1](sent), expected)
    leave_out(network, ["0"])
    assert torch.equal(network(sent), expected)


BESIDE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "columns": lambda part, x: torch.cat([x, x * part.shift], dim=1),
    "columns, counted from behind": lambda part, x: torch.cat([x * part.shift, x], dim=-1),
}


@pytest.mark.parametrize("kind", BESIDE)
def test_a_layer_that_lays_columns_beside_columns_leads(kind: str) -> None:
    network = after(Part(BESIDE[kind]), last=nn.Linear(6, 1))
    assert found(network) == ["0"]
    (sent,) = send_through(network, ["0"], [X], training=True)
    assert sent.shape == (6, 6) and torch.equal(network[1](sent), network(X))


@pytest.mark.parametrize("dim", [0, -2])
def test_a_layer_that_lays_rows_below_rows_does_not_lead(dim: int) -> None:
    class Below(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, x], dim=dim)

    assert found(nn.Sequential(Below(), nn.Linear(3, 1))) == []


@pytest.mark.parametrize("kind", OTHERS)
def test_a_layer_that_does_anything_else_does_not_lead(kind: str) -> None:
    assert found(after(Part(OTHERS[kind]))) == []


def scale(_: Any, x: Tensor) -> Tensor:
    return x * 2


class Twice(nn.Module):
    """A part that comes first, and another use of the input or of the part."""

    def __init__(self, use: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.part, self.last, self.use = Part(scale), nn.Linear(3, 1), use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, x)


@pytest.mark.parametrize(
    "use",
    [
        lambda net, x: net.last(net.part(x) + x),
        lambda net, x: net.last(net.part(x) + x.t().t()),
        lambda net, x: net.last(net.part(net.part(x))),
        lambda net, x: net.last(net.part(x + 1)),
        lambda net, x: net.last(net.part(x[:, [0, 1, 2]])),
        lambda net, x: net.last(x),
    ],
)
def test_a_layer_leads_only_where_nothing_else_looks_at_the_input(use: Any) -> None:
    assert found(Twice(use)) == []
    assert found(Twice(lambda net, x: net.last(net.part(x)))) == ["part"]


def test_a_layer_does_not_lead_whose_tensors_another_one_has_trains_or_writes_to() -> None:
    def reads(tensor: str) -> nn.Module:
        last = nn.Linear(3, 1)
        part = Part(lambda own, x: x + getattr(own, tensor))
        if tensor == "weight":
            part.weight = last.weight
        return nn.Sequential(part, last)

    assert found(reads("shift")) == ["0"]
    assert found(reads("weight")) == []
    shared = nn.Sequential(Part(scale), Part(lambda own, x: (x @ x.t() @ x) * own.shift))
    shared[1].shift = shared[0].shift
    assert found(nn.Sequential(*shared, nn.Linear(3, 1))) == []
    part = Part(lambda own, x: x + own.shift)
    writer = Part(lambda own, x: x @ torch.eye(3) + own.others[0].add_(1))
    writer.others = [part.shift]  # type: ignore[assignment]
    assert found(nn.Sequential(part, writer, nn.Linear(3, 1))) == []


def test_several_lead_one_after_another_and_a_layer_that_learns_ends_the_row() -> None:
    parts = [nn.Tanh(), nn.Sequential(nn.Hardtanh(), nn.Sigmoid()), nn.Linear(3, 3), nn.Tanh()]
    assert found(nn.Sequential(*parts, nn.Linear(3, 1))) == ["0", "1"]
    assert found(nn.Sequential(nn.Linear(3, 1))) == []


def test_one_row_does_not_show_it_and_a_network_that_fails_has_none() -> None:
    assert found(after(nn.Tanh()), X[:1]) == []
    assert found(after(nn.Tanh(), last=nn.Linear(4, 1))) == []


class Scaled(nn.Module):
    """Scales by quartiles of its rows, which are other ones in each fit."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.scale = RobustStandardize(torch.zeros(in_features), torch.ones(in_features))
        self.last = nn.Sequential(nn.Linear(in_features, 5), nn.Tanh(), nn.Linear(5, out_features))

    def initialize_from(self, x: Tensor, t: Tensor, weight: Tensor | None) -> None:
        self.scale.initialize_from(x, t, weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.scale(x))


def test_quartiles_and_a_smooth_clip_are_a_leading_layer() -> None:
    network = Scaled(3, 1)
    network.initialize_from(X, X[:, :1], None)
    assert found(network) == ["scale"]


@pytest.mark.parametrize("batch_size", [None, 16])
def test_a_stack_whose_rows_were_scaled_beforehand_gives_what_each_fit_gives_alone(
    batch_size: int | None,
) -> None:
    def fits() -> list[Any]:
        given = []
        for seed in range(4):
            rng = np.random.default_rng(seed)
            rows = rng.standard_cauchy(size=(41 + seed, 3))
            settings: dict[str, Any] = {
                "max_epochs": 20 + 10 * seed,
                "batch_size": batch_size,
                "random_state": seed,
                "early_stopping": True,
                "dtype": "float64",
            }
            fit = TorchRegressor(Scaled, **settings), {"X": rows, "y": np.sin(rows[:, 0])}
            given.append(fit)
        return given

    answers, alone, seen = both_ways(fits)
    assert sum(seen.sizes) == 4
    assert all(stack.leading == ["scale"] for stack in seen.stacks)
    for one, other in zip(answers, alone, strict=True):
        assert_same(one, other)
