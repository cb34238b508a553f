"""Peak memory of a fit of a million rows, compared with MLPRegressor and skorch.

Each value is from a fresh process that has imported all libraries and holds X and y. The data have
order 1, so that MLPRegressor and skorch need no scaled copy, which raw data would require.
"""

from __future__ import annotations

import json
import statistics

import numpy as np
from _competitors import fit_mlp_regressor, fit_skorch, fit_torchreg
from _eager import Task
from _harness import begin, interleave, resident_bytes, run_fresh, synthetic, table

N_COLUMNS = 50
TASK = Task((32,), epochs=1, batch_size=1024)
FITS = {"torchreg": fit_torchreg, "MLPRegressor": fit_mlp_regressor, "skorch": fit_skorch}
COMPETITORS = (
    ("torchreg", "float32"),
    ("MLPRegressor", "float32"),
    ("skorch", "float32"),
    ("torchreg", "float64"),
)

NOTES = """\
{rows:,} × {columns}, 32 ReLU, batches of 1024, Adam, one epoch. Medians of {rounds} fresh
processes, as multiples of the size of X. *Fit* is the peak during the fit minus the memory before
it; *with X* includes X. *Code* is the memory of an earlier fit of the first 2,000 rows, in which
libraries are loaded; the other columns exclude it. Target: 1.2 with X for float32, and one float32
copy more for float64 X."""


def peaks(library: str, dtype: str, n_rows: int) -> tuple[float, float]:
    """Return the memory of fit and code as multiples of X. Call it in a fresh process."""
    X, y = synthetic(n_rows, N_COLUMNS, np.float32 if dtype == "float32" else np.float64)
    fit = FITS[library]
    empty, _ = resident_bytes()
    fit(X[:2000], y[:2000], TASK, 0)
    before, _ = resident_bytes()
    fit(X, y, TASK, 0)
    _, peak = resident_bytes()
    return (peak - before) / X.nbytes, (before - empty) / X.nbytes


def main() -> None:
    run = begin("memory", __doc__)
    n_rows = run.pick(1_000_000, 100_000)

    def measure(library: str, dtype: str) -> tuple[float, float]:
        call = f"memory.peaks({library!r}, {dtype!r}, {n_rows})"
        code = f"import json, memory\nprint(json.dumps({call}))"
        fit, code_share = json.loads(run_fresh(code, run.threads)[1])
        return fit, code_share

    timings = interleave(
        {
            f"{library}, {dtype} X": lambda _, which=(library, dtype): measure(*which)
            for library, dtype in COMPETITORS
        },
        rounds=run.pick(5, 1),
        warm_up=0,
    )
    rows = []
    for name, timing in timings.items():
        fit, code = (statistics.median(part) for part in zip(*timing.results, strict=True))
        rows.append([name, f"{fit:.2f}", f"{1 + fit:.2f}", f"{code:.2f}"])
    run.report(
        "Peak memory of a fit",
        NOTES.format(rows=n_rows, columns=N_COLUMNS, rounds=run.pick(5, 1)),
        table(["", "fit, × X", "with X, × X", "code, × X"], rows),
    )


if __name__ == "__main__":
    main()
