"""Results of the accuracy benchmarks: a CSV file of fits, and statistics of them."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from scipy.stats import rankdata, studentized_range

#: Mean nRMSE by data set and model.
Averages = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Result:
    """One fit: its error, its duration, and its environment.

    ``data`` is a digest of the rows; ``version`` has the versions of the packages and a digest of
    the code. A result is valid as long as both are unchanged.
    """

    dataset: str
    split: int
    model: str
    nrmse: float
    fit_s: float
    fit_cpu_s: float
    predict_s: float
    n_rows: int  # training and test rows
    n_columns: int
    data: str
    version: str
    threads: int
    machine: str
    date: str
    note: str = ""

    @property
    def key(self) -> tuple[str, int, str]:
        return self.dataset, self.split, self.model


def read(path: Path) -> dict[tuple[str, int, str], Result]:
    """Read the latest result of each data set, split and model."""
    if not path.exists():
        return {}
    kinds = {"split": int, "n_rows": int, "n_columns": int, "threads": int}
    kinds |= dict.fromkeys(("nrmse", "fit_s", "fit_cpu_s", "predict_s"), float)
    with path.open(encoding="utf-8", newline="") as file:
        rows = [
            Result(**{name: kinds.get(name, str)(text) for name, text in row.items()})
            for row in csv.DictReader(file)
        ]
    return {row.key: row for row in rows}


def append(path: Path, result: Result) -> None:
    """Append a result to the file, so that an interrupted run loses none."""
    new = not path.exists()
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Result)], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(asdict(result))


def is_done(known: Result | None, data: str, version: str, threads: int) -> bool:
    """Whether there is a result for these rows, this code and this number of threads."""
    return known is not None and (known.data, known.version, known.threads) == (
        data,
        version,
        threads,
    )


def nrmse(y: np.ndarray, prediction: np.ndarray) -> float:
    """Return the RMSE divided by the standard deviation of y.

    It is 1 for the mean, and infinite if a prediction is not finite.
    """
    error = float(np.sqrt(np.mean((y - prediction) ** 2)) / np.std(y))
    return error if math.isfinite(error) else math.inf


def fit_seconds(result: Result) -> float:
    """Return processor seconds with one thread, wall-clock seconds otherwise."""
    return result.fit_cpu_s if result.threads == 1 else result.fit_s


def geometric_mean(values: Iterable[float]) -> float:
    return math.exp(float(np.mean(np.log(list(values)))))


def average_splits(results: Iterable[Result]) -> Averages:
    """Return the geometric mean over the splits of the nRMSE of each data set and model."""
    errors: dict[str, dict[str, list[float]]] = {}
    for result in results:
        errors.setdefault(result.dataset, {}).setdefault(result.model, []).append(result.nrmse)
    return {
        dataset: {model: geometric_mean(values) for model, values in by_model.items()}
        for dataset, by_model in errors.items()
    }


def complete_models(results: Iterable[Result]) -> list[str]:
    """Return the models that have results for every split of every data set of the results."""
    fits: dict[str, set[tuple[str, int]]] = {}
    for result in results:
        fits.setdefault(result.model, set()).add((result.dataset, result.split))
    every: set[tuple[str, int]] = set().union(*fits.values())
    return [model for model, splits in fits.items() if splits == every]


def common_results(results: Iterable[Result], models: Iterable[str]) -> list[Result]:
    """Return the results of these models on the splits that all of them have."""
    models = set(models)
    fits: dict[tuple[str, int], list[Result]] = {}
    for result in results:
        if result.model in models:
            fits.setdefault((result.dataset, result.split), []).append(result)
    return [result for group in fits.values() if len(group) == len(models) for result in group]


def average_ranks(averages: Averages) -> dict[str, float]:
    """Return the mean over data sets of the rank of each model; 1 is best."""
    models = list(next(iter(averages.values())))
    ranks = [rankdata([by_model[model] for model in models]) for by_model in averages.values()]
    return dict(zip(models, np.mean(ranks, axis=0).tolist(), strict=True))


def critical_difference(n_models: int, n_datasets: int, alpha: float = 0.05) -> float:
    """Return the critical difference of average ranks by Nemenyi's test.

    J. Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7 (2006):
    q_alpha sqrt(k (k + 1) / 6 N), with q of the Studentized range divided by sqrt 2.
    """
    q = studentized_range.ppf(1 - alpha, n_models, math.inf) / math.sqrt(2)
    return float(q * math.sqrt(n_models * (n_models + 1) / (6 * n_datasets)))


def indistinguishable(ranks: Mapping[str, float], difference: float) -> list[tuple[float, float]]:
    """Return the maximal intervals of average ranks that are no wider than a difference."""
    ordered = sorted(ranks.values())
    intervals: list[tuple[float, float]] = []
    for start in ordered:
        end = max(rank for rank in ordered if rank - start <= difference)
        if end > start and (not intervals or end > intervals[-1][1]):
            intervals.append((start, end))
    return intervals


def worse_than(
    averages: Averages, model: str, others: Sequence[str], factor: float
) -> list[tuple[str, float, float]]:
    """Return the data sets on which a model's error exceeds a factor times the best of others.

    Each with the two errors.
    """
    best = {name: min(by_model[other] for other in others) for name, by_model in averages.items()}
    return [
        (name, by_model[model], best[name])
        for name, by_model in averages.items()
        if by_model[model] > factor * best[name]
    ]
