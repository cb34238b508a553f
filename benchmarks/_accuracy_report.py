"""What the accuracy benchmark writes: tables, what is out of bounds, and a plot of ranks."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
from _datasets import DATASETS, OTHERS
from _harness import number, table
from _scores import (
    Averages,
    Result,
    average,
    average_ranks,
    complete,
    critical_difference,
    geometric_mean,
    in_common,
    not_apart,
    read,
    worse_than,
)
from _untuned import LINEAR, MLP_STANDARDIZED, MODELS, TORCHREG
from matplotlib import pyplot as plt

#: Rules of the default network are chosen on the first splits and judged by the other.
CHOSEN_ON, REPORTED_APART = (0, 1), (2,)
#: By how much a default may be worse than the better of a straight line and scikit-learn's MLP.
FACTOR = 1.02
#: An nRMSE from here on is a failure: 1 is the mean of the training rows.
FAILURE = 1.05
SIZES = ((0, 1_100), (1_100, 10_000), (10_000, 1_000_000))
#: Okabe and Ito's blue for torchreg, gray for the others.
OURS, THEIRS = "#0072B2", "0.25"

NOTES = """\
Real data sets in raw units, 80 % of the rows to fit and 20 % to judge; missing numbers are the
median, categories 0/1 columns, both of the training rows. nRMSE is the RMSE of the test rows over
the standard deviation of their y: 1 is the mean, 0 is exact. Over the splits of a data set, and
over data sets, it is averaged geometrically; the rank, 1 is best, is among the models of the
table. Nothing is tuned: every regressor is what its constructor makes of it, the 2×256 network is
AdamW at 1e-3, batches of 256, a cosine over 200 epochs and the best of a 10 % hold-out. Rules of
TorchRegressor's default were chosen on splits {chosen} of the first {n} data sets, with a look at
those of the other {others}; split {apart} had no say anywhere. Data sets of 10,000 rows
and more have splits {large} only.
Seconds of a fit are the median, of the processor with one thread, else of the clock."""

DRAWN = """\
![Average ranks](accuracy.png)

