"""Step backend of one network that a ``torch.optim`` optimizer trains."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from torchreg.engine.data import Batch
from torchreg.engine.spec import TrainTask
from torchreg.engine.train.single import SingleBackend
from torchreg.engine.train.step_backend import OnLoss


class TorchBackend(SingleBackend):
    """Steps of a ``torch.optim`` optimizer, or of the optimizer of a batch observer.

    Parameters
    ----------
    task : TrainTask
    not_stacked_reason : str or None, default=None
    """

    def __init__(self, task: TrainTask, not_stacked_reason: str | None = None) -> None:
        super().__init__(task, not_stacked_reason)
        self.batch_observer = task.batch_observer
        if self.batch_observer is None:
            self.optimizer = task.optimizer.build_torch(self.parameters)
        else:
            self.optimizer = self.batch_observer.optimizer
            if self.loss_of is not None:
                self.loss_of = self._observed_evaluation
        self.apply_lr()

    @property
    def step_mode(self) -> str:
        """How the steps are computed, and why, as a sentence."""
        reason = f"{self.task.optimizer.name!r} has no flat implementation"
        if self.batch_observer is not None:
            reason = "a callback observes batches"
        return f"The steps ran eagerly, because {reason}."

    def step(self, batch: Batch, on_loss: OnLoss) -> None:
        """Take one step on a batch; `on_loss` is called before the parameters change."""
        seen: list[Tensor] = []

        def closure() -> float:
            self.optimizer.zero_grad()
            with torch.enable_grad():
                prediction = self.objective.predict(batch.x, batch.t)
                loss = self.objective.mean_loss(prediction, batch)
                loss.backward()
            if self.batch_observer is not None:
                self.batch_observer.on_gradient()
            if not seen:
                seen.extend([loss.detach(), prediction.detach()])
                on_loss(*seen)
            value = float(loss.detach())
            # A line search can compare infinity, but not NaN.
            return math.inf if math.isnan(value) else value

        if self.batch_observer is not None:
            self.batch_observer.on_batch_begin(batch, training=True)
        with self.rng_lock:
            self.optimizer.step(closure)
        if self.batch_observer is not None:
            loss, prediction = seen
            self.batch_observer.on_batch_end(batch, float(loss), prediction, training=True)
        self.after_step()

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

    def optimizer_state(self) -> dict[str, Any]:
        """Return the state of torch's optimizer."""
        return {"optimizer": self.optimizer.state_dict()["state"]}

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
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

    def detach(self, slot: int) -> None:
        """Drop the gradients."""
        super().detach(slot)
        self.optimizer.zero_grad(set_to_none=True)


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device) if tensor.dim() else tensor
