"""The accuracy benchmark counts right, and runs nothing twice."""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
MODULES = ("accuracy", "_accuracy_report", "_datasets", "_harness", "_scores", "_untuned")

Import = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Import]:
    """Import a script, or what it shares, from the folder of the benchmarks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def scores(benchmark: Import) -> ModuleType:
    return benchmark("_scores")


@pytest.fixture(scope="module")
def datasets(benchmark: Import) -> ModuleType:
    return benchmark("_datasets")


@pytest.fixture(scope="module")
def untuned(benchmark: Import) -> ModuleType:
    return benchmark("_untuned")


@pytest.fixture(scope="module")
def accuracy(benchmark: Import) -> ModuleType:
    return benchmark("accuracy")


@pytest.fixture
def result(scores: ModuleType) -> Any:
    """Return a result to be varied."""
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
        note='said "no", and why',
    )


class TestScores:
    def test_the_mean_of_y_has_an_nrmse_of_one_and_y_itself_of_zero(
        self, scores: ModuleType
    ) -> None:
        y = np.array([1.0, 5.0, 2.0, -7.0])
        assert scores.nrmse(y, np.full(4, y.mean())) == pytest.approx(1, rel=1e-12)
        assert scores.nrmse(y, y) == 0

    def test_an_nrmse_knows_no_units(self, scores: ModuleType) -> None:
        y, prediction = np.random.default_rng(0).standard_normal((2, 50))
        in_other_units = scores.nrmse(1e6 * y + 3e7, 1e6 * prediction + 3e7)
        assert in_other_units == pytest.approx(scores.nrmse(y, prediction), rel=1e-9)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_prediction_that_is_not_finite_is_infinitely_far_off(
        self, scores: ModuleType, value: float
    ) -> None:
        assert scores.nrmse(np.array([1.0, 2.0]), np.array([1.0, value])) == math.inf

    def test_splits_of_a_data_set_are_averaged_geometrically(
        self, scores: ModuleType, result: Any
    ) -> None:
        rows = [replace(result, nrmse=0.2), replace(result, split=1, nrmse=0.8)]
        averages = scores.average(rows)
        assert averages["penguins"]["LinearRegression"] == pytest.approx(0.4, rel=1e-12)

    def test_ranks_are_averages_over_data_sets_and_ties_share_theirs(
        self, scores: ModuleType
    ) -> None:
        averages = {"a": {"u": 0.1, "v": 0.2, "w": 0.3}, "b": {"u": 0.5, "v": 0.4, "w": 0.5}}
        assert scores.average_ranks(averages) == {"u": 1.75, "v": 1.5, "w": 2.75}

    def test_models_are_compared_on_the_splits_that_all_of_them_ran_on(
        self, scores: ModuleType, result: Any
    ) -> None:
        everywhere = [replace(result, model="u", split=split) for split in range(3)]
        once = [replace(result, model="v", split=1)]
        assert scores.complete([*everywhere, *once]) == ["u"]
        assert scores.in_common([*everywhere, *once], ["u", "v"]) == [everywhere[1], *once]
        assert scores.in_common([*everywhere, *once], ["u"]) == everywhere

    @pytest.mark.parametrize(
        ("n_models", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (7, 2.949), (10, 3.164)]
    )
    def test_the_critical_difference_is_the_one_of_demsars_table(
        self, scores: ModuleType, n_models: int, q: float
    ) -> None:
        expected = q * math.sqrt(n_models * (n_models + 1) / (6 * 14))
        assert scores.critical_difference(n_models, 14) == pytest.approx(expected, abs=1e-3)

    def test_bars_join_neighbours_that_are_not_apart_and_none_lies_within_another(
        self, scores: ModuleType
    ) -> None:
        ranks = {"a": 1.0, "b": 1.5, "c": 2.4, "d": 5.0}
        assert scores.not_apart(ranks, 1.0) == [(1.0, 1.5), (1.5, 2.4)]
        assert scores.not_apart(ranks, 1.4) == [(1.0, 2.4)]
        assert scores.not_apart(ranks, 0.1) == []

    def test_worse_is_by_more_than_the_factor_of_the_better_of_the_others(
        self, scores: ModuleType
    ) -> None:
        averages = {
            "within": {"ours": 0.408, "u": 0.4, "v": 0.9},
            "worse": {"ours": 0.5, "u": 0.4, "v": 0.3},
        }
        assert scores.worse_than(averages, "ours", ("u", "v"), 1.02) == [("worse", 0.5, 0.3)]


class TestFile:
    def test_what_is_written_is_read_again(
        self, scores: ModuleType, result: Any, tmp_path: Path
    ) -> None:
        rows = [result, replace(result, split=1, nrmse=math.inf, predict_s=math.nan, note="")]
        for row in rows:
            scores.append(tmp_path / "new" / "results.csv", row)
        first, second = scores.read(tmp_path / "new" / "results.csv").values()
        assert first == result
        assert second.nrmse == math.inf and math.isnan(second.predict_s)

    def test_of_two_results_of_one_fit_the_later_counts(
        self, scores: ModuleType, result: Any, tmp_path: Path
    ) -> None:
        path = tmp_path / "results.csv"
        later = replace(result, nrmse=0.1, version="scikit-learn 2.0")
        scores.append(path, result)
        scores.append(path, later)
        assert scores.read(path) == {("penguins", 0, "LinearRegression"): later}

    def test_no_file_holds_no_results(self, scores: ModuleType, tmp_path: Path) -> None:
        assert scores.read(tmp_path / "none.csv") == {}

    @pytest.mark.parametrize("other", [{"data": "9"}, {"version": "9"}, {"threads": 9}])
    def test_a_result_of_other_rows_code_or_threads_does_not_count(
        self, scores: ModuleType, result: Any, other: dict[str, Any]
    ) -> None:
        asked = {"data": result.data, "version": result.version, "threads": result.threads}
        assert scores.is_done(result, **asked)
        assert not scores.is_done(result, **{**asked, **other})
        assert not scores.is_done(None, **asked)


class TestData:
    def test_missing_numbers_are_the_median_of_the_rows_fitted(self, datasets: ModuleType) -> None:
        encoder = datasets.Encoder().fit(pd.DataFrame({"x": [1.0, 2.0, 9.0, np.nan]}))
        new = pd.DataFrame({"x": [np.nan, 100.0]})
        np.testing.assert_array_equal(encoder.transform(new), [[2.0], [100.0]])

    def test_a_category_is_a_column_for_each_value_and_one_column_if_it_has_two(
        self, datasets: ModuleType
    ) -> None:
        frame = pd.DataFrame({"color": ["red", "blue", "green"], "sex": ["m", "f", "m"]})
        encoder = datasets.Encoder().fit(frame)
        assert encoder.names_ == ["color=blue", "color=green", "color=red", "sex=m"]
        expected = [[0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 0, 1]]
        np.testing.assert_array_equal(encoder.transform(frame), expected)

    def test_a_category_not_seen_is_zero_and_a_missing_one_is_a_value(
        self, datasets: ModuleType
    ) -> None:
        encoder = datasets.Encoder().fit(pd.DataFrame({"c": ["a", "b", None]}))
        assert encoder.names_ == ["c=a", "c=b", "c=missing"]
        new = pd.DataFrame({"c": ["z", np.nan, "b"]})
        np.testing.assert_array_equal(encoder.transform(new), [[0, 0, 0], [0, 0, 1], [0, 1, 0]])

    @pytest.mark.parametrize("n_rows", [5, 342, 1001])
    def test_a_split_is_four_to_one_and_parts_the_rows(
        self, datasets: ModuleType, n_rows: int
    ) -> None:
        train, test = datasets.split_rows(n_rows, 2)
        assert len(test) == round(n_rows / 5)
        np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(n_rows))
        np.testing.assert_array_equal(test, datasets.split_rows(n_rows, 2)[1])
        assert not np.array_equal(test, datasets.split_rows(n_rows, 0)[1]) or n_rows == 5

    def test_penguins_without_a_mass_are_left_out_and_the_mass_is_no_input(
        self, datasets: ModuleType
    ) -> None:
        dataset = datasets.load("penguins")
        assert len(dataset.y) == len(dataset.X) == 342
        assert np.isfinite(dataset.y).all() and "body_mass_g" not in dataset.X
        for array in datasets.split(dataset, 0):
            assert array.dtype == np.float64 and np.isfinite(array).all()

    def test_a_large_table_is_cut_to_the_same_rows_each_time(
        self, datasets: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        table = pd.DataFrame({"name": range(100), "x": range(100), "y": range(100)})
        source = datasets.Source("here", lambda: table, "y", ("name",))
        monkeypatch.setattr(datasets, "ALL", {"large": source})
        monkeypatch.setattr(datasets, "MOST_ROWS", 30)
        dataset = datasets.load("large")
        assert list(dataset.X) == ["x"] and len(dataset.y) == len(set(dataset.y)) == 30
        np.testing.assert_array_equal(dataset.X["x"], dataset.y)
        np.testing.assert_array_equal(datasets.load("large").y, dataset.y)

    def test_a_package_that_is_missing_is_named_with_what_installs_it(
        self, datasets: ModuleType
    ) -> None:
        with pytest.raises(ImportError, match=r"no_such_package.*make accuracy"):
            datasets._folder("no_such_package")


class TestVersion:
    def test_comments_docstrings_and_layout_are_no_change_of_code(
        self, untuned: ModuleType
    ) -> None:
        plain = "def f(x):\n    return x + 1\n"
        dressed = '"""Add."""\n\n\ndef f(\n    x,\n):\n    "Say what."\n    return x + 1  # one\n'
        assert untuned.code_only(plain) == untuned.code_only(dressed)
        assert untuned.code_only(plain) != untuned.code_only(plain.replace("1", "2"))

    def test_a_change_of_torchreg_is_another_version_of_its_models_only(
        self, untuned: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = ("LinearRegression", untuned.TORCHREG)
        before = [untuned.MODELS[name].version for name in names]
        monkeypatch.setattr(untuned, "_digest_of_torchreg", lambda: "changed")
        after = [untuned.MODELS[name].version for name in names]
        assert before[0] == after[0] and before[1] != after[1]


@pytest.fixture
def fits(
    accuracy: ModuleType, untuned: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, int]]:
    """Put two models in the place of the others, that note the seeds they are fitted with."""
    seen: list[tuple[str, int]] = []

    def fit_mean(X: np.ndarray, y: np.ndarray, seed: int, threads: int) -> Any:
        if len(y) > 100:  # no warm-up
            seen.append(("mean", seed))
        return lambda X: np.full(len(X), y.mean())

    def fit_nothing(X: np.ndarray, y: np.ndarray, seed: int, threads: int) -> Any:
        if len(y) > 100:
            seen.append(("nothing", seed))
            raise RuntimeError("gave up\nand said more")
        return None

    models = {
        name: untuned.Model(fit, "numpy", ("numpy",))
        for name, fit in {"mean": fit_mean, "nothing": fit_nothing}.items()
    }
    monkeypatch.setattr(accuracy, "MODELS", models)
    return seen


@pytest.fixture
def options(tmp_path: Path) -> argparse.Namespace:
    return argparse.Namespace(
        datasets=["penguins"],
        models=["mean", "nothing"],
        splits=[0, 1, 2],
        again=[],
        keep=False,
        threads=1,
        file=tmp_path / "results.csv",
    )


class TestRuns:
    def test_what_is_there_is_not_run_again(
        self, accuracy: ModuleType, fits: list[Any], options: argparse.Namespace
    ) -> None:
        accuracy.run(options)
        assert fits == [(name, split) for name in ("mean", "nothing") for split in range(3)]
        accuracy.run(options)
        assert len(fits) == 6

    def test_one_model_can_be_asked_for_again(
        self, accuracy: ModuleType, fits: list[Any], options: argparse.Namespace
    ) -> None:
        accuracy.run(options)
        options.again = ["mean"]
        accuracy.run(options)
        assert fits[6:] == [("mean", 0), ("mean", 1), ("mean", 2)]

    def test_another_version_is_run_again_unless_told_to_keep(
        self,
        accuracy: ModuleType,
        fits: list[Any],
        options: argparse.Namespace,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        accuracy.run(options)
        for name, model in accuracy.MODELS.items():
            monkeypatch.setitem(accuracy.MODELS, name, replace(model, packages=("scipy",)))
        options.keep = True
        accuracy.run(options)
        assert len(fits) == 6
        options.keep = False
        accuracy.run(options)
        assert len(fits) == 12

    def test_a_run_that_is_cut_off_goes_on_where_it_was(
        self,
        accuracy: ModuleType,
        scores: ModuleType,
        fits: list[Any],
        options: argparse.Namespace,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def cut_off(*args: Any) -> Any:
            if len(fits) == 2:
                raise KeyboardInterrupt
            return measure(*args)

        measure = accuracy.measure
        monkeypatch.setattr(accuracy, "measure", cut_off)
        with pytest.raises(KeyboardInterrupt):
            accuracy.run(options)
        assert len(scores.read(options.file)) == 2
        monkeypatch.setattr(accuracy, "measure", measure)
        accuracy.run(options)
        assert fits == [(name, split) for name in ("mean", "nothing") for split in range(3)]

    def test_a_model_that_gives_up_is_a_result_with_its_reason(
        self,
        accuracy: ModuleType,
        scores: ModuleType,
        fits: list[Any],
        options: argparse.Namespace,
    ) -> None:
        accuracy.run(options)
        rows = scores.read(options.file)
        given_up, mean = rows["penguins", 0, "nothing"], rows["penguins", 0, "mean"]
        assert given_up.nrmse == math.inf and given_up.note == "RuntimeError: gave up"
        assert mean.nrmse == pytest.approx(1, abs=0.02) and mean.note == ""
        assert mean.n_rows == 342 and mean.n_columns == 13

    def test_a_model_whose_package_is_missing_is_left_out(
        self,
        accuracy: ModuleType,
        fits: list[Any],
        options: argparse.Namespace,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        missing = replace(accuracy.MODELS["mean"], module="no_such_package")
        monkeypatch.setitem(accuracy.MODELS, "mean", missing)
        accuracy.run(options)
        assert {name for name, _ in fits} == {"nothing"}
        assert "no_such_package is not installed" in capsys.readouterr().out

    def test_data_sets_below_ten_thousand_rows_have_three_splits_and_others_two(
        self, accuracy: ModuleType
    ) -> None:
        assert accuracy.splits_of(9_999) == (0, 1, 2)
        assert accuracy.splits_of(10_000) == (0, 2)


def test_the_report_compares_models_and_lists_what_is_out_of_bounds(
    benchmark: Import,
    datasets: ModuleType,
    scores: ModuleType,
    untuned: ModuleType,
    result: Any,
    tmp_path: Path,
) -> None:
    errors = {untuned.LINEAR: 0.5, untuned.MLP_STANDARDIZED: 0.4, untuned.TORCHREG: 0.2}
    path = tmp_path / "accuracy.csv"
    for dataset in datasets.DATASETS:
        for split in range(3):
            for model, error in errors.items():
                ours_on_auto = model == untuned.TORCHREG and dataset == "Auto"
                error = 1.2 if ours_on_auto else error
                row = {"dataset": dataset, "split": split, "model": model, "nrmse": error}
                scores.append(path, replace(result, **row))
    scores.append(path, replace(result, dataset="Auto", model="CatBoost", nrmse=0.3))
    benchmark("_accuracy_report").write_report(path)
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in path.with_suffix(".md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    mean = scores.geometric_mean([1.2] + [0.2] * 13)
    assert [untuned.TORCHREG, f"{mean:.3f}", "1.1", "0.250", "", ""] in cells
    assert [untuned.MLP_STANDARDIZED, "0.400", "1.9", "0.250", "", ""] in cells
    assert ["Auto", "1.2000", "0.4000", "3.000"] in cells
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    assert "on 1 of 14 data sets:" in text
    assert "nRMSE above 1.05: 3 of 127:" in text
    assert "On the 1 data sets where CatBoost ran: CatBoost 0.300, " in text
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_report_of_one_model_has_no_ranks_and_of_none_is_not_written(
    benchmark: Import, scores: ModuleType, result: Any, tmp_path: Path
) -> None:
    path = tmp_path / "one.csv"
    write_report = benchmark("_accuracy_report").write_report
    write_report(path)
    assert not path.with_suffix(".md").exists()
    scores.append(path, result)
    write_report(path)
    assert "## Ranks" not in path.with_suffix(".md").read_text(encoding="utf-8")
    assert not path.with_suffix(".png").exists()
