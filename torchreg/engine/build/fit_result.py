"""Result of a fit: the selected network, or the mean of all folds, and its summary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from torchreg.diagnosis.record import FitSummary
from torchreg.engine.build.folds import as_ensemble, merge_results
from torchreg.engine.build.initial_state import FitCache, PreparedFit, ScalingKey
from torchreg.engine.inspect import (
    ProbeRows,
    RowSummary,
    parameter_drifts,
    probe_rows,
    summarize_fit,
    summarize_rows,
)
from torchreg.engine.spec import TaskResult, TrainResult, is_interrupted
from torchreg.nn.links import link_of


@dataclass(frozen=True)
class FitResult:
    """Result of a fit.

    Parameters
    ----------
    module : nn.Sequential
        Raw units to raw units.
    dtype : torch.dtype
        Dtype of its network.
    train_result : TrainResult
    summary : FitSummary
    seed : int
        Seed of the selected network.
    init_losses : list of float
        Final loss of each network, in standardized units; infinite for one that failed.
    interrupted : bool, default=False
        Whether an interrupt ended the training of any network.
    callback_warnings : sequence of str, default=()
        What is wrong with the callbacks.
    """

    module: nn.Sequential
    dtype: torch.dtype
    train_result: TrainResult
    summary: FitSummary
    seed: int
    init_losses: list[float]
    interrupted: bool = False
    callback_warnings: Sequence[str] = ()


def select_model(
    fit: PreparedFit, results: list[TaskResult], cache: FitCache
) -> FitResult | Exception:
    """Select the network with the lowest loss, or average those of all folds.

    Parameters
    ----------
    fit : PreparedFit
    results : list of TrainResult or Exception
        One per training task.
    cache : FitCache

    Returns
    -------
    FitResult or Exception
        What a callback raised, or the first error if no network was trained.
    """
    extra: dict[int, dict[str, Any]] = {}
    if fit.monitor is not None:
        extra = fit.monitor.extra
        if fit.monitor.error is not None:
            # Its traceback refers to the monitor, which must not refer to it.
            error, fit.monitor.error = fit.monitor.error, None
            return error
    trained = {i: result for i, result in enumerate(results) if isinstance(result, TrainResult)}
    if not trained:
        return next(result for result in results if isinstance(result, Exception))
    losses = [final_loss(result) for result in results]
    best = min(trained, key=losses.__getitem__)
    result, task, state = trained[best], fit.tasks[best], fit.states[best]
    module, config = state.scaled.module, fit.config
    if config.n_folds > 1:
        module = as_ensemble(module, [fit.tasks[i].network for i in trained])
        result = merge_results([*trained.values()])
        network = module.get_submodule("network")
        task = replace(task, network=network, training=state.table)
        drifts = [
            drift
            for number, i in enumerate(trained)
            for drift in parameter_drifts(
                fit.tasks[i].network, fit.states[i].parameters, f"members.{number}."
            )
        ]
    else:
        drifts = parameter_drifts(task.network, state.parameters)
    extra = {epoch: own for epoch, own in extra.items() if epoch <= result.last_epoch}
    result = replace(result, extra={**result.extra, **extra})
    module.eval()
    key = fit.data, ScalingKey.of(config), fit.n_rows
    if ("row summary", *key) not in cache:
        cache["row summary", *key] = summarize_rows(module, fit.data, fit.n_rows)
    rows: RowSummary = cache["row summary", *key]
    if ("probe rows", *key, state.scaled.dtype) not in cache:
        cache["probe rows", *key, state.scaled.dtype] = probe_rows(state.table, rows.chosen)
    probe: ProbeRows = cache["probe rows", *key, state.scaled.dtype]
    summary = summarize_fit(
        task,
        result,
        module,
        rows,
        drifts,
        probe.summarize(task.network, link_of(module), task.loss),
        n_networks=len(trained) if config.n_folds > 1 else 1,
        failures=_describe_failures(results, "fold" if config.n_folds > 1 else "network"),
    )
    return FitResult(
        module,
        state.scaled.dtype,
        result,
        summary,
        state.seed,
        losses,
        interrupted=any(map(is_interrupted, results)),
        callback_warnings=() if fit.monitor is None else fit.monitor.warnings,
    )


def _describe_failures(results: list[TaskResult], name: str) -> list[str]:
    return [
        f"{name} {number} of {len(results)}: {type(result).__name__}: {result}"
        for number, result in enumerate(results, start=1)
        if isinstance(result, Exception) and not is_interrupted(result)
    ]


def final_loss(result: TaskResult) -> float:
    """Return the loss of the weights a network holds: of the validation rows if there are any."""
    if isinstance(result, Exception):
        return math.inf
    # The initial weights have no loss but that of the first epoch.
    losses = result.losses if result.validation_losses is None else result.validation_losses
    loss = losses[max(result.best_epoch - result.first_epoch, 1) - 1]
    return loss if math.isfinite(loss) else math.inf
