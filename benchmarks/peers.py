"""Effect of raw units on MLPRegressor, skorch and torchreg.

It counts the seeds that end as a straight line on the penguins, and varies the units of y on
synthetic data.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from _eager import build_network, standardize
from _harness import Run, begin, penguins, synthetic, table
from sklearn.compose import TransformedTargetRegressor
from sklearn.metrics import r2_score
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetRegressor

from torchreg import TorchRegressor
from torchreg.nn import MLP

#: Training RMSE of a straight line and of the mean of the penguins, less 0.1 %.
LINE_G, MEAN_G = 392.16 * 0.999, 804.0 * 0.999
EPOCHS = 200
BATCH = 128
LR = 2e-3

FitPredict = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def fit_mlp_raw(X: np.ndarray, y: np.ndarray, seed: int, **options: Any) -> np.ndarray:
    return MLPRegressor(random_state=seed, **options).fit(X, y).predict(X)


def fit_mlp_pipeline(X: np.ndarray, y: np.ndarray, seed: int, **options: Any) -> np.ndarray:
    network = MLPRegressor(random_state=seed, **options)
    scaled = TransformedTargetRegressor(network, transformer=StandardScaler())
    return make_pipeline(StandardScaler(), scaled).fit(X, y).predict(X)


def fit_skorch_raw(
    X: np.ndarray, y: np.ndarray, seed: int, hidden: tuple[int, ...], **options: Any
) -> np.ndarray:
    torch.manual_seed(seed)
    net = NeuralNetRegressor(build_network(X.shape[1], hidden), verbose=0, **options)
    X32, y32 = X.astype(np.float32), y.astype(np.float32).reshape(-1, 1)  # (n,) -> (n, 1)
    return net.fit(X32, y32).predict(X32)[:, 0]  # (n, 1) -> (n,)


def fit_skorch_standardized(
    X: np.ndarray, y: np.ndarray, seed: int, hidden: tuple[int, ...], **options: Any
) -> np.ndarray:
    X_std, y_std = standardize(X, y)
    return y.mean() + y.std() * fit_skorch_raw(X_std, y_std, seed, hidden, **options)


def fit_torchreg(X: np.ndarray, y: np.ndarray, seed: int, **options: Any) -> np.ndarray:
    return TorchRegressor(module=MLP, random_state=seed, **options).fit(X, y).predict(X)


def same_task(hidden: tuple[int, ...]) -> dict[str, FitPredict]:
    """Return all libraries with the same network, optimizer, learning rate, batches and epochs."""
    mlp = {
        "hidden_layer_sizes": hidden,
        "alpha": 0,
        "learning_rate_init": LR,
        "batch_size": BATCH,
        "max_iter": EPOCHS,
        "tol": 0,
        "n_iter_no_change": EPOCHS,
    }
    skorch = {
        "hidden": hidden,
        "optimizer": torch.optim.Adam,
        "lr": LR,
        "batch_size": BATCH,
        "iterator_train__shuffle": True,
        "max_epochs": EPOCHS,
        "train_split": None,
    }
    torchreg = {
        "module__hidden_sizes": hidden,
        "lr": LR,
        "batch_size": BATCH,
        "max_epochs": EPOCHS,
    }
    return {
        "MLPRegressor, raw units": partial(fit_mlp_raw, **mlp),
        "MLPRegressor, standardized in a pipeline": partial(fit_mlp_pipeline, **mlp),
        "skorch, raw units": partial(fit_skorch_raw, **skorch),
        "skorch, standardized": partial(fit_skorch_standardized, **skorch),
        "TorchRegressor, raw units": partial(fit_torchreg, **torchreg),
    }


LINES_NOTES = """\
Body mass from flipper length of 333 penguins, with five ReLU units: the number of seeds that end as
a *straight line* or worse (a training RMSE of 392.16 g, less 0.1 %), the number that end as the
*mean* or worse (804 g), and the median RMSE. The best known RMSE is 369.64 g."""


def count_lines(fit: FitPredict, n_seeds: int) -> list[str]:
    X, y = penguins()
    with np.errstate(all="ignore"):
        predictions = (fit(X, y, seed) for seed in range(n_seeds))
        errors_g = np.array([np.sqrt(np.mean((y - p) ** 2)) for p in predictions])
    errors_g = np.where(np.isfinite(errors_g), errors_g, np.inf)  # NaN is worse than a line.
    lines, means = int(np.sum(errors_g >= LINE_G)), int(np.sum(errors_g >= MEAN_G))
    return [f"{lines} of {n_seeds}", str(means), f"{np.median(errors_g):,.1f}"]


def straight_lines(run: Run) -> list[str]:
    n_seeds, n_skorch_seeds = run.pick(100, 5), run.pick(50, 2)
    five_skorch, five_mlp, five_torchreg = (
        {"hidden": (5,)},
        {"hidden_layer_sizes": (5,)},
        {"module__hidden_sizes": (5,)},
    )
    lbfgs = {"solver": "lbfgs", "max_iter": 1000, **five_mlp}
    groups: dict[str, dict[str, FitPredict]] = {
        "Defaults, with five units": {
            "MLPRegressor, raw units": partial(fit_mlp_raw, **five_mlp),
            "MLPRegressor, standardized in a pipeline": partial(fit_mlp_pipeline, **five_mlp),
            "skorch, raw units": partial(fit_skorch_raw, **five_skorch),
            "TorchRegressor, raw units": partial(fit_torchreg, **five_torchreg),
        },
        f"The same task: Adam at {LR}, {EPOCHS} epochs, batches of {BATCH}": same_task((5,)),
        "Optimizers for full batches, up to 1000 iterations": {
            "MLPRegressor, LBFGS, raw units": partial(fit_mlp_raw, **lbfgs),
            "MLPRegressor, LBFGS, standardized in a pipeline": partial(fit_mlp_pipeline, **lbfgs),
            "TorchRegressor, LBFGS, raw units": partial(
                fit_torchreg, optimizer="lbfgs", max_epochs=50, **five_torchreg
            ),
            "TorchRegressor, Rprop, raw units": partial(
                fit_torchreg, optimizer="rprop", max_epochs=1000, **five_torchreg
            ),
        },
    }
    blocks = ["## Straight lines", LINES_NOTES]
    for title, fits in groups.items():
        rows = [
            [name, *count_lines(fit, n_skorch_seeds if "skorch" in name else n_seeds)]
            for name, fit in fits.items()
        ]
        blocks += [f"### {title}", table(["", "straight line", "mean", "median RMSE, g"], rows)]
    return blocks


UNITS_NOTES = """\
500 × 3 standard normal values, and y of order 1 multiplied by a factor; 100 ReLU, Adam at {lr},
{epochs} epochs, batches of {batch}; median training R2 of 5 seeds. The factor only changes the
units of y."""

FACTORS = (1e-3, 1.0, 1e3)


def units_of_y() -> list[str]:
    X, y = synthetic(500, 3)
    rows = []
    for name, fit in same_task((100,)).items():
        if "raw units" in name:
            scores = [
                np.median([r2_score(factor * y, fit(X, factor * y, seed)) for seed in range(5)])
                for factor in FACTORS
            ]
            rows.append([name.split(",")[0], *(f"{score:,.3f}" for score in scores)])
    return [
        "## The units of y",
        UNITS_NOTES.format(lr=LR, epochs=EPOCHS, batch=BATCH),
        table(["", *(f"y × {factor:g}" for factor in FACTORS)], rows),
    ]


def main() -> None:
    run = begin("peers", __doc__)
    with warnings.catch_warnings():
        # Unconverged fits and overflows show in the tables.
        warnings.simplefilter("ignore")
        blocks = [*straight_lines(run), *units_of_y()]
    run.report("Effect of raw units on MLPRegressor, skorch and torchreg", *blocks)


if __name__ == "__main__":
    main()
