"""Optimizer steps of one network: on all parameters as one vector, or by a torch optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from torchreg.engine.capture import CompiledGradient, EagerGradient
from torchreg.engine.data import Batch
from torchreg.engine.spec import BatchObserver, Objective, trainable_parameters
from torchreg.engine.train.step_backend import OnLoss
from torchreg.optim import LBFGS, FlatOptimizer, OptimizerSpec


class Stepper(Protocol):
    """Takes the optimizer steps of one network."""

    @property
    def execution_mode(self) -> str:
        """How the steps are computed, and why, as a sentence."""

    @property
    def converged(self) -> bool:
        """Whether further steps would not change the parameters."""

    def step(self, batch: Batch, on_loss: OnLoss) -> None:
        """Take one step on a batch; `on_loss` is called before the parameters change."""

    def set_hyperparam(self, name: str, value: float) -> None:
        """Set ``lr``, ``beta1`` or ``momentum`` for the following steps."""

    def weights(self) -> list[Tensor]:
        """List the tensors that contain the trainable parameters."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state between two steps, except the weights."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from :meth:`state_dict`."""

    def detach(self) -> None:
        """Release what the steps needed; afterwards every parameter owns its memory."""


class FlatStepper:
    """Steps on all parameters as one vector, of which they are views.

    In small networks most of the time of a step is overhead per tensor, which this avoids.

    Parameters
    ----------
    parameters : list of nn.Parameter
        Trainable, of one dtype and device.
    optimizer : FlatOptimizer or LBFGS
    objective : Objective
        The loss to minimize.
    n_steps : int
        Maximum number of steps; capturing does not pay for a few.
    uses_rng : bool
        Whether the network draws random numbers.
    full_batch : Batch or None
        The batch of every step, if it is always the same.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        optimizer: FlatOptimizer | LBFGS,
        objective: Objective,
        *,
        n_steps: int,
        uses_rng: bool,
        full_batch: Batch | None,
    ) -> None:
        self.parameters, self.optimizer = parameters, optimizer
        self.params = torch.cat([p.detach().reshape(-1) for p in parameters])
        self.grad = torch.empty_like(self.params)
        views, start = [], 0
        for p in parameters:
            part = slice(start, start + p.numel())
            # (n,) slice -> the parameter's own shape
            p.data = self.params[part].view(p.shape)
            views.append(self.grad[part].view(p.shape))
            start += p.numel()
        self.compiled = CompiledGradient(
            EagerGradient(objective, parameters, views),
            uses_rng=uses_rng,
            full_batch=full_batch,
            # A step of L-BFGS has many evaluations.
            n_steps=None if isinstance(optimizer, LBFGS) else n_steps,
        )
        self.same_loss = full_batch is not None and not uses_rng and not objective.changing

    @property
    def execution_mode(self) -> str:
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
        loss = self.compiled(batch)
        on_loss(loss, None)
        if isinstance(self.optimizer, LBFGS):
            evaluate = partial(self._evaluate, batch)
            self.optimizer.step(self.params, self.grad, float(loss), evaluate)
        else:
            self.optimizer.step(self.params, self.grad)

    def _evaluate(self, batch: Batch) -> float:
        return float(self.compiled(batch))

    def set_hyperparam(self, name: str, value: float) -> None:
        """Set ``lr``, ``beta1`` or ``momentum`` for the following steps."""
        setattr(self.optimizer, name, value)

    def weights(self) -> list[Tensor]:
        """List the tensors that contain the trainable parameters."""
        return [self.params]

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state, and why the steps run eagerly if they do."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "capture_blocker": self.compiled.capture_blocker,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from :meth:`state_dict`."""
        device = self.params.device
        on_device = tree_map_only(Tensor, lambda t: t.to(device), state["optimizer"])
        self.optimizer.load_state_dict(on_device)
        self.compiled.capture_blocker = state["capture_blocker"]

    def detach(self) -> None:
        """Give each parameter its own memory, because pickling a view includes the vector."""
        for p in self.parameters:
            p.data = p.data.clone()


