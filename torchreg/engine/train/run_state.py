"""The state of the networks in the training loop: history, stopping, best weights, result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchreg.engine.spec import (
    EpochRecord,
    TaskResult,
    TrainResult,
    TrainTask,
)


class RunState:
    """What the training loop knows of one network, apart from its weights.

    Parameters
    ----------
    task : TrainTask
    slot : int
        Its row in the tensors of the stack; 0 for a network that trains alone.

    Attributes
    ----------
    result : TrainResult, Exception or None
        ``None`` while the network trains.
    """

    def __init__(self, task: TrainTask, slot: int) -> None:
        self.task, self.slot = task, slot
        self.network = task.network
        # Lists of floats, which the garbage collector does not traverse.
        self.losses: list[float] = []
        self.validation_losses: list[float] = []
        self.rates: list[float] = []
        self.extra: dict[int, dict[str, Any]] = {}
        stopping = task.stopping
        self.patience: Patience | None = None
        if stopping.on_validation or stopping.tol is not None:
            self.patience = Patience(stopping.patience, stopping.tol or 0.0)
        self.result: TaskResult | None = None
        self.callback_stops = False
        if task.monitor is not None:
            task.monitor.runs[id(task)] = self

    @property
    def is_monitored(self) -> bool:
        """Whether something other than the budget may stop the run."""
        observed = self.task.monitor is not None or self.task.batch_observer is not None
        return observed or self.patience is not None

    @property
    def monitored_losses(self) -> list[float]:
        """The losses that decide about the best weights and about early stopping."""
        return self.validation_losses if self.task.stopping.on_validation else self.losses

    def stop_reason(self) -> str | None:
        """Return why the run should stop before its budget, or None; call it once per epoch."""
        monitor = self.task.monitor
        n_epochs = self.task.first_epoch + len(self.losses)
        if self.callback_stops or (monitor is not None and n_epochs >= monitor.last_epoch):
            return "callback"
        if self.patience is None or not self.patience.update(self.monitored_losses[-1]):
            return None
        return "early_stopping" if self.task.stopping.on_validation else "converged"

    def n_epochs_left(self, n_epochs: int) -> int:
        """Estimate how many epochs are left after ``n_epochs``.

        A run that may stop early is assumed to last as long again.
        """
        left = self.task.max_epochs - n_epochs
        may_stop = self.patience is not None and self.patience.patience is not None
        return min(left, n_epochs) if may_stop else left

    def notify_epoch_end(self) -> None:
        """Notify the callbacks of this network, and keep what they record."""
        assert self.task.batch_observer is not None
        record = EpochRecord(
            self.task.first_epoch + len(self.losses),
            self.losses[-1],
            self.validation_losses[-1] if self.validation_losses else None,
            lr=self.rates[-1] if self.rates else None,
        )
        self.callback_stops = self.task.batch_observer.on_epoch_end(record)
        if record.extra:
            self.extra[record.epoch] = record.extra

    def truncate(self, n_epochs: int) -> None:
        """Drop the record of an interrupted epoch."""
        del self.losses[n_epochs:], self.validation_losses[n_epochs:], self.rates[n_epochs:]

    def nonfinite_error(self, loss: float) -> ValueError:
        """Return the error for a first loss that is not finite."""
        return ValueError(
            f"The loss {self.task.loss.name!r} is {loss} at the first step, "
            "before anything was learned. Likely causes: a loss that is not defined "
            "for standardized targets, a module whose outputs overflow, or values so "
            "extreme that they overflow even when standardized."
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the history and the state of early stopping."""
        return {
            "losses": self.losses,
            "validation_losses": self.validation_losses,
            "rates": self.rates,
            "patience": None if self.patience is None else self.patience.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, perhaps in another process."""
        self.losses = [*state["losses"]]
        self.validation_losses = [*state["validation_losses"]]
        self.rates = [*state["rates"]]
        if self.patience is not None:
            self.patience.load_state_dict(state["patience"])

    def train_result(self, reason: str, execution_mode: str, best_epoch: int) -> TrainResult:
        """Return the result of a run that has ended."""
        still_falling = (
            reason == "budget"
            and self.task.stopping.tol is not None
            and self.patience is not None
            and self.patience.n_no_improvement == 0
            and len(self.losses) > 1
        )
        return TrainResult(
            first_epoch=self.task.first_epoch,
            losses=self.losses,
            validation_losses=self.validation_losses or None,
            extra=self.extra,
            reason=reason,
            best_epoch=self.task.first_epoch + best_epoch,
            execution_mode=execution_mode,
            still_falling=still_falling,
            rates=self.rates,
        )


class Patience:
    """Number of epochs since a loss last improved by more than a relative tolerance.

    Parameters
    ----------
    patience : int or None
        Epochs without improvement after which a run stops; ``None`` for never.
    tol : float
        Relative; see :class:`torchreg.engine.spec.train_task.Stopping`.
    """

    def __init__(self, patience: int | None, tol: float) -> None:
        self.patience, self.tol = patience, tol
        self.best, self.n_no_improvement = math.inf, 0

    def update(self, loss: float) -> bool:
        """Compare one more loss; return whether the run should stop."""
        margin = self.tol * abs(self.best) if math.isfinite(self.best) else 0.0
        if loss < self.best - margin:
            self.best, self.n_no_improvement = loss, 0
        else:
            self.n_no_improvement += 1
        return self.patience is not None and self.n_no_improvement >= self.patience

    def state_dict(self) -> list[float]:
        """Return the best loss and the number of epochs since."""
        return [self.best, self.n_no_improvement]

    def load_state_dict(self, state: list[float]) -> None:
        """Restore what :meth:`state_dict` returned, perhaps in another process."""
        self.best, self.n_no_improvement = state[0], int(state[1])


class BestWeights:
    """A copy of the weights at the lowest loss so far, of one or several networks.

    Parameters
    ----------
    tensors : list of Tensor
        What training changes. For several networks, each has one row per network.
    n_networks : int

    Attributes
    ----------
    loss : ndarray of shape (n_networks,)
        Lowest loss of each network, infinite at the start.
    epoch : ndarray of shape (n_networks,)
        Number of epochs before the copied weights, within this fit.
    """

    def __init__(self, tensors: list[Tensor], n_networks: int) -> None:
        self.tensors = tensors
        self.copies: list[Tensor] | None = None
        self.loss = np.full(n_networks, math.inf)
        self.epoch = np.zeros(n_networks, dtype=int)
        #: Whether a copy is incomplete, after an interrupt: the weights in place are the best.
        self.is_saving = False

    def save_all(self) -> None:
        """Copy the current weights of all networks."""
        self.is_saving = True
        if self.copies is None:
            self.copies = [tensor.clone() for tensor in self.tensors]
        else:
            for copy, tensor in zip(self.copies, self.tensors, strict=True):
                copy.copy_(tensor)
        self.is_saving = False

    def update_if_better(self, losses: Sequence[float] | Tensor, epoch: int) -> None:
        """Copy the current weights of the networks whose loss is lower than ever before.

        Parameters
        ----------
        losses : sequence of float or Tensor of shape (n_networks,)
        epoch : int
            Number of epochs after which the weights are as they are now.
        """
        if len(self.loss) == 1:
            if losses[0] < self.loss[0]:
                self.save_all()
                self.loss[0], self.epoch[0] = losses[0], epoch
            return
        new = np.asarray(losses.tolist() if isinstance(losses, Tensor) else losses)
        is_lower = new < self.loss
        n_lower = np.count_nonzero(is_lower)
        if n_lower == 0:
            return
        if n_lower == len(new) or self.copies is None:
            self.save_all()
        else:
            self._save_rows(torch.from_numpy(is_lower))
        np.copyto(self.loss, new, where=is_lower)
        np.copyto(self.epoch, epoch, where=is_lower)

    def _save_rows(self, mask: Tensor) -> None:
        self.is_saving = True
        for copy, tensor in zip(self.copies or [], self.tensors, strict=True):
            # (n_networks,) -> (n_networks, 1, ...)
            rows = mask.to(tensor.device).view(-1, *[1] * (tensor.ndim - 1))
            torch.where(rows, tensor, copy, out=copy)
        self.is_saving = False

    def restore(self, slot: int) -> None:
        """Put the best weights of a network back in place."""
        if self.is_saving or self.copies is None:
            return
        for copy, tensor in zip(self.copies, self.tensors, strict=True):
            self._row(tensor, slot).copy_(self._row(copy, slot))

    def is_finite(self, slot: int) -> bool:
        """Return whether the current weights of a network are all finite."""
        return all(bool(torch.isfinite(self._row(t, slot)).all()) for t in self.tensors)

    def _row(self, tensor: Tensor, slot: int) -> Tensor:
        return tensor[slot] if len(self.loss) > 1 else tensor

    def subset(self, indices: list[int], tensors: list[Tensor]) -> BestWeights:
        """Return the best weights of some networks, whose current weights are in ``tensors``."""
        best = BestWeights(tensors, len(indices))
        if self.copies is not None:
            best.copies = [copy[indices] for copy in self.copies]
        best.loss, best.epoch = self.loss[indices], self.epoch[indices]
        return best

    def state_dict(self) -> dict[str, Any]:
        """Return the current and the best weights of one network."""
        return {
            "tensors": self.tensors,
            "kept": self.copies,
            "loss": float(self.loss[0]),
            "epoch": int(self.epoch[0]),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, perhaps in another process."""
        for tensor, saved in zip(self.tensors, state["tensors"], strict=True):
            tensor.copy_(saved)
        if state["kept"] is not None:
            self.copies = [
                saved.to(tensor) for tensor, saved in zip(self.tensors, state["kept"], strict=True)
            ]
        self.loss[0], self.epoch[0] = state["loss"], state["epoch"]
