"""Time of a fit, compared with a hand-written loop, MLPRegressor and skorch.

All train the same network on the same rows with the same epochs, optimizer, learning rate, batch
size and threads. Standardization is part of the timed work: with numpy for the others, inside
``fit`` for torchreg.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from _competitors import fit_mlp_regressor, fit_skorch, fit_torchreg
from _eager import Fit, Task, fit_eager_loop, standardize
from _harness import Run, begin, interleave, number, penguins, synthetic, table

NOTES = """\
Median seconds of {rounds} interleaved rounds ({short_rounds} in the last scenario). *Ratio* is
relative to the hand-written loop (torch's optimizers with their defaults, mini-batches as slices of
a permuted tensor, no DataLoader). *Target* and *goal* are the aims of torchreg, now and later.
*Loss* is the median training loss of the last epoch (mean squared error divided by the variance of
y), which shows that all do the same work. The loop and skorch compute in float32, MLPRegressor in
the dtype of X, and torchreg in the dtype that it chooses. MLPRegressor has Glorot's initial
weights, the others torch's. In a full batch torchreg merges identical rows: {distinct} of the
{rows} penguins are distinct."""


@dataclass(frozen=True)
class Scenario:
    """A task on data, with the target ratios."""

    title: str
    X: np.ndarray
    y: np.ndarray
    task: Task
    target: float
    goal: float
    rounds: int
    peers: tuple[str, ...] = ("MLPRegressor", "skorch")


PEERS: dict[str, Callable[[np.ndarray, np.ndarray, Task, int], Fit]] = {
    "hand-written loop": fit_eager_loop,
    "MLPRegressor": fit_mlp_regressor,
    "skorch": fit_skorch,
}


def scenarios(run: Run) -> list[Scenario]:
    X, y = penguins()
    rounds = run.pick(5, 1)
    epochs = run.pick(1000, 100)
    return [
        Scenario(
            f"penguins, 1-5-1, full batch, Adam, {epochs} epochs",
            X,
            y,
            Task((5,), epochs),
            target=0.30,
            goal=0.20,
            rounds=rounds,
        ),
        Scenario(
            f"penguins, 1-5-1, full batch, Rprop, {epochs} epochs",
            X,
            y,
            Task((5,), epochs, optimizer="rprop"),
            target=0.40,
            goal=0.25,
            rounds=rounds,
            peers=("skorch",),
        ),
        Scenario(
            "20,000 × 8, 100 ReLU, batches of 200, Adam, 10 epochs",
            *synthetic(run.pick(20_000, 2_000), 8),
            Task((100,), 10, batch_size=200),
            target=0.40,
            goal=0.28,
            rounds=rounds,
        ),
        Scenario(
            "100,000 × 20 (float32), 256-256-256, batches of 1024, Adam, 2 epochs",
            *synthetic(run.pick(100_000, 10_000), 20, np.float32),
            Task((256, 256, 256), 2, batch_size=1024),
            target=0.97,
            goal=0.90,
            rounds=rounds,
        ),
        Scenario(
            "300 × 4, 32 ReLU, full batch, Adam, 50 epochs, not the first of its process",
            *synthetic(300, 4),
            Task((32,), 50),
            target=1.0,
            goal=0.6,
            rounds=run.pick(31, 5),
            peers=(),
        ),
    ]


def time_scenario(scenario: Scenario) -> str:
    """Time a scenario, and return its table."""
    X, y, task = scenario.X, scenario.y, scenario.task

    def standardized_fit(fit: Callable[[np.ndarray, np.ndarray, Task, int], Fit], seed: int) -> Fit:
        return fit(*standardize(X, y), task, seed)

    timings = interleave(
        {
            "torchreg": lambda seed: fit_torchreg(X, y, task, seed),
            **{
                name: partial(standardized_fit, PEERS[name])
                for name in ("hand-written loop", *scenario.peers)
            },
        },
        scenario.rounds,
    )
    reference = timings["hand-written loop"].median
    rows = []
    for name, timing in timings.items():
        aims = (
            [f"{scenario.target:.2f}", f"{scenario.goal:.2f}"] if name == "torchreg" else ["", ""]
        )
        rows.append(
            [
                name,
                timing.results[0].dtype,
                f"{statistics.median(fit.loss for fit in timing.results):.4f}",
                number(timing.median),
                f"{timing.median / reference:.2f}",
                *aims,
            ]
        )
    header = ["", "dtype", "loss", "seconds", "ratio", "target", "goal"]
    return f"## {scenario.title}\n\n{table(header, rows)}"


def main() -> None:
    run = begin("fit", __doc__)
    X, y = penguins()
    distinct = len(np.unique(np.column_stack([X, y]), axis=0))
    entries = scenarios(run)
    notes = NOTES.format(
        rounds=entries[0].rounds,
        short_rounds=entries[-1].rounds,
        distinct=distinct,
        rows=len(y),
    )
    run.report("Time of a fit", notes, *(time_scenario(scenario) for scenario in entries))


if __name__ == "__main__":
    main()
