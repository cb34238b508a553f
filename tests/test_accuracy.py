"""The accuracy benchmark computes its statistics correctly, and reuses valid results."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests._benchmarks import benchmark_imports


@pytest.fixture(scope="module")
def accuracy() -> Iterator[ModuleType]:
    """Import the script, with the modules that it shares with other scripts as attributes."""
    with benchmark_imports() as load:
        script = load("accuracy")
        for name in ("accuracy_report", "datasets", "models", "scores"):
            setattr(script, name, load(f"_{name}"))
        yield script


@pytest.fixture(scope="module")
def scores(accuracy: ModuleType) -> ModuleType:
    return accuracy.scores


@pytest.fixture(scope="module")
def datasets(accuracy: ModuleType) -> ModuleType:
    return accuracy.datasets


@pytest.fixture
def result(scores: ModuleType) -> Any:
    return scores.Result(
        dataset="penguins",
        split=0,
        model="LinearRegression",
        nrmse=0.35,
        fit_s=0.5,
        fit_cpu_s=0.25,
        predict_s=0.125,
        n_rows=342,
        n_columns=13,
        data="0123abcd",
        version="scikit-learn 1.9.1 (4567ef89)",
        threads=1,
        machine="a processor, 2 cores",
        date="2026-11-24",
        note='a "quoted" word, and a comma',
    )


class TestScores:
    def test_the_nrmse_of_the_mean_is_1_and_that_of_y_is_0(self, scores: ModuleType) -> None:
        y = np.array([1.0, 5.0, 2.0, -7.0])
        assert scores.nrmse(y, np.full(4, y.mean())) == pytest.approx(1, rel=1e-12)
        assert scores.nrmse(y, y) == 0

    def test_the_nrmse_does_not_depend_on_units(self, scores: ModuleType) -> None:
        y, prediction = np.random.default_rng(0).standard_normal((2, 50))
        in_other_units = scores.nrmse(1e6 * y + 3e7, 1e6 * prediction + 3e7)
        assert in_other_units == pytest.approx(scores.nrmse(y, prediction), rel=1e-9)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_nonfinite_prediction_has_an_infinite_error(
        self, scores: ModuleType, value: float
    ) -> None:
        assert scores.nrmse(np.array([1.0, 2.0]), np.array([1.0, value])) == math.inf

    def test_splits_are_averaged_by_the_geometric_mean(
        self, scores: ModuleType, result: Any
    ) -> None:
        rows = [replace(result, nrmse=0.2), replace(result, split=1, nrmse=0.8)]
        averages = scores.average_splits(rows)
        assert averages["penguins"]["LinearRegression"] == pytest.approx(0.4, rel=1e-12)

    def test_ties_share_the_mean_of_their_ranks(self, scores: ModuleType) -> None:
        averages = {"a": {"u": 0.1, "v": 0.2, "w": 0.3}, "b": {"u": 0.5, "v": 0.4, "w": 0.5}}
        assert scores.average_ranks(averages) == {"u": 1.75, "v": 1.5, "w": 2.75}

    def test_models_are_compared_on_common_splits(self, scores: ModuleType, result: Any) -> None:
        everywhere = [replace(result, model="u", split=split) for split in range(3)]
        once = replace(result, model="v", split=1)
        assert scores.complete_models([*everywhere, once]) == ["u"]
        assert scores.common_results([*everywhere, once], ["u", "v"]) == [everywhere[1], once]
        assert scores.common_results([*everywhere, once], ["u"]) == everywhere

    @pytest.mark.parametrize(
        ("n_models", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (7, 2.949), (10, 3.164)]
    )
    def test_the_critical_difference_agrees_with_demsars_table(
        self, scores: ModuleType, n_models: int, q: float
    ) -> None:
        expected = q * math.sqrt(n_models * (n_models + 1) / (6 * 14))
        assert scores.critical_difference(n_models, 14) == pytest.approx(expected, abs=1e-3)

    @pytest.mark.parametrize(
        ("difference", "intervals"),
        [(1.0, [(1.0, 1.5), (1.5, 2.4)]), (1.4, [(1.0, 2.4)]), (0.1, [])],
    )
    def test_bars_are_maximal_intervals(
        self, scores: ModuleType, difference: float, intervals: list[Any]
    ) -> None:
        ranks = {"a": 1.0, "b": 1.5, "c": 2.4, "d": 5.0}
        assert scores.indistinguishable(ranks, difference) == intervals

    def test_worse_is_above_the_factor_times_the_better_of_the_others(
        self, scores: ModuleType
    ) -> None:
        averages = {
            "within": {"ours": 0.408, "u": 0.4, "v": 0.9},
            "worse": {"ours": 0.5, "u": 0.4, "v": 0.3},
        }
        assert scores.worse_than(averages, "ours", ("u", "v"), 1.02) == [("worse", 0.5, 0.3)]


class TestFile:
    def test_results_are_read_as_written(
        self, scores: ModuleType, result: Any, tmp_path: Path
    ) -> None:
        path = tmp_path / "new" / "results.csv"
        assert scores.read(path) == {}
        failed = replace(result, split=1, nrmse=math.inf, predict_s=math.nan, note="")
        for row in (result, failed):
            scores.append(path, row)
        first, second = scores.read(path).values()
        assert first == result
        assert second.nrmse == math.inf and math.isnan(second.predict_s)

    @pytest.mark.parametrize("other", [{"data": "9"}, {"version": "9"}, {"threads": 9}])
    def test_a_result_of_other_rows_code_or_threads_is_not_valid(
        self, scores: ModuleType, result: Any, other: dict[str, Any]
    ) -> None:
        current = {"data": result.data, "version": result.version, "threads": result.threads}
        assert scores.is_done(result, **current)
        assert not scores.is_done(result, **{**current, **other})
        assert not scores.is_done(None, **current)


class TestData:
    def test_missing_numbers_are_the_median_of_the_training_rows(
        self, datasets: ModuleType
    ) -> None:
        encoder = datasets.Encoder().fit(pd.DataFrame({"x": [1.0, 2.0, 9.0, np.nan]}))
        new = pd.DataFrame({"x": [np.nan, 100.0]})
        np.testing.assert_array_equal(encoder.transform(new), [[2.0], [100.0]])

    def test_categories_are_one_hot_and_binary_ones_have_one_column(
        self, datasets: ModuleType
    ) -> None:
        frame = pd.DataFrame({"color": ["red", "blue", "green"], "sex": ["m", "f", "m"]})
        encoder = datasets.Encoder().fit(frame)
        assert encoder.names_ == ["color=blue", "color=green", "color=red", "sex=m"]
        expected = [[0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 0, 1]]
        np.testing.assert_array_equal(encoder.transform(frame), expected)

    def test_an_unknown_category_is_zero_and_a_missing_one_is_a_value(
        self, datasets: ModuleType
    ) -> None:
        encoder = datasets.Encoder().fit(pd.DataFrame({"c": ["a", "b", None]}))
        assert encoder.names_ == ["c=a", "c=b", "c=missing"]
        new = pd.DataFrame({"c": ["z", np.nan, "b"]})
        np.testing.assert_array_equal(encoder.transform(new), [[0, 0, 0], [0, 0, 1], [0, 1, 0]])

    @pytest.mark.parametrize("n_rows", [5, 342, 1001])
    def test_a_split_partitions_the_rows_four_to_one(
        self, datasets: ModuleType, n_rows: int
    ) -> None:
        train, test = datasets.split_rows(n_rows, 2)
        assert len(test) == round(n_rows / 5)
        np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(n_rows))
        np.testing.assert_array_equal(test, datasets.split_rows(n_rows, 2)[1])
        assert not np.array_equal(test, datasets.split_rows(n_rows, 0)[1]) or n_rows == 5


N_WARM_UP = 100
ALL_FITS = [(name, split) for name in ("mean", "failing") for split in range(3)]


@pytest.fixture
def fits(accuracy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Replace the models by two that record their fits, without warm-ups."""
    recorded: list[tuple[str, int]] = []

    def fit_mean(X: np.ndarray, y: np.ndarray, seed: int, threads: int) -> Any:
        if len(y) > N_WARM_UP:
            recorded.append(("mean", seed))
        return lambda X: np.full(len(X), y.mean())

    def fit_failing(X: np.ndarray, y: np.ndarray, seed: int, threads: int) -> Any:
        if len(y) > N_WARM_UP:
            recorded.append(("failing", seed))
            raise RuntimeError("diverged\nin detail")

    models = {
        name: accuracy.Model(fit, "numpy", ("numpy",))
        for name, fit in {"mean": fit_mean, "failing": fit_failing}.items()
    }
    monkeypatch.setattr(accuracy, "MODELS", models)
    return recorded


