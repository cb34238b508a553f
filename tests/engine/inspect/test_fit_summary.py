"""The summary of a fit agrees with NumPy and SciPy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
import torch

from torchreg import TorchRegressor
from torchreg.diagnosis.network_summary import sample_rows
from torchreg.diagnosis.record import FitSummary
from torchreg.engine.inspect import parameter_drifts
from torchreg.nn import MLP

Array = np.ndarray


def summary_of(X: object, y: object, **options: object) -> FitSummary:
    reg = TorchRegressor(**{"module": MLP, "max_epochs": 2, "random_state": 0, **options}).fit(X, y)
    return FitSummary.from_dict(reg.fit_summary_)


@pytest.fixture
def rows() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(700, 4)) * [1, 10, 100, 1000] + 50
    X[:, 3] = np.where(rng.random(700) < 0.5, 0.0, X[:, 3])
    return X, np.exp(rng.normal(size=700))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("standardize", [True, False])
def test_ranges_and_moments_are_those_of_numpy(
    rows: tuple[Array, Array], sparse: bool, standardize: bool
) -> None:
    X, y = rows
    given = scipy.sparse.csr_array(X) if sparse else X
    summary = summary_of(given, y, standardize=standardize)
    np.testing.assert_allclose(summary.x.mean, X.mean(axis=0))
    np.testing.assert_allclose(summary.x.scale, X.std(axis=0))
    np.testing.assert_array_equal(summary.x.low, X.min(axis=0))
    np.testing.assert_array_equal(summary.x.high, X.max(axis=0))
    np.testing.assert_allclose(summary.y.skewness, [scipy.stats.skew(y)])
    np.testing.assert_allclose(summary.y.kurtosis, [scipy.stats.kurtosis(y, fisher=False)])
    assert (summary.n_rows, summary.n_validation) == (700, 0)
    # Weights change the scale of y, and not the shape of its distribution.
    reg = TorchRegressor(MLP, max_epochs=1).fit(given, y, sample_weight=1 + y)
    weighted = FitSummary.from_dict(reg.fit_summary_)
    assert weighted.y.kurtosis == pytest.approx(summary.y.kurtosis)


@pytest.mark.parametrize("sparse", [False, True])
def test_outliers_are_counted_and_distinguished_from_rare_categories(sparse: bool) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 3))
    X[:5, 0] = 300
    X[:, 1] = np.arange(1000) < 4
    far = summary_of(scipy.sparse.csr_array(X) if sparse else X, X[:, 2]).outlier_columns
    assert [(f.column, f.n_far, f.two_valued) for f in far] == [(0, 5, False), (1, 4, True)]
    assert [f.n_other <= 5 for f in far] == [False, True]


@pytest.mark.parametrize("sparse", [False, True])
def test_duplicate_columns_are_found_in_any_unit_and_order(sparse: bool) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(800, 6))
    X[:, 4] = 3 - 25.4 * X[:, 1]
    X[:, 5] = X[:, 2] * 1e-6
    X[:, 3] = X[:, 0] + 0.01 * X[:, 3]
    found = summary_of(scipy.sparse.csr_array(X) if sparse else X, X[:, 0]).duplicate_columns
    assert found == [(1, 4), (2, 5)]
    if not sparse:
        assert summary_of(X.astype(np.float32), X[:, 0]).duplicate_columns == found


def test_drift_is_the_distance_between_initial_and_final_parameters(
    rows: tuple[Array, Array],
) -> None:
    X, y = rows
    start = (
        TorchRegressor(module=MLP, max_epochs=1, lr=1e-300, random_state=0)
        .fit(X, y)
        .module_.network
    )
    reg = TorchRegressor(module=MLP, max_epochs=5, random_state=0).fit(X, y)
    drifts = {j.name: j for j in FitSummary.from_dict(reg.fit_summary_).parameter_drifts}
    end = dict(reg.module_.network.named_parameters())
    for name, parameter in start.named_parameters():
        gone = (end[name] - parameter).detach().square().mean().sqrt()
        size = parameter.detach().square().mean().sqrt()
        assert drifts[name].distance == pytest.approx(float(gone), rel=1e-4)
        assert drifts[name].initial_size == pytest.approx(float(size), rel=1e-4)
        assert drifts[name].n == parameter.numel()


@pytest.mark.parametrize("hidden", [(3,), (300, 20)])
def test_drifts_of_folds_are_those_of_each_network(hidden: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    options = {"n_folds": 3, "module__hidden_sizes": hidden}
    found = {drift.name: drift for drift in summary_of(X, X[:, 0], **options).parameter_drifts}
    starts = TorchRegressor(module=MLP, max_epochs=1, lr=1e-300, random_state=0, **options)
    ends = TorchRegressor(module=MLP, max_epochs=2, random_state=0, **options)
    before, after = (
        dict(reg.fit(X, X[:, 0]).module_.network.state_dict()) for reg in (starts, ends)
    )
    assert list(found) == list(before)
    for name, start in before.items():
        assert found[name].n == start.numel()
        assert found[name].initial_size == pytest.approx(
            float(start.square().mean().sqrt()), rel=1e-5
        )
        gone = (after[name] - start).square().mean().sqrt()
        assert found[name].distance == pytest.approx(float(gone), rel=1e-4)


def test_drift_is_finite_where_squares_overflow_float32() -> None:
    network = MLP(4)
    initial = [parameter.detach().clone() for parameter in network.parameters()]
    with torch.no_grad():
        network.layers[0].weight += 1e30
    drift, *others = parameter_drifts(network, initial)
    assert drift.distance == pytest.approx(1e30)
    assert [other.distance for other in others] == [0.0] * len(others)


def test_a_summary_survives_a_json_round_trip(rows: tuple[Array, Array]) -> None:
    X, y = rows
    reg = TorchRegressor(module=MLP, max_epochs=2, random_state=0, early_stopping=True).fit(X, y)
    written = json.loads(json.dumps(reg.fit_summary_, allow_nan=False))
    assert FitSummary.from_dict(written) == FitSummary.from_dict(reg.fit_summary_)
    assert FitSummary.from_dict(written).n_validation == 70


def test_merged_rows_count_with_their_multiplicity() -> None:
    x = np.linspace(-1, 1, 40)[:, None] ** 2
    times = np.arange(40) % 3 + 1
    X, y = np.repeat(x, times, axis=0), np.repeat(np.abs(x[:, 0] - 0.5), times)
    look = summary_of(X, y, batch_size=None).network
    assert look is not None
    assert look.n_rows == len(X)
    # Standardized by the statistics of all rows
    assert look.input_mean == pytest.approx([0], abs=1e-9)
    assert look.input_scale == pytest.approx([1])


def test_the_size_of_a_summary_does_not_depend_on_n_rows(
    rows: tuple[Array, Array],
) -> None:
    X, y = rows
    few = json.dumps(TorchRegressor(module=MLP, max_epochs=1).fit(X[:200], y[:200]).fit_summary_)
    many = json.dumps(TorchRegressor(module=MLP, max_epochs=1).fit(X, y).fit_summary_)
    assert abs(len(many) - len(few)) < 500


@pytest.mark.parametrize("size", [1e-300, 1.0, 1e308])
def test_probe_rows_do_not_depend_on_the_scale_of_the_weights(size: float) -> None:
    weight = torch.tensor([1.0, 0.25, 0.5, 1.5], dtype=torch.float64)
    chosen = sample_rows(40, 10, weight * size)
    assert torch.equal(chosen, sample_rows(40, 10, weight))
