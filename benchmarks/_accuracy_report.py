"""Report of the accuracy benchmarks: tables, exceeded bounds, and a plot of average ranks."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
from _datasets import DATASETS, OTHERS
from _harness import number, table
from _models import LINEAR, MLP_STANDARDIZED, MODELS, TORCHREG
from _scores import (
    Averages,
    Result,
    average_ranks,
    average_splits,
    common_results,
    complete_models,
    critical_difference,
    fit_seconds,
    geometric_mean,
    indistinguishable,
    read,
    worse_than,
)
from matplotlib import pyplot as plt

#: The rules of the default network were chosen on the first splits; the other is for testing.
SELECTION_SPLITS, TEST_SPLITS = (0, 1), (2,)
#: Bound of the default's error, relative to the better of LinearRegression and MLPRegressor.
MAX_RATIO = 1.02
#: A larger nRMSE is a failure; predicting the mean gives about 1.
FAILURE = 1.05
SIZES = ((0, 1_100), (1_100, 10_000), (10_000, 1_000_000))
#: Blue of the Okabe-Ito palette, and gray.
TORCHREG_COLOR, OTHER_COLOR = "#0072B2", "0.25"

NOTES = """\
Real data sets in raw units, with 80 % training rows and 20 % test rows. Missing numbers are
replaced by the median, and categories are one-hot encoded, both fitted to the training rows.
nRMSE is the RMSE divided by the standard deviation of y, on the test rows: predicting the mean
gives 1. It is averaged over splits and data sets by the geometric mean. Ranks (1 is best) are
among the models of a table. Nothing is tuned: parameters that a name does not show have their
defaults; *quick* is `TorchRegressor(early_stopping=True, max_epochs=30)`. The 2×256 network trains
with AdamW at 1e-3 and a cosine schedule over 200 epochs in batches of 256, and keeps the weights
of the best epoch on 10 % validation rows. The rules of TorchRegressor's default were chosen on
splits {selection} of the first {n} data sets, a few of them also in view of the same splits of the
other {others}; split {test} was not used. Data sets of 10,000 rows or more have splits {large}
only. Seconds are the median of a fit: processor time with one thread, wall-clock time otherwise."""

DRAWN = """\
![Average ranks](accuracy.png)

Average ranks on all splits of the {n} data sets on which all of these models ran. Models that
share a bar do not differ significantly by Nemenyi's test (critical difference at 5 %: {cd:.2f})."""


def write_report(file: Path) -> None:
    """Write ``accuracy.md`` and ``accuracy.png`` next to the file of results, if it has any."""
    results = [result for result in read(file).values() if result.model in MODELS]
    if not results:
        return
    first = [result for result in results if result.dataset in DATASETS]
    others = [result for result in results if result.dataset in OTHERS]

    def on(splits: Sequence[int], among: Sequence[Result]) -> list[Result]:
        return [result for result in among if result.split in splits]

    selection, test = join_splits(SELECTION_SPLITS), join_splits(TEST_SPLITS)
    notes = NOTES.format(
        selection=selection,
        test=test,
        n=len(DATASETS),
        others=len(OTHERS),
        large=join_splits((SELECTION_SPLITS[0], *TEST_SPLITS)),
    )
    blocks = [
        "# Accuracy on real data, nothing tuned",
        notes,
        *summary(f"Splits {selection}, on which rules were chosen", on(SELECTION_SPLITS, first)),
        *summary(f"Split {test}, not used to choose rules", on(TEST_SPLITS, first)),
        *summary(f"Other data sets, split {test}", on(TEST_SPLITS, others)),
        *summary(f"Other data sets, splits {selection}", on(SELECTION_SPLITS, others)),
        *rank_section(results, complete_models(first), file.with_suffix(".png")),
        "## Bounds",
        *bounds(results),
        "## Each data set, all splits",
        *(dataset_table(r, names) for r, names in ((first, DATASETS), (others, OTHERS)) if r),
        provenance(results, file),
    ]
    file.with_suffix(".md").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def join_splits(splits: Iterable[int]) -> str:
    return " and ".join(map(str, splits))


