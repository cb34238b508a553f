"""How far a fit has come: its best weights, and how long it has not become better."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class Snapshot:
    """The best weights so far, ready to be put back.

    Parameters
    ----------
    tensors : list of Tensor
        What is kept: all that training changes.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self.kept: list[Tensor] | None = None
        self.loss = math.inf
        self.epoch = 0
        #: Whether they are being kept just now: the weights in place are those to keep.
        self.underway = False

    def take(self, loss: float, epoch: int) -> None:
        """Keep the weights as they are now."""
        self.underway = True
        self.loss, self.epoch = loss, epoch
        if self.kept is None:
            self.kept = [tensor.clone() for tensor in self.tensors]
        else:
            for kept, tensor in zip(self.kept, self.tensors, strict=True):
                kept.copy_(tensor)
        self.underway = False

    def restore(self) -> None:
        """Put the kept weights back."""
        if self.underway:
            return
        for kept, tensor in zip(self.kept or [], self.tensors, strict=False):
            tensor.copy_(kept)

    def is_finite(self) -> bool:
        """Whether the weights, as they are now, are all finite."""
        return all(bool(torch.isfinite(t).all()) for t in self.tensors)

    def memory(self) -> dict[str, Any]:
        """Give the weights as they are now, and the kept ones."""
        return {
            "tensors": self.tensors,
            "kept": self.kept,
            "loss": self.loss,
            "epoch": self.epoch,
        }

    def recall(self, memory: dict[str, Any]) -> None:
        """Put back what :meth:`memory` gave, in this or another process."""
        for tensor, before in zip(self.tensors, memory["tensors"], strict=True):
            tensor.copy_(before)
        if memory["kept"] is not None:
            self.kept = [
                before.to(tensor)
                for tensor, before in zip(self.tensors, memory["kept"], strict=True)
            ]
        self.loss, self.epoch = memory["loss"], memory["epoch"]


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
        self.best, self.waited = math.inf, 0

    def is_over(self, loss: float) -> bool:
        """Hear one more loss."""
        margin = self.tol * abs(self.best) if math.isfinite(self.best) else 0.0
        if loss < self.best - margin:
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        return self.waited >= self.patience

    def memory(self) -> list[float]:
        """Give the best loss, and the epochs since."""
        return [self.best, self.waited]

    def recall(self, memory: list[float]) -> None:
        """Put back what :meth:`memory` gave, in this or another process."""
        self.best, self.waited = memory[0], int(memory[1])
