"""Time and memory of grid searches: networks trained together, and one after another.

They are compared with ``MLPRegressor`` and skorch in two processes, with standardized data.
"""

from __future__ import annotations

import csv
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import joblib
import numpy as np
import torch
from _eager import build_network
from _harness import PENGUINS, Run, begin, interleave, number, run_fresh, synthetic, table
from sklearn.base import RegressorMixin
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skorch import NeuralNetRegressor

from torchreg import TorchRegressor
from torchreg.nn import MLP

COLUMNS = ["flipper_length_mm", "bill_length_mm", "bill_depth_mm"]
DECAYS = [0.0, 1e-5, 1e-4, 1e-3, 1e-2]
#: skorch, which takes minutes, runs one of this number of settings.
SKORCH_SHARE = 10

NOTES = """\
`GridSearchCV(..., cv=5, refit=False)` over learning rates and weight decays with Adam, and the same
networks, settings, epochs, batches and folds for all. torchreg runs in one process: *one after
another*, and *together* in `joblib.parallel_config(backend="torchreg")`. `MLPRegressor` and skorch
have standardized data (`StandardScaler` on X and y) and `n_jobs=2`, with processes that were
started before. These collect garbage every second, because `psutil` is not installed; with it
`MLPRegressor` takes about a tenth less. skorch runs every tenth setting, and its seconds are scaled
accordingly. Times are medians over the rounds. Columns *vs.* have the time of a competitor
divided by that of torchreg together, and the target. *Same results* is the largest difference of a
mean score between torchreg together and one after another. *Memory* is the growth of the peak of a
fresh process during the search."""


@dataclass(frozen=True)
class Search:
    """A search: data, network and settings.

    Parameters
    ----------
    name : str
    data : callable
        Returns X and y.
    hidden : int
    lrs : sequence of float
        Learning rates, each combined with each weight decay of ``decays``.
    decays : sequence of float
    epochs : int
    batch_size : int or None
        ``None`` is a full batch.
    targets : tuple of float
        Target ratios to MLPRegressor, skorch and one after another.
    """

    name: str
    data: Callable[[], tuple[np.ndarray, np.ndarray]]
    hidden: int
    lrs: Sequence[float]
    decays: Sequence[float]
    epochs: int
    batch_size: int | None
    targets: tuple[float, float, float]

    def grid(self, lr: str, decay: str) -> dict[str, list[float]]:
        """Return the grid under the names of an estimator's parameters."""
        return {lr: list(self.lrs), decay: list(self.decays)}


def three_columns() -> tuple[np.ndarray, np.ndarray]:
    """Return three lengths in mm, of shape (333, 3), and body masses in g."""
    with PENGUINS.open(encoding="utf-8") as file:
        complete = [row for row in csv.DictReader(file) if "NA" not in row.values()]
    X = np.array([[float(row[column]) for column in COLUMNS] for row in complete])
    return X, np.array([float(row["body_mass_g"]) for row in complete])


LRS = tuple(np.geomspace(1e-3, 3e-2, 10).tolist())
SEARCHES = (
    Search(
        "penguins, 3 columns, 5 hidden, 50 settings, 500 epochs full batch",
        three_columns,
        5,
        LRS,
        DECAYS,
        500,
        None,
        (10, 80, 6),
    ),
    Search("the same, 32 hidden", three_columns, 32, LRS, DECAYS, 500, None, (4, 25, 2.5)),
    Search(
        "2,000 × 8, 100 hidden, 20 settings, 50 epochs, batch 200",
        partial(synthetic, 2000, 8),
        100,
        LRS,
        (0.0, 1e-3),
        50,
        200,
        (3, 12, 2),
    ),
)


def grid_search(estimator: Any, grid: dict[str, list[float]], n_jobs: int | None) -> GridSearchCV:
    folds = KFold(5, shuffle=True, random_state=0)
    return GridSearchCV(estimator, grid, cv=folds, refit=False, n_jobs=n_jobs)


def search_torchreg(search: Search) -> GridSearchCV:
    reg = TorchRegressor(
        module=MLP,
        module__hidden_sizes=(search.hidden,),
        max_epochs=search.epochs,
        batch_size=search.batch_size,
        random_state=0,
    )
    return grid_search(reg, search.grid("lr", "optimizer__weight_decay"), None)


def standardized(reg: RegressorMixin, *steps: Any) -> TransformedTargetRegressor:
    pipeline = make_pipeline(StandardScaler(), *steps, reg)
    return TransformedTargetRegressor(pipeline, transformer=StandardScaler())


