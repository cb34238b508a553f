"""One problem as the loop sees it: what it has recorded, whom it tells, when it ends."""

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
    """One of the problems that train together, beside its weights.

    Parameters
    ----------
    task : TrainTask
    place : int
        Its row in the tensors of the stack.

    Attributes
    ----------
    result : TrainResult, Exception or None
        ``None`` while it trains.
    """

    def __init__(self, task: TrainTask, place: int) -> None:
        self.task, self.place = task, place
        self.listeners: list[Observer] = [*task.observers]
        if task.batch_observer is not None:
            self.listeners.insert(0, task.batch_observer)
        # Lists of numbers, not of objects, into which Python's search for circles would look.
        self.losses: list[float] = []
        self.validation_losses: list[float] = []
        self.rates: list[float] = []
        self.extra: dict[int, dict[str, Any]] = {}
        stopping = task.stopping
        self.on_validation = stopping.on_validation
        self.patience = (
            Patience(stopping.patience, stopping.tol or 0.0)
            if stopping.on_validation or stopping.tol is not None
            else None
        )
        self.result: TaskResult | None = None

    def last_record(self) -> EpochRecord:
        """Give what the last epoch saw."""
        validation = self.validation_losses[-1] if self.validation_losses else None
        epoch = self.task.first_epoch + len(self.losses)
        lr = self.rates[-1] if self.rates else None
        return EpochRecord(epoch, self.losses[-1], validation, lr=lr)

    def watched(self) -> list[float]:
        """Give the losses by which weights are the best, or the fit has settled."""
        return self.validation_losses if self.on_validation else self.losses

    def settled(self) -> str | None:
        """Tell why it should end before its budget, if it should."""
        if self.patience is None or not self.patience.is_over(self.watched()[-1]):
            return None
        return "early_stopping" if self.on_validation else "converged"

    def forget_after(self, n_epochs: int) -> None:
        """Drop what was recorded of an epoch that was interrupted."""
        del self.losses[n_epochs:], self.validation_losses[n_epochs:], self.rates[n_epochs:]

    def refusal(self, loss: float) -> ValueError:
        """Say why it cannot begin, if its first loss is not finite."""
        return ValueError(
            f"The loss {self.task.loss.name!r} is {loss} at the first step, "
            "before anything was learned. Likely causes: a loss that is not defined "
            "for standardized targets, a module whose outputs overflow, or values so "
            "extreme that they overflow even when standardized."
        )

    def memory(self) -> dict[str, Any]:
        """Give what it has recorded, so that another process can go on from there."""
        return {
            "losses": self.losses,
            "validation_losses": self.validation_losses,
            "rates": self.rates,
            "patience": None if self.patience is None else self.patience.memory(),
        }

    def recall(self, memory: dict[str, Any]) -> None:
        """Put back what :meth:`memory` gave, in this or another process."""
        self.losses = [*memory["losses"]]
        self.validation_losses = [*memory["validation_losses"]]
        self.rates = [*memory["rates"]]
        if self.patience is not None:
            self.patience.recall(memory["patience"])

    def make_result(self, reason: str, execution_mode: str, best_epoch: int) -> TrainResult:
        """Write the answer."""
        still_falling = (
            reason == "budget"
            and self.task.stopping.tol is not None
            and self.patience is not None
            and self.patience.waited == 0
            and len(self.losses) > 1
        )
        return TrainResult(
            first_epoch=self.task.first_epoch,
            losses=self.losses,
            validation_losses=self.validation_losses or None,
            extra=self.extra,
            reason=reason,
            best_epoch=best_epoch,
            execution_mode=execution_mode,
            still_falling=still_falling,
            rates=self.rates,
        )
