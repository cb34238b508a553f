"""What parameters come to that follow from the data: the rules behind ``"auto"``.

``benchmarks/accuracy.py`` measures what they give, ``benchmarks/ablation.py`` what each is worth.
"""

from __future__ import annotations

import math
from typing import Any

from sklearn.base import BaseEstimator

from torchreg._estimator.dataset import Data
from torchreg._estimator.params import nested_parameters
from torchreg.engine.build import can_merge_rows, merge_rows
from torchreg.engine.spec import RawData
from torchreg.nn import Ensemble
from torchreg.optim import OptimizerSpec, build_optimizer

#: Epochs of a given module, and how many are waited for one that is better.
MANY_EPOCHS, FEW_WAITED_FOR = 200, 10
#: Epochs of the built-in network in batches, over which a cosine brings the learning rate to 0, ...
EPOCHS = 60
#: ... and for optimizers that take all rows at once; one of L-BFGS is up to 20 iterations.
EPOCHS_OF_ALL_ROWS = {"rprop": 200, "lbfgs": 5}
#: Of its epochs the share that is waited for one that is better.
PATIENCE = 1 / 4
#: Its learning rate, for the optimizers whose steps have about this size.
LR = {"adam": 6e-3, "adamw": 6e-3}
#: From so many rows on there are more than any rule was measured with.
MANY_ROWS = 30_000
#: Units of its hidden layers, and waves of each measured column: of fewer than many rows, ...
NARROW: dict[str, Any] = {"module__hidden_sizes": (64, 64), "module__n_frequencies": 8}
WIDE: dict[str, Any] = {"module__hidden_sizes": (192, 192), "module__n_frequencies": 16}
#: ... and its bins: of fewer rows the first are as many as can hold 20 rows each, about.
FEW_BINS, MANY_BINS, ROWS_OF_MANY_BINS = 16, 32, 640
#: Rows of a batch, of so many rows or more: few of few, so that there are steps enough.
BATCH_SIZES = {MANY_ROWS: 512, 2_000: 128, 201: 64, 0: 32}
#: Folds: each holds out this many rows at least, ...
ROWS_IN_FOLD = 4
#: ... there are so many of them, and fewer of many rows, ...
FOLDS, FEW_FOLDS = 8, 4
#: ... and from so many on one network with one part of the rows held out does.
TOO_MANY_ROWS = 50_000

#: The parameters that can be left to the data.
AUTO_PARAMS = frozenset(
    {
        *NARROW,
        "module__n_bins",
        "lr",
        "schedule",
        "max_epochs",
        "batch_size",
        "n_folds",
        "early_stopping",
        "n_iter_no_change",
    }
)


def resolve_auto(
    estimator: BaseEstimator, data: Data, *, own_validation: bool, is_member: bool
) -> dict[str, Any]:
    """Say what the parameters come to that are left to the data.

    Parameters
    ----------
    estimator : TorchRegressor
        Which parameters are given. One that goes on from an earlier fit keeps its networks.
    data : Data
        The rows, with those that the fit may hold out.
    own_validation : bool
        Whether the user brought validation rows.
    is_member : bool
        Whether it is one of several that are averaged, and so has one network only.

    Returns
    -------
    dict
        Values by name of the parameter, with which an estimator does the same.
    """
    options = nested_parameters(estimator._nested, "optimizer")
    optimizer = build_optimizer(estimator.optimizer, estimator.lr, options)
    if estimator.module is not None:
        chosen: dict[str, Any] = {"n_folds": None}
        chosen |= {"schedule": "constant", "max_epochs": MANY_EPOCHS}
        chosen |= {"n_iter_no_change": FEW_WAITED_FOR}
        return {k: value for k, value in chosen.items() if _is_auto(getattr(estimator, k))}
    n_rows = count_distinct(data)
    chosen = _steps(estimator, optimizer, n_rows, "lr" in options)
    network = network_for(n_rows)
    chosen |= {key: value for key, value in network.items() if key not in estimator._nested}
    if _is_auto(estimator.n_iter_no_change):
        budget = chosen.get("max_epochs", estimator.max_epochs)
        chosen["n_iter_no_change"] = math.ceil(PATIENCE * budget)
    if estimator.n_folds == "auto":
        one = is_member or own_validation or estimator.n_init > 1
        chosen |= _held_out(estimator, n_rows, one)
    if estimator.warm_start and hasattr(estimator, "module_"):
        chosen |= _of_before(estimator)
    return chosen


