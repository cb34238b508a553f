"""Step backend of one network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from torchreg._utils import generator_states, rng_lock, set_generator_states
from torchreg.engine.capture import CompiledGradient, EagerLoss
from torchreg.engine.data import Batch, compute_batch_sizes, iter_batches, iter_shuffled_batches
from torchreg.engine.spec import Objective, TrainTask
from torchreg.engine.train.lr_groups import StackedLRSchedule
from torchreg.engine.train.step_backend import OnLoss
from torchreg.engine.train.stepper import build_stepper


class SingleBackend:
    """Step backend of a network that trains alone.

    Parameters
    ----------
    task : TrainTask
        Its network is trained in place.
    not_stacked_reason : str or None, default=None
        Why the network is not in a stack with others; completes "because".
    """

    def __init__(self, task: TrainTask, not_stacked_reason: str | None = None) -> None:
        self.batch_observer = task.batch_observer
        if self.batch_observer is not None:
            # It may change the network.
            self.batch_observer.begin()
        self.task, self.network = task, task.network
        self.not_stacked_reason = not_stacked_reason
        self.objective = Objective(task.network, task.loss, task.protect_input)
        n = len(task.training.t)
        self.sizes = compute_batch_sizes(n, min(task.batch_size, n))
        self.full_batch = task.training.as_batch() if task.batch_size >= n else None
        self.device = task.training.t.device
        self.generator = torch.Generator().manual_seed(task.seed)
        self.rng_lock = rng_lock() if task.uses_rng else nullcontext()
        self.stepper = build_stepper(
            self.objective,
            task.optimizer,
            n_steps=task.n_steps,
            uses_rng=task.uses_rng,
            full_batch=self.full_batch,
            batch_observer=self.batch_observer,
        )
        self.loss_of = None if task.validation is None else self._evaluation()
        self.lr_schedule = StackedLRSchedule([task]) if task.schedule.changes_lr else None
        self.apply_lr()
        self.network.train()

    @property
    def execution_mode(self) -> str:
        """How the steps are computed, and why, as a sentence."""
        mode, reason = self.stepper.execution_mode, self.not_stacked_reason
        return mode if reason is None else f"{mode} It trained alone, because {reason}."

    @property
    def converged(self) -> bool:
        """Whether further steps would not change the weights."""
        return self.stepper.converged

    def batches(self) -> Iterator[tuple[Batch, list[int]]]:
        """Shuffle the rows; yield batches, each with its number of rows."""
        for batch in iter_shuffled_batches(self.task.training, self.sizes, self.generator):
            yield batch, [len(batch.t)]

    def step(self, batch: Batch, on_loss: OnLoss) -> None:
        """Take one optimizer step on a batch."""
        if self.batch_observer is None:
            with self.rng_lock:
                self.stepper.step(batch, on_loss)
        else:
            self._observed_step(batch, on_loss)
        if self.lr_schedule is not None:
            self.lr_schedule.after_step()
            self.apply_lr()

    def _observed_step(self, batch: Batch, on_loss: OnLoss) -> None:
        assert self.batch_observer is not None
        seen: list[Tensor] = []

        def remember(loss: Tensor, prediction: Tensor | None) -> None:
            on_loss(loss, prediction)
            seen.extend([loss] if prediction is None else [loss, prediction])

        self.batch_observer.on_batch_begin(batch, training=True)
        with self.rng_lock:
            self.stepper.step(batch, remember)
        loss, prediction = seen
        self.batch_observer.on_batch_end(batch, float(loss), prediction, training=True)

    def apply_lr(self) -> None:
        """Set the learning rate of the next step to that of the schedule."""
        if self.lr_schedule is not None:
            for name, (value,) in self.lr_schedule.changed_hyperparams().items():
                self.stepper.set_hyperparam(name, value)

    def evaluate(self) -> list[float] | None:
        """Compute the mean loss on the validation rows; ``None`` without any."""
        table = self.task.validation
        if table is None or self.loss_of is None:
            return None
        total = 0.0
        for batch in iter_batches(table):
            with self.rng_lock:
                total += float(self.loss_of(batch)) * len(batch.t)
        return [total / len(table.t)]

    def _evaluation(self) -> Callable[[Batch], Tensor | float]:
        """Return the function that computes the loss of validation rows."""
        if self.batch_observer is not None:
            return self._observed_evaluation
        evaluation, n_epochs = EagerLoss(self.objective), self.task.max_epochs
        return CompiledGradient(
            evaluation, uses_rng=self.task.uses_rng, full_batch=None, n_steps=n_epochs
        )

    def _observed_evaluation(self, batch: Batch) -> float:
        assert self.batch_observer is not None
        self.batch_observer.on_batch_begin(batch, training=False)
        self.network.eval()
        with torch.no_grad():
            prediction = self.objective.predict(batch.x, batch.t)
            loss = float(self.objective.mean_loss(prediction, batch))
        self.network.train()
        self.batch_observer.on_batch_end(batch, loss, prediction, training=False)
        return loss

    def tensors(self) -> list[Tensor]:
        """List the tensors that training changes."""
        return [*self.stepper.weights(), *self.network.buffers()]

    def are_finite(self) -> list[bool]:
        """Return whether the weights are finite."""
        return [all(bool(torch.isfinite(tensor).all()) for tensor in self.tensors())]

    def state_dict(self) -> dict[str, Any]:
        """Return the state between two steps, except the weights."""
        return {
            "stepper": self.stepper.state_dict(),
            "batches": self.generator.get_state(),
            "draws": generator_states(self.device) if self.task.uses_rng else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, perhaps in another process."""
        self.stepper.load_state_dict(state["stepper"])
        self.generator.set_state(state["batches"])
        set_generator_states(self.device, state["draws"])
        if self.lr_schedule is not None:
            self.lr_schedule.replay(state["validation_losses"] or state["losses"])
            self.apply_lr()

    def subset(self, indices: list[int]) -> SingleBackend:
        """Return this backend, which has one network."""
        return self

    def bind_views(self) -> None:
        """Do nothing: the stepper has bound the parameters already."""

    def detach(self, slot: int) -> None:
        """Give every parameter its own memory."""
        self.stepper.detach()
        self.network.eval()
