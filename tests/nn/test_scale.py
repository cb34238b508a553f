"""Laws of a learned scale."""

from __future__ import annotations

import pytest
import torch

from torchreg.nn import Scale


@pytest.mark.parametrize("shape", [(5, 3), (5, 4, 3)])
def test_it_begins_as_nothing_and_multiplies_each_column(shape: tuple[int, ...]) -> None:
    scale, x = Scale(3), torch.randn(shape)
    assert torch.equal(scale(x), x)
    scale.scale.data = torch.tensor([1.0, 2.0, -3.0])
    torch.testing.assert_close(scale(x), x @ torch.diag(scale.scale))
    scale.reset_parameters()
    assert torch.equal(scale(x), x)


def test_a_size_is_a_whole_number() -> None:
    with pytest.raises(ValueError, match="Scale: n_features of 1 or more"):
        Scale(0)
