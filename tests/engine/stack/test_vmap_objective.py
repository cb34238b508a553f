"""The losses of stacked networks, each with its own weights, rows and dropout rate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests._zoo import Body
from torchreg.engine.data import Batch
from torchreg.engine.spec import Objective
from torchreg.engine.stack.vmap_objective import FeaturesFirst, StackedDropout, StackedObjective
from torchreg.losses import build_loss, probe_loss

GENERATOR = torch.Generator()


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


@pytest.fixture(autouse=True)
def begin() -> None:
    GENERATOR.manual_seed(0)


def networks(n: int, middle: Any) -> list[nn.Module]:
    built = [Body(middle()).double() for _ in range(n)]
    for network in built:
        network(numbers(5, 4))
        for p in network.parameters():
            p.data = numbers(*p.shape)
    return list(built)


def stacked(built: list[nn.Module], **options: Any) -> StackedObjective:
    each = [dict([*n.named_parameters(), *n.named_buffers()]) for n in built]
    values = {name: torch.stack([own[name].detach() for own in each]) for name in each[0]}
    loss = probe_loss(build_loss("squared_error", {}), 1)
    return StackedObjective(built, values, loss, **{"protect_input": False, **options})


@pytest.mark.parametrize("features_first", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_each_network_has_the_loss_of_its_own_rows(weighted: bool, features_first: bool) -> None:
    built = networks(3, nn.Tanh)
    objective = stacked(built, features_first=features_first)
    x, t = numbers(3, 7, 4), numbers(3, 7, 1)
    share = numbers(3, 7).abs() / 7 if weighted else None
    turn = (lambda v: v.transpose(1, 2).contiguous()) if features_first else (lambda v: v)
    losses = objective.of(Batch(turn(x), turn(t), share))
    assert losses.shape == (3,)
    for place, network in enumerate(built):
        alone = Objective(network, objective.loss)
        weight = None if share is None else share[place] * 7
        torch.testing.assert_close(losses[place], alone.of(Batch(x[place], t[place], weight)))


def test_the_original_networks_are_neither_called_nor_changed() -> None:
    built = networks(2, lambda: nn.BatchNorm1d(6))
    before = [{name: t.clone() for name, t in n.state_dict().items()} for n in built]
    for network in built:
        network.eval()
        network.register_forward_hook(lambda *_: pytest.fail("it was called"))
    objective = stacked(built, features_first=True)
    objective.network._forward_hooks.clear()
    objective.of(Batch(numbers(2, 4, 7), numbers(2, 1, 7), None))
    assert [network.training for network in built] == [False, False]
    assert objective.network.training
    for network, kept in zip(built, before, strict=True):
        assert all(torch.equal(kept[name], t) for name, t in network.state_dict().items())
    changed = {id(tensor) for tensor in objective.changing}
    assert {id(t) for name, t in objective.values.items() if "running" in name} <= changed


def test_features_first_changes_the_layout_of_a_linear_layer_only() -> None:
    x, weight, bias = numbers(5, 3), numbers(4, 3), numbers(4)
    for own in (bias, None):
        with FeaturesFirst():
            output = functional.linear(x, weight, own)
            deep = functional.linear(numbers(2, 5, 3), weight, own)
        torch.testing.assert_close(output, functional.linear(x, weight, own))
        # (5, 4), of which each column is contiguous
        assert output.stride() == (1, 5) and deep.shape == (2, 5, 4)


def test_the_first_linear_layer_has_the_same_outputs_and_gradients_with_features_first() -> None:
    x, weight, bias = numbers(5, 3), numbers(4, 3).requires_grad_(), numbers(4).requires_grad_()
    grad = numbers(5, 4)
    with FeaturesFirst() as mode:
        mode.rows = x
        output = functional.linear(x, weight, bias)
    expected = functional.linear(x, weight, bias)
    torch.testing.assert_close(output, expected)
    actual, desired = (
        torch.autograd.grad(each, [weight, bias], grad_outputs=grad) for each in (output, expected)
    )
    torch.testing.assert_close(actual, desired)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_stacked_dropout_drops_and_rescales_like_dropout(rate: float, inplace: bool) -> None:
    layer = StackedDropout(rate, numbers(1), inplace=inplace)
    x = torch.full((300, 100), 2.0, dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        output = layer(x.clone())
        given = x.clone()
        same = layer(given)
    kept = output != 0
    assert float(kept.double().mean()) == pytest.approx(1 - rate, abs=0.01)
    if rate < 1:
        torch.testing.assert_close(output[kept], x[kept] / (1 - rate))
    assert (same is given) == inplace
    assert torch.equal(given, same if inplace else x)
    assert layer.eval()(x) is x


def test_dropout_is_replaced_under_each_name_if_the_rates_differ() -> None:
    def layers(rate: float) -> nn.Module:
        twice = nn.Dropout(rate)
        return nn.Sequential(nn.Linear(2, 2), twice, nn.Dropout(0.5), twice).double()

    built = [layers(rate) for rate in (0.1, 0.2)]
    objective = stacked(built, features_first=False)
    kinds = [type(module) for module in objective.network.children()]
    assert kinds == [nn.Linear, StackedDropout, nn.Dropout, StackedDropout]
    assert {name: t.tolist() for name, t in objective.constants.items()} == {
        "1.rate": [0.1, 0.2],
        "3.rate": [0.1, 0.2],
    }
    assert [built[k].get_submodule("1").p for k in (0, 1)] == [0.1, 0.2]
    assert stacked([layers(0.1), layers(0.1)], features_first=False).constants == {}


def test_buffers_of_the_loss_are_copied() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n", torch.zeros(()))

        def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
            self.n.add_(1)
            return (prediction - target) ** 2

    built = networks(2, nn.Tanh)
    each = [dict(network.named_parameters()) for network in built]
    values = {name: torch.stack([own[name].detach() for own in each]) for name in each[0]}
    loss = build_loss(Counting(), {})
    objective = StackedObjective(built, values, loss, protect_input=False, features_first=False)
    objective.of(Batch(numbers(2, 7, 4), numbers(2, 7, 1), None))
    assert float(loss.function.n) == 0
    assert float(objective.loss.function.n) == 1
