"""What the engine is asked, what it answers, and who may listen while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor, nn

from torchreg.engine.data import Batch, Table, compute_batch_sizes
from torchreg.losses import Loss
from torchreg.optim import LRSchedule, OptimizerSpec, ScheduleSpec

P = ParamSpec("P")
R = TypeVar("R")

#: Rows of a batch times parameters of the network (or, before there is one, rows times
#: columns), up to which a second thread gains less than a quarter where the other core is
#: idle, and loses many times that where it is busy.
ONE_THREAD = 2**22


@dataclass
class EpochRecord:
    """What one epoch saw; losses are in standardized units (dimensionless).

    Parameters
    ----------
    epoch : int
        Counted from 1, over all warm starts.
    loss : float
        Mean training loss over the epoch's batches, each taken before its step.
    validation_loss : float or None
        Mean loss of the validation rows after the epoch.
    extra : dict
        What callbacks noted.
    lr : float or None
        The learning rate of its last step, where a schedule moves it.
    """

    epoch: int
    loss: float
    validation_loss: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    lr: float | None = None


class Observer(Protocol):
    """Someone who follows a fit epoch by epoch and may end it."""

    def on_epoch_begin(self) -> None:
        """Hear that an epoch starts."""

    def on_epoch_end(self, record: EpochRecord) -> bool:
        """Hear what the epoch saw; return True to stop here."""

    def on_fit_end(self, result: TrainResult) -> None:
        """Hear that the fit is over and the right weights are in place."""


class BatchObserver(Observer, Protocol):
    """An observer that follows each batch too, and holds the torch optimizer."""

    optimizer: torch.optim.Optimizer

    def begin(self) -> None:
        """Hear that training begins."""

    def on_batch_begin(self, batch: Batch, *, training: bool) -> None:
        """Hear that a batch is next."""

    def on_gradient(self) -> None:
        """Hear that the gradient is there; it may be changed in place."""

    def on_batch_end(
        self, batch: Batch, loss: float, prediction: Tensor, *, training: bool
    ) -> None:
        """Hear what the batch gave."""


class CheckpointStore(Protocol):
    """Keeps the state of a fit outside the process, and hands it to the next one."""

    def load(self) -> dict[str, Any] | None:
        """Give the state to go on from; ``None`` begins anew."""

    def save(self, state: Callable[[], dict[str, Any]], *, ended: bool) -> None:
        """Hear that an epoch, or the fit, has ended; ask for its state if that is to be kept."""


@dataclass(frozen=True)
class Stopping:
    """When a fit ends before its budget.

    Parameters
    ----------
    on_validation : bool
        Whether the validation loss decides, and its best weights are restored.
    patience : int
        Epochs without improvement that are waited for.
    tol : float or None
        An improvement is a loss below ``best * (1 - tol)``: relative, so that neither the
        units of y nor the size of the loss matter. ``None`` without validation: never stop.
    """

    on_validation: bool = False
    patience: int = 10
    tol: float | None = None


@dataclass
class TrainTask:
    """Everything a fit needs, as tensors, modules and numbers.

    Parameters
    ----------
    network : nn.Module
        Standardized inputs to standardized outputs; trained in place.
    training : Table
        Standardized training rows.
    validation : Table or None
        Standardized validation rows.
    loss : Loss
        Compares standardized values.
    optimizer : OptimizerSpec
        Which rule, with its options.
    batch_size : int
        Rows per step; the number of rows, or more, is full batch.
    max_epochs : int
        Budget.
    stopping : Stopping
        When to end earlier.
    seed : int
        Of the order of the batches and, for networks that draw, of their draws.
    first_epoch : int
        Epochs that earlier fits have run (warm start).
    observers : list of Observer
        Who listens.
    batch_observer : BatchObserver or None
        Who listens to every batch.
    checkpoint_store : CheckpointStore or None
        Who keeps its state, so that a fit whose process was killed can go on.
    protect_input : bool
        Whether the network overwrites its input, so that it must be given a copy.
    uses_rng : bool
        Whether it draws random numbers while it trains.
    generators : list of Tensor
        From where torch's generators go on for a network that draws.
    schedule : ScheduleSpec
        How its learning rate moves.
    draft : nn.Module or None
        An untrained network of which this one is a copy: copies of one differ in nothing.
    """

    network: nn.Module
    training: Table
    validation: Table | None
    loss: Loss
    optimizer: OptimizerSpec
    batch_size: int
    max_epochs: int
    stopping: Stopping
    seed: int
    first_epoch: int = 0
    observers: list[Observer] = field(default_factory=list)
    batch_observer: BatchObserver | None = None
    checkpoint_store: CheckpointStore | None = None
    protect_input: bool = False
    uses_rng: bool = False
    generators: list[Tensor] = field(default_factory=list)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    draft: nn.Module | None = None

    @property
    def tables(self) -> list[Table]:
        """List its training rows, and its validation rows if there are any."""
        return [table for table in (self.training, self.validation) if table is not None]

    @property
    def is_quiet(self) -> bool:
        """Whether all its steps are alike, on all rows, and nobody asks what an epoch gave."""
        stopping = self.stopping
        may_settle = stopping.on_validation or stopping.tol is not None
        heard = (
            bool(self.observers)
            or self.batch_observer is not None
            or self.checkpoint_store is not None
        )
        whole = self.batch_size >= len(self.training.t) and self.validation is None
        return whole and not (self.schedule.changes_lr or may_settle or heard)

    @property
    def steps_in_epoch(self) -> int:
        """Count the batches of an epoch."""
        n = len(self.training.t)
        return len(compute_batch_sizes(n, min(self.batch_size, n)))

    @property
    def n_steps(self) -> int:
        """Count the steps of the whole budget."""
        return self.max_epochs * self.steps_in_epoch

    def lr_schedule(self) -> LRSchedule:
        """Begin its schedule.

        Raises
        ------
        ValueError, TypeError
            If it cannot be begun.
        """
        return LRSchedule(self.schedule, self.optimizer, self.n_steps)

    @property
    def work(self) -> int:
        """Rows of a batch times parameters."""
        return self.batch_size * sum(p.numel() for p in self.network.parameters())


@dataclass
class TrainResult:
    """What a fit learned, why it stopped, and what it saw.

    Parameters
    ----------
    first_epoch : int
        Epochs that earlier fits have run (warm start).
    losses : list of float
        Training loss of each epoch, in standardized units.
    validation_losses : list of float or None
        Validation loss of each epoch, where there were validation rows.
    extra : dict of int to dict
        What callbacks noted, by epoch.
    reason : str
        ``"budget"``, ``"converged"`` (the training loss settled), ``"early_stopping"``
        (the validation loss did), ``"callback"``, ``"interrupted"`` or ``"diverged"``.
    best_epoch : int
        The epoch whose weights the network holds.
    execution_mode : str
        How the steps were computed, and why, in words.
    still_falling : bool
        Whether a tolerance was asked for and the budget ran out before it was met.
    rates : list of float
        Learning rate of the last step of each epoch, where a schedule moves it; else none.
    """

    first_epoch: int
    losses: list[float]
    validation_losses: list[float] | None
    extra: dict[int, dict[str, Any]]
    reason: str
    best_epoch: int
    execution_mode: str
    still_falling: bool = False
    rates: list[float] = field(default_factory=list)

    @property
    def last_epoch(self) -> int:
        """The last epoch that was recorded, counted over all warm starts."""
        return self.first_epoch + len(self.losses)

    def history(self) -> list[dict[str, Any]]:
        """Give what each epoch saw as a dictionary."""
        epochs = range(self.first_epoch + 1, self.last_epoch + 1)
        rows: list[dict[str, Any]] = [
            {"epoch": epoch, "loss": loss} for epoch, loss in zip(epochs, self.losses, strict=True)
        ]
        for row, loss in zip(rows, self.validation_losses or [], strict=False):
            row["validation_loss"] = loss
        for row, lr in zip(rows, self.rates, strict=False):
            row["lr"] = lr
        for epoch, noted in self.extra.items():
            rows[epoch - self.first_epoch - 1] |= noted
        return rows


class NotStartedError(Exception):
    """An interrupt ended all training before it was this network's turn."""


def reraise_interrupt(error: BaseException) -> None:
    """Raise the interrupt that an error hides, if it came while the interrupt cleaned up.

    Between any two instructions means also: while torch has put a mode aside. Who leaves that
    mode then finds it gone, and says so.
    """
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        behind = None if behind.__suppress_context__ else behind.__context__


def capture_exception(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | Exception:
    """Give what a call gives, or what was wrong with it; an interrupt is raised.

    Examples
    --------
    >>> attempt(divmod, 7, 2), attempt(divmod, 7, 0)
    ((3, 1), ZeroDivisionError('integer division or modulo by zero'))
    """
    try:
        return work(*args, **kwargs)
    except Exception as error:
        reraise_interrupt(error)
        return error


#: What becomes of a problem: an outcome, or what was wrong with it.
TaskResult = TrainResult | Exception


def is_interrupted(answer: TaskResult) -> bool:
    """Tell whether it was the user who ended a network's training, or kept it from beginning."""
    if isinstance(answer, TrainResult):
        return answer.reason == "interrupted"
    return isinstance(answer, NotStartedError)
