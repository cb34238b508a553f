"""Fits, from raw rows to fitted modules."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import nn

from torchreg._utils import num_threads
from torchreg.engine.build import (
    LARGE,
    FitCache,
    FitResult,
    InitialState,
    PreparedFit,
    ScalingKey,
    assign_folds,
    initialize_networks,
    select_model,
    split_rows,
    split_table,
)
from torchreg.engine.data import count_columns, merge_identical, to_dense
from torchreg.engine.spec import (
    ONE_THREAD,
    FitConfig,
    FitJob,
    FitMonitor,
    NotStartedError,
    RawData,
    TrainTask,
    capture_exception,
    reraise_interrupt,
)
from torchreg.engine.stack import train_tasks
from torchreg.engine.train import train_single
from torchreg.losses import Loss, probe_loss
from torchreg.nn import Ensemble
from torchreg.optim import OptimizerSpec

#: Largest number of rows for which ``batch_size="auto"`` is full batch, ...
AUTO_FULL_BATCH = 256
#: ... and the batch size for more rows.
AUTO_BATCH = 128

Results = list[FitResult | Exception]


class Batcher(Protocol):
    """Collects the fits of several threads, and trains them together."""

    def fit(self, jobs: Sequence[FitJob]) -> Results:
        """Submit fits, and wait for their results."""


class _ThreadState(threading.local):
    """State of the calling thread: where its fits are trained, and whether it trains now."""

    batcher: Batcher | None = None
    is_training: bool = False


_thread = _ThreadState()


def _reset_thread_state() -> None:
    """Detach a forked process from its batcher, whose other threads it does not have."""
    global _thread
    _thread = _ThreadState()


if hasattr(os, "register_at_fork"):  # Not on Windows.
    os.register_at_fork(after_in_child=_reset_thread_state)


def set_batcher(batcher: Batcher) -> None:
    """Train the fits of the calling thread in batches from now on."""
    _thread.batcher = batcher


def is_training() -> bool:
    """Whether the calling thread is inside a training: in a callback or in a module."""
    return _thread.is_training


def unwrap_result(result: FitResult | Exception) -> FitResult:
    """Return the result of a fit, or raise its error.

    Raises
    ------
    KeyboardInterrupt
        If an interrupt came before the fit started.
    """
    if isinstance(result, NotStartedError):
        raise KeyboardInterrupt
    if not isinstance(result, Exception):
        return result
    try:
        raise result
    finally:
        # The error refers to this frame: break the reference cycle.
        del result


@torch.enable_grad()  # The caller may have disabled gradients.
def fit_networks(jobs: Sequence[FitJob], cancel_event: threading.Event | None = None) -> Results:
    """Fit networks, in stacks where they can be trained together.

    Parameters
    ----------
    jobs : sequence of FitJob
        Fits of any kind.
    cancel_event : Event or None, default=None
        Setting it from another thread ends all fits as an interrupt does. Without it, the fits
        are part of a batch if the calling thread has a batcher.

    Returns
    -------
    list of FitResult or Exception
        One for each job, in order; an error affects no other job.

    Raises
    ------
    KeyboardInterrupt
        If the user interrupts training before the first epoch has ended, or if the batcher was
        cancelled.
    """
    was_training = _thread.is_training
    # A callback of a running training must not wait for the end of that training.
    if cancel_event is None and _thread.batcher is not None and not was_training:
        return _thread.batcher.fit(jobs)
    _thread.is_training = True
    available = torch.get_num_threads()
    n_threads = 1 if all(is_small(job) for job in jobs) else available
    cache = FitCache(finds_equal=len(jobs) > 1)
    fits: list[PreparedFit | Exception] = []
    try:
        # 1. Build networks between scaling layers, and scale the rows.
        with num_threads(n_threads, others=available):
            for job in jobs:
                try:
                    fits.append(prepare_fit(job, cache))
                except Exception as error:
                    reraise_interrupt(error)
                    fits.append(error)
            attach_monitors(fits)
        # 2. Train them, those of one architecture as one stack.
        tasks = [task for fit in fits if not isinstance(fit, Exception) for task in fit.tasks]
        if len(tasks) == 1 and cancel_event is None and tasks[0].monitor is None:
            results = [train_single(tasks[0], threading.Event())]
        else:
            results = train_tasks(tasks, cancel_event or threading.Event())[::-1]
        # 3. Select and summarize the best network of each fit.
        with num_threads(n_threads, others=available):
            return [
                fit
                if isinstance(fit, Exception)
                else capture_exception(select_model, fit, [results.pop() for _ in fit.tasks], cache)
                for fit in fits
            ]
    finally:
        _thread.is_training = was_training
        # Errors refer to this frame: break the reference cycle.
        fits.clear()


def prepare_fit(job: FitJob, cache: FitCache) -> PreparedFit:
    """Prepare a fit.

    Raises
    ------
    ValueError, TypeError
        If module, loss, optimizer and data do not fit each other.
    """
    if job.config.callbacks or job.config.callback_options:
        from torchreg.engine.train.skorch_callbacks import split_callbacks

        job = replace(job, config=split_callbacks(job.config))
    config, data = job.config, cache.unique(job.training)
    n_rows, n_outputs = data.y.shape
    # 1. Batches: a full batch is determined by its distinct rows and their weights.
    loss = probe_loss(config.loss, n_outputs)
    batch_size = choose_batch_size(config.batch_size, n_rows, config.optimizer)
    if merges_rows(config, data, loss, batch_size):
        if ("merged", data) not in cache:
            cache["merged", data] = merge_rows(data)
        data = cache["merged", data]
        batch_size = min(batch_size, len(data.y))
    # 2. Networks between their scaling layers, and the rows in their units.
    states = initialize_networks(config, data, batch_size, cache)
    # 3. One training task per network.
    tasks = build_tasks(job, data, states, loss, batch_size, cache)
    if config.schedule.changes_lr:
        # Invalid parameters of a schedule raise before training.
        tasks[0].lr_schedule()
    return PreparedFit(config, data, job.validation, n_rows, states, tasks)


def choose_batch_size(batch_size: int | str | None, n_rows: int, optimizer: OptimizerSpec) -> int:
    """Resolve the ``batch_size`` parameter; ``n_rows`` is full batch."""
    if batch_size is None:
        return n_rows
    if isinstance(batch_size, str):
        full_batch = n_rows <= AUTO_FULL_BATCH or optimizer.needs_full_batch
        return n_rows if full_batch else AUTO_BATCH
    return min(int(batch_size), n_rows)


def merges_rows(config: FitConfig, data: RawData, loss: Loss, batch_size: int) -> bool:
    """Return whether to merge identical rows: in full batches, and before rows are split in folds.

    A row and its repetition in another fold would be trained on and held out at once.
    """
    if batch_size >= len(data.y) and (loss.per_row or data.weight is not None):
        return True
    return config.n_folds > 1 and bool(loss.per_row) and can_merge_rows(data)


def can_merge_rows(data: RawData) -> bool:
    """Return whether a table is small enough to be made dense."""
    return len(data.y) * count_columns(data.x) <= LARGE


def merge_rows(data: RawData) -> RawData:
    """Sort rows and merge identical ones."""
    return RawData(*merge_identical(to_dense(data.x), data.y, data.weight))


def attach_monitors(fits: list[PreparedFit | Exception]) -> None:
    """Set the monitor of each fit that has observers or callbacks; an ensemble has one."""
    groups: dict[int, list[PreparedFit]] = {}
    for fit in fits:
        if isinstance(fit, PreparedFit):
            ensemble = fit.config.ensemble
            groups.setdefault(id(fit if ensemble is None else ensemble), []).append(fit)
    for group in groups.values():
        try:
            monitor = build_monitor(group)
        except Exception as error:
            reraise_interrupt(error)
            fits[:] = [error if fit in group else fit for fit in fits]
            continue
        for fit in group:
            for task in fit.tasks:
                task.monitor = monitor


def build_monitor(fits: list[PreparedFit]) -> FitMonitor | None:
    """Build the monitor of a fit, or of an ensemble, if it has observers or callbacks."""
    first = fits[0]
    config, task = first.config, first.tasks[0]
    observers = [o for fit in fits for o in fit.config.observers(fit.build_module)]
    if config.fit_callbacks:
        from torchreg.engine.train.skorch_callbacks import FitCallbacks

        modules = [fit.build_module() for fit in fits]
        module = modules[0] if len(modules) == 1 else nn.Sequential(Ensemble(modules))
        rows, held_out = first.states[0].scaled.raw_rows, first.validation
        # Members of an ensemble hold out different rows.
        validation = None if held_out is None or len(fits) > 1 else rows(held_out)
        callbacks = FitCallbacks(config, module, rows(first.data), validation, task.batch_size)
        observers.insert(0, callbacks)
    if not observers and not config.callbacks:
        return None
    monitor = FitMonitor(observers, config.first_epoch)
    if task.batch_observer is not None:
        monitor.warnings = task.batch_observer.unmatched_patterns()
    return monitor


def build_tasks(
    job: FitJob,
    data: RawData,
    states: list[InitialState],
    loss: Loss,
    batch_size: int,
    cache: FitCache,
) -> list[TrainTask]:
    """Build the training task of each network; with folds, each holds out another part."""
    config, first = job.config, states[0]
    validation = None
    if job.validation is not None:
        rows = cache.unique(job.validation)
        key = "table", rows, data, ScalingKey.of(config), first.scaled.dtype
        if key not in cache:
            cache[key] = first.scaled.table(rows, full_batch=False)
        validation = cache[key]
    splits = [(state.table, validation) for state in states]
    raw_splits = [(data, job.validation) for _ in states]
    if config.n_folds > 1:
        fold = assign_folds(len(data.y), config.n_folds, config.seed)
        splits = [split_table(first.table, fold, k) for k in range(config.n_folds)]
        if config.callbacks:
            # Only callbacks receive rows in raw units.
            raw_splits = [split_rows(data, fold, k) for k in range(config.n_folds)]
    return [
        TrainTask(
            network=state.scaled.network,
            training=training,
            validation=held_out,
            loss=loss.to(first.table.t),
            optimizer=config.optimizer,
            batch_size=batch_size,
            max_epochs=config.max_epochs,
            stopping=config.stopping,
            seed=state.seed,
            first_epoch=config.first_epoch,
            batch_observer=state.scaled.skorch_adapter(*raw, batch_size),
            checkpoint_store=config.checkpoint_store,
            protect_input=state.traits.mutates_input,
            uses_rng=state.traits.uses_rng,
            generators=state.generators,
            schedule=config.schedule,
        )
        for state, (training, held_out), raw in zip(states, splits, raw_splits, strict=True)
    ]


def is_small(job: FitJob) -> bool:
    """Return whether one thread is enough before and after training."""
    return len(job.training.y) * count_columns(job.training.x) <= ONE_THREAD
