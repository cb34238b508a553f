"""Time of a fit of TorchRegressor's default, quick and thorough, compared with its peers.

Models that are not installed are left out; ``make accuracy`` installs them.
"""

from __future__ import annotations

import logging
from functools import partial

import numpy as np
from _harness import Run, Timing, begin, interleave, number, synthetic, table
from _models import MODELS, QUICK, THOROUGH, TORCHREG, Predict
from _scores import nrmse

REALMLP = "RealMLP-TD"
NAMES = ("LightGBM", "CatBoost", QUICK, TORCHREG, THOROUGH, REALMLP)
#: Rows, columns and rounds. RealMLP-TD takes minutes on many rows.
SIZES = ((1_000, 10, 3), (5_000, 20, 1), (20_000, 10, 1))
N_TEST = 2_000

NOTES = """\
Normally distributed columns, and y with noise and nonlinear in two of them. Median seconds of
interleaved rounds after a warm-up with 100 rows. nRMSE is on {n_test:,} other rows. *Ratio* is
relative to RealMLP-TD. Targets with two threads: `{default}` takes less than 2 s at 1,000 rows,
25 s at 20,000, and a tenth of the time of RealMLP-TD.

- *{quick}*: `TorchRegressor(early_stopping=True, max_epochs=30)`, one network
  for half the epochs.
- *{thorough}*: `TorchRegressor(n_folds=16, max_epochs=120)`, more networks
  for twice the epochs."""


def fit(name: str, X: np.ndarray, y: np.ndarray, threads: int, seed: int) -> Predict:
    return MODELS[name].fit(X, y, seed, threads)


def measure(
    run: Run, names: list[str], n_rows: int, n_columns: int, rounds: int
) -> dict[str, tuple[Timing, float]]:
    """Time the fits of one size, and compute the error of the last one on other rows."""
    X, y = synthetic(n_rows + N_TEST, n_columns)
    competitors = {name: partial(fit, name, X[:n_rows], y[:n_rows], run.threads) for name in names}
    timings = interleave(competitors, rounds=run.pick(rounds, 1), warm_up=0)
    return {
        name: (timing, nrmse(y[n_rows:], np.asarray(timing.results[-1](X[n_rows:])).reshape(-1)))
        for name, timing in timings.items()
    }


def tabulate(measured: dict[str, tuple[Timing, float]]) -> str:
    slowest = measured[REALMLP][0].median if REALMLP in measured else None
    rows = [
        [
            name,
            number(timing.median),
            f"{timing.median / slowest:.3f}" if slowest else "",
            f"{error:.4f}",
        ]
        for name, (timing, error) in measured.items()
    ]
    return table(["", "seconds", "ratio", "nRMSE"], rows)


def main() -> None:
    run = begin("fit_default", __doc__)
    logging.disable(logging.WARNING)  # pytabkit logs the GPUs at each fit
    names = [name for name in NAMES if MODELS[name].installed]
    if run.quick:  # Leave out the slow ones.
        names = [name for name in names if name not in (REALMLP, THOROUGH)]
    for name in names:
        MODELS[name].warm_up(run.threads)
    blocks = []
    for n_rows, n_columns, rounds in SIZES[: run.pick(len(SIZES), 1)]:
        blocks.append(f"## {n_rows:,} rows of {n_columns} columns, rounds: {run.pick(rounds, 1)}")
        blocks.append(tabulate(measure(run, names, n_rows, n_columns, rounds)))
    notes = NOTES.format(n_test=N_TEST, default=TORCHREG, quick=QUICK, thorough=THOROUGH)
    run.report("Time of a fit of the default", notes, *blocks)


if __name__ == "__main__":
    main()
