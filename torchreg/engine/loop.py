"""The story of a fit: epoch after epoch, until the budget, the data or the user ends it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torchreg.engine.network import check_output
from torchreg.engine.problem import EpochRecord, Outcome, Problem
from torchreg.engine.rows import (
    Batch,
    LazyRows,
    Table,
    batch_sizes,
    ordered_batches,
    shuffled_batches,
)
from torchreg.engine.stepper import Stepper, build_stepper


class Snapshot:
    """The best weights so far, ready to be put back.

    Parameters
    ----------
    network : nn.Module
        Whose parameters and buffers are kept.
    """

    def __init__(self, network: nn.Module) -> None:
        self.tensors: list[Tensor] = [*network.parameters(), *network.buffers()]
        self.kept: list[Tensor] | None = None
        self.loss = math.inf
        self.epoch = 0

    @torch.no_grad()
    def take(self, loss: float, epoch: int) -> None:
        """Keep the weights as they are now."""
        if self.kept is None:
            self.kept = [t.clone() for t in self.tensors]
        else:
            for kept, tensor in zip(self.kept, self.tensors, strict=True):
                kept.copy_(tensor)
        self.loss, self.epoch = loss, epoch

    @torch.no_grad()
    def restore(self) -> None:
        """Put the kept weights back."""
        for kept, tensor in zip(self.kept or [], self.tensors, strict=False):
            tensor.copy_(kept)

    def is_finite(self) -> bool:
        """Whether the weights, as they are now, are all finite."""
        return all(bool(torch.isfinite(t).all()) for t in self.tensors)


class Patience:
    """Counts the epochs since a loss last improved by more than a relative tolerance.

    Parameters
    ----------
    patience : int
        Epochs to wait.
    tol : float
        Relative; see :class:`torchreg.engine.problem.Stopping`.
    """

    def __init__(self, patience: int, tol: float) -> None:
        self.patience, self.tol = patience, tol
        self.best = math.inf
        self.waited = 0

    def is_over(self, loss: float) -> bool:
        """Hear one more loss."""
        margin = self.tol * abs(self.best) if math.isfinite(self.best) else 0.0
        if loss < self.best - margin:
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        return self.waited >= self.patience


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
    fit = _Fit(problem)
    try:
        reason = fit.run()
    except KeyboardInterrupt:
        if not fit.records:
            raise
        reason = "interrupted"
    finally:
        fit.stepper.release()
        problem.network.eval()
    outcome = fit.conclude(reason)
    for listener in fit.listeners:
        listener.on_fit_end()
    return outcome


class _Fit:
    """The moving parts of one call of :func:`train`."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.network, self.loss = problem.network, problem.loss
        n = len(problem.training.t)
        self.full_batch = problem.batch_size >= n
        self.sizes = batch_sizes(n, min(problem.batch_size, n))
        self.generator = torch.Generator().manual_seed(problem.seed)
        listener = problem.batch_observer
        self.listeners = [*([] if listener is None else [listener]), *problem.observers]
        self.stepper: Stepper = build_stepper(
            problem.network,
            problem.optimizer,
            on_gradient=None if listener is None else listener.on_gradient,
            optimizer=None if listener is None else listener.optimizer,
        )
        self.snapshot = Snapshot(problem.network)
        if not self.full_batch or problem.stopping.on_validation:
            self.snapshot.take(math.inf, problem.first_epoch)
        self.records: list[EpochRecord] = []
        self.epoch = problem.first_epoch
        self.first_loss: float | None = None
        self.whole = self._whole(problem.training) if self.full_batch else None
        stopping = problem.stopping
        self.patience = (
            Patience(stopping.patience, stopping.tol or 0.0)
            if stopping.on_validation or stopping.tol is not None
            else None
        )

    @staticmethod
    def _whole(table: Table) -> Batch:
        x = table.x
        if isinstance(x, LazyRows):
            x = x[torch.arange(len(table.t))]
        return Batch(x, table.t, table.weight)

    def run(self) -> str:
        """Run epochs until one of seven things ends them; say which."""
        problem = self.problem
        self.network.train()
        for _ in range(problem.max_epochs):
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
            self._keep_if_best(record)
            # 6. Ask who listens.
            if any([listener.on_epoch_end(record) for listener in self.listeners]):
                return "callback"
            # 7. Ask whether it has settled.
            if self._has_settled(record):
                on_validation = problem.stopping.on_validation
                return "early_stopping" if on_validation else "converged"
        return "budget"

    def _epoch_of_training(self) -> float:
        if self.whole is not None:
            return self._step(self.whole)
        total = 0.0
        batches = shuffled_batches(self.problem.training, self.sizes, self.generator)
        for batch in batches:
            total += self._step(batch) * len(batch.t)
            if not math.isfinite(total):
                break
        return total / len(self.problem.training.t)

    def _step(self, batch: Batch) -> float:
        listener = self.problem.batch_observer
        seen: list[Tensor] = []
        if listener is not None:
            listener.on_batch_begin(batch, training=True)

        def evaluate() -> Tensor:
            prediction = self._predict(batch)
            loss = self.loss.mean(prediction, batch.t, batch.weight)
            if not seen:
                seen.append(prediction.detach())
                if self.full_batch:
                    self._keep_before_step(loss)
            return loss

        loss = self.stepper.step(evaluate)
        if self.first_loss is None:
            self._require_finite(loss)
        if listener is not None:
            listener.on_batch_end(batch, loss, seen[0], training=True)
        return loss

    def _predict(self, batch: Batch) -> Tensor:
        x = batch.x.clone() if self.problem.protect_input else batch.x
        try:
            output: Tensor = self.network(x)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise ValueError(
                f"The module failed on a batch of {len(x)} row{'s' if len(x) > 1 else ''}: {error}"
            ) from error
        if output.shape != batch.t.shape:
            check_output(output, n_rows=len(batch.t), n_outputs=batch.t.shape[1])
            # (n,) -> (n, 1)
            output = output.reshape(batch.t.shape)
        return output

    def _validate(self) -> float | None:
        table = self.problem.validation
        if table is None:
            return None
        listener = self.problem.batch_observer
        total = 0.0
        self.network.eval()
        with torch.no_grad():
            for batch in ordered_batches(table):
                if listener is not None:
                    listener.on_batch_begin(batch, training=False)
                prediction = self._predict(batch)
                loss = float(self.loss.mean(prediction, batch.t, batch.weight))
                if listener is not None:
                    listener.on_batch_end(batch, loss, prediction, training=False)
                total += loss * len(batch.t)
        self.network.train()
        return total / len(table.t)

    def _require_finite(self, loss: float) -> None:
        self.first_loss = loss
        if not math.isfinite(loss):
            raise ValueError(
                f"The loss {self.loss.name!r} is {loss} at the first step, before anything was "
                "learned. Likely causes: a loss that is not defined for standardized targets, "
                "a module whose outputs overflow, or values so extreme that they overflow "
                "even when standardized."
            )

    def _is_sound(self, record: EpochRecord) -> bool:
        losses = [record.loss, record.validation_loss or 0.0]
        return all(map(math.isfinite, losses)) and (self.full_batch or self.snapshot.is_finite())

    def _keep_before_step(self, loss: Tensor) -> None:
        # Full batch: this loss belongs to the weights as they are before the step.
        value = float(loss.detach())
        if not self.problem.stopping.on_validation and value < self.snapshot.loss:
            self.snapshot.take(value, self.epoch - 1)

    def _keep_if_best(self, record: EpochRecord) -> None:
        if self.problem.stopping.on_validation:
            value = record.validation_loss
        else:
            value = None if self.full_batch else record.loss
        if value is not None and value < self.snapshot.loss:
            self.snapshot.take(value, record.epoch)

    def _has_settled(self, record: EpochRecord) -> bool:
        if self.patience is None:
            return False
        validation_loss = record.validation_loss
        watched = record.loss if not self.problem.stopping.on_validation else validation_loss
        return watched is not None and self.patience.is_over(watched)

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
        return Outcome(self.records, reason, best_epoch, still_falling)