@pytest.fixture
def options(tmp_path: Path) -> argparse.Namespace:
    return argparse.Namespace(
        datasets=["penguins"],
        models=["mean", "failing"],
        splits=[0, 1, 2],
        again=[],
        keep=False,
        threads=1,
        file=tmp_path / "results.csv",
    )


class TestRuns:
    def test_valid_results_are_reused_unless_a_model_is_requested_again(
        self, accuracy: ModuleType, fits: list[Any], options: argparse.Namespace
    ) -> None:
        accuracy.run(options)
        accuracy.run(options)
        assert fits == ALL_FITS
        options.again = ["mean"]
        accuracy.run(options)
        assert fits == ALL_FITS + ALL_FITS[:3]

    def test_a_failed_fit_is_a_result_with_its_reason(
        self, accuracy: ModuleType, scores: ModuleType, fits: list[Any], options: argparse.Namespace
    ) -> None:
        accuracy.run(options)
        rows = scores.read(options.file)
        failed, mean = rows["penguins", 0, "failing"], rows["penguins", 0, "mean"]
        assert failed.nrmse == math.inf and failed.note == "RuntimeError: diverged"
        assert mean.nrmse == pytest.approx(1, abs=0.02) and mean.note == ""
        assert mean.n_rows == 342 and mean.n_columns == 13


