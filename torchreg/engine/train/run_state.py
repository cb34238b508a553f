"""The state of one network in the training loop: its history, observers and result."""

from __future__ import annotations

from typing import Any

from torchreg.engine.spec import (
    EpochRecord,
    Observer,
    TaskResult,
    TrainResult,
    TrainTask,
)
from torchreg.engine.train.best_weights import Patience


class RunState:
    """What the training loop knows of one network, apart from its weights.

    Parameters
    ----------
    task : TrainTask
    slot : int
        Its row in the tensors of the stack; 0 for a network that trains alone.

    Attributes
    ----------
    result : TrainResult, Exception or None
        ``None`` while the network trains.
    """

    def __init__(self, task: TrainTask, slot: int) -> None:
        self.task, self.slot = task, slot
        self.observers: list[Observer] = [*task.observers]
        if task.batch_observer is not None:
            self.observers.insert(0, task.batch_observer)
        # Lists of floats, which the garbage collector does not traverse.
        self.losses: list[float] = []
        self.validation_losses: list[float] = []
        self.rates: list[float] = []
        self.extra: dict[int, dict[str, Any]] = {}
        stopping = task.stopping
        self.patience: Patience | None = None
        if stopping.on_validation or stopping.tol is not None:
            self.patience = Patience(stopping.patience, stopping.tol or 0.0)
        self.result: TaskResult | None = None

    @property
    def monitored_losses(self) -> list[float]:
        """The losses that decide about the best weights and about early stopping."""
        return self.validation_losses if self.task.stopping.on_validation else self.losses

    def stop_reason(self) -> str | None:
        """Return why the run should stop before its budget, or None; call it once per epoch."""
        if self.patience is None or not self.patience.update(self.monitored_losses[-1]):
            return None
        return "early_stopping" if self.task.stopping.on_validation else "converged"

    def n_epochs_left(self, n_epochs: int) -> int:
        """Estimate how many epochs are left after ``n_epochs``.

        A run that may stop early is assumed to last as long again.
        """
        left = self.task.max_epochs - n_epochs
        may_stop = self.patience is not None and self.patience.patience is not None
        return min(left, n_epochs) if may_stop else left

    def last_record(self) -> EpochRecord:
        """Return the record of the last epoch."""
        return EpochRecord(
            self.task.first_epoch + len(self.losses),
            self.losses[-1],
            self.validation_losses[-1] if self.validation_losses else None,
            lr=self.rates[-1] if self.rates else None,
        )

    def truncate(self, n_epochs: int) -> None:
        """Drop the record of an interrupted epoch."""
        del self.losses[n_epochs:], self.validation_losses[n_epochs:], self.rates[n_epochs:]

    def nonfinite_error(self, loss: float) -> ValueError:
        """Return the error for a first loss that is not finite."""
        return ValueError(
            f"The loss {self.task.loss.name!r} is {loss} at the first step, "
            "before anything was learned. Likely causes: a loss that is not defined "
            "for standardized targets, a module whose outputs overflow, or values so "
            "extreme that they overflow even when standardized."
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the history and the state of early stopping."""
        return {
            "losses": self.losses,
            "validation_losses": self.validation_losses,
            "rates": self.rates,
            "patience": None if self.patience is None else self.patience.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, perhaps in another process."""
        self.losses = [*state["losses"]]
        self.validation_losses = [*state["validation_losses"]]
        self.rates = [*state["rates"]]
        if self.patience is not None:
            self.patience.load_state_dict(state["patience"])

    def train_result(self, reason: str, execution_mode: str, best_epoch: int) -> TrainResult:
        """Return the result of a run that has ended."""
        still_falling = (
            reason == "budget"
            and self.task.stopping.tol is not None
            and self.patience is not None
            and self.patience.n_no_improvement == 0
            and len(self.losses) > 1
        )
        return TrainResult(
            first_epoch=self.task.first_epoch,
            losses=self.losses,
            validation_losses=self.validation_losses or None,
            extra=self.extra,
            reason=reason,
            best_epoch=self.task.first_epoch + best_epoch,
            execution_mode=execution_mode,
            still_falling=still_falling,
            rates=self.rates,
        )
