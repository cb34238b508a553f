"""One optimization step, on all parameters as one vector or through a torch optimizer."""

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
from torchreg.engine.spec.objective import Objective, trainable_parameters
from torchreg.engine.spec.train_task import BatchObserver
from torchreg.engine.train.step_backend import OnLoss
from torchreg.optim.base import FlatOptimizer
from torchreg.optim.lbfgs import LBFGS
from torchreg.optim.spec import OptimizerSpec


class Stepper(Protocol):
    """Moves the parameters of a network by one step."""

    @property
    def execution_mode(self) -> str:
        """How the steps are computed, and why, in words."""

    def step(self, batch: Batch, on_loss: OnLoss) -> None:
        """Take one step down the loss of a batch."""

    def set_number(self, name: str, value: float) -> None:
        """Take the next steps with another ``lr``, ``beta1`` or ``momentum``."""

    def weights(self) -> list[Tensor]:
        """List the tensors that hold the trainable parameters."""

    def memory(self) -> dict[str, Any]:
        """Give what is remembered from one step to the next, beside the weights."""

    def recall(self, memory: dict[str, Any]) -> None:
        """Remember what :meth:`memory` gave, in this or another process."""

    def release(self) -> None:
        """Leave every parameter owning its own memory."""


class VectorStepper:
    """All parameters as views of one vector, moved by a few in-place operations.

    Small networks spend most of a step on per-tensor overhead, which one vector pays once.

    Parameters
    ----------
    parameters : list of nn.Parameter
        Trainable, of one dtype and device. They are views until :meth:`release`.
    rule : FlatOptimizer or LBFGS
        The update.
    objective : Objective
        What to go down.
    n_steps : int
        How many steps are to come, at most; a few are not worth being captured.
    draws : bool
        Whether the network draws random numbers.
    whole : Batch or None
        The batch of every step, if it is always the same one.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        rule: FlatOptimizer | LBFGS,
        objective: Objective,
        *,
        n_steps: int,
        draws: bool,
        whole: Batch | None,
    ) -> None:
        self.parameters, self.rule = parameters, rule
        self.params = torch.cat([p.detach().reshape(-1) for p in parameters])
        self.slope = torch.empty_like(self.params)
        views, start = [], 0
        for p in parameters:
            part = slice(start, start + p.numel())
            # (n,) slice -> the parameter's own shape
            p.data = self.params[part].view(p.shape)
            views.append(self.slope[part].view(p.shape))
            start += p.numel()
        taped = EagerGradient(objective, parameters, views)
        # A step of L-BFGS is many evaluations.
        few = None if isinstance(rule, LBFGS) else n_steps
        self.captured = CompiledGradient(taped, uses_rng=draws, full_batch=whole, n_steps=few)

    @property
    def execution_mode(self) -> str:
        """How the steps are computed, and why, in words."""
        if self.captured.capture_blocker is None:
            return "The steps were captured once and repeated."
        return f"The steps ran eagerly, because {self.captured.capture_blocker}."

    def step(self, batch: Batch, on_loss: OnLoss) -> None:
        """Take one step down the loss of a batch."""
        loss = self.captured(batch)
        on_loss(loss, None)
        if isinstance(self.rule, LBFGS):
            evaluate = partial(self._evaluate, batch)
            self.rule.step(self.params, self.slope, float(loss), evaluate)
        else:
            self.rule.update(self.params, self.slope)

    def _evaluate(self, batch: Batch) -> float:
        return float(self.captured(batch))

    def set_number(self, name: str, value: float) -> None:
        """Take the next steps with another ``lr``, ``beta1`` or ``momentum``."""
        setattr(self.rule, name, value)

    def weights(self) -> list[Tensor]:
        """List the tensors that hold the trainable parameters."""
        return [self.params]

    def memory(self) -> dict[str, Any]:
        """Give what the rule remembers, and why steps became ordinary ones, if they did."""
        return {"rule": self.rule.memory(), "obstacle": self.captured.capture_blocker}

    def recall(self, memory: dict[str, Any]) -> None:
        """Remember what :meth:`memory` gave; the weights are put back by others."""
        device = self.params.device
        self.rule.recall(tree_map_only(Tensor, lambda t: t.to(device), memory["rule"]))
        self.captured.capture_blocker = memory["obstacle"]

    def release(self) -> None:
        """Give each parameter memory of its own; a view would pickle the whole vector."""
        for p in self.parameters:
            p.data = p.data.clone()


class TorchStepper:
    """A ``torch.optim`` optimizer, called with a closure.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Over the trainable parameters.
    objective : Objective
        What to go down.
    parameters : list of nn.Parameter
        Trainable.
    execution_mode : str
        Why torch's own optimizer moves them.
    on_gradient : callable or None
        Called when a gradient is there and not yet used, to clip it for example.
    """

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
        """Take one step down the loss of a batch."""
        heard = False

        def closure() -> float:
            nonlocal heard
            self.optimizer.zero_grad()
            with torch.enable_grad():
                prediction = self.objective.predict(batch.x, batch.t)
                loss = self.objective.mean_loss(prediction, batch)
                loss.backward()
            if self.on_gradient is not None:
                self.on_gradient()
            if not heard:
                heard = True
                on_loss(loss.detach(), prediction.detach())
            value = float(loss.detach())
            # A line search can compare infinity, but not NaN, which it fails on.
            return math.inf if math.isnan(value) else value

        self.optimizer.step(closure)

    def set_number(self, name: str, value: float) -> None:
        """Take the next steps with another ``lr``, ``beta1`` or ``momentum``."""
        for group in self.optimizer.param_groups:
            if name == "beta1":
                group["betas"] = (value, *group["betas"][1:])
            else:
                group[name] = value

    def weights(self) -> list[Tensor]:
        """List the tensors that hold the trainable parameters."""
        return [p.detach() for p in self.parameters]

    def memory(self) -> dict[str, Any]:
        """Give the state of torch's optimizer."""
        return {"optimizer": self.optimizer.state_dict()["state"]}

    def recall(self, memory: dict[str, Any]) -> None:
        """Put the state of torch's optimizer back.

        ``load_state_dict`` would give it the dtype of the parameters, and so other digits.
        """
        for index, state in memory["optimizer"].items():
            parameter = self.parameters[index]
            self.optimizer.state[parameter] = tree_map_only(
                Tensor, partial(_near, device=parameter.device), state
            )

    def release(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)


