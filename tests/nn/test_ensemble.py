"""Several networks as one module give the mean of what each of them gives."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchreg.nn import Ensemble, MultiplyByConstant, Standardize, Unstandardize


def members(n: int, n_outputs: int = 2) -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        nn.Sequential(
            Standardize([200.0 + m, 7.0], [10.0, 0.0], dtype=torch.float32),
            nn.Linear(2, n_outputs),
            Unstandardize([4000.0] * n_outputs, [800.0 + m] * n_outputs),
        )
        for m in range(n)
    ]


@pytest.fixture
def x() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 200 + 10 * torch.randn(6, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_it_gives_the_mean_of_its_members_and_each_of_them(n: int, x: Tensor) -> None:
    each = members(n)
    ensemble = Ensemble(each)
    outputs = ensemble.outputs(x)
    assert outputs.shape == (n, 6, 2)
    for output, member in zip(outputs, each, strict=True):
        assert torch.equal(output, member(x))
    torch.testing.assert_close(ensemble(x), sum(member(x) for member in each) / n)


def test_its_state_dict_holds_all_numbers_of_its_members(x: Tensor) -> None:
    ensemble = Ensemble(members(3))
    other = Ensemble(copy.deepcopy(ensemble.members))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert not torch.equal(other(x), ensemble(x))
    other.load_state_dict(ensemble.state_dict())
    assert torch.equal(other(x), ensemble(x))
    assert "members.2.0.mean" in ensemble.state_dict()


def test_a_copy_shares_no_number_with_it_but_it_shares_those_of_its_members(x: Tensor) -> None:
    each = members(2)
    ensemble = Ensemble(each)
    copied, before = copy.deepcopy(ensemble), ensemble(x)
    with torch.no_grad():
        each[0][1].weight.zero_()
    assert torch.equal(copied(x), before)
    assert not torch.equal(ensemble(x), before)


def test_gradients_reach_all_members(x: Tensor) -> None:
    ensemble = Ensemble(members(3))
    ensemble(x).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in ensemble.parameters())


def test_members_of_shape_n_give_shape_n() -> None:
    class Flat(nn.Module):
        def forward(self, x: Any) -> Tensor:
            output: Tensor = x[:, 0]
            return output

    assert Ensemble([Flat(), Flat()])(torch.ones(4, 2)).shape == (4,)


def test_an_ensemble_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="Ensemble expects one member or more, got none"):
        Ensemble([])


def test_it_is_a_graph_for_any_number_of_rows(x: Tensor) -> None:
    ensemble = Ensemble([MultiplyByConstant(2.0), *members(2)]).eval()
    rows = torch.export.Dim("n")
    program = torch.export.export(ensemble, (x,), dynamic_shapes=({0: rows},), strict=False)
    compute = program.module()
    for some in (x, x[:2]):
        torch.testing.assert_close(compute(some), ensemble(some))