def count_distinct(data: Data) -> int:
    """Count the rows that differ: a weight is worth as much as so many copies of a row."""
    rows = RawData(data.x, data.y, None)
    return len(merge_rows(rows).y) if can_merge_rows(rows) else len(data)


def network_for(n_rows: int) -> dict[str, Any]:
    """Give the network's sizes: more rows tell more apart.

    Examples
    --------
    >>> [network_for(n)["module__hidden_sizes"] for n in (1_000, 100_000)]
    [(64, 64), (192, 192)]
    """
    n_bins = MANY_BINS if n_rows >= ROWS_OF_MANY_BINS else FEW_BINS
    return {**(WIDE if n_rows >= MANY_ROWS else NARROW), "module__n_bins": n_bins}


def batch_size_for(n_rows: int) -> int:
    """Give the rows of a batch: small ones for few rows, so that there are steps enough.

    Examples
    --------
    >>> [batch_size_for(n) for n in (100, 1_000, 10_000, 100_000)]
    [32, 64, 128, 512]
    """
    return next(size for fewest, size in BATCH_SIZES.items() if n_rows >= fewest)


def n_folds_for(n_rows: int) -> int | None:
    """Give the number of folds; ``None`` for so few rows that none can be spared, or so many.

    Examples
    --------
    >>> [n_folds_for(n) for n in (7, 12, 1_000, 40_000, 100_000)]
    [None, 3, 8, 4, None]
    """
    if n_rows >= TOO_MANY_ROWS or n_rows < 2 * ROWS_IN_FOLD:
        return None
    return FEW_FOLDS if n_rows >= MANY_ROWS else min(FOLDS, n_rows // ROWS_IN_FOLD)


def _is_auto(value: Any) -> bool:
    return isinstance(value, str) and value == "auto"


def _steps(
    estimator: BaseEstimator, optimizer: OptimizerSpec, n_rows: int, has_lr: bool
) -> dict[str, Any]:
    """Choose epochs, batches and learning rates of the built-in network."""
    found: dict[str, Any] = {}
    whole = optimizer.needs_full_batch
    if _is_auto(estimator.max_epochs):
        found["max_epochs"] = EPOCHS_OF_ALL_ROWS.get(optimizer.name, EPOCHS)
    if _is_auto(estimator.schedule):
        found["schedule"] = "constant" if optimizer.adapts_step_size else "cosine"
    if _is_auto(estimator.batch_size) and not whole:
        found["batch_size"] = batch_size_for(n_rows)
    named = isinstance(estimator.optimizer, str)
    if estimator.lr is None and not has_lr and named and optimizer.name in LR:
        found["lr"] = LR[optimizer.name]
    return found


def _held_out(estimator: BaseEstimator, n_rows: int, one: bool) -> dict[str, Any]:
    """Choose which rows say how far to train: those of folds, or one part for one network."""
    if estimator.early_stopping or n_rows < 2 * ROWS_IN_FOLD:
        return {"n_folds": None}
    return {"n_folds": None if one else n_folds_for(n_rows), "early_stopping": True}


def _of_before(estimator: BaseEstimator) -> dict[str, Any]:
    """Keep what the network is that an earlier fit gave, and how many there are of it."""
    before = getattr(estimator, "chosen_params_", {})
    kept = {key: before[key] for key in network_for(0) if key in before}
    network = estimator.module_.get_submodule("network")
    if isinstance(network, Ensemble) and estimator.n_folds == "auto":
        kept |= {"n_folds": len(network.members), "early_stopping": True}
    return kept
