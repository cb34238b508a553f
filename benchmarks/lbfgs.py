"""L-BFGS on the penguins: expected seconds until a start reaches the lowest known loss.

Five ReLU units reach a training RMSE of 369.64 g from some initial weights only. The expected time
is the mean time of a fit divided by the fraction of starts that succeed.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
from _harness import Timing, begin, interleave, number, penguins, table
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchreg import TorchRegressor
from torchreg.nn import MLP

BEST_KNOWN_G = 369.64
NEAR_G = 1.005 * BEST_KNOWN_G
#: Iterations per epoch.
ITERATIONS_PER_EPOCH = 20
BUDGETS = (40, 100, 200)

NOTES = """\
{seeds} interleaved starts each; a start succeeds if its training RMSE is within 0.5 % of 369.64 g.
*Expected* is the mean time of a fit divided by the fraction of successes; *ratio* is relative to
the best MLPRegressor. Both have the same maximum number of iterations (a torchreg epoch has
{per_epoch}) and may converge earlier: MLPRegressor with its default gradient tolerance of 1e-4 and
with 1e-8, torchreg with its default tolerances. Both standardize X and y, MLPRegressor in a
pipeline with a `TransformedTargetRegressor`. Target: no slower than MLPRegressor, 1.0."""


def fit_torchreg(X: np.ndarray, y: np.ndarray, budget: int, seed: int) -> TorchRegressor:
    return TorchRegressor(
        module=MLP,
        module__hidden_sizes=[5],
        optimizer="lbfgs",
        max_epochs=budget // ITERATIONS_PER_EPOCH,
        random_state=seed,
    ).fit(X, y)


def fit_mlp_regressor(
    X: np.ndarray, y: np.ndarray, budget: int, tol: float, seed: int
) -> TransformedTargetRegressor:
    network = MLPRegressor(
        hidden_layer_sizes=(5,),
        solver="lbfgs",
        alpha=0,
        max_iter=budget,
        tol=tol,
        random_state=seed,
    )
    scaled = TransformedTargetRegressor(network, transformer=StandardScaler())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(StandardScaler(), scaled).fit(X, y)


def succeeded(timing: Timing, X: np.ndarray, y: np.ndarray) -> list[bool]:
    errors_g = (np.sqrt(np.mean((model.predict(X) - y) ** 2)) for model in timing.results)
    return [bool(error_g <= NEAR_G) for error_g in errors_g]


def expected_seconds(seconds: np.ndarray, successes: np.ndarray) -> np.ndarray:
    """Return mean seconds divided by the fraction of successes, along the last axis."""
    with np.errstate(divide="ignore"):
        return seconds.mean(axis=-1) / successes.mean(axis=-1)


def interval_of_ratio(
    ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]
) -> tuple[float, float]:
    """Return a bootstrap interval (95 %) of the ratio of expected seconds."""
    draws = np.random.default_rng(0).integers(len(ours[0]), size=(2, 10_000, len(ours[0])))
    with np.errstate(invalid="ignore"):
        ratios = expected_seconds(*(part[draws[0]] for part in ours)) / expected_seconds(
            *(part[draws[1]] for part in theirs)
        )
    low, high = np.nanquantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    run = begin("lbfgs", __doc__)
    X, y = penguins()
    competitors: dict[str, Callable[[int], object]] = {}
    for budget in BUDGETS:
        competitors[f"torchreg, {budget}"] = partial(fit_torchreg, X, y, budget)
        for tol in (1e-4, 1e-8):
            name = f"MLPRegressor, {budget}, tol={tol:.0e}"
            competitors[name] = partial(fit_mlp_regressor, X, y, budget, tol)
    timings = interleave(competitors, rounds=run.pick(100, 10))
    starts = {
        name: (np.array(timing.seconds), np.array(succeeded(timing, X, y)))
        for name, timing in timings.items()
    }
    expected = {name: float(expected_seconds(*both)) for name, both in starts.items()}
    best = {
        library: min(
            (name for name in starts if name.startswith(library)), key=expected.__getitem__
        )
        for library in ("torchreg", "MLPRegressor")
    }
    rows = [
        [
            f"**{name}**" if name in best.values() else name,
            number(statistics.median(seconds)),
            number(float(seconds.mean())),
            f"{successes.sum()} of {len(successes)}",
            number(expected[name]),
            f"{expected[name] / expected[best['MLPRegressor']]:.2f}",
        ]
        for name, (seconds, successes) in starts.items()
    ]
    low, high = interval_of_ratio(starts[best["torchreg"]], starts[best["MLPRegressor"]])
    run.report(
        "L-BFGS on the penguins",
        NOTES.format(seeds=len(starts[best["torchreg"]][0]), per_epoch=ITERATIONS_PER_EPOCH),
        table(["iterations", "median, s", "mean, s", "near", "expected, s", "ratio"], rows),
        f"Best against best: {expected[best['torchreg']] / expected[best['MLPRegressor']]:.2f} "
        f"({low:.2f} to {high:.2f}, 95 % bootstrap interval).",
    )


if __name__ == "__main__":
    main()
