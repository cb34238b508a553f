"""Shared by the benchmarks: interleaved timing, fresh processes, tables and versions."""

from __future__ import annotations

import argparse
import csv
import datetime
import gc
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PENGUINS = HERE.parent / "data" / "penguins.csv"
PACKAGES = ("torch-regressor", "torch", "scikit-learn", "skorch", "numpy", "scipy")


@dataclass(frozen=True)
class Run:
    """A run of a script: its name, the threads of every competitor, and whether it is quick.

    A quick run tests the script: it has small sizes and one round, and writes no results.
    """

    name: str
    threads: int
    quick: bool

    def pick(self, full: int, quick: int) -> int:
        """Return the size or number of rounds of this run."""
        return quick if self.quick else full

    def report(self, title: str, *blocks: str) -> None:
        """Print the blocks with date and versions, and write them to ``results/``."""
        text = "\n\n".join([f"# {title}", *blocks, environment(self.threads)]) + "\n"
        print(text)
        if not self.quick:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{self.name}.md").write_text(text, encoding="utf-8")


def begin(name: str, description: str | None) -> Run:
    """Read the command line and set the number of threads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="small, one round, writes no results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads)
    return Run(name, options.threads, options.quick)


@dataclass
class Timing:
    """Seconds and result of each round of a competitor."""

    seconds: list[float] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def interleave(
    competitors: Mapping[str, Callable[[int], Any]], rounds: int, warm_up: int = 1
) -> dict[str, Timing]:
    """Time the competitors in turn, A B C A B C ..., so that a slow period affects all of them.

    Each is called with the number of the round as its seed. Warm-up rounds are not recorded.
    """
    timings = {name: Timing() for name in competitors}
    for number in range(-warm_up, rounds):
        for name, run in competitors.items():
            gc.collect()
            start = time.perf_counter()
            result = run(max(number, 0))
            seconds = time.perf_counter() - start
            if number >= 0:
                timings[name].seconds.append(seconds)
                timings[name].results.append(result)
    return timings


def run_fresh(
    code: str, threads: int, environment: Mapping[str, str] | None = None
) -> tuple[float, str]:
    """Run code in a fresh Python process that can import the modules of this folder.

    Return the seconds from start to end of the process, and its output.
    """
    variables = {**os.environ, "OMP_NUM_THREADS": str(threads), **(environment or {})}
    start = time.perf_counter()
    child = subprocess.run(
        [sys.executable, "-c", code],
        cwd=HERE,
        env=variables,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return time.perf_counter() - start, child.stdout


def resident_bytes() -> tuple[int, int]:
    """Return the current and the peak resident set size of this process.

    On Linux they are read from /proc, because ``getrusage`` includes the parent process. Elsewhere
    both are the peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(row.split(":", 1) for row in status.read_text().splitlines())
        return _kilobytes(lines["VmRSS"]), _kilobytes(lines["VmHWM"])
    import resource  # absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    return peak, peak


def _kilobytes(text: str) -> int:
    return int(text.split()[0]) * 1024


def penguins() -> tuple[np.ndarray, np.ndarray]:
    """Return flipper lengths in mm, of shape (333, 1), and body masses in g, of shape (333,)."""
    with PENGUINS.open(encoding="utf-8") as file:
        complete = [row for row in csv.DictReader(file) if "NA" not in row.values()]
    X = np.array([[float(row["flipper_length_mm"])] for row in complete])
    return X, np.array([float(row["body_mass_g"]) for row in complete])


def synthetic(
    n_rows: int, n_columns: int, dtype: type[np.floating] = np.float64
) -> tuple[np.ndarray, np.ndarray]:
    """Return standard normal X, and a y of order 1 that is nonlinear in two of the columns."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, n_columns), dtype=dtype)
    y = np.sin(X[:, 0]) + 0.5 * np.abs(X[:, -1]) + 0.1 * X[:, n_columns // 2]
    y += rng.standard_normal(n_rows, dtype=dtype) / 10
    return X, y


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a markdown table: the first column left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(header), line(rule), *(line(row) for row in rows)])


def number(value: float) -> str:
    """Format a number with three significant digits, without an exponent."""
    digits = 2 if value == 0 else max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{digits}f}"


def environment(threads: int) -> str:
    """Return date, versions, threads and processor: the last paragraph of a result."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    return (
        f"{datetime.date.today().isoformat()}; Python {platform.python_version()}, "
        f"{', '.join(versions)}; threads: {threads} of {os.cpu_count()}, {processor()}, "
        f"{platform.system()}."
    )


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
