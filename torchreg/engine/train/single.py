"""One network that trains by itself."""

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
from torchreg.engine.train.lr_groups import build_stacked_schedule
from torchreg.engine.train.step_backend import OnLoss, Steps
from torchreg.engine.train.stepper import build_stepper


class SingleBackend:
    """Step backend of one network.

    Parameters
    ----------
    task : TrainTask
        Its network is trained in place, and is in training mode from now on.
    apart : str or None, default=None
        Why it trains apart from others; completes "because".
    """

    def __init__(self, task: TrainTask, apart: str | None = None) -> None:
        self.apart = apart
        self.task, self.network = task, task.network
        self.objective = Objective(task.network, task.loss, task.protect_input)
        n = len(task.training.t)
        self.sizes = compute_batch_sizes(n, min(task.batch_size, n))
        self.whole = task.training.whole() if task.batch_size >= n else None
        self.device = task.training.t.device
        self.generator = torch.Generator().manual_seed(task.seed)
        self.rng_lock = rng_lock() if task.uses_rng else nullcontext()
        self.listener = task.batch_observer
        self.stepper = build_stepper(
            self.objective,
            task.optimizer,
            n_steps=task.n_steps,
            uses_rng=task.uses_rng,
            full_batch=self.whole,
            batch_observer=self.listener,
        )
        self.loss_of = None if task.validation is None else self._evaluation()
        self.pace = build_stacked_schedule([task])
        self.apply_lr()
        self.network.train()

    @property
    def execution_mode(self) -> str:
        """How the steps are computed, and why, in words."""
        mode = self.stepper.execution_mode
        return mode if self.apart is None else f"{mode} It trained alone, because {self.apart}."

    @property
    def converged(self) -> bool:
        """Whether further steps would not change the weights."""
        return self.stepper.converged

    def batches(self) -> Iterator[tuple[Batch, list[int]]]:
        """Deal all rows out in a fresh random order."""
        for batch in iter_shuffled_batches(self.task.training, self.sizes, self.generator):
            yield batch, [len(batch.t)]

    def step(self, batch: Batch, on_loss: OnLoss) -> None:
        """Take one step down the loss of a batch."""
        self._step(batch, on_loss)
        if self.pace is not None:
            self.pace.after_step()
            self.apply_lr()

    def _step(self, batch: Batch, on_loss: OnLoss) -> None:
        if self.listener is None:
            with self.rng_lock:
                self.stepper.step(batch, on_loss)
            return
        heard: list[Tensor] = []

        def hear(loss: Tensor, prediction: Tensor | None) -> None:
            on_loss(loss, prediction)
            heard.extend([loss] if prediction is None else [loss, prediction])

        self.listener.on_batch_begin(batch, training=True)
        with self.rng_lock:
            self.stepper.step(batch, hear)
        loss, prediction = heard
        self.listener.on_batch_end(batch, float(loss), prediction, training=True)

    def script(self, n_steps: int) -> Steps | None:
        """Give nothing: one network's steps are taken one by one."""
        return None

    def apply_lr(self) -> None:
        """Take the next step with the learning rate of its schedule."""
        if self.pace is not None:
            for name, (value,) in self.pace.changed_hyperparams().items():
                self.stepper.set_hyperparam(name, value)

    def evaluate(self) -> list[float] | None:
        """Compute the mean loss of the validation rows, if there are any."""
        table = self.task.validation
        if table is None or self.loss_of is None:
            return None
        total = 0.0
        for batch in iter_batches(table):
            with self.rng_lock:
                total += float(self.loss_of(batch)) * len(batch.t)
        return [total / len(table.t)]

    def _evaluation(self) -> Callable[[Batch], Tensor | float]:
        """Choose how to compute the loss of validation rows."""
        if self.listener is not None:
            return self._show
        n_epochs = self.task.max_epochs
        evaluation = EagerLoss(self.objective)
        return CompiledGradient(
            evaluation, uses_rng=self.task.uses_rng, full_batch=None, n_steps=n_epochs
        )

    def _show(self, batch: Batch) -> float:
        """Evaluate validation rows before a listener's eyes."""
        assert self.listener is not None
        self.listener.on_batch_begin(batch, training=False)
        self.network.eval()
        with torch.no_grad():
            prediction = self.objective.predict(batch.x, batch.t)
            loss = float(self.objective.mean_loss(prediction, batch))
        self.network.train()
        self.listener.on_batch_end(batch, loss, prediction, training=False)
        return loss

    def tensors(self) -> list[Tensor]:
        """List the tensors that training changes."""
        return [*self.stepper.weights(), *self.network.buffers()]

    def are_finite(self) -> list[bool]:
        """Tell whether the weights are finite as they are now."""
        return [all(bool(torch.isfinite(tensor).all()) for tensor in self.tensors())]

    def memory(self) -> dict[str, Any]:
        """Give what is remembered from one step to the next, beside the weights."""
        return {
            "stepper": self.stepper.state_dict(),
            "batches": self.generator.get_state(),
            "draws": generator_states(self.device) if self.task.uses_rng else [],
        }

    def recall(self, memory: dict[str, Any]) -> None:
        """Remember what :meth:`memory` gave, in this or another process."""
        self.stepper.load_state_dict(memory["stepper"])
        self.generator.set_state(memory["batches"])
        set_generator_states(self.device, memory["draws"])
        if self.pace is not None:
            self.pace.replay(memory["validation_losses"] or memory["losses"])
            self.apply_lr()

    def of(self, places: list[int]) -> SingleBackend:
        """Give the only one there is."""
        return self

    def lend(self) -> None:
        """Leave the network as it is: it looks at these tensors already."""

    def release(self, place: int) -> None:
        """Leave every parameter owning its own memory."""
        self.stepper.detach()
        self.network.eval()
