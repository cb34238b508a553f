"""An ensemble computes the mean of its members."""

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
def test_the_output_is_the_mean_of_the_outputs_of_the_members(n: int, x: Tensor) -> None:
    each = members(n)
    ensemble = Ensemble(each)
    outputs = ensemble.outputs(x)
    assert outputs.shape == (n, 6, 2)
    for output, member in zip(outputs, each, strict=True):
        assert torch.equal(output, member(x))
    torch.testing.assert_close(ensemble(x), sum(member(x) for member in each) / n)


def test_members_are_not_copied_unless_the_ensemble_is(x: Tensor) -> None:
    each = members(2)
    ensemble = Ensemble(each)
    copied, before = copy.deepcopy(ensemble), ensemble(x)
    with torch.no_grad():
        each[0][1].weight.zero_()
    assert torch.equal(copied(x), before)
    assert not torch.equal(ensemble(x), before)


def test_members_may_return_vectors() -> None:
    class Flat(nn.Module):
        def forward(self, x: Any) -> Tensor:
            output: Tensor = x[:, 0]
            return output

    assert Ensemble([Flat(), Flat()])(torch.ones(4, 2)).shape == (4,)


def test_an_ensemble_without_members_is_refused() -> None:
    with pytest.raises(ValueError, match="Ensemble expects one member or more, got none"):
        Ensemble([])


def test_an_exported_graph_takes_any_number_of_rows(x: Tensor) -> None:
    ensemble = Ensemble([MultiplyByConstant(2.0), *members(2)]).eval()
    rows = torch.export.Dim("n")
    program = torch.export.export(ensemble, (x,), dynamic_shapes=({0: rows},), strict=False)
    compute = program.module()
    for some in (x, x[:2]):
        torch.testing.assert_close(compute(some), ensemble(some))
