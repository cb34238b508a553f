"""Growth of the time of a fit with rows and columns, compared with a hand-written loop."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from _competitors import fit_torchreg
from _eager import Task, fit_eager_loop, standardize
from _harness import RESULTS, Run, Timing, begin, interleave, number, synthetic, table
from matplotlib import pyplot as plt

TASK = Task((100,), epochs=3, batch_size=1024)
ROWS = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
COLUMNS = (1, 3, 10, 30, 100, 300, 1_000)
FEW_COLUMNS = 20
FEW_ROWS = 10_000
#: Rounds for up to FEW_ROWS rows; 5 for more.
MANY_ROUNDS = 15
#: Blue and vermilion of the Okabe-Ito palette.
COLORS = {"torchreg": "#0072B2", "hand-written loop": "#D55E00"}
MARKERS = {"torchreg": "o", "hand-written loop": "s"}

NOTES = """\
100 ReLU, batches of 1024, Adam, float32 X. Seconds of an epoch (of a fit of {epochs} epochs,
divided by {epochs}): median of 5 interleaved rounds, 15 for up to 10,000 rows. torchreg computes
small steps in float64 (here up to 3 columns) and larger ones in float32; the loop always uses
float32.

![Seconds of an epoch against rows and columns](growth.png)"""


def measure(run: Run, n_rows: int, n_columns: int) -> dict[str, Timing]:
    X, y = synthetic(n_rows, n_columns, np.float32)
    return interleave(
        {
            "torchreg": lambda seed: fit_torchreg(X, y, TASK, seed),
            "hand-written loop": lambda seed: fit_eager_loop(*standardize(X, y), TASK, seed),
        },
        rounds=run.pick(5 if n_rows > FEW_ROWS else MANY_ROUNDS, 1),
    )


def epoch_seconds(timings: list[dict[str, Timing]], name: str) -> np.ndarray:
    return np.array([timing[name].median for timing in timings]) / TASK.epochs


def slope(sizes: np.ndarray, seconds: np.ndarray) -> float:
    """Return the exponent of growth; 1 is proportional."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def draw(panels: list[tuple[str, np.ndarray, dict[str, np.ndarray]]], path: Path) -> None:
    """Plot a panel for rows, with a proportional line, and one for columns."""
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, len(panels), figsize=(7, 2.9), sharey=True, layout="constrained")
    for ax, (label, sizes, curves) in zip(axes, panels, strict=True):
        for name, seconds in curves.items():
            ax.plot(
                sizes, seconds, color=COLORS[name], marker=MARKERS[name], markersize=4, label=name
            )
        ax.set(xscale="log", yscale="log", xlabel=label)
    _, rows, curves = panels[0]
    proportional = curves["torchreg"][-1] * rows / rows[-1]
    axes[0].plot(rows, proportional, color="0.6", lw=0.8, ls="--", label="proportional to rows")
    axes[0].set_ylabel("seconds of an epoch")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=200)
    plt.close(figure)


def tabulate(label: str, sizes: np.ndarray, curves: dict[str, np.ndarray]) -> str:
    ratios = curves["torchreg"] / curves["hand-written loop"]
    rows = [
        [f"{size:,}", *(number(curves[name][i]) for name in curves), f"{ratios[i]:.2f}"]
        for i, size in enumerate(sizes)
    ]
    return table([label, *(f"{name}, s" for name in curves), "ratio"], rows)


def main() -> None:
    run = begin("growth", __doc__)
    count = run.pick(len(ROWS), 4)
    rows, columns = np.array(ROWS[:count]), np.array(COLUMNS[:count])
    by_rows = [measure(run, n_rows, FEW_COLUMNS) for n_rows in rows]
    by_columns = [measure(run, FEW_ROWS, n_columns) for n_columns in columns]
    row_curves = {name: epoch_seconds(by_rows, name) for name in COLORS}
    column_curves = {name: epoch_seconds(by_columns, name) for name in COLORS}
    row_label, column_label = f"rows ({FEW_COLUMNS} columns)", f"columns ({FEW_ROWS:,} rows)"
    if not run.quick:
        draw(
            [(row_label, rows, row_curves), (column_label, columns, column_curves)],
            RESULTS / "growth.png",
        )
    large = rows >= 10_000
    slopes = ", ".join(
        f"{name} {slope(rows[large], curve[large]):.2f}" for name, curve in row_curves.items()
    )
    run.report(
        "Growth of the time of a fit",
        NOTES.format(epochs=TASK.epochs),
        tabulate(row_label, rows, row_curves),
        f"Exponent of the growth with rows, from 10,000 rows on (1 is proportional): {slopes}.",
        tabulate(column_label, columns, column_curves),
    )


if __name__ == "__main__":
    main()
