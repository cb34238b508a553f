"""One problem as the loop sees it: what it has recorded, whom it tells, when it ends."""

from __future__ import annotations

import math

from torchreg.engine.problem import Answer, EpochRecord, Observer, Outcome, Problem
from torchreg.engine.progress import Patience


class Member:
    """One of the problems that train together, beside its weights.

    Parameters
    ----------
    problem : Problem
    place : int
        Its row in the tensors of the stack.

    Attributes
    ----------
    answer : Outcome, Exception or None
        ``None`` while it trains.
    finished : int
        The last epoch that is whole.
    """

    def __init__(self, problem: Problem, place: int) -> None:
        self.problem, self.place = problem, place
        self.listeners: list[Observer] = [*problem.observers]
        if problem.batch_observer is not None:
            self.listeners.insert(0, problem.batch_observer)
        self.records: list[EpochRecord] = []
        self.epoch = self.finished = problem.first_epoch
        self.last_epoch = problem.first_epoch + problem.max_epochs
        stopping = problem.stopping
        self.on_validation = stopping.on_validation
        self.patience = (
            Patience(stopping.patience, stopping.tol or 0.0)
            if stopping.on_validation or stopping.tol is not None
            else None
        )
        self.answer: Answer | None = None

    def write_down(self, loss: float, validation_loss: float | None) -> bool:
        """Record what an epoch saw, and tell whether it can be true."""
        self.records.append(EpochRecord(self.epoch, loss, validation_loss))
        return math.isfinite(loss) and (validation_loss is None or math.isfinite(validation_loss))

    def settled(self) -> str | None:
        """Tell why it should end before its budget, if it should."""
        if self.patience is None:
            return None
        record = self.records[-1]
        watched = record.validation_loss if self.on_validation else record.loss
        if watched is None or not self.patience.is_over(watched):
            return None
        return "early_stopping" if self.on_validation else "converged"

    def outcome(self, reason: str, lane: str, best_epoch: int) -> Outcome:
        """Write the answer."""
        still_falling = (
            reason == "budget"
            and self.problem.stopping.tol is not None
            and self.patience is not None
            and self.patience.waited == 0
            and len(self.records) > 1
        )
        return Outcome(self.records, reason, best_epoch, lane, still_falling)
