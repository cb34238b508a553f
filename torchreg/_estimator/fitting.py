"""The steps of ``fit``: from arrays to a job for the engine, and from its result to attributes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from sklearn.base import BaseEstimator
from torch import nn

from torchreg._estimator.callbacks import (
    EpochPrinter,
    SklearnCallbackBridge,
    SklearnEpochObserver,
    print_fold_losses,
    print_init_losses,
    print_summary,
)
from torchreg._estimator.dataset import Data, FitInputs, column_names, train_validation_split
from torchreg._estimator.defaults import ResolvedParams, is_warm_start
from torchreg._estimator.fit_warnings import describe_rounded_columns, is_top_level_fit
from torchreg._estimator.params import as_callbacks, nested_parameters, seed_from
from torchreg._utils import resolve_device
from torchreg.diagnosis.record import DistantColumn
from torchreg.engine.build import FitResult
from torchreg.engine.data import is_resolved_by_float32
from torchreg.engine.inspect import distant_columns
from torchreg.engine.spec import CheckpointStore, FitConfig, FitJob, Observer, RawData, Stopping
from torchreg.losses import Loss
from torchreg.nn.links import link_of


@dataclass(frozen=True)
class FitContext:
    """A job for the engine, and what the steps after it need.

    Parameters
    ----------
    job : FitJob
    inputs : FitInputs
    data : Data
        The rows that the network trains on.
    attributes : dict
        Fitted attributes that are known before training.
    callbacks : SklearnCallbackBridge or None
        Set if the estimator has callbacks of scikit-learn.
    verbose : int
        0 inside a search, in which the tables of several fits would interleave.
    """

    job: FitJob
    inputs: FitInputs
    data: Data
    attributes: dict[str, Any]
    callbacks: SklearnCallbackBridge | None
    verbose: int


def build_job(
    estimator: BaseEstimator,
    inputs: FitInputs,
    params: ResolvedParams,
    *,
    checkpoint_store: Any = None,
    resample: Callable[[Data, int], Data] | None = None,
) -> FitContext:
    """Hold out validation rows if early stopping needs them, and describe the fit.

    Parameters
    ----------
    estimator : TorchRegressor
    inputs : FitInputs
    params : ResolvedParams
    checkpoint_store : Checkpoint or None
        Stores the state of the fit; has its seed.
    resample : callable or None
        Resamples the training rows, given the seed.
    """
    data, validation, loss = inputs.data, inputs.validation, params.loss
    loss.check_target(data.y, name="y")
    if validation is not None:
        loss.check_target(validation.y, name="y_val", training=False)
    seed = getattr(checkpoint_store, "seed", None)
    seed = seed_from(estimator.random_state) if seed is None else seed
    _check_folds(params.n_folds, n_init=estimator.n_init, has_validation=validation is not None)
    if params.early_stopping and params.n_folds is None and validation is None:
        data, validation = train_validation_split(data, estimator.validation_fraction, seed=seed)
    if resample is not None:
        data = resample(data, seed)
    attributes = {
        **inputs.attributes,
        "_x_format": inputs.x_format,
        "_y_is_vector": data.y_is_vector,
        "n_outputs_": data.y.shape[1],
        "_origin": fit_provenance(
            estimator, seed, data, has_validation=inputs.validation is not None
        ),
        "chosen_params_": params.chosen,
    }
    n_networks = params.n_folds or (1 if is_warm_start(estimator) else estimator.n_init)
    callbacks = None
    if getattr(estimator, "_skl_callbacks", None):
        callbacks = SklearnCallbackBridge(estimator, attributes, inputs.arrays, params.max_epochs)
    verbose = int(estimator.verbose)
    verbose = verbose if verbose and is_top_level_fit() else 0
    config = _build_config(
        estimator, params, seed, n_networks, callbacks, checkpoint_store, verbose
    )
    if config.initial_module is not None:
        _check_warm_start(estimator, attributes, loss)
    held_out = None if validation is None else _raw(validation)
    job = FitJob(config, _raw(data), held_out)
    return FitContext(job, inputs, data, attributes, callbacks, verbose)


def _build_config(
    estimator: BaseEstimator,
    params: ResolvedParams,
    seed: int,
    n_networks: int,
    callbacks: SklearnCallbackBridge | None,
    checkpoint_store: CheckpointStore | None,
    verbose: int,
) -> FitConfig:
    warm_start = is_warm_start(estimator)
    first_epoch = estimator.n_iter_ if warm_start else 0
    if params.n_folds is None or params.early_stopping:
        stopping = Stopping(params.early_stopping, params.n_iter_no_change, estimator.tol)
    else:
        # Each fold restores its best weights, but none stops early.
        stopping = Stopping(True, None, estimator.tol)
    return FitConfig(
        module=params.module,
        module_options=params.module_options,
        loss=params.loss,
        optimizer=params.optimizer,
        schedule=params.schedule,
        batch_size=params.batch_size,
        max_epochs=params.max_epochs,
        standardize_x=estimator.standardize in (True, "X"),
        standardize_y=estimator.standardize in (True, "y"),
        stopping=stopping,
        callbacks=as_callbacks(estimator.callbacks, n_networks=n_networks),
        callback_options=nested_parameters(estimator._nested, "callbacks"),
        device=resolve_device(estimator.device),
        dtype=estimator.dtype,
        seed=seed,
        observers=lambda build_module: estimator._observers(
            build_module, params, first_epoch, callbacks, verbose
        ),
        initial_module=estimator.module_ if warm_start else None,
        first_epoch=first_epoch,
        checkpoint_store=checkpoint_store,
        n_init=1 if warm_start else estimator.n_init,
        n_folds=params.n_folds or 1,
        report=print if verbose else str,
    )


def build_observers(
    estimator: BaseEstimator,
    build_module: Callable[[], nn.Sequential],
    params: ResolvedParams,
    first_epoch: int,
    callbacks: SklearnCallbackBridge | None,
    verbose: int,
) -> list[Observer]:
    """Build the observers of a fit: the printed table and scikit-learn's callbacks."""
    observers: list[Observer] = []
    if verbose:
        printer = EpochPrinter(
            params.max_epochs,
            first_epoch=first_epoch,
            verbose=verbose,
            standardized=estimator.standardize in (True, "y"),
            show_lr=params.schedule.changes_lr,
        )
        observers.append(printer)
    if callbacks is not None:
        observers.append(SklearnEpochObserver(callbacks, build_module()))
    return observers


