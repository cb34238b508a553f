"""The story of a fit: epoch after epoch, until the budget, the data or the user ends it."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from torchreg._device import drawing, generator_states, set_generator_states
from torchreg.engine.gradient import CapturedGradient, Evaluation
from torchreg.engine.objective import Objective
from torchreg.engine.problem import EpochRecord, Observer, Outcome, Problem
from torchreg.engine.progress import Patience, Snapshot
from torchreg.engine.rows import Batch, batch_sizes, ordered_batches, shuffled_batches
from torchreg.engine.stepper import build_stepper


def train(problem: Problem) -> Outcome:
    """Train a network in place.

    Parameters
    ----------
    problem : Problem
        Network, rows, loss, optimizer and budget.

    Returns
    -------
    Outcome
        The network holds the last weights; the best ones after early stopping or where
        the loss ceased to be finite.

    Raises
    ------
    ValueError
        If the loss is not finite before anything was learned.
    KeyboardInterrupt
        If the user interrupts before anything was learned.
    """
    if problem.batch_observer is not None:
        problem.batch_observer.begin()
    fit = _Fit(problem)
    try:
        outcome = fit.conclude(fit.run())
    finally:
        fit.stepper.release()
        problem.network.eval()
    for listener in fit.listeners:
        listener.on_fit_end(outcome)
    return outcome


#: A fit that goes on begins as ever for so many epochs, so that each kind of step is captured
#: as it was captured then, and jumps from there to where it was.
AS_EVER = 2


class _Fit:
    """The moving parts of one call of :func:`train`."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.network = problem.network
        self.objective = Objective(problem.network, problem.loss, problem.protect_input)
        n = len(problem.training.t)
        self.sizes = batch_sizes(n, min(problem.batch_size, n))
        self.whole = problem.training.whole() if problem.batch_size >= n else None
        self.device = problem.training.t.device
        self.generator = torch.Generator().manual_seed(problem.seed)
        self.drawing = drawing() if problem.draws else nullcontext()
        self.listener = problem.batch_observer
        self.listeners: list[Observer] = [*problem.observers]
        if self.listener is not None:
            self.listeners.insert(0, self.listener)
        self.stepper = build_stepper(
            self.objective,
            problem.optimizer,
            n_steps=problem.max_epochs * len(self.sizes),
            draws=problem.draws,
            whole=self.whole,
            listener=self.listener,
        )
        self.evaluate = None if problem.validation is None else self._evaluation()
        self.snapshot = Snapshot([*self.stepper.weights(), *problem.network.buffers()])
        if self.whole is None or problem.stopping.on_validation:
            self.snapshot.take(math.inf, problem.first_epoch)
        #: The weights at the end of the last epoch, to which an interrupted fit goes back.
        self.last = Snapshot(self.snapshot.tensors)
        self.records: list[EpochRecord] = []
        self.epoch = self.finished = problem.first_epoch
        self.first_loss: float | None = None
        self.batch_loss: float | Tensor = math.nan
        self.prediction: Tensor | None = None
        # To read a number from an accelerator is to wait for it.
        on_accelerator = self.device.type != "cpu"
        self.waits = not on_accelerator or self.whole is not None or self.listener is not None
        stopping = problem.stopping
        self.patience = (
            Patience(stopping.patience, stopping.tol or 0.0)
            if stopping.on_validation or stopping.tol is not None
            else None
        )

    def _evaluation(self) -> Callable[[Batch], Tensor | float]:
        """Choose how to compute the loss of validation rows."""
        if self.listener is not None:
            return self._show
        n_epochs = self.problem.max_epochs
        evaluation = Evaluation(self.objective)
        return CapturedGradient(evaluation, draws=self.problem.draws, whole=None, n_steps=n_epochs)

    def run(self) -> str:
        """Train, and say why it ended."""
        keeper = self.problem.keeper
        kept = None if keeper is None else keeper.kept()
        try:
            reason = self._run_epochs(kept)
        except KeyboardInterrupt:
            if self.finished == self.problem.first_epoch:
                raise
            del self.records[self.finished - self.problem.first_epoch :]
            if self.epoch == self.finished:
                self._keep_if_best(self.records[-1])
            else:
                # In the middle of an epoch, or of a line search, weights are nobody's.
                self.last.restore()
            return "interrupted"
        if keeper is not None:
            keeper.keep(lambda: self.memory(reason), ended=True)
        return reason

    def _run_epochs(self, kept: dict[str, Any] | None) -> str:
        problem = self.problem
        self.network.train()
        last_epoch = self.epoch + problem.max_epochs
        while self.epoch < last_epoch:
            if kept is not None and len(self.records) == min(AS_EVER, len(kept["records"])):
                self.recall(kept)
                if kept["reason"] is not None:
                    return str(kept["reason"])
                kept = None
                continue
            self.epoch += 1
            # 1. Tell who listens.
            for listener in self.listeners:
                listener.on_epoch_begin()
            # 2. Move the weights, once per batch.
            loss = self._epoch_of_training()
            # 3. Look at the validation rows.
            validation_loss = self._validate()
            # 4. Write it down.
            record = EpochRecord(self.epoch, loss, validation_loss)
            self.records.append(record)
            # 5. A loss that is not a number ends it; good weights are kept.
            if not self._is_sound(record):
                return "diverged"
            self.finished = self.epoch
            self.last.take(loss, self.epoch)
            self._keep_if_best(record)
            # 6. Ask who listens.
            if any([listener.on_epoch_end(record) for listener in self.listeners]):
                return "callback"
            # 7. Ask whether it has settled.
            if self._has_settled(record):
                on_validation = problem.stopping.on_validation
                return "early_stopping" if on_validation else "converged"
            # 8. Keep what is needed to go on from here.
            if problem.keeper is not None and kept is None:
                problem.keeper.keep(self.memory, ended=False)
        return "budget"

    def _epoch_of_training(self) -> float:
        if self.whole is not None:
            return float(self._step(self.whole))
        total: float | Tensor = 0.0
        for batch in shuffled_batches(self.problem.training, self.sizes, self.generator):
            total += self._step(batch) * len(batch.t)
            if self.waits and not math.isfinite(total):
                break
        return float(total) / len(self.problem.training.t)

    def _step(self, batch: Batch) -> float | Tensor:
        if self.listener is not None:
            self.listener.on_batch_begin(batch, training=True)
        with self.drawing:
            self.stepper.step(batch, self._before_move)
        if self.first_loss is None:
            self._require_finite(float(self.batch_loss))
        if self.listener is not None and self.prediction is not None:
            loss = float(self.batch_loss)
            self.listener.on_batch_end(batch, loss, self.prediction, training=True)
        return self.batch_loss

    def _before_move(self, loss: Tensor, prediction: Tensor | None) -> None:
        """Hear the loss of the weights as they are before the step."""
        self.prediction = prediction
        if not self.waits:
            self.batch_loss = loss
            return
        self.batch_loss = value = float(loss)
        watched = self.whole is not None and not self.problem.stopping.on_validation
        if watched and value < self.snapshot.loss:
            self.snapshot.take(value, self.epoch - 1)

    def _validate(self) -> float | None:
        table = self.problem.validation
        if table is None or self.evaluate is None:
            return None
        total = 0.0
        for batch in ordered_batches(table):
            with self.drawing:
                total += float(self.evaluate(batch)) * len(batch.t)
        return total / len(table.t)

    def _show(self, batch: Batch) -> float:
        """Evaluate validation rows before a listener's eyes."""
        assert self.listener is not None
        self.listener.on_batch_begin(batch, training=False)
        self.network.eval()
        with torch.no_grad():
            prediction = self.objective.predict(batch.x, batch.t)
            loss = float(self.objective.loss.mean(prediction, batch.t, batch.weight))
        self.network.train()
        self.listener.on_batch_end(batch, loss, prediction, training=False)
        return loss

    def _require_finite(self, loss: float) -> None:
        self.first_loss = loss
        if not math.isfinite(loss):
            raise ValueError(
                f"The loss {self.objective.loss.name!r} is {loss} at the first step, before "
                "anything was learned. Likely causes: a loss that is not defined for standardized "
                "targets, a module whose outputs overflow, or values so extreme that they overflow "
                "even when standardized."
            )

    def _is_sound(self, record: EpochRecord) -> bool:
        losses = [record.loss, record.validation_loss or 0.0]
        return all(map(math.isfinite, losses)) and (
            self.whole is not None or self.snapshot.is_finite()
        )

    def _keep_if_best(self, record: EpochRecord) -> None:
        if self.problem.stopping.on_validation:
            value = record.validation_loss
        else:
            value = None if self.whole is not None else record.loss
        if value is not None and value < self.snapshot.loss:
            self.snapshot.take(value, record.epoch)

    def _has_settled(self, record: EpochRecord) -> bool:
        if self.patience is None:
            return False
        validation_loss = record.validation_loss
        watched = record.loss if not self.problem.stopping.on_validation else validation_loss
        return watched is not None and self.patience.is_over(watched)

    def memory(self, reason: str | None = None) -> dict[str, Any]:
        """Give all that another process needs to go on after this epoch, bit for bit."""
        draws = self.problem.draws
        return {
            "records": [[r.epoch, r.loss, r.validation_loss] for r in self.records],
            "first_loss": self.first_loss,
            "snapshot": self.snapshot.memory(),
            "patience": None if self.patience is None else self.patience.memory(),
            "stepper": self.stepper.memory(),
            "batches": self.generator.get_state(),
            "draws": generator_states(self.device) if draws else [],
            "reason": reason,
        }

    def recall(self, memory: dict[str, Any]) -> None:
        """Put back what :meth:`memory` gave, in this or another process."""
        self.records = [EpochRecord(*numbers) for numbers in memory["records"]]
        self.epoch = self.finished = self.records[-1].epoch
        self.first_loss = memory["first_loss"]
        self.snapshot.recall(memory["snapshot"])
        self.last.take(self.records[-1].loss, self.epoch)
        if self.patience is not None:
            self.patience.recall(memory["patience"])
        self.stepper.recall(memory["stepper"])
        self.generator.set_state(memory["batches"])
        set_generator_states(self.device, memory["draws"])

    def conclude(self, reason: str) -> Outcome:
        """Put the right weights in place, and write the answer."""
        on_validation = self.problem.stopping.on_validation
        best_epoch = self.records[-1].epoch
        if not self.snapshot.is_finite():
            reason = "diverged"
        if reason == "diverged" or on_validation:
            self.snapshot.restore()
            best_epoch = self.snapshot.epoch
        still_falling = (
            reason == "budget"
            and self.problem.stopping.tol is not None
            and self.patience is not None
            and self.patience.waited == 0
            and len(self.records) > 1
        )
        return Outcome(self.records, reason, best_epoch, self.stepper.lane, still_falling)