def search_mlp_regressor(search: Search) -> GridSearchCV:
    reg = MLPRegressor(
        hidden_layer_sizes=(search.hidden,),
        batch_size=search.batch_size or 10**6,
        shuffle=search.batch_size is not None,
        max_iter=search.epochs,
        tol=0,
        n_iter_no_change=sys.maxsize,
        random_state=0,
    )
    prefix = "regressor__mlpregressor__"
    grid = search.grid(f"{prefix}learning_rate_init", f"{prefix}alpha")
    return grid_search(standardized(reg), grid, 2)


def single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


class Net(NeuralNetRegressor):
    """skorch's regressor, with y as a column."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> Net:
        return super().fit(X, single(y).reshape(-1, 1))


def search_skorch(search: Search) -> GridSearchCV:
    X, _ = search.data()
    net = Net(
        build_network(X.shape[1], (search.hidden,)),
        optimizer=torch.optim.Adam,
        max_epochs=search.epochs,
        batch_size=search.batch_size or -1,
        iterator_train__shuffle=search.batch_size is not None,
        train_split=None,
        callbacks__print_log=None,
        verbose=0,
    )
    prefix = "regressor__net__"
    few = replace(search, lrs=search.lrs[::2], decays=search.decays[:: SKORCH_SHARE // 2])
    grid = few.grid(f"{prefix}lr", f"{prefix}optimizer__weight_decay")
    return grid_search(standardized(net, FunctionTransformer(single)), grid, 2)


def run_search(
    build: Callable[[Search], GridSearchCV], search: Search, backend: str | None, seed: int
) -> np.ndarray:
    """Run a search, and return the mean score of each setting."""
    with warnings.catch_warnings():
        # scikit-learn passes these filters to its processes.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "Got `batch_size` less than 1 or larger")
        if backend is None:
            fitted = build(search).fit(*search.data())
        else:
            with joblib.parallel_config(backend=backend):
                fitted = build(search).fit(*search.data())
    return np.asarray(fitted.cv_results_["mean_test_score"])


TOGETHER, SERIAL, PEER = "together", "one after another", "MLPRegressor, n_jobs=2"


def time_search(run: Run, search: Search) -> list[str]:
    """Time a search with all competitors: a row of the table."""
    competitors: dict[str, Callable[[int], np.ndarray]] = {
        TOGETHER: partial(run_search, search_torchreg, search, "torchreg"),
        SERIAL: partial(run_search, search_torchreg, search, None),
        PEER: partial(run_search, search_mlp_regressor, search, None),
    }
    # Start processes and import libraries before timing.
    warm = replace(search, lrs=search.lrs[:2], decays=search.decays[:1], epochs=3)
    for build in (search_torchreg, search_mlp_regressor, search_skorch):
        run_search(build, warm, None, 0)
    timings = interleave(competitors, rounds=run.pick(3, 1), warm_up=0)
    start = time.perf_counter()
    n_skorch = len(run_search(search_skorch, search, None, 0))
    n_settings = len(search.lrs) * len(search.decays)
    skorch_s = (time.perf_counter() - start) * n_settings / n_skorch
    together_s = timings[TOGETHER].median
    difference = np.abs(timings[TOGETHER].results[0] - timings[SERIAL].results[0]).max()
    others_s = (timings[PEER].median, skorch_s, timings[SERIAL].median)
    faster = [
        f"{other_s / together_s:.1f} × ({goal:g} ×)"
        for other_s, goal in zip(others_s, search.targets, strict=True)
    ]
    return [search.name, number(together_s), *faster, f"{difference:.0e}"]


MEMORY = """
import search, joblib
from _harness import resident_bytes
chosen = search.SEARCHES[{index}]
short = search.replace(chosen, lrs=(1e-3,), epochs=3)
search.run_search(search.search_torchreg, short, {backend!r}, 0)
before = resident_bytes()[0]
search.run_search(search.search_torchreg, chosen, {backend!r}, 0)
print(max(0, resident_bytes()[1] - before))
"""


def memory_mb(index: int, backend: str | None, threads: int) -> str:
    """Measure the growth of the peak of a fresh process during a search."""
    _, printed = run_fresh(MEMORY.format(index=index, backend=backend), threads)
    return f"{int(printed) / 2**20:.0f} MB"


def main() -> None:
    run = begin("search", __doc__)
    searches = SEARCHES
    if run.quick:
        searches = tuple(replace(s, lrs=s.lrs[:2], epochs=20) for s in SEARCHES)
    header = ["", "together, s", "vs. MLPRegressor", "vs. skorch", "vs. one after another"]
    rows = [time_search(run, search) for search in searches]
    blocks = [NOTES, table([*header, "same results"], rows)]
    if not run.quick:
        taken = [
            [s.name, memory_mb(i, "torchreg", run.threads), memory_mb(i, None, run.threads)]
            for i, s in enumerate(searches)
        ]
        blocks.append(table(["memory", TOGETHER, SERIAL], taken))
    run.report("Grid searches: time and memory", *blocks)


if __name__ == "__main__":
    main()
