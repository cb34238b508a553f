"""Shares of a line, of curves and of the network are those that numpy's least squares gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from torchreg.diagnosis.baseline_fit import BaselineFit, compare_baselines
from torchreg.diagnosis.linear_baseline import MAX_HINGES, MAX_HINGES_PER_COLUMN, fit_baseline
from torchreg.diagnosis.moments import moments_of
from torchreg.diagnosis.record import Structure

Array = np.ndarray


def hold_against_lines(x: Array, y: Array | None, output: Array) -> BaselineFit:
    held = compare_baselines(fit_baseline(x, y), torch.from_numpy(output))
    assert held is not None
    return held


def structure_of(x: Array, y: Array, output: Array) -> Structure:
    structure = hold_against_lines(x, y, output).structure
    assert structure is not None
    return structure


@pytest.fixture(params=[1, 3])
def rows(request: pytest.FixtureRequest) -> tuple[Array, Array, Array]:
    """Give features, two outputs of very different units, and a network's try at them."""
    rng = np.random.default_rng(request.param)
    x = rng.normal(size=(400, request.param)) * [1.0, 20.0, 1e-3][: request.param] + 5
    y = np.stack([np.abs(x[:, 0] - 5), 1e6 * x.sum(axis=1)], axis=1)
    y += rng.normal(size=y.shape) * [0.1, 1e5]
    return x, y, y + rng.normal(size=y.shape) * [0.3, 1e5]


def mean_score(terms: Array, wanted: Array) -> float:
    z = (terms - terms.mean(axis=0)) / terms.std(axis=0)
    centred = wanted - wanted.mean(axis=0)
    solution, *_ = np.linalg.lstsq(z, centred)
    return r2_score(centred, z @ solution)


def bends_of(x: Array) -> Array:
    """Write the terms of curves down as their definition does."""
    n_rows, width = x.shape
    # The rows would allow more.
    n_bends = {1: MAX_HINGES_PER_COLUMN, 3: MAX_HINGES // 3}[width]
    columns = list(x.T)
    for column in x.T:
        places = np.arange(1, n_bends + 1) * n_rows // (n_bends + 1)
        columns += [np.clip(column - q, 0, None) for q in np.sort(column)[places]]
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    columns += [z[:, i] * z[:, j] for i in range(width) for j in range(i + 1, width)]
    return np.stack(columns, axis=1)


def test_shares_are_those_of_least_squares(rows: tuple[Array, Array, Array]) -> None:
    x, y, output = rows
    structure = structure_of(x, y, output)
    curves = bends_of(x)
    assert structure.line_r2 == pytest.approx(mean_score(x, y), abs=1e-12)
    assert structure.curve_r2 == pytest.approx(mean_score(curves, y), abs=1e-9)
    r2 = 1 - ((y - output) ** 2).mean(axis=0) / y.var(axis=0)
    assert structure.network_r2 == pytest.approx(r2.mean(), abs=1e-12)
    assert structure.n == y.size
    assert structure.line_terms == 2 * (x.shape[1] + 1)
    assert structure.curve_terms == 2 * (curves.shape[1] + 1)
    for known in (y, None):
        share = hold_against_lines(x, known, output).linear_share
        assert share == pytest.approx(mean_score(x, output), abs=1e-12)


@pytest.mark.parametrize("wrong", [0.0, 0.1])
def test_a_constant_output_changes_no_share_of_the_others(
    wrong: float, rows: tuple[Array, Array, Array]
) -> None:
    x, y, output = rows
    constant = np.full((len(x), 1), 0.1)
    more = [np.column_stack([values, constant + e]) for values, e in ((y, 0.0), (output, wrong))]
    assert structure_of(x, *more) == pytest.approx(structure_of(x, y, output))


def test_columns_that_say_nothing_new_change_no_share(rows: tuple[Array, Array, Array]) -> None:
    x, y, output = rows
    plain = structure_of(x, y, output)
    constant = np.full((len(x), 1), 0.1)
    more = structure_of(np.concatenate([x, constant], axis=1), y, output)
    assert more.line_r2 == pytest.approx(plain.line_r2, abs=1e-12)
    assert more.line_terms == plain.line_terms
    again = structure_of(np.concatenate([x, 3 - 25.4 * x[:, :1]], axis=1), y, output)
    assert again.line_r2 == pytest.approx(plain.line_r2, abs=1e-12)
    assert again.line_terms == plain.line_terms


def test_columns_that_nearly_are_others_are_still_terms(rows: tuple[Array, Array, Array]) -> None:
    x, y, output = rows
    rng = np.random.default_rng(0)
    near = x[:, :1] + 1e-5 * x[:, :1].std() * rng.normal(size=(len(x), 1))
    wide = np.concatenate([x, near], axis=1)
    structure = structure_of(wide, y, output)
    assert structure.line_r2 == pytest.approx(mean_score(wide, y), abs=1e-9)
    assert structure.line_terms == 2 * (wide.shape[1] + 1)
    # Here the difference of the two columns is all there is in the output.
    output = (near - x[:, :1]) * [1.0, 1e3] + output * 1e-9
    share = hold_against_lines(wide, y, output).linear_share
    assert share == pytest.approx(mean_score(wide, output), abs=1e-9)


def test_a_constant_is_explained_and_has_no_spread() -> None:
    x = np.linspace(0, 1, 100)[:, None]
    constant = np.full((100, 1), 0.1)
    held = hold_against_lines(x, constant, constant)
    assert held.structure is not None
    assert (held.linear_share, held.structure.line_r2, held.structure.line_terms) == (1.0, 1.0, 1)
    assert held.output_scale == moments_of(constant).scale == [0]
    assert fit_baseline(x, constant).y.mean == moments_of(constant).mean == [0.1]


def test_too_few_rows_for_a_line_still_have_moments() -> None:
    x = np.arange(9.0)[:, None]
    lines = fit_baseline(x, x**2)
    held = hold_against_lines(x, x**2, -x)
    assert held.linear_share is None
    assert held.structure is None
    assert lines.x.mean == pytest.approx([4])
    assert lines.y.scale == pytest.approx([np.std(np.arange(9.0) ** 2)])


def test_without_y_the_output_alone_is_held_against_a_line() -> None:
    x = np.linspace(-1, 1, 50)[:, None]
    lines = fit_baseline(x, None)
    held = hold_against_lines(x, None, np.abs(x))
    assert held.linear_share == pytest.approx(0, abs=1e-12)
    assert held.structure is None
    assert lines.y.mean == []


@pytest.mark.parametrize("far", [np.inf, 1e300])
def test_numbers_that_cannot_be_squared_are_held_against_nothing(far: float) -> None:
    x = np.linspace(0, 1, 50)[:, None]
    y = np.where(x < 1, x, far)
    for known, output in ((y, x), (x, y)):
        assert compare_baselines(fit_baseline(x, known), torch.from_numpy(output)) is None
    assert fit_baseline(x, y).shares is None
