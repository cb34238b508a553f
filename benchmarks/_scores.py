"""Results of the accuracy benchmark: kept as rows of a file, and what follows from them."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from scipy.stats import rankdata, studentized_range

Averages = dict[str, dict[str, float]]  # of nRMSE: data set, then model


@dataclass(frozen=True)
class Result:
    """One fit: what it was, how far it is off, how long it took, and on what.

    `data` is a digest of the training rows, `version` that of the regressor and its packages;
    a result counts as long as both are what they were.
    """

    dataset: str
    split: int
    model: str
    nrmse: float
    fit_s: float
    fit_cpu_s: float
    predict_s: float
    n_rows: int  # of the data set, training and test
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
    """Read the results, of each data set, split and model the last that was written."""
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
    """Write one more result at the end of the file, so that an end at any time loses none."""
    new = not path.exists()
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Result)], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(asdict(result))


def is_done(known: Result | None, data: str, version: str, threads: int) -> bool:
    """Tell whether a result is there, of the same rows, the same code and as many threads."""
    return known is not None and (known.data, known.version, known.threads) == (
        data,
        version,
        threads,
    )


def nrmse(y: np.ndarray, prediction: np.ndarray) -> float:
    """Return the RMSE over the standard deviation of y: 1 is no better than the mean.

    A prediction that is not finite is infinitely far off.
    """
    error = float(np.sqrt(np.mean((y - prediction) ** 2)) / np.std(y))
    return error if math.isfinite(error) else math.inf


def geometric_mean(values: Iterable[float]) -> float:
    return math.exp(float(np.mean(np.log(list(values)))))


def average(results: Iterable[Result]) -> Averages:
    """Average the nRMSE of each data set and model over the splits, geometrically."""
    errors: dict[str, dict[str, list[float]]] = {}
    for result in results:
        errors.setdefault(result.dataset, {}).setdefault(result.model, []).append(result.nrmse)
    return {
        dataset: {model: geometric_mean(values) for model, values in by_model.items()}
        for dataset, by_model in errors.items()
    }


def complete(results: Iterable[Result]) -> list[str]:
    """Return the models that ran on every split that any model ran on, in order of appearance."""
    fits: dict[str, set[tuple[str, int]]] = {}
    for result in results:
        fits.setdefault(result.model, set()).add((result.dataset, result.split))
    every: set[tuple[str, int]] = set().union(*fits.values())
    return [model for model, theirs in fits.items() if theirs == every]


def in_common(results: Iterable[Result], models: Iterable[str]) -> list[Result]:
    """Keep the results of these models, on the splits that all of them ran on."""
    models = set(models)
    fits: dict[tuple[str, int], list[Result]] = {}
    for result in results:
        if result.model in models:
            fits.setdefault((result.dataset, result.split), []).append(result)
    return [result for group in fits.values() if len(group) == len(models) for result in group]


def average_ranks(averages: Averages) -> dict[str, float]:
    """Rank the models within each data set, 1 is best, and average; all need all data sets."""
    models = list(next(iter(averages.values())))
    ranks = [rankdata([by_model[model] for model in models]) for by_model in averages.values()]
    return dict(zip(models, np.mean(ranks, axis=0).tolist(), strict=True))


def critical_difference(n_models: int, n_datasets: int, alpha: float = 0.05) -> float:
    """Return how far average ranks must lie apart to differ, by Nemenyi's test.

    Demšar, Statistical comparisons of classifiers over multiple data sets, JMLR 7 (2006),
    equation 4: q_alpha sqrt(k (k + 1) / 6 N), q of the Studentized range over sqrt 2.
    """
    q = studentized_range.ppf(1 - alpha, n_models, math.inf) / math.sqrt(2)
    return float(q * math.sqrt(n_models * (n_models + 1) / (6 * n_datasets)))


def not_apart(ranks: Mapping[str, float], difference: float) -> list[tuple[float, float]]:
    """Return the longest stretches of average ranks within which no two models differ."""
    ordered = sorted(ranks.values())
    stretches: list[tuple[float, float]] = []
    for start in ordered:
        end = max(rank for rank in ordered if rank - start <= difference)
        if end > start and (not stretches or end > stretches[-1][1]):
            stretches.append((start, end))
    return stretches


def worse_than(
    averages: Averages, model: str, others: Sequence[str], factor: float
) -> list[tuple[str, float, float]]:
    """Return where a model is worse than a factor times the best of others: set, its, theirs."""
    best = {name: min(by_model[other] for other in others) for name, by_model in averages.items()}
    return [
        (name, by_model[model], best[name])
        for name, by_model in averages.items()
        if by_model[model] > factor * best[name]
    ]
