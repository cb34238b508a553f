"""A graph is compared on rows in the range of the training data, relative to the spread of y."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

from torchreg.exceptions import ExportError
from torchreg.export import ReferenceOutputs, sample_rows

EPS = torch.finfo(torch.float64).eps


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("n_features", [1, 3, 40])
def test_the_rows_span_three_standard_deviations_around_the_mean(n_features: int) -> None:
    mean = torch.arange(n_features, dtype=torch.float64) * 1e9
    scale = 1 + torch.arange(n_features, dtype=torch.float64)
    rows = sample_rows(mean, scale, n_features)
    assert rows.shape == (512, n_features) and rows.dtype == torch.float64
    z = (rows - mean) / scale
    assert bool((z[0] == 0).all())
    torch.testing.assert_close(z.amin(dim=0), torch.full((n_features,), -3.0, dtype=z.dtype))
    torch.testing.assert_close(z.amax(dim=0), torch.full((n_features,), 3.0, dtype=z.dtype))
    assert bool((z.std(dim=0) > 1).all())


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize(("off", "agrees"), [(0.9e-5, True), (1.1e-5, False), (-1.1e-5, False)])
def test_the_bound_is_relative_to_the_standard_deviation_of_y(
    scale: float, off: float, agrees: bool
) -> None:
    expected = scale * column(1.0, -2.0, 0.5)
    reference = ReferenceOutputs([(column(1, 2, 3), expected)], torch.tensor([scale]).double())
    found = expected.clone()
    found[1] += off * scale
    if agrees:
        reference.check([found], name="It")
        return
    with pytest.raises(ExportError, match=r"^It gives .* \(output 0, X = \[2\]\)") as caught:
        reference.check([found], name="It")
    assert f"gives {float(found[1])} where predict gives {-2 * scale} " in str(caught.value)
    assert "differ by 1.1e-05 standard deviations of y, more than 1e-05, as do 1 of 3 rows" in str(
        caught.value
    )


def test_each_output_is_measured_by_its_own_standard_deviation() -> None:
    expected = torch.tensor([[1.0, 1e6], [2.0, 2e6]], dtype=torch.float64)
    reference = ReferenceOutputs([(column(1, 2), expected)], torch.tensor([1.0, 1e6]))
    reference.check([expected + torch.tensor([0.0, 1.0])], name="It")
    with pytest.raises(ExportError, match=r"\(output 0, X = "):
        reference.check([expected + torch.tensor([1.0, 1.0])], name="It")


def test_a_difference_of_a_few_spacings_is_allowed() -> None:
    expected = column(1e9, 1e9 + 1e-3)
    reference = ReferenceOutputs([(column(1, 2), expected)], torch.tensor([1e-3]))
    reference.check([expected * (1 + 3 * EPS)], name="It")
    with pytest.raises(ExportError):
        reference.check([expected * (1 + 10 * EPS)], name="It")


def test_a_constant_y_must_agree_up_to_spacings() -> None:
    expected = column(7.0, 7.0)
    reference = ReferenceOutputs([(column(1, 2), expected)], torch.zeros(1))
    reference.check([expected], name="It")
    with pytest.raises(ExportError, match=r"differ by inf standard deviations"):
        reference.check([expected + 1e-9], name="It")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_output_that_is_not_finite_is_refused(bad: float) -> None:
    expected = column(1.0, 2.0)
    reference = ReferenceOutputs([(column(1, 2), expected)], torch.ones(1))
    with pytest.raises(ExportError, match=rf"gives {bad} where predict gives 2.0 "):
        reference.check([column(1.0, bad)], name="It")


def test_another_shape_is_refused_with_both_shapes() -> None:
    reference = ReferenceOutputs([(column(1, 2), column(1, 2))], torch.ones(1))
    message = "It gives predictions of shape (2,) for 2 rows, predict gives (2, 1). Nothing"
    with pytest.raises(ExportError, match=re.escape(message)):
        reference.check([torch.ones(2)], name="It")


def test_all_batches_are_compared_relative_to_the_spread_of_the_first() -> None:
    many, one = (column(1, 2, 3), column(1, 2, 3)), (column(1), column(1))
    reference = ReferenceOutputs([many, one], None)
    assert float(reference.spread()) == pytest.approx(math.sqrt(2 / 3))
    reference.check([many[1], one[1] + 1e-6], name="It")
    with pytest.raises(ExportError, match="as do 1 of 1 rows"):
        reference.check([many[1], one[1] + 1e-3], name="It")