Average ranks over the {n} data sets that all of these ran on, all splits. Models on one bar are
not apart by Nemenyi's test (Friedman's is implied; the critical difference at 5 % is {cd:.2f})."""


def write_report(file: Path) -> None:
    """Write ``accuracy.md`` and ``accuracy.png`` beside the file of results, if it has any."""
    results = [result for result in read(file).values() if result.model in MODELS]
    if not results:
        return
    named = [result for result in results if result.dataset in DATASETS]
    others = [result for result in results if result.dataset in OTHERS]
    seen = [result for result in others if result.split in CHOSEN_ON]
    unseen = [result for result in others if result.split in REPORTED_APART]
    chosen = [result for result in named if result.split in CHOSEN_ON]
    apart = [result for result in named if result.split in REPORTED_APART]
    notes = NOTES.format(
        chosen=spelled(CHOSEN_ON),
        apart=spelled(REPORTED_APART),
        n=len(DATASETS),
        others=len(OTHERS),
        large=spelled((CHOSEN_ON[0], *REPORTED_APART)),
    )
    blocks = [
        "# Accuracy on real data, nothing tuned",
        notes,
        *summary(f"Splits {spelled(CHOSEN_ON)}, which rules were chosen on", chosen),
        *summary(f"Split {spelled(REPORTED_APART)}, reported apart", apart),
        *summary(f"Other data sets, split {spelled(REPORTED_APART)}, reported apart", unseen),
        *summary(f"Other data sets, splits {spelled(CHOSEN_ON)}", seen),
        *ranks_drawn(results, complete(named), file.with_suffix(".png")),
        "## Bounds",
        *bounds(results),
        "## Each data set, all splits",
        *(each(rows, sets) for rows, sets in ((named, DATASETS), (others, OTHERS)) if rows),
        versions(results, file),
    ]
    file.with_suffix(".md").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def spelled(splits: Iterable[int]) -> str:
    return " and ".join(map(str, splits))


def summary(title: str, results: Sequence[Result]) -> list[str]:
    """Compare the models that ran everywhere, and each other one where it ran."""
    models = complete(results)
    if not models:
        return []
    averages = average(in_common(results, models))
    ranks, means = average_ranks(averages), mean_over(averages)
    rows = [
        [model, f"{means[model]:.3f}", f"{ranks[model]:.1f}", *fit_seconds(results, model)]
        for model in sorted(models, key=means.__getitem__)
    ]
    sizes = ["fit s, <1.1k rows", "<10k", "≥10k"]
    blocks = [f"## {title}", table(["model", "nRMSE", "rank", *sizes], rows)]
    for model in MODELS:
        there = in_common(results, [*models, model]) if model not in models else []
        if there:
            averages = average(there)
            means = mean_over(averages)
            order = sorted(means, key=means.__getitem__)
            text = ", ".join(f"{name} {means[name]:.3f}" for name in order)
            blocks.append(f"On the {len(averages)} data sets where {model} ran: {text}.")
    return blocks


def mean_over(averages: Averages) -> dict[str, float]:
    """Average over data sets; all of them have the same models."""
    return {
        model: geometric_mean(by_model[model] for by_model in averages.values())
        for model in next(iter(averages.values()))
    }


def fit_seconds(results: Iterable[Result], model: str) -> list[str]:
    """Return the median time of a fit in each class of sizes."""
    cells = []
    for least, most in SIZES:
        seconds = [
            result.fit_cpu_s if result.threads == 1 else result.fit_s
            for result in results
            if result.model == model and least <= result.n_rows < most
        ]
        cells.append(number(statistics.median(seconds)) if seconds else "")
    return cells


def bounds(results: Sequence[Result]) -> list[str]:
    """List where the default is worse than simple regressors, and every failed fit."""
    simple = (LINEAR, MLP_STANDARDIZED)
    averages = average(in_common(results, (TORCHREG, *simple)))
    worse = worse_than(averages, TORCHREG, simple, FACTOR)
    rows = [
        [name, f"{ours:.4f}", f"{best:.4f}", f"{ours / best:.3f}"] for name, ours, best in worse
    ]
    failed = [result for result in results if result.nrmse > FAILURE]
    failures = [
        [result.model, result.dataset, str(result.split), f"{result.nrmse:.3g}", result.note]
        for result in sorted(failed, key=lambda result: (result.model, result.dataset))
    ]
    return [
        f"`{TORCHREG}` is worse than {FACTOR} times the better of {LINEAR} and {MLP_STANDARDIZED} "
        f"on {len(worse)} of {len(averages)} data sets{':' if rows else '.'}",
        *([table(["data set", "default", "better of the two", "ratio"], rows)] if rows else []),
        f"Fits with an nRMSE above {FAILURE}: {len(failed)} of {len(results)}"
        f"{':' if failures else '.'}",
        *([table(["model", "data set", "split", "nRMSE", "note"], failures)] if failures else []),
    ]


def each(results: Sequence[Result], datasets: Sequence[str]) -> str:
    """Write a row for each data set, a column for each model that has all splits; best in bold."""
    averages = {}
    for dataset in {result.dataset for result in results}:
        rows_of_it = [result for result in results if result.dataset == dataset]
        averages |= average(in_common(rows_of_it, complete(rows_of_it)))
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


def versions(results: Sequence[Result], file: Path) -> str:
    """Name what the results came from: packages, threads, machines and days."""
    packages = sorted({result.version.split(" (")[0] for result in results})
    machines = sorted({result.machine for result in results})
    threads = sorted({str(result.threads) for result in results})
    days = [result.date for result in results]
    return (
        f"{min(days)} to {max(days)}; {'; '.join(packages)}; threads: {', '.join(threads)}; "
        f"{', '.join(machines)}. A machine that does other work at the same time makes seconds "
        f"longer; each fit's are in {file.name}."
    )


def ranks_drawn(results: Sequence[Result], models: Sequence[str], path: Path) -> list[str]:
    """Draw the ranks of these models, of which there must be two, and say what is seen."""
    if len(models) < 2:
        return []
    averages = average(in_common(results, models))
    draw_ranks(averages, path)
    text = DRAWN.format(n=len(averages), cd=critical_difference_of(averages))
    return ["## Ranks", text.replace("accuracy.png", path.name)]


def critical_difference_of(averages: Averages) -> float:
    return critical_difference(len(next(iter(averages.values()))), len(averages))


def draw_ranks(averages: Averages, path: Path) -> None:
    """Draw average ranks on a line, best on the left, and bars over what is not apart."""
    ranks = average_ranks(averages)
    models = sorted(ranks, key=ranks.__getitem__)
    bars = not_apart(ranks, critical_difference_of(averages))
    n_left = (len(models) + 1) // 2
    row, gap = 0.34, 0.16
    bottom = -gap * (len(bars) + 1) - row * n_left
    first, last = 1, len(models)
    margin = 0.55 * (last - first)  # room for a name on each side, whatever the number of ranks
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
    for place, (start, end) in enumerate(bars):
        height = -gap * (place + 1)
        ax.plot([start, end], [height, height], color="0.55", lw=3)
    for place, model in enumerate(models):
        left = place < n_left
        depth = place if left else len(models) - 1 - place
        height = -gap * (len(bars) + 1) - row * (depth + 0.5)
        end = first - 0.05 * margin if left else last + 0.05 * margin
        color = OURS if model.startswith("TorchRegressor") else THEIRS
        ax.plot([ranks[model], ranks[model], end], [0, height, height], color=color, lw=1)
        text = f"{model}  {ranks[model]:.2f}" if left else f"{ranks[model]:.2f}  {model}"
        side = "right" if left else "left"
        nudge = -0.02 * margin if left else 0.02 * margin
        ax.text(end + nudge, height, text, ha=side, va="center", color=color)
    ax.set(xlim=(first - margin, last + margin), ylim=(bottom, 1.1))
    ax.axis("off")
    figure.savefig(path, dpi=200)
    plt.close(figure)
