"""Step backends of one network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from threading import Event
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from torchreg._utils import generator_states, num_threads, rng_lock, set_generator_states, with_seed
from torchreg.engine.capture import CompiledGradient, EagerGradient, EagerLoss
from torchreg.engine.data import Batch, compute_batch_sizes, iter_batches, iter_shuffled_batches
from torchreg.engine.spec import (
    ONE_THREAD,
    Objective,
    TaskResult,
    TrainTask,
    reraise_interrupt,
    trainable_parameters,
)
from torchreg.engine.train.loop import TrainingLoop
from torchreg.engine.train.lr_groups import StackedLRSchedule
from torchreg.engine.train.step_backend import OnLoss
from torchreg.optim import LBFGS, FlatOptimizer


class SingleBackend(ABC):
    """Step backend of a network that trains alone, without the optimizer.

    Parameters
    ----------
    task : TrainTask
        Its network is trained in place.
    not_stacked_reason : str or None, default=None
        Why the network is not in a stack with others; completes "because".
    """

    @property
    def converged(self) -> bool:
        """Whether further steps would not change the weights; known for L-BFGS only."""
        return False

    def __init__(self, task: TrainTask, not_stacked_reason: str | None = None) -> None:
        self.task, self.network = task, task.network
        self.not_stacked_reason = not_stacked_reason
        self.parameters = trainable_parameters(task.network)
        self.objective = Objective(task.network, task.loss, task.protect_input)
        n = len(task.training.t)
        self.sizes = compute_batch_sizes(n, min(task.batch_size, n))
        self.full_batch = task.training.as_batch() if task.batch_size >= n else None
        self.device = task.training.t.device
        self.generator = torch.Generator().manual_seed(task.seed)
        self.rng_lock = rng_lock() if task.uses_rng else nullcontext()
        self.loss_of: Callable[[Batch], Tensor | float] | None = None
        if task.validation is not None:
            self.loss_of = CompiledGradient(
                EagerLoss(self.objective),
                uses_rng=task.uses_rng,
                full_batch=None,
                n_steps=task.max_epochs,
            )
        self.lr_schedule = StackedLRSchedule([task]) if task.schedule.changes_lr else None
        self.network.train()

    @property
    @abstractmethod
    def step_mode(self) -> str:
        """How the steps are computed, and why, as a sentence."""

    @property
    def execution_mode(self) -> str:
        """How the steps are computed, and why, as sentences."""
        mode, reason = self.step_mode, self.not_stacked_reason
        return mode if reason is None else f"{mode} It trained alone, because {reason}."

    def batches(self) -> Iterator[tuple[Batch, list[int]]]:
        """Shuffle the rows; yield batches, each with its number of rows."""
        for batch in iter_shuffled_batches(self.task.training, self.sizes, self.generator):
            yield batch, [len(batch.t)]

    @abstractmethod
    def step(self, batch: Batch, on_loss: OnLoss) -> None:
        """Take one step on a batch; `on_loss` is called before the parameters change."""

    @abstractmethod
    def set_hyperparam(self, name: str, value: float) -> None:
        """Set ``lr``, ``beta1`` or ``momentum`` for the following steps."""

    def after_step(self) -> None:
        """Update the learning rate."""
        if self.lr_schedule is not None:
            self.lr_schedule.after_step()
            self.apply_lr()

    def apply_lr(self) -> None:
        """Set the learning rate of the next step to that of the schedule."""
        if self.lr_schedule is not None:
            for name, (value,) in self.lr_schedule.changed_hyperparams().items():
                self.set_hyperparam(name, value)

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

    @abstractmethod
    def weights(self) -> list[Tensor]:
        """List the tensors that contain the trainable parameters."""

    def tensors(self) -> list[Tensor]:
        """List the tensors that training changes."""
        return [*self.weights(), *self.network.buffers()]

    def are_finite(self) -> list[bool]:
        """Return whether the weights are finite."""
        return [all(bool(torch.isfinite(tensor).all()) for tensor in self.tensors())]

    @abstractmethod
    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimizer's state between two steps."""

    @abstractmethod
    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`optimizer_state` returned."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state between two steps, except the weights."""
        return {
            "stepper": self.optimizer_state(),
            "batches": self.generator.get_state(),
            "draws": generator_states(self.device) if self.task.uses_rng else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, perhaps in another process."""
        self.load_optimizer_state(state["stepper"])
        self.generator.set_state(state["batches"])
        set_generator_states(self.device, state["draws"])
        if self.lr_schedule is not None:
            self.lr_schedule.replay(state["validation_losses"] or state["losses"])
            self.apply_lr()

    def subset(self, indices: list[int]) -> SingleBackend:
        """Return this backend, which has one network."""
        return self

    def bind_views(self) -> None:  # noqa: B027 - nothing to do for one network
        """Do nothing: the parameters are bound already."""

    def detach(self, slot: int) -> None:
        """Release what the steps needed; afterwards every parameter owns its memory."""
        self.network.eval()


class FlatBackend(SingleBackend):
    """Steps on all parameters as one vector, of which they are views.

    In small networks most of the time of a step is overhead per tensor, which this avoids.

    Parameters
    ----------
    task : TrainTask
        Its parameters have one dtype and device.
    optimizer : FlatOptimizer or LBFGS
    not_stacked_reason : str or None, default=None
    """

    def __init__(
        self,
        task: TrainTask,
        optimizer: FlatOptimizer | LBFGS,
        not_stacked_reason: str | None = None,
    ) -> None:
        super().__init__(task, not_stacked_reason)
        self.optimizer = optimizer
        self.params = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        self.grad = torch.empty_like(self.params)
        views, start = [], 0
        for p in self.parameters:
            part = slice(start, start + p.numel())
            # (n,) slice -> the parameter's own shape
            p.data = self.params[part].view(p.shape)
            views.append(self.grad[part].view(p.shape))
            start += p.numel()
        self.eager = EagerGradient(self.objective, self.parameters, views)
        self.compiled = CompiledGradient(
            self.eager,
            uses_rng=task.uses_rng,
            full_batch=self.full_batch,
            # A step of L-BFGS has many evaluations.
            n_steps=None if isinstance(optimizer, LBFGS) else task.n_steps,
        )
        #: The first step is not recorded, so that an error of the module has a short traceback.
        self.is_first = True
        self.same_loss = (
            self.full_batch is not None and not task.uses_rng and not self.objective.changing
        )
        self.apply_lr()

    @property
    def step_mode(self) -> str:
        """How the steps are computed, and why, as a sentence."""
        if self.compiled.capture_blocker is None:
            return "The steps were captured once and repeated."
        return f"The steps ran eagerly, because {self.compiled.capture_blocker}."

    @property
    def converged(self) -> bool:
        """Whether further steps would not change the parameters."""
        deterministic = self.same_loss and self.compiled.capture_blocker is None
        return deterministic and isinstance(self.optimizer, LBFGS) and self.optimizer.converged

    def step(self, batch: Batch, on_loss: OnLoss) -> None:
        """Take one step on a batch; `on_loss` is called before the parameters change."""
        with self.rng_lock:
            if self.is_first:
                self.is_first = False
                loss = self.eager.write(*self.eager.compute(batch))
            else:
                loss = self.compiled(batch)
            on_loss(loss, None)
            if isinstance(self.optimizer, LBFGS):
                evaluate = partial(self._evaluate, batch)
                self.optimizer.step(self.params, self.grad, float(loss), evaluate)
            else:
                self.optimizer.step(self.params, self.grad)
        self.after_step()

    def _evaluate(self, batch: Batch) -> float:
        return float(self.compiled(batch))

    def set_hyperparam(self, name: str, value: float) -> None:
        """Set ``lr``, ``beta1`` or ``momentum`` for the following steps."""
        setattr(self.optimizer, name, value)

    def weights(self) -> list[Tensor]:
        """List the tensors that contain the trainable parameters."""
        return [self.params]

    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimizer's state, and why the steps run eagerly if they do."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "capture_blocker": self.compiled.capture_blocker,
        }

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`optimizer_state` returned."""
        device = self.params.device
        on_device = tree_map_only(Tensor, lambda t: t.to(device), state["optimizer"])
        self.optimizer.load_state_dict(on_device)
        self.compiled.capture_blocker = state["capture_blocker"]

    def detach(self, slot: int) -> None:
        """Give each parameter its own memory, because pickling a view includes the vector."""
        super().detach(slot)
        for p in self.parameters:
            p.data = p.data.clone()


def build_backend(task: TrainTask, not_stacked_reason: str | None = None) -> SingleBackend:
    """Build the fastest backend that supports the optimizer, the network and the callbacks.

    Raises
    ------
    ValueError
        If the network has no trainable parameters.
    """
    if task.batch_observer is not None:
        # It may change the network.
        task.batch_observer.on_fit_begin()
    else:
        parameters = trainable_parameters(task.network)
        optimizer = task.optimizer.build_flat(parameters[0].device)
        if optimizer is not None and len({(p.dtype, p.device) for p in parameters}) == 1:
            return FlatBackend(task, optimizer, not_stacked_reason)
    from torchreg.engine.train.torch_backend import TorchBackend

    return TorchBackend(task, not_stacked_reason)


def train_single(task: TrainTask, cancel_event: Event) -> TaskResult:
    """Train one network without observers in place, with its own random numbers.

    Parameters
    ----------
    task : TrainTask
    cancel_event : Event
        Once it is set, training ends as if it were interrupted.

    Returns
    -------
    TrainResult or Exception

    Raises
    ------
    KeyboardInterrupt
        If the user interrupts training before the first epoch has ended.
    """

    def build() -> TrainingLoop:
        return TrainingLoop([task], build_backend(task), cancel_event)

    n_available = torch.get_num_threads()
    with num_threads(1 if task.work <= ONE_THREAD else n_available, others=n_available):
        try:
            if task.uses_rng:
                device = task.training.t.device
                return with_seed(task.generators, device, lambda: build().run())[0]
            return build().run()[0]
        except Exception as error:
            reraise_interrupt(error)
            return error
