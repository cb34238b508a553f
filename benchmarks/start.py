"""Time of imports and of a first fit in a fresh process.

Processes are interleaved. The first round, which fills the disk cache, is not recorded.
"""

from __future__ import annotations

import statistics

from _harness import Timing, begin, interleave, number, run_fresh, table

IMPORTS = "import torch, sklearn.base\n"

READ_PENGUINS = """\
import csv
import numpy as np
rows = [row for row in csv.DictReader(open("../data/penguins.csv")) if "NA" not in row.values()]
X = np.array([[float(row["flipper_length_mm"])] for row in rows])
y = np.array([float(row["body_mass_g"]) for row in rows])
"""

MAKE_SMALL = """\
import time
import numpy as np
rng = np.random.default_rng(0)
X = rng.standard_normal((300, 4))
y = np.sin(X[:, 0]) + 0.5 * np.abs(X[:, 3])
start = time.perf_counter()
"""

PRINT_SECONDS = "print(time.perf_counter() - start)\n"

#: Start of the timed code.
BEGIN = f"import time\n{IMPORTS}start = time.perf_counter()\n"

LOOP = f"""\
from _eager import Task, fit_eager_loop, standardize
{MAKE_SMALL}fit_eager_loop(*standardize(X, y), Task((32,), 50), seed=0)
{PRINT_SECONDS}"""

#: Scripts and their targets; those with a target print the seconds after BEGIN.
SCRIPTS: dict[str, tuple[str, str]] = {
    "import torch, sklearn.base": (IMPORTS, ""),
    "import torchreg": (f"{BEGIN}import torchreg\n{PRINT_SECONDS}", "0.1"),
    "penguins with TorchRegressor(), fit and predict": (
        f"{BEGIN}from torchreg import TorchRegressor\n"
        f"{READ_PENGUINS}TorchRegressor().fit(X, y).predict(X)\n{PRINT_SECONDS}",
        "0.3",
    ),
    "the same with 5 units and Rprop": (
        f"{BEGIN}from torchreg import TorchRegressor\n"
        f"{READ_PENGUINS}"
        "TorchRegressor(module__hidden_sizes=[5], optimizer='rprop').fit(X, y).predict(X)\n"
        f"{PRINT_SECONDS}",
        "0.3",
    ),
    "the same with MLPRegressor(), raw data": (
        "import warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from sklearn.neural_network import MLPRegressor\n"
        f"{READ_PENGUINS}MLPRegressor().fit(X, y).predict(X)\n",
        "",
    ),
}

#: First fits of a process; each prints the seconds of the fit.
FIRST_FITS: dict[str, str] = {
    "hand-written loop": IMPORTS + LOOP,
    "hand-written loop, scikit-learn not imported": LOOP,
    "torchreg": (
        "from torchreg import TorchRegressor\n"
        f"{MAKE_SMALL}"
        "TorchRegressor(module__hidden_sizes=[32], lr=1e-3, max_epochs=50, batch_size=None,"
        " random_state=0).fit(X, y)\n"
        f"{PRINT_SECONDS}"
    ),
}

NOTES = """\
Median seconds of {rounds} fresh processes: of the whole process, and of the script after
`import torch, sklearn.base`, which includes reading the data."""

FIRST_FIT_NOTES = """\
300 × 4, 32 ReLU, full batch, Adam, 50 epochs. *Fit* is the fit alone, after the imports; it
includes what torch imports in the first step of an optimizer. *Process* is the whole process.
Ratios are relative to the hand-written loop in a process that also imports scikit-learn. *Target*
and *goal* are the aims of torchreg, now and later."""


def printed_median(timing: Timing) -> float:
    """Return the median of the seconds that a script printed."""
    return statistics.median(float(printed) for printed in timing.results)


def main() -> None:
    run = begin("start", __doc__)
    codes = {name: code for name, (code, _) in SCRIPTS.items()} | FIRST_FITS
    timings = interleave(
        {
            name: lambda _, code=code: run_fresh(code, run.threads)[1]
            for name, code in codes.items()
        },
        rounds=run.pick(5, 1),
    )
    scripts = [
        [
            name,
            number(timings[name].median),
            number(printed_median(timings[name])) if target else "",
            target,
        ]
        for name, (_, target) in SCRIPTS.items()
    ]
    fit_seconds = {name: printed_median(timings[name]) for name in FIRST_FITS}
    first_fits = [
        [
            name,
            number(fit_seconds[name]),
            f"{fit_seconds[name] / fit_seconds['hand-written loop']:.2f}",
            number(timings[name].median),
            f"{timings[name].median / timings['hand-written loop'].median:.2f}",
            *(["1.00", "0.60"] if name == "torchreg" else ["", ""]),
        ]
        for name in FIRST_FITS
    ]
    run.report(
        "Time of a fresh process",
        "## Scripts",
        NOTES.format(rounds=run.pick(5, 1)),
        table(["", "process, s", "after the imports, s", "target"], scripts),
        "## The first fit of a process",
        FIRST_FIT_NOTES,
        table(["", "fit, s", "ratio", "process, s", "ratio", "target", "goal"], first_fits),
    )


if __name__ == "__main__":
    main()