class TestReport:
    def test_models_are_compared_and_exceeded_bounds_are_listed(
        self, accuracy: ModuleType, scores: ModuleType, result: Any, tmp_path: Path
    ) -> None:
        models, path = accuracy.models, tmp_path / "accuracy.csv"
        errors = {models.LINEAR: 0.5, models.MLP_STANDARDIZED: 0.4, models.TORCHREG: 0.2}
        for dataset in accuracy.DATASETS:
            for split in range(3):
                for model, error in errors.items():
                    exceeds = model == models.TORCHREG and dataset == "Auto"
                    row = {"dataset": dataset, "split": split, "model": model}
                    scores.append(path, replace(result, **row, nrmse=1.2 if exceeds else error))
        scores.append(path, replace(result, dataset="Auto", model="CatBoost", nrmse=0.3))
        accuracy.write_report(path)
        text = path.with_suffix(".md").read_text(encoding="utf-8")
        cells = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
        mean = scores.geometric_mean([1.2] + [0.2] * 13)
        assert [models.TORCHREG, f"{mean:.3f}", "1.1", "0.250", "", ""] in cells
        assert [models.MLP_STANDARDIZED, "0.400", "1.9", "0.250", "", ""] in cells
        assert ["Auto", "1.2000", "0.4000", "3.000"] in cells
        assert "on 1 of 14 data sets:" in text
        assert "nRMSE above 1.05: 3 of 127:" in text
        assert "On the 1 data sets where CatBoost ran: CatBoost 0.300, " in text
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