def _near(tensor: Tensor, device: torch.device) -> Tensor:
    """Move what belongs to parameters; counts stay on the CPU, where optimizers keep them."""
    return tensor.to(device) if tensor.dim() else tensor


def build_stepper(
    objective: Objective,
    spec: OptimizerSpec,
    *,
    n_steps: int,
    draws: bool,
    whole: Batch | None,
    listener: BatchObserver | None,
) -> Stepper:
    """Choose the fastest that can do it.

    Parameters
    ----------
    objective : Objective
        The trainable parameters of its network are moved.
    spec : OptimizerSpec
        The optimizer.
    n_steps, draws, whole : see :class:`VectorStepper`
    listener : BatchObserver or None
        Who listens to every batch; its torch optimizer is used.

    Raises
    ------
    ValueError
        If nothing in the network can be trained.
    """
    parameters = trainable_parameters(objective.network)
    if listener is not None:
        why = "The steps ran eagerly, because a callback listens to batches."
        hear = listener.on_gradient
        return TorchStepper(
            listener.optimizer, objective, parameters, execution_mode=why, on_gradient=hear
        )
    rule = spec.flat_optimizer(parameters[0].device)
    if rule is not None and len({(p.dtype, p.device) for p in parameters}) == 1:
        return VectorStepper(parameters, rule, objective, n_steps=n_steps, draws=draws, whole=whole)
    why = f"The steps ran eagerly, because only torch's own optimizer is {spec.name!r}."
    return TorchStepper(spec.torch_optimizer(parameters), objective, parameters, execution_mode=why)
