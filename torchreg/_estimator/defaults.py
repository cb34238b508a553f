"""The rules behind ``"auto"``: parameters that follow from the data.

``benchmarks/accuracy.py`` measures their results, ``benchmarks/ablation.py`` the effect of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sklearn.base import BaseEstimator
from torch import nn

from torchreg._estimator.dataset import Data, FitInputs
from torchreg._estimator.params import nested_parameters
from torchreg.engine.data import count_distinct_rows, to_dense
from torchreg.engine.run import can_merge_rows
from torchreg.engine.spec import RawData
from torchreg.losses import Loss, build_loss, check_loss_of_standardized
from torchreg.nn import Ensemble, TabularMLP
from torchreg.optim import OptimizerSpec, ScheduleSpec, build_optimizer, build_schedule

#: Values of "auto" for a given module.
MODULE_DEFAULTS: dict[str, Any] = {
    "n_folds": None,
    "schedule": "constant",
    "max_epochs": 200,
    "n_iter_no_change": 10,
}
#: Epochs of the built-in network in batches; a cosine decreases the learning rate to 0.
EPOCHS = 60
#: Epochs for optimizers of full batches. An epoch of L-BFGS has up to 20 iterations.
FULL_BATCH_EPOCHS = {"rprop": 200, "lbfgs": 5}
#: ``n_iter_no_change`` as a share of ``max_epochs``.
PATIENCE = 1 / 4
#: Learning rates of the built-in network.
LR = {"adam": 6e-3, "adamw": 6e-3}
#: Rows from which on the wide network is used. The rules were measured below 20,000 rows.
MANY_ROWS = 30_000
#: Sizes of the built-in network below and from MANY_ROWS rows on.
NARROW: dict[str, Any] = {"module__hidden_sizes": (64, 64), "module__n_frequencies": 8}
WIDE: dict[str, Any] = {"module__hidden_sizes": (192, 192), "module__n_frequencies": 16}
#: Bins of each column, so that each bin has about 20 rows.
FEW_BINS, MANY_BINS, ROWS_OF_MANY_BINS = 16, 32, 640
#: Batch size by the smallest number of rows: small batches for few rows, for enough steps.
BATCH_SIZES = {MANY_ROWS: 512, 2_000: 128, 201: 64, 0: 32}
#: Each fold has at least this many rows.
ROWS_IN_FOLD = 4
#: Number of folds, below and from MANY_ROWS rows on.
FOLDS, FEW_FOLDS = 8, 4
#: Rows from which on one network with one validation set replaces the folds.
TOO_MANY_ROWS = 50_000

#: The parameters that the rules may set.
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


@dataclass(frozen=True)
class ResolvedParams:
    """Parameters of a fit, with a value for each ``"auto"``.

    Parameters
    ----------
    module : nn.Module or callable
        The parameter, or ``TabularMLP`` for ``None``.
    module_options : dict
        Its ``module__*``.
    loss, optimizer, schedule : Loss, OptimizerSpec, ScheduleSpec
        Built from the parameters and their options.
    batch_size : int, None or "auto"
        ``"auto"`` for a given module, where it depends on the rows of a batch.
    max_epochs, n_folds, early_stopping, n_iter_no_change
        As the parameters of the estimator.
    chosen : dict
        Values that the rules chose, by name of the parameter.
    """

    module: nn.Module | Callable[..., nn.Module]
    module_options: dict[str, Any]
    loss: Loss
    optimizer: OptimizerSpec
    schedule: ScheduleSpec
    batch_size: int | str | None
    max_epochs: int
    n_folds: int | None
    early_stopping: bool
    n_iter_no_change: int
    chosen: dict[str, Any]


def resolve_params(
    estimator: BaseEstimator, inputs: FitInputs, *, is_member: bool = False
) -> ResolvedParams:
    """Choose the parameters that follow from the data.

    Parameters
    ----------
    estimator : TorchRegressor
        A warm start keeps the networks of its previous fit.
    inputs : FitInputs
    is_member : bool
        Whether it is a member of an ensemble, which has one network.
    """
    params = estimator.get_params(deep=False)
    lr = _default_lr(params)
    options = nested_parameters(params, "optimizer")
    optimizer = build_optimizer(params["optimizer"], lr or params["lr"], options)
    if params["module"] is None:
        n_rows = count_distinct(inputs.data)
        chosen = _choose_steps(params, optimizer, n_rows)
        chosen |= {} if lr is None else {"lr": lr}
        chosen |= {key: v for key, v in network_for(n_rows).items() if key not in params}
        if is_auto(params["n_iter_no_change"]):
            max_epochs = chosen.get("max_epochs", params["max_epochs"])
            chosen["n_iter_no_change"] = math.ceil(PATIENCE * max_epochs)
        if is_auto(params["n_folds"]):
            has_validation = inputs.validation is not None
            one_network = is_member or has_validation or params["n_init"] > 1
            chosen |= _choose_validation(params, n_rows, one_network)
        if is_warm_start(estimator):
            chosen |= _from_previous_fit(estimator)
    else:
        chosen = {key: v for key, v in MODULE_DEFAULTS.items() if is_auto(params[key])}
    params |= chosen
    if params["standardize"] in (True, "y") and not isinstance(params["loss"], str):
        check_loss_of_standardized(params["loss"])
    return ResolvedParams(
        module=TabularMLP if params["module"] is None else params["module"],
        module_options=nested_parameters(params, "module"),
        loss=build_loss(params["loss"], nested_parameters(params, "loss")),
        optimizer=optimizer,
        schedule=_schedule_of(params, optimizer),
        batch_size=params["batch_size"],
        max_epochs=params["max_epochs"],
        n_folds=params["n_folds"],
        early_stopping=params["early_stopping"],
        n_iter_no_change=params["n_iter_no_change"],
        chosen=chosen,
    )


def _schedule_of(params: Mapping[str, Any], optimizer: OptimizerSpec) -> ScheduleSpec:
    options = nested_parameters(params, "schedule")
    if not options and ScheduleSpec.name == params["schedule"]:
        return ScheduleSpec()
    return build_schedule(params["schedule"], options, optimizer)


def is_warm_start(estimator: BaseEstimator) -> bool:
    """Return whether ``fit`` continues from the last fit."""
    return bool(estimator.warm_start) and hasattr(estimator, "module_")


def is_auto(value: Any) -> bool:
    """Return whether a parameter is ``"auto"``; its value may also be an array or a class."""
    return isinstance(value, str) and value == "auto"


def count_distinct(data: Data) -> int:
    """Count the distinct rows, so that weights and repeated rows are equivalent."""
    rows = RawData(data.x, data.y, None)
    return count_distinct_rows(to_dense(data.x), data.y) if can_merge_rows(rows) else len(data)


def network_for(n_rows: int) -> dict[str, Any]:
    """Choose the sizes of the built-in network.

    Examples
    --------
    >>> [network_for(n)["module__hidden_sizes"] for n in (1_000, 100_000)]
    [(64, 64), (192, 192)]
    """
    n_bins = MANY_BINS if n_rows >= ROWS_OF_MANY_BINS else FEW_BINS
    return {**(WIDE if n_rows >= MANY_ROWS else NARROW), "module__n_bins": n_bins}


def batch_size_for(n_rows: int) -> int:
    """Choose the batch size of the built-in network.

    Examples
    --------
    >>> [batch_size_for(n) for n in (100, 1_000, 10_000, 100_000)]
    [32, 64, 128, 512]
    """
    return next(size for fewest, size in BATCH_SIZES.items() if n_rows >= fewest)


def n_folds_for(n_rows: int) -> int | None:
    """Choose the number of folds; ``None`` for one network, with few or very many rows.

    Examples
    --------
    >>> [n_folds_for(n) for n in (7, 12, 1_000, 40_000, 100_000)]
    [None, 3, 8, 4, None]
    """
    if n_rows >= TOO_MANY_ROWS or n_rows < 2 * ROWS_IN_FOLD:
        return None
    return FEW_FOLDS if n_rows >= MANY_ROWS else min(FOLDS, n_rows // ROWS_IN_FOLD)


def _default_lr(params: dict[str, Any]) -> float | None:
    """Choose the learning rate of the built-in network, unless the user gave one."""
    given = params["module"] is not None or params["lr"] is not None or "optimizer__lr" in params
    name = params["optimizer"]
    return None if given or not isinstance(name, str) else LR.get(name.lower())


def _choose_steps(params: dict[str, Any], optimizer: OptimizerSpec, n_rows: int) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    if is_auto(params["max_epochs"]):
        chosen["max_epochs"] = FULL_BATCH_EPOCHS.get(optimizer.name, EPOCHS)
    if is_auto(params["schedule"]):
        chosen["schedule"] = "constant" if optimizer.adapts_step_size else "cosine"
    if is_auto(params["batch_size"]) and not optimizer.needs_full_batch:
        chosen["batch_size"] = batch_size_for(n_rows)
    return chosen


def _choose_validation(params: dict[str, Any], n_rows: int, one_network: bool) -> dict[str, Any]:
    """Choose the validation rows: one part for each fold, or one part for one network."""
    if params["early_stopping"] or n_rows < 2 * ROWS_IN_FOLD:
        return {"n_folds": None}
    return {"n_folds": None if one_network else n_folds_for(n_rows), "early_stopping": True}


def _from_previous_fit(estimator: BaseEstimator) -> dict[str, Any]:
    """Keep the sizes and the number of the networks that a warm start continues."""
    previous = getattr(estimator, "chosen_params_", {})
    kept = {key: previous[key] for key in network_for(0) if key in previous}
    network = estimator.module_.get_submodule("network")
    if isinstance(network, Ensemble) and is_auto(estimator.n_folds):
        kept |= {"n_folds": len(network.members), "early_stopping": True}
    return kept
