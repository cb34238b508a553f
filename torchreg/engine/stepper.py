"""One optimization step, on all parameters as one vector or through a torch optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from torchreg.optimizers import OptimizerSpec
from torchreg.rules import VectorRule


class Stepper(Protocol):
    """Moves the parameters of a network by one step."""

    def step(self, evaluate: Callable[[], Tensor]) -> float:
        """Take one step down ``evaluate``; return the loss before it."""

    def release(self) -> None:
        """Leave every parameter owning its own memory."""


class VectorStepper:
    """All parameters as views of one vector, moved by a few in-place operations.

    Small networks spend most of a step on per-tensor overhead, which one vector pays once.

    Parameters
    ----------
    parameters : list of nn.Parameter
        Trainable, of one dtype and device. They are views until :meth:`release`.
    rule : VectorRule
        The update.
    """

    def __init__(self, parameters: list[nn.Parameter], rule: VectorRule) -> None:
        self.parameters, self.rule = parameters, rule
        self.theta = torch.cat([p.detach().reshape(-1) for p in parameters])
        self.gradient = torch.empty_like(self.theta)
        start = 0
        for p in parameters:
            # (n,) slice -> the parameter's own shape
            p.data = self.theta[start : start + p.numel()].view(p.shape)
            start += p.numel()

    def step(self, evaluate: Callable[[], Tensor]) -> float:
        """Take one step down ``evaluate``; return the loss before it."""
        loss = evaluate()
        gradients = torch.autograd.grad(
            loss, self.parameters, allow_unused=True, materialize_grads=True
        )
        torch.cat([g.reshape(-1) for g in gradients], out=self.gradient)
        self.rule.update(self.theta, self.gradient)
        return float(loss.detach())

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
    on_gradient : callable or None
        Called when a gradient is there and not yet used, to clip it for example.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, on_gradient: Callable[[], None] | None = None
    ) -> None:
        self.optimizer, self.on_gradient = optimizer, on_gradient

    def step(self, evaluate: Callable[[], Tensor]) -> float:
        """Take one step down ``evaluate``; return the loss before it."""
        first: list[float] = []

        def closure() -> float:
            self.optimizer.zero_grad()
            with torch.enable_grad():
                loss = evaluate()
                loss.backward()
            if self.on_gradient is not None:
                self.on_gradient()
            value = float(loss.detach())
            first.append(value)
            # A line search can compare infinity, but not NaN, which it fails on.
            return math.inf if math.isnan(value) else value

        self.optimizer.step(closure)
        return first[0]

    def release(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)


def build_stepper(
    network: nn.Module,
    spec: OptimizerSpec,
    *,
    on_gradient: Callable[[], None] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Stepper:
    """Choose the faster of the two that can do it.

    Parameters
    ----------
    network : nn.Module
        Its trainable parameters are moved.
    spec : OptimizerSpec
        The optimizer.
    on_gradient, optimizer : optional
        Where a callback holds the torch optimizer or its gradients, torch's own is used.

    Raises
    ------
    ValueError
        If nothing in the network can be trained.
    """
    parameters = trainable(network)
    if optimizer is not None:
        return TorchStepper(optimizer, on_gradient)
    rule = spec.vector_rule()
    if rule is not None and len({(p.dtype, p.device) for p in parameters}) == 1:
        return VectorStepper(parameters, rule)
    return TorchStepper(spec.torch_optimizer(parameters), on_gradient)


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """List the parameters that ask for a gradient; an empty list is an error."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            "The module has no parameter that can be trained: all are fixed, or there is none."
        )
    return parameters
