"""What a fresh process pays: imports, and a first fit.

Every figure is of a process started for it, in turn with the others; the first round, which
fills the disk cache, does not count.
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

#: What comes after it is timed from here on.
BEGIN = f"import time\n{IMPORTS}start = time.perf_counter()\n"

LOOP = f"""\
from _eager import Work, fit_eager_loop, standardized
{MAKE_SMALL}fit_eager_loop(*standardized(X, y), Work((32,), 50), seed=0)
{PRINT_SECONDS}"""

#: Scripts; those with a target print the seconds since torch and sklearn.base were imported.
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
    "the same with MLPRegressor(), data as they are": (
        "import warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from sklearn.neural_network import MLPRegressor\n"
        f"{READ_PENGUINS}MLPRegressor().fit(X, y).predict(X)\n",
        "",
    ),
}

#: The first fit of a process; each prints the seconds of the fit.
FIRST_FITS: dict[str, str] = {
    "loop by hand": IMPORTS + LOOP,
    "loop by hand, scikit-learn not imported": LOOP,
    "torchreg": (
        "from torchreg import TorchRegressor\n"
        f"{MAKE_SMALL}"
        "TorchRegressor(module__hidden_sizes=[32], lr=1e-3, max_epochs=50, batch_size=None,"
        " random_state=0).fit(X, y)\n"
        f"{PRINT_SECONDS}"
    ),
}

NOTES = """\
Median seconds of {rounds} fresh processes each: of the whole process, from start to end, and of
what the script does after `import torch, sklearn.base`, reading the data included."""

FIRST_FIT_NOTES = """\
300 × 4, 32 ReLU, full batch, Adam, 50 epochs. *Fit* is the time of the fit alone, after the
imports, with what torch imports when an optimizer first takes a step; *process* is from start to
end; the ratios are to the loop by hand, in a process that also imports scikit-learn."""


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
            number(printed_median(timings[name])) if to_reach else "",
            to_reach,
        ]
        for name, (_, to_reach) in SCRIPTS.items()
    ]
    fit_seconds = {name: printed_median(timings[name]) for name in FIRST_FITS}
    first_fits = [
        [
            name,
            number(fit_seconds[name]),
            f"{fit_seconds[name] / fit_seconds['loop by hand']:.2f}",
            number(timings[name].median),
            f"{timings[name].median / timings['loop by hand'].median:.2f}",
            *(["1.00", "0.60"] if name == "torchreg" else ["", ""]),
        ]
        for name in FIRST_FITS
    ]
    run.report(
        "What a fresh process pays",
        "## A script's whole time",
        NOTES.format(rounds=run.pick(5, 1)),
        table(["", "process, s", "after the imports, s", "to reach"], scripts),
        "## The first fit of a process",
        FIRST_FIT_NOTES,
        table(["", "fit, s", "ratio", "process, s", "ratio", "to reach", "then"], first_fits),
    )


if __name__ == "__main__":
    main()
