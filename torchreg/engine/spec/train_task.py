"""Training tasks, their results, and the interfaces of observers and checkpoint stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor, nn

from torchreg.engine.data import Batch, Table, compute_batch_sizes
from torchreg.losses import Loss
from torchreg.optim import LRSchedule, OptimizerSpec, ScheduleSpec

if TYPE_CHECKING:
    from torchreg.engine.spec.fit_monitor import FitMonitor

P = ParamSpec("P")
R = TypeVar("R")

#: Work (rows of a batch times parameters, or rows times columns) up to which one thread is used:
#: a second one saves less than a quarter on an idle machine and is far slower on a busy one.
ONE_THREAD = 2**22


@dataclass
class EpochRecord:
    """Losses of one epoch, in standardized units (dimensionless).

    Parameters
    ----------
    epoch : int
        Counted from 1 over all warm starts.
    loss : float
        Mean training loss over the epoch's batches, each computed before its step.
    validation_loss : float or None, default=None
        Mean loss of the validation rows after the epoch.
    extra : dict
        Values that callbacks recorded.
    lr : float or None, default=None
        Learning rate of the last step, if a schedule changes it.
    """

    epoch: int
    loss: float
    validation_loss: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    lr: float | None = None


class Observer(Protocol):
    """Callback interface of a fit, called once per epoch."""

    def on_fit_begin(self) -> None:
        """Run before the first step, and before steps are recorded."""

    def on_epoch_begin(self) -> None:
        """Run before each epoch."""
        return

    def on_epoch_end(self, record: EpochRecord) -> bool:
        """Run after each epoch; return True to stop training."""

    def on_fit_end(self) -> None:
        """Run once all networks hold their final weights."""
        return


class BatchObserver(Observer, Protocol):
    """Observer of one network that is also called for each batch and owns the torch optimizer."""

    optimizer: torch.optim.Optimizer

    def unmatched_patterns(self) -> list[str]:
        """Describe the patterns of callbacks that match no parameter."""

    def on_batch_begin(self, batch: Batch, *, training: bool) -> None:
        """Run before each batch."""

    def on_gradient(self) -> None:
        """Run after the gradient is computed; it may be modified in place."""

    def on_batch_end(
        self, batch: Batch, loss: float, prediction: Tensor, *, training: bool
    ) -> None:
        """Run after each batch."""


class CheckpointStore(Protocol):
    """Stores the state of a fit outside the process."""

    def load(self) -> dict[str, Any] | None:
        """Return the state to resume from, or ``None`` if there is none."""

    def save(self, state: Callable[[], dict[str, Any]], *, ended: bool) -> None:
        """Run after each epoch and after the fit; ``state`` builds the state to store."""


@dataclass(frozen=True)
class Stopping:
    """Stopping rule before the budget of epochs is used up.

    Parameters
    ----------
    on_validation : bool, default=False
        Whether to monitor the validation loss and restore its best weights.
    patience : int or None, default=10
        Number of epochs without improvement before training stops. ``None`` keeps the best
        weights and never stops early.
    tol : float or None, default=None
        A loss improves if it is below ``best * (1 - tol)``: relative, so that it depends neither
        on the units of y nor on the size of the loss. Without validation, ``None`` disables
        stopping.
    """

    on_validation: bool = False
    patience: int | None = 10
    tol: float | None = None


@dataclass
class TrainTask:
    """One network to train, with its data and settings.

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
    batch_size : int
        Rows per step; the number of rows or more for full batch.
    max_epochs : int
    stopping : Stopping
    seed : int
        Seed of the order of the batches, and of a network that draws random numbers.
    first_epoch : int, default=0
        Number of epochs trained by earlier fits (warm start).
    monitor : FitMonitor or None, default=None
        Of the fit, if it has observers or callbacks.
    batch_observer : BatchObserver or None, default=None
        Of this network alone.
    checkpoint_store : CheckpointStore or None, default=None
    protect_input : bool, default=False
        Whether the network overwrites its input and must receive a copy.
    uses_rng : bool, default=False
        Whether the network draws random numbers while it trains.
    generators : list of Tensor
        Initial states of torch's generators, for a network that draws random numbers.
    schedule : ScheduleSpec
        Learning-rate schedule.
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
    monitor: FitMonitor | None = None
    batch_observer: BatchObserver | None = None
    checkpoint_store: CheckpointStore | None = None
    protect_input: bool = False
    uses_rng: bool = False
    generators: list[Tensor] = field(default_factory=list)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)

    @property
    def tables(self) -> list[Table]:
        """Training rows, and validation rows if there are any."""
        return [table for table in (self.training, self.validation) if table is not None]

    @property
    def steps_in_epoch(self) -> int:
        """Number of batches in an epoch."""
        n = len(self.training.t)
        return len(compute_batch_sizes(n, min(self.batch_size, n)))

    @property
    def n_steps(self) -> int:
        """Number of steps in ``max_epochs`` epochs."""
        return self.max_epochs * self.steps_in_epoch

    @property
    def work(self) -> int:
        """Rows of a batch times parameters."""
        return self.batch_size * sum(p.numel() for p in self.network.parameters())

    def lr_schedule(self) -> LRSchedule:
        """Build the learning-rate schedule.

        Raises
        ------
        ValueError, TypeError
            If torch's scheduler rejects its parameters.
        """
        return LRSchedule(self.schedule, self.optimizer, self.n_steps)


