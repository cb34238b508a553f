"""What a graph is held against: rows of the training range, and how far it may differ."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

from torchreg.exceptions import ExportError
from torchreg.export.agreement import ReferenceOutputs, rows_within

EPS = torch.finfo(torch.float64).eps


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("n_features", [1, 3, 40])
def test_the_rows_span_three_standard_deviations_around_the_mean(n_features: int) -> None:
    mean = torch.arange(n_features, dtype=torch.float64) * 1e9
    scale = 1 + torch.arange(n_features, dtype=torch.float64)
    rows = rows_within(mean, scale, n_features)
    assert rows.shape == (512, n_features) and rows.dtype == torch.float64
    z = (rows - mean) / scale
    assert bool((z[0] == 0).all())
    torch.testing.assert_close(z.amin(dim=0), torch.full((n_features,), -3.0, dtype=z.dtype))
    torch.testing.assert_close(z.amax(dim=0), torch.full((n_features,), 3.0, dtype=z.dtype))
    assert bool((z.std(dim=0) > 1).all())


def test_the_rows_are_the_same_each_time_and_draw_from_no_generator_of_the_caller() -> None:
    state = torch.get_rng_state()
    one, other = (rows_within(torch.zeros(2), torch.ones(2), 2) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_mean_and_scale_stand_for_all_columns() -> None:
    rows = rows_within(torch.tensor(200.0), torch.tensor(10.0), 3)
    assert rows.shape == (512, 3)
    assert float(rows.min()) == 170 and float(rows.max()) == 230


def test_a_constant_column_stays_constant() -> None:
    rows = rows_within(torch.tensor([5.0, 7.0]), torch.tensor([1.0, 0.0]), 2)
    assert bool((rows[:, 1] == 7).all())


def test_of_wide_rows_there_are_fewer() -> None:
    assert rows_within(torch.zeros(()), torch.ones(()), 2**16).shape == (64, 2**16)
    assert rows_within(torch.zeros(()), torch.ones(()), 2**19).shape == (16, 2**19)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize(("off", "agrees"), [(0.9e-5, True), (1.1e-5, False), (-1.1e-5, False)])
def test_the_bound_is_relative_to_the_standard_deviation_of_y(
    scale: float, off: float, agrees: bool
) -> None:
    expected = scale * column(1.0, -2.0, 0.5)
    yardstick = ReferenceOutputs([(column(1, 2, 3), expected)], torch.tensor([scale]).double())
    found = expected.clone()
    found[1] += off * scale
    if agrees:
        yardstick.hold([found], by="It")
        return
    with pytest.raises(ExportError, match=r"^It gives .* \(output 0, X = \[2\]\)") as caught:
        yardstick.hold([found], by="It")
    assert f"gives {float(found[1])} where predict gives {-2 * scale} " in str(caught.value)
    assert "differ by 1.1e-05 standard deviations of y, more than 1e-05, as do 1 of 3 rows" in str(
        caught.value
    )


def test_each_output_is_measured_by_its_own_standard_deviation() -> None:
    expected = torch.tensor([[1.0, 1e6], [2.0, 2e6]], dtype=torch.float64)
    yardstick = ReferenceOutputs([(column(1, 2), expected)], torch.tensor([1.0, 1e6]))
    yardstick.hold([expected + torch.tensor([0.0, 1.0])], by="It")
    with pytest.raises(ExportError, match=r"\(output 0, X = "):
        yardstick.hold([expected + torch.tensor([1.0, 1.0])], by="It")


def test_a_difference_of_a_few_spacings_of_the_prediction_is_none() -> None:
    expected = column(1e9, 1e9 + 1e-3)
    yardstick = ReferenceOutputs([(column(1, 2), expected)], torch.tensor([1e-3]))
    yardstick.hold([expected * (1 + 3 * EPS)], by="It")
    with pytest.raises(ExportError):
        yardstick.hold([expected * (1 + 10 * EPS)], by="It")


def test_a_constant_y_has_to_be_met_exactly_up_to_spacings() -> None:
    expected = column(7.0, 7.0)
    yardstick = ReferenceOutputs([(column(1, 2), expected)], torch.zeros(1))
    yardstick.hold([expected], by="It")
    with pytest.raises(ExportError, match=r"differ by inf standard deviations"):
        yardstick.hold([expected + 1e-9], by="It")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_agrees_with_nothing(bad: float) -> None:
    expected = column(1.0, 2.0)
    yardstick = ReferenceOutputs([(column(1, 2), expected)], torch.ones(1))
    with pytest.raises(ExportError, match=rf"gives {bad} where predict gives 2.0 "):
        yardstick.hold([column(1.0, bad)], by="It")


def test_another_shape_is_refused_with_both_shapes() -> None:
    yardstick = ReferenceOutputs([(column(1, 2), column(1, 2))], torch.ones(1))
    message = "It gives predictions of shape (2,) for 2 rows, predict gives (2, 1). Nothing"
    with pytest.raises(ExportError, match=re.escape(message)):
        yardstick.hold([torch.ones(2)], by="It")


def test_the_rows_of_a_later_batch_are_held_to_the_spread_of_the_first() -> None:
    many, one = (column(1, 2, 3), column(1, 2, 3)), (column(1), column(1))
    yardstick = ReferenceOutputs([many, one], None)
    assert float(yardstick.spread()) == pytest.approx(math.sqrt(2 / 3))
    yardstick.hold([many[1], one[1] + 1e-6], by="It")
    with pytest.raises(ExportError, match="as do 1 of 1 rows"):
        yardstick.hold([many[1], one[1] + 1e-3], by="It")


def test_where_all_predictions_are_the_same_their_size_is_the_measure() -> None:
    yardstick = ReferenceOutputs([(column(1), column(-400.0))], None)
    assert float(yardstick.spread()) == 400
