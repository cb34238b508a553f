"""One job before and after its training: scaling layers, networks, and what became of them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from torchreg.engine.build.drafts import give_containers
from torchreg.engine.build.fit_result import FitResult, SelectedModel, final_loss
from torchreg.engine.build.folds import (
    as_ensemble,
    assign_folds,
    merge_results,
    split_rows,
    split_table,
)
from torchreg.engine.build.initial_state import InitialState, scaling_of, start_networks
from torchreg.engine.build.memo import FitCache
from torchreg.engine.build.scaled_network import LARGE
from torchreg.engine.data import count_columns, merge_identical, to_dense
from torchreg.engine.inspect.fit_summary import DriftTracker, summarize
from torchreg.engine.inspect.probe import ProbeTarget, take_sample
from torchreg.engine.inspect.row_summary import summarize_rows
from torchreg.engine.spec.fit_config import FitJob, RawData
from torchreg.engine.spec.module_tensors import ensure_eval
from torchreg.engine.spec.train_task import (
    ONE_THREAD,
    TaskResult,
    TrainResult,
    TrainTask,
    is_interrupted,
)
from torchreg.losses import LOSSES, probe_loss
from torchreg.nn.links import link_of
from torchreg.optim import OptimizerSpec

#: With ``batch_size="auto"``, up to this many rows are one batch, ...
AUTO_FULL_BATCH = 256
#: ... and of more, this many.
AUTO_BATCH = 128


class PreparedFit:
    """A job, with all that is there before its first step.

    Parameters
    ----------
    job : FitJob
        How, and on what.
    shared : FitCache
        What it may have in common with others.

    Attributes
    ----------
    tasks : list of TrainTask
        What is to be trained: one network, or ``n_init`` of them.

    Raises
    ------
    ValueError, TypeError
        If module, loss, optimizer and data do not fit each other.
    """

    def __init__(self, job: FitJob, shared: FitCache) -> None:
        config, training = job.config, shared.rows(job.training)
        # 1. Batches. A full batch is what its distinct rows and their weights say.
        self.n_rows, n_outputs = training.y.shape
        batch_size = choose_batch_size(config.batch_size, self.n_rows, config.optimizer)
        probe = partial(probe_loss, config.loss, n_outputs)
        is_ours = LOSSES.get(config.loss.name) is config.loss.function
        # What a function of the user's does when it is called is not known.
        loss = shared.once("loss", training, config.loss, make=probe) if is_ours else probe()
        whole = batch_size >= self.n_rows and (loss.per_row or training.weight is not None)
        # Copies of a row in two folds would be seen and held out at once.
        dealt = config.n_folds > 1 and may_merge(training) and loss.per_row
        if whole or dealt:
            training = shared.once("merged", training, make=partial(merged, training))
            batch_size = min(batch_size, len(training.y))
        # 2. Networks between their scaling layers, and the rows in their units.
        starts = start_networks(config, training, batch_size, shared)
        # 3. What is to be trained.
        first = starts[0]
        validation = None
        if job.validation is not None:
            held_out = shared.rows(job.validation)
            make = partial(first.inside.table, held_out, whole=False)
            how = (id(training), *scaling_of(config), first.inside.dtype)
            validation = shared.once("table", held_out, *how, make=make)
        loss = loss.to(first.table.t)
        parts = [(start.table, validation) for start in starts]
        shown = [(training, job.validation) for start in starts]
        if config.n_folds > 1:
            fold = assign_folds(len(training.y), config.n_folds, config.seed)
            parts = [split_table(first.table, fold, k) for k in range(config.n_folds)]
            if config.callbacks:
                # They alone look at rows in raw units.
                shown = [split_rows(training, fold, k) for k in range(config.n_folds)]
        self.tasks = []
        for start, (rows, held), raw in zip(starts, parts, shown, strict=True):
            listener = start.inside.listener(*raw, batch_size)
            task = TrainTask(
                network=start.inside.network,
                training=rows,
                validation=held,
                loss=loss,
                optimizer=config.optimizer,
                batch_size=batch_size,
                max_epochs=config.max_epochs,
                stopping=config.stopping,
                seed=start.seed,
                first_epoch=config.first_epoch,
                observers=config.observers(start.inside.module),
                batch_observer=listener,
                checkpoint_store=config.checkpoint_store,
                protect_input=start.habits.mutates_input,
                uses_rng=start.habits.uses_rng,
                generators=start.generators,
                schedule=config.schedule,
                draft=start.draft,
            )
            self.tasks.append(task)
            if start.draft is not None and (listener is not None or task.observers):
                # Who listens may do with the module what he likes.
                give_containers(start.inside.module)
        if config.schedule.changes_lr:
            # One that cannot be begun is known before the training.
            self.tasks[0].lr_schedule()
        is_member = config.n_folds > 1
        self.travels = [_begin_travel(start, training, shared, is_member) for start in starts]
        # 4. What a diagnosis needs of the rows: now, when they and what describes them are at hand.
        describe = partial(summarize_rows, first.inside.module, training, self.n_rows)
        how = *scaling_of(config), self.n_rows
        self.described = shared.once("described", training, *how, make=describe)
        take = partial(take_sample, first.table, self.described.chosen)
        self.sample = shared.once("sample", training, *how, first.inside.dtype, make=take)
        self.config, self.starts = config, starts

    def keep(self, results: list[TaskResult]) -> SelectedModel:
        """Keep the best network, or all of the folds as one.

        Parameters
        ----------
        results : list of TrainResult or Exception
            One for each of the problems, of which one at least is an outcome.
        """
        losses = [math.inf if isinstance(a, Exception) else final_loss(a) for a in results]
        trained = {i: result for i, result in enumerate(results) if isinstance(result, TrainResult)}
        best = min(trained, key=losses.__getitem__)
        result, task, start = trained[best], self.tasks[best], self.starts[best]
        module, dtype, travel = start.inside.module, start.inside.dtype, self.travels[best]
        if self.config.n_folds > 1:
            module = as_ensemble(module, [self.starts[i].inside.network for i in trained])
            result = merge_results([*trained.values()])
            network = module.get_submodule("network")
            task = replace(task, network=network, training=start.table)
            travel = DriftTracker.of_several([self.travels[i] for i in trained])
        link = link_of(module) if "link" in module._modules else None
        view = ProbeTarget(task.network, self.sample, link)
        n_networks = len(trained) if self.config.n_folds > 1 else 1
        fitted = partial(
            FitResult,
            module=ensure_eval(module),
            dtype=dtype,
            train_result=result,
            seed=start.seed,
            init_losses=losses,
            interrupted=any(map(is_interrupted, results)),
            is_copy=start.draft is not None,
        )
        summarized = partial(
            summarize, task, result, travel, module, self.described, n_networks=n_networks
        )
        return SelectedModel(view, summarized, fitted)


def _begin_travel(
    start: InitialState, training: RawData, shared: FitCache, is_member: bool
) -> DriftTracker:
    """Note where a network begins: once for all copies of one."""
    network, draft = start.inside.network, start.draft
    if draft is None:
        return DriftTracker(network, is_member=is_member)
    make = partial(DriftTracker, draft, is_member=is_member)
    first = shared.once("travel", training, id(draft), is_member, make=make)
    return first.of_copy(network)


def is_small(job: FitJob) -> bool:
    """Whether one thread does as well as several what is done before and after training."""
    return len(job.training.y) * count_columns(job.training.x) <= ONE_THREAD


def may_merge(training: RawData) -> bool:
    """Whether identical rows are looked for: made dense, all of them must fit memory with ease."""
    return len(training.y) * count_columns(training.x) <= LARGE


def merged(training: RawData) -> RawData:
    """Merge identical rows, and sort them."""
    return RawData(*merge_identical(to_dense(training.x), training.y, training.weight))


def choose_batch_size(batch_size: int | str | None, n_rows: int, optimizer: OptimizerSpec) -> int:
    """Read the ``batch_size`` parameter; ``n_rows`` is a full batch."""
    if batch_size is None:
        return n_rows
    if isinstance(batch_size, str):
        whole = n_rows <= AUTO_FULL_BATCH or optimizer.needs_full_batch
        return n_rows if whole else AUTO_BATCH
    return min(int(batch_size), n_rows)
