"""Laws of a trained scale."""

from __future__ import annotations

import pytest
import torch

from torchreg.nn import Scale


@pytest.mark.parametrize("shape", [(5, 3), (5, 4, 3)])
def test_each_column_is_multiplied_by_a_parameter_that_is_initially_1(
    shape: tuple[int, ...],
) -> None:
    scale, x = Scale(3), torch.randn(shape)
    assert torch.equal(scale(x), x)
    scale.scale.data = torch.tensor([1.0, 2.0, -3.0])
    torch.testing.assert_close(scale(x), x @ torch.diag(scale.scale))
    scale.reset_parameters()
    assert torch.equal(scale(x), x)


def test_another_size_is_refused() -> None:
    with pytest.raises(
        ValueError, match="Scale: n_features must be an integer of 1 or more, got 0"
    ):
        Scale(0)
