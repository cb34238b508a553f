"""Preparation of a fit: batches, networks, and one training task per network."""

from __future__ import annotations

from dataclasses import dataclass

from torchreg.engine.build.folds import assign_folds, split_rows, split_table
from torchreg.engine.build.initial_state import (
    FitCache,
    InitialState,
    ScalingKey,
    initialize_networks,
)
from torchreg.engine.build.network import LARGE
from torchreg.engine.data import count_columns, merge_identical, to_dense
from torchreg.engine.spec import ONE_THREAD, FitConfig, FitJob, RawData, TrainTask
from torchreg.losses import Loss, probe_loss
from torchreg.optim import OptimizerSpec

#: Largest number of rows for which ``batch_size="auto"`` is full batch, ...
AUTO_FULL_BATCH = 256
#: ... and the batch size for more rows.
AUTO_BATCH = 128


@dataclass(frozen=True)
class PreparedFit:
    """A fit before its first step.

    Parameters
    ----------
    config : FitConfig
    data : RawData
        Training rows, without repetitions where these were merged.
    n_rows : int
        Number of rows before repetitions were merged.
    states : list of InitialState
        Initial state of each network.
    tasks : list of TrainTask
        Training task of each network.
    """

    config: FitConfig
    data: RawData
    n_rows: int
    states: list[InitialState]
    tasks: list[TrainTask]


def prepare_fit(job: FitJob, cache: FitCache) -> PreparedFit:
    """Prepare a fit.

    Raises
    ------
    ValueError, TypeError
        If module, loss, optimizer and data do not fit each other.
    """
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
    return PreparedFit(config, data, n_rows, states, tasks)


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
            observers=config.observers(state.scaled.module),
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