def summary(title: str, results: Sequence[Result]) -> list[str]:
    """Compare the models that ran on all splits; compare the others with them where they ran."""
    models = complete_models(results)
    if not models:
        return []
    averages = average_splits(common_results(results, models))
    ranks, means = average_ranks(averages), mean_over(averages)
    rows = [
        [model, f"{means[model]:.3f}", f"{ranks[model]:.1f}", *median_seconds(results, model)]
        for model in sorted(models, key=means.__getitem__)
    ]
    sizes = ["fit s, <1.1k rows", "<10k", "≥10k"]
    blocks = [f"## {title}", table(["model", "nRMSE", "rank", *sizes], rows)]
    for model in MODELS:
        shared = common_results(results, [*models, model]) if model not in models else []
        if shared:
            averages = average_splits(shared)
            means = mean_over(averages)
            order = sorted(means, key=means.__getitem__)
            text = ", ".join(f"{name} {means[name]:.3f}" for name in order)
            blocks.append(f"On the {len(averages)} data sets where {model} ran: {text}.")
    return blocks


def mean_over(averages: Averages) -> dict[str, float]:
    """Return the geometric mean over data sets, which all have the same models."""
    return {
        model: geometric_mean(by_model[model] for by_model in averages.values())
        for model in next(iter(averages.values()))
    }


def median_seconds(results: Iterable[Result], model: str) -> list[str]:
    """Return the median seconds of a fit for each range of sizes."""
    cells = []
    for least, most in SIZES:
        seconds = [
            fit_seconds(result)
            for result in results
            if result.model == model and least <= result.n_rows < most
        ]
        cells.append(number(statistics.median(seconds)) if seconds else "")
    return cells


def bounds(results: Sequence[Result]) -> list[str]:
    """List the data sets on which the default exceeds its bound, and all failed fits."""
    simple = (LINEAR, MLP_STANDARDIZED)
    averages = average_splits(common_results(results, (TORCHREG, *simple)))
    worse = worse_than(averages, TORCHREG, simple, MAX_RATIO)
    rows = [
        [name, f"{ours:.4f}", f"{best:.4f}", f"{ours / best:.3f}"] for name, ours, best in worse
    ]
    failed = [result for result in results if result.nrmse > FAILURE]
    failures = [
        [result.model, result.dataset, str(result.split), f"{result.nrmse:.3g}", result.note]
        for result in sorted(failed, key=lambda result: (result.model, result.dataset))
    ]
    return [
        f"The error of `{TORCHREG}` exceeds {MAX_RATIO} times the better of {LINEAR} and "
        f"{MLP_STANDARDIZED} on {len(worse)} of {len(averages)} data sets{':' if rows else '.'}",
        *([table(["data set", "default", "better of the two", "ratio"], rows)] if rows else []),
        f"Fits with an nRMSE above {FAILURE}: {len(failed)} of {len(results)}"
        f"{':' if failures else '.'}",
        *([table(["model", "data set", "split", "nRMSE", "note"], failures)] if failures else []),
    ]


def dataset_table(results: Sequence[Result], datasets: Sequence[str]) -> str:
    """Return a row per data set and a column per model that has all its splits; best in bold."""
    averages = {}
    for dataset in {result.dataset for result in results}:
        own = [result for result in results if result.dataset == dataset]
        averages |= average_splits(common_results(own, complete_models(own)))
    models = [model for model in MODELS if any(model in row for row in averages.values())]
    shapes = {result.dataset: (result.n_rows, result.n_columns) for result in results}
    rows = []
    for dataset in sorted(averages, key=lambda name: (shapes[name], datasets.index(name))):
        best = min(averages[dataset].values())
        cells = [
            ("**{:.3f}**" if value == best else "{:.3f}").format(value)
            if (value := averages[dataset].get(model)) is not None
            else ""
            for model in models
        ]
        n_rows, n_columns = shapes[dataset]
        rows.append([dataset, f"{n_rows:,}", str(n_columns), *cells])
    return table(["data set", "rows", "columns", *models], rows)


