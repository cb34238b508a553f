"""One fit, from raw rows to a fitted module: statistics, network, training."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchreg._device import (
    drawing,
    generator_states,
    resolve_dtype,
    seeded,
    statistics_dtype,
    threads,
)
from torchreg.diagnosis.record import FitSummary
from torchreg.engine.inside import Inside
from torchreg.engine.loop import train
from torchreg.engine.network import Habits, build_network, fit_to_data, habits_of, scaled
from torchreg.engine.problem import Outcome, Problem
from torchreg.engine.request import RawRows, Request
from torchreg.engine.rows import (
    Rows,
    Table,
    every_row,
    merge_identical,
    width_of,
)
from torchreg.engine.statistics import column_statistics
from torchreg.engine.stepper import trainable
from torchreg.engine.summary import Travel, summarize
from torchreg.losses import Loss, probe_loss
from torchreg.optimizers import OptimizerSpec

#: With ``batch_size="auto"``, up to this many rows are one batch, ...
AUTO_FULL_BATCH = 256
#: ... and of more, this many.
AUTO_BATCH = 128

#: Rows of a batch times parameters of the network (or, before there is one, rows times
#: columns), up to which a second thread gains less than a quarter where the other core is
#: idle, and loses many times that where it is busy.
ONE_THREAD = 2**22


@dataclass(frozen=True)
class Fitted:
    """What a fit gave: the module (raw units to raw units), its dtype, outcome and numbers."""

    module: nn.Sequential
    dtype: torch.dtype
    outcome: Outcome
    summary: FitSummary


@torch.enable_grad()  # Whoever calls may have turned gradients off.
def fit_network(request: Request, training: RawRows, validation: RawRows | None) -> Fitted:
    """Fit: raw rows in, a module from raw units to raw units out.

    Parameters
    ----------
    request : Request
        How.
    training, validation : RawRows
        On what. Statistics never see the validation rows.

    Returns
    -------
    Fitted

    Raises
    ------
    ValueError, TypeError
        If module, loss, optimizer and data do not fit each other.
    """
    available = torch.get_num_threads()
    few = 1 if len(training.y) * width_of(training.x) <= ONE_THREAD else available
    with threads(few, others=available):
        # 1. Batches. A full batch is what its distinct rows and their weights say.
        n_rows, n_outputs = training.y.shape
        batch_size = choose_batch_size(request.batch_size, n_rows, request.optimizer)
        loss = probe_loss(request.loss, n_outputs)
        if batch_size >= n_rows and (loss.per_row or training.weight is not None):
            merged = merge_identical(every_row(training.x), training.y, training.weight)
            training = RawRows(*merged)
            batch_size = len(training.y)
        # 2. A network between its scaling layers, and the rows in its units.
        device = request.device
        start = seeded(request.seed, device, partial(_start, request, training, batch_size))
        # 3. Train, with random numbers of our own if the network draws; other threads wait then.
        few = 1 if batch_size * start.n_parameters <= ONE_THREAD else available
        with threads(few, others=available):
            work = partial(_train, request, start, training, validation, batch_size, loss, n_rows)
            trained = seeded(start.generators, device, work) if start.habits.draws else work()
    return Fitted(start.inside.module.eval(), start.inside.dtype, *trained)


class _Start(NamedTuple):
    """What is there before the first step; torch's generators stand where the building ended."""

    inside: Inside
    table: Table
    habits: Habits
    n_parameters: int
    generators: list[Tensor]


def _start(request: Request, training: RawRows, batch_size: int) -> _Start:
    """Build a network between its scaling layers, and bring the rows into its units."""
    with drawing():
        module = copy.deepcopy(request.start) or build_module(request, training, batch_size)
        inside = Inside(module, request)
        table = inside.table(training, whole=batch_size >= len(training.y))
        habits = habits_of(inside.network, table.x[torch.arange(min(4, len(table.t)))])
        n_parameters = sum(p.numel() for p in inside.network.parameters())
        return _Start(inside, table, habits, n_parameters, generator_states(request.device))


def _train(
    request: Request,
    start: _Start,
    training: RawRows,
    validation: RawRows | None,
    batch_size: int,
    loss: Loss,
    n_rows: int,
) -> tuple[Outcome, FitSummary]:
    """Train the network in place, and note the numbers that a diagnosis needs."""
    inside, table = start.inside, start.table
    travel = Travel(inside.network)
    listener = inside.listener(training, validation, batch_size)
    problem = Problem(
        network=inside.network,
        training=table,
        validation=None if validation is None else inside.table(validation, whole=False),
        loss=loss.to(table.t),
        optimizer=request.optimizer,
        batch_size=batch_size,
        max_epochs=request.max_epochs,
        stopping=request.stopping,
        seed=request.seed,
        first_epoch=request.epochs_before,
        observers=request.observers(inside.module),
        batch_observer=listener,
        keeper=request.keeper,
        protect_input=start.habits.overwrites_input,
        draws=start.habits.draws,
    )
    if listener is not None:
        listener.begin()
    outcome = train(problem)
    summary = summarize(problem, outcome, travel, inside.module, training.x, training.y, n_rows)
    return outcome, summary


def choose_batch_size(batch_size: int | str | None, n_rows: int, optimizer: OptimizerSpec) -> int:
    """Read the ``batch_size`` parameter; ``n_rows`` is a full batch."""
    if batch_size is None:
        return n_rows
    if isinstance(batch_size, str):
        whole = n_rows <= AUTO_FULL_BATCH or optimizer.wants_full_batch
        return n_rows if whole else AUTO_BATCH
    return min(int(batch_size), n_rows)


def build_module(request: Request, training: RawRows, batch_size: int) -> nn.Sequential:
    """Build the untrained network between its scaling layers, on its device."""
    x_statistics = y_statistics = None
    if request.standardize_x:
        x_statistics = column_statistics(training.x, training.weight)
    if request.standardize_y:
        y_statistics = column_statistics(training.y, training.weight)
    n_outputs = training.y.shape[1]
    network = build_network(
        request.module,
        request.module_options,
        in_features=width_of(training.x),
        out_features=n_outputs,
    )
    default = torch.get_default_dtype()
    before = scaled(nn.Identity(), x_statistics, None, default)
    fit_to_data(network, before(_first_rows(training.x)).to(default), n_outputs)
    trainable(network)
    dtype = resolve_dtype(
        request.dtype,
        work=batch_size * sum(p.numel() for p in network.parameters()),
        device=request.device,
        exact=request.optimizer.searches_lines,
    )
    module = scaled(network.to(dtype), x_statistics, y_statistics, dtype)
    if statistics_dtype(request.device) != torch.float64:
        module.to(statistics_dtype(request.device))
    return module.to(request.device)


def _first_rows(rows: Rows) -> Tensor:
    return rows[torch.arange(min(4, len(rows)))]
