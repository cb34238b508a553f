"""Time of a fit, beside a loop written by hand, MLPRegressor and skorch.

Every competitor trains the same network on the same rows for the same epochs with the same
optimizer, learning rate, batches and threads. Standardization is part of the timed work: by
hand (numpy) for the others, inside ``fit`` for torchreg.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from _competitors import fit_mlp_regressor, fit_skorch, fit_torchreg
from _eager import Fit, Work, fit_eager_loop, standardized
from _harness import Run, begin, interleave, number, penguins, synthetic, table

NOTES = """\
Median seconds of {rounds} interleaved rounds (of the last scenario, {short_rounds}); *ratio* is
to the loop written by hand (torch's optimizers as they are, mini-batches as slices of a permuted
tensor, no DataLoader), and *to reach* and *then* are what torchreg aims at. *Loss* is the median
last training loss (mean squared error over y's variance), to show that the work is the same. The
loop and skorch compute in float32, as people write them; MLPRegressor in the dtype of X;
torchreg as its default decides. MLPRegressor has its own initial weights (Glorot's), the others
torch's. In a full batch torchreg merges rows that are identical in X and y: {distinct} of the
{rows} penguins are distinct."""


@dataclass(frozen=True)
class Scenario:
    """One row of the list of what is to be reached."""

    title: str
    X: np.ndarray
    y: np.ndarray
    work: Work
    to_reach: float
    then: float
    rounds: int
    peers: tuple[str, ...] = ("MLPRegressor", "skorch")


PEERS: dict[str, Callable[[np.ndarray, np.ndarray, Work, int], Fit]] = {
    "loop by hand": fit_eager_loop,
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
            Work((5,), epochs),
            to_reach=0.30,
            then=0.20,
            rounds=rounds,
        ),
        Scenario(
            f"penguins, 1-5-1, full batch, Rprop, {epochs} epochs",
            X,
            y,
            Work((5,), epochs, optimizer="rprop"),
            to_reach=0.40,
            then=0.25,
            rounds=rounds,
            peers=("skorch",),
        ),
        Scenario(
            "20,000 × 8, 100 ReLU, batches of 200, Adam, 10 epochs",
            *synthetic(run.pick(20_000, 2_000), 8),
            Work((100,), 10, batch_size=200),
            to_reach=0.40,
            then=0.28,
            rounds=rounds,
        ),
        Scenario(
            "100,000 × 20 (float32), 256-256-256, batches of 1024, Adam, 2 epochs",
            *synthetic(run.pick(100_000, 10_000), 20, np.float32),
            Work((256, 256, 256), 2, batch_size=1024),
            to_reach=0.97,
            then=0.90,
            rounds=rounds,
        ),
        Scenario(
            "300 × 4, 32 ReLU, full batch, Adam, 50 epochs, in a process that has fitted before",
            *synthetic(300, 4),
            Work((32,), 50),
            to_reach=1.0,
            then=0.6,
            rounds=run.pick(31, 5),
            peers=(),
        ),
    ]


def compete(scenario: Scenario) -> str:
    """Time one scenario and write its table."""
    X, y, work = scenario.X, scenario.y, scenario.work

    def by_hand(fit: Callable[[np.ndarray, np.ndarray, Work, int], Fit], seed: int) -> Fit:
        return fit(*standardized(X, y), work, seed)

    timings = interleave(
        {
            "torchreg": lambda seed: fit_torchreg(X, y, work, seed),
            **{name: partial(by_hand, PEERS[name]) for name in ("loop by hand", *scenario.peers)},
        },
        scenario.rounds,
    )
    reference = timings["loop by hand"].median
    rows = []
    for name, timing in timings.items():
        aims = (
            [f"{scenario.to_reach:.2f}", f"{scenario.then:.2f}"] if name == "torchreg" else ["", ""]
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
    header = ["", "dtype", "loss", "seconds", "ratio", "to reach", "then"]
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
    run.report("Time of a fit", notes, *(compete(scenario) for scenario in entries))


if __name__ == "__main__":
    main()
