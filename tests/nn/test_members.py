"""Laws of layers of several members."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torchreg.nn import AverageMembers, MemberLinear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_member_is_a_linear_layer(bias: bool, dtype: torch.dtype) -> None:
    layer = MemberLinear(3, 4, 2, bias=bias, dtype=dtype)
    rows, each = torch.randn(5, 4, dtype=dtype), torch.randn(5, 3, 4, dtype=dtype)
    for m in range(3):
        alone = nn.Linear(4, 2, bias=bias, dtype=dtype)
        alone.weight.data = layer.weight[m].detach()
        if layer.bias is not None:
            alone.bias.data = layer.bias[m].detach()
        torch.testing.assert_close(layer(rows)[:, m], alone(rows))
        torch.testing.assert_close(layer(each)[:, m], alone(each[:, m]))


def test_members_are_initialized_as_linear_layers_and_differ() -> None:
    torch.manual_seed(0)
    layer = MemberLinear(8, 200, 16)
    bound = 1 / 200**0.5
    assert layer.bias is not None
    for parameter in (layer.weight.detach(), layer.bias.detach()):
        assert float(parameter.abs().max()) <= bound
        assert float(parameter.std()) == pytest.approx(bound / 3**0.5, rel=0.1)
    assert not torch.equal(layer.weight[0], layer.weight[1])


def test_the_gradient_is_that_of_finite_differences() -> None:
    layer = MemberLinear(3, 4, 2).double()
    x = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_the_next_layer_needs_no_copy() -> None:
    output = torch.relu(MemberLinear(3, 4, 2)(torch.randn(5, 4)))
    assert output.shape == (5, 3, 2)
    assert output.transpose(0, 1).is_contiguous()


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 2.0, 1), (1, 1, True)], ids=str)
def test_other_sizes_are_refused(sizes: Any) -> None:
    with pytest.raises(ValueError, match=r"MemberLinear: \w+ must be an integer of 1 or more"):
        MemberLinear(*sizes)


def test_the_average_of_an_output_without_members_is_the_output() -> None:
    average, y = AverageMembers(), torch.randn(5, 3, 2)
    torch.testing.assert_close(average(y), y.mean(1))
    for other in (y[:, 0], y[:, 0, 0]):
        assert average(other) is other