def provenance(results: Sequence[Result], file: Path) -> str:
    """Return packages, threads, machines and dates of the results."""
    packages = sorted({result.version.split(" (")[0] for result in results})
    machines = sorted({result.machine for result in results})
    threads = sorted({str(result.threads) for result in results})
    days = [result.date for result in results]
    return (
        f"{min(days)} to {max(days)}; {'; '.join(packages)}; threads: {', '.join(threads)}; "
        f"{', '.join(machines)}. Other work on the machine makes seconds longer. All fits are in "
        f"{file.name}."
    )


def rank_section(results: Sequence[Result], models: Sequence[str], path: Path) -> list[str]:
    """Plot the ranks of two or more models, and return the section of the report."""
    if len(models) < 2:
        return []
    averages = average_splits(common_results(results, models))
    draw_ranks(averages, path)
    text = DRAWN.format(n=len(averages), cd=critical_difference_of(averages))
    return ["## Ranks", text.replace("accuracy.png", path.name)]


def critical_difference_of(averages: Averages) -> float:
    return critical_difference(len(next(iter(averages.values()))), len(averages))


def draw_ranks(averages: Averages, path: Path) -> None:
    """Plot average ranks on a line, best on the left; bars join models that do not differ."""
    ranks = average_ranks(averages)
    models = sorted(ranks, key=ranks.__getitem__)
    bars = indistinguishable(ranks, critical_difference_of(averages))
    n_left = (len(models) + 1) // 2
    row, gap = 0.34, 0.16
    bottom = -gap * (len(bars) + 1) - row * n_left
    first, last = 1, len(models)
    margin = 0.55 * (last - first)  # for a name on each side
    mpl.rcParams.update({"font.size": 8.5})
    figure, ax = plt.subplots(figsize=(7.5, 0.55 * (1.6 - bottom)), layout="constrained")
    ax.plot([first, last], [0, 0], color="black", lw=1)
    for tick in range(first, last + 1):
        ax.plot([tick, tick], [0, 0.07], color="black", lw=1)
        ax.text(tick, 0.12, str(tick), ha="center", va="bottom")
    difference = critical_difference_of(averages)
    ax.plot([first, first + difference], [0.62, 0.62], color="black", lw=1, marker="|", ms=6)
    label = f"critical difference {difference:.2f}"
    ax.text(first + difference / 2, 0.7, label, ha="center", va="bottom")
    ax.text(last, 0.7, "average rank, 1 is best", ha="right", va="bottom")
    for index, (start, end) in enumerate(bars):
        height = -gap * (index + 1)
        ax.plot([start, end], [height, height], color="0.55", lw=3)
    for index, model in enumerate(models):
        left = index < n_left
        depth = index if left else len(models) - 1 - index
        height = -gap * (len(bars) + 1) - row * (depth + 0.5)
        end = first - 0.05 * margin if left else last + 0.05 * margin
        color = TORCHREG_COLOR if model.startswith("TorchRegressor") else OTHER_COLOR
        ax.plot([ranks[model], ranks[model], end], [0, height, height], color=color, lw=1)
        text = f"{model}  {ranks[model]:.2f}" if left else f"{ranks[model]:.2f}  {model}"
        side = "right" if left else "left"
        offset = -0.02 * margin if left else 0.02 * margin
        ax.text(end + offset, height, text, ha=side, va="center", color=color)
    ax.set(xlim=(first - margin, last + margin), ylim=(bottom, 1.1))
    ax.axis("off")
    figure.savefig(path, dpi=200)
    plt.close(figure)