class TorchStepper:
    """Steps of a ``torch.optim`` optimizer, which calls a closure.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Optimizer of the trainable parameters.
    objective : Objective
        The loss to minimize.
    parameters : list of nn.Parameter
        Trainable.
    execution_mode : str
        Why torch's own optimizer is used, as a sentence.
    on_gradient : callable or None
        Called before the gradient is used, for example to clip it.
    """

    converged = False

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        parameters: list[nn.Parameter],
        *,
        execution_mode: str,
        on_gradient: Callable[[], None] | None = None,
    ) -> None:
        self.optimizer, self.objective, self.parameters = optimizer, objective, parameters
        self.execution_mode, self.on_gradient = execution_mode, on_gradient

    def step(self, batch: Batch, on_loss: OnLoss) -> None:
        """Take one step on a batch; `on_loss` is called before the parameters change."""
        is_first = True

        def closure() -> float:
            nonlocal is_first
            self.optimizer.zero_grad()
            with torch.enable_grad():
                prediction = self.objective.predict(batch.x, batch.t)
                loss = self.objective.mean_loss(prediction, batch)
                loss.backward()
            if self.on_gradient is not None:
                self.on_gradient()
            if is_first:
                is_first = False
                on_loss(loss.detach(), prediction.detach())
            value = float(loss.detach())
            # A line search can compare infinity, but not NaN.
            return math.inf if math.isnan(value) else value

        self.optimizer.step(closure)

    def set_hyperparam(self, name: str, value: float) -> None:
        """Set ``lr``, ``beta1`` or ``momentum`` for the following steps."""
        for group in self.optimizer.param_groups:
            if name == "beta1":
                group["betas"] = (value, *group["betas"][1:])
            else:
                group[name] = value

    def weights(self) -> list[Tensor]:
        """List the tensors that contain the trainable parameters."""
        return [p.detach() for p in self.parameters]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of torch's optimizer."""
        return {"optimizer": self.optimizer.state_dict()["state"]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of torch's optimizer.

        Its own ``load_state_dict`` would cast the state to the dtype of the parameters, which
        changes digits.
        """
        for index, own in state["optimizer"].items():
            parameter = self.parameters[index]
            # Numbers of steps stay on the CPU, where optimizers keep them.
            self.optimizer.state[parameter] = tree_map_only(
                Tensor, partial(_to_device, device=parameter.device), own
            )

    def detach(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device) if tensor.dim() else tensor


def build_stepper(
    objective: Objective,
    spec: OptimizerSpec,
    *,
    n_steps: int,
    uses_rng: bool,
    full_batch: Batch | None,
    batch_observer: BatchObserver | None,
) -> Stepper:
    """Build the fastest stepper that supports the optimizer and the network.

    Parameters
    ----------
    objective : Objective
        The loss to minimize with respect to the trainable parameters of its network.
    spec : OptimizerSpec
    n_steps, uses_rng, full_batch : see :class:`FlatStepper`
    batch_observer : BatchObserver or None
        Observes every batch; its torch optimizer is used.

    Raises
    ------
    ValueError
        If the network has no trainable parameters.
    """
    parameters = trainable_parameters(objective.network)
    if batch_observer is not None:
        return TorchStepper(
            batch_observer.optimizer,
            objective,
            parameters,
            execution_mode="The steps ran eagerly, because a callback observes batches.",
            on_gradient=batch_observer.on_gradient,
        )
    optimizer = spec.build_flat(parameters[0].device)
    if optimizer is not None and len({(p.dtype, p.device) for p in parameters}) == 1:
        return FlatStepper(
            parameters,
            optimizer,
            objective,
            n_steps=n_steps,
            uses_rng=uses_rng,
            full_batch=full_batch,
        )
    return TorchStepper(
        spec.build_torch(parameters),
        objective,
        parameters,
        execution_mode=f"The steps ran eagerly, because {spec.name!r} has no flat implementation.",
    )