def finish_callbacks(estimator: BaseEstimator, context: FitContext, result: FitResult) -> FitResult:
    """End the callbacks, print the losses of several networks, and complete the summary."""
    config = context.job.config
    if context.callbacks is not None:
        context.callbacks.end_fit(result.module)
    if context.verbose:
        if config.n_networks > 1:
            print_losses = print_fold_losses if config.n_folds > 1 else print_init_losses
            print_losses(result, standardized=config.standardize_y)
        else:
            print(result.train_result.execution_mode)
    elif estimator.verbose:
        print_summary(result, standardized=config.standardize_y)
    validation, summary = context.inputs.validation, result.summary
    distant: list[DistantColumn] = []
    if validation is not None:
        distant = distant_columns("X_val", validation.x, summary.x)
        distant += distant_columns("y_val", validation.y, summary.y)
    summary = replace(
        summary,
        distant_columns=distant,
        target_names=column_names(context.inputs.arrays["y"]),
        lost_digits=describe_rounded_columns(context.data, result.module, context.attributes),
    )
    return replace(result, summary=summary)


def set_fitted_attributes(estimator: BaseEstimator, context: FitContext, result: FitResult) -> None:
    """Replace the fitted attributes, all at once, so that an interrupt leaves a consistent fit."""
    training = result.train_result
    history, losses = training.history(), [*training.losses]
    validation_losses = training.validation_losses
    attributes = context.attributes
    is_resolved = is_resolved_by_float32(result.summary.y.mean, result.summary.y.scale)
    if is_warm_start(estimator):
        history = [*estimator.history_, *history]
        losses = [row["loss"] for row in history]
        if validation_losses is not None:
            validation_losses = [row.get("validation_loss", math.nan) for row in history]
    else:
        origin = {**attributes["_origin"], "start_seed": result.seed}
        attributes = {**attributes, "init_losses_": result.init_losses, "_origin": origin}
    attributes = {
        **attributes,
        "fit_summary_": result.summary.to_dict(),
        "module_": result.module,
        "dtype_": result.dtype,
        # For float32 X: float64 where float32 does not resolve y.
        "_prediction_dtype": torch.float32 if is_resolved else torch.float64,
        "history_": history,
        "n_iter_": training.last_epoch,
        "best_epoch_": training.best_epoch,
        "loss_curve_": losses,
        "loss_": losses[max(training.best_epoch, 1) - 1],
        "validation_loss_curve_": None if validation_losses is None else [*validation_losses],
    }
    previous = {name: v for name, v in vars(estimator).items() if name != "feature_names_in_"}
    estimator.__dict__ = previous | attributes


def fit_provenance(
    estimator: BaseEstimator, seed: int, data: Data, *, has_validation: bool
) -> dict[str, int | bool]:
    """Record the numbers that a script needs to repeat a fit.

    ``start_seed`` is the seed of the initial weights. Of ``n_init`` networks it is known after
    training.
    """
    warm_start = is_warm_start(estimator)
    previous = getattr(estimator, "_origin", {}) if warm_start else {}
    return {
        "seed": seed,
        "start_seed": previous.get("start_seed", seed),
        "n_rows": len(data.y),
        "weighted": data.weight is not None,
        "own_validation": has_validation,
        "epochs_before": estimator.n_iter_ if warm_start else 0,
    }


def _check_folds(n_folds: int | None, *, n_init: int, has_validation: bool) -> None:
    if n_folds is None:
        return
    if has_validation:
        raise ValueError(
            f"n_folds={n_folds} holds out validation rows itself, but X_val and y_val were given. "
            "Set n_folds=None and early_stopping=True to stop by them, or leave them out."
        )
    if n_init > 1:
        raise ValueError(
            f"n_folds={n_folds} expects n_init=1, got {n_init}: all networks of the folds are "
            "averaged, so that none is selected. Set only one of the two."
        )


def _check_warm_start(estimator: BaseEstimator, attributes: dict[str, Any], loss: Loss) -> None:
    """Raise ``ValueError`` if the columns or the link differ from those of the last fit."""
    widths = (estimator.n_features_in_, estimator.n_outputs_)
    new_widths = (attributes["n_features_in_"], attributes["n_outputs_"])
    names, new_names = (
        list(source.get("feature_names_in_", [])) for source in (vars(estimator), attributes)
    )
    if widths != new_widths or names != new_names:
        raise ValueError(
            f"warm_start=True continues a fit with {widths[0]} features and {widths[1]} "
            f"outputs, but X has {new_widths[0]} features and y {new_widths[1]} outputs, or their "
            "names changed. Set warm_start=False to start afresh."
        )
    link = link_of(estimator.module_)
    if repr(link) != repr(loss.link):
        raise ValueError(
            f"warm_start=True continues a network that ends in {link or 'no link'}, but the "
            f"loss {loss.name!r} expects {loss.link or 'none'}. Set warm_start=False to start "
            "afresh, or use the loss of the last fit."
        )


def _raw(data: Data) -> RawData:
    return RawData(data.x, data.y, data.weight)