@dataclass
class TrainResult:
    """Losses of a trained network, and why training stopped.

    Parameters
    ----------
    first_epoch : int
        Number of epochs trained by earlier fits (warm start).
    losses : list of float
        Training loss of each epoch, in standardized units.
    validation_losses : list of float or None
        Validation loss of each epoch, if there were validation rows.
    extra : dict of int to dict
        Values that callbacks recorded, by epoch.
    reason : {"budget", "converged", "early_stopping", "callback", "interrupted", "diverged"}
        Why training stopped: ``max_epochs``, the training loss or the validation loss stopped
        improving, a callback, an interrupt, or a loss that is not finite.
    best_epoch : int
        Epoch whose weights the network holds.
    execution_mode : str
        How the steps were computed, and why, as a sentence.
    still_falling : bool, default=False
        Whether ``tol`` was set and ``max_epochs`` was reached before the loss met it.
    rates : list of float
        Learning rate of the last step of each epoch, if a schedule changes it.
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
        """Last recorded epoch, counted over all warm starts."""
        return self.first_epoch + len(self.losses)

    def history(self) -> list[dict[str, Any]]:
        """Return one dictionary of recorded values per epoch."""
        epochs = range(self.first_epoch + 1, self.last_epoch + 1)
        rows: list[dict[str, Any]] = [
            {"epoch": epoch, "loss": loss} for epoch, loss in zip(epochs, self.losses, strict=True)
        ]
        for row, loss in zip(rows, self.validation_losses or [], strict=False):
            row["validation_loss"] = loss
        for row, lr in zip(rows, self.rates, strict=False):
            row["lr"] = lr
        for epoch, extra in self.extra.items():
            rows[epoch - self.first_epoch - 1] |= extra
        return rows


class ObserverError(Exception):
    """An observer raised ``error``, which ends the fit; errors of one network do not."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class NotStartedError(Exception):
    """An interrupt ended training before this network's training started."""


def reraise_interrupt(error: BaseException) -> None:
    """Raise KeyboardInterrupt if one is in the chain of an error's causes.

    An interrupt may arrive while torch has popped a dispatch mode; leaving that mode then raises
    another error.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        cause = None if cause.__suppress_context__ else cause.__context__


def capture_exception(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | Exception:
    """Call a function and return its result or its exception; an interrupt is raised.

    Examples
    --------
    >>> capture_exception(divmod, 7, 2), capture_exception(divmod, 7, 0)
    ((3, 1), ZeroDivisionError('integer division or modulo by zero'))
    """
    try:
        return work(*args, **kwargs)
    except Exception as error:
        reraise_interrupt(error)
        return error


#: Result of training one network, or the error it raised.
TaskResult = TrainResult | Exception


def is_interrupted(result: TaskResult) -> bool:
    """Return whether an interrupt ended a network's training or kept it from starting."""
    if isinstance(result, TrainResult):
        return result.reason == "interrupted"
    return isinstance(result, NotStartedError)
