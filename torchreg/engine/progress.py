"""How far a fit has come: its best weights, and how long it has not become better."""

from __future__ import annotations

import math
from itertools import compress
from operator import lt
from typing import Any

import torch
from torch import Tensor


class Snapshot:
    """The best weights so far of one or several networks, ready to be put back.

    Parameters
    ----------
    tensors : list of Tensor
        What is kept: all that training changes. Of several networks, each has a row for each.
    n_networks : int

    Attributes
    ----------
    loss : list of float
        Of the kept weights of each network, infinite at the start.
    epoch : list of int
        After which they were taken, counted within this fit.
    """

    def __init__(self, tensors: list[Tensor], n_networks: int) -> None:
        self.tensors = tensors
        self.kept: list[Tensor] | None = None
        self.loss = [math.inf] * n_networks
        self.epoch = [0] * n_networks
        #: Whether they are being kept just now: the weights in place are those to keep.
        self.underway = False

    def take_all(self) -> None:
        """Keep the weights of all networks as they are now."""
        self.underway = True
        if self.kept is None:
            self.kept = [tensor.clone() for tensor in self.tensors]
        else:
            for kept, tensor in zip(self.kept, self.tensors, strict=True):
                kept.copy_(tensor)
        self.underway = False

    def take_lower(self, losses: list[float], epoch: int) -> None:
        """Keep the weights of those networks whose loss is lower than ever.

        Parameters
        ----------
        losses : list of float
            One for each network.
        epoch : int
            After which the weights are as they are now.
        """
        are_lower = list(map(lt, losses, self.loss))
        if all(are_lower):
            self.take_all()
            self.loss, self.epoch = [*losses], [epoch] * len(losses)
            return
        lower = [*compress(range(len(losses)), are_lower)]
        if not lower:
            return
        if self.kept is None:
            self.take_all()
        else:
            self._take_some(torch.tensor(are_lower))
        for place in lower:
            self.loss[place], self.epoch[place] = losses[place], epoch

    def _take_some(self, chosen: Tensor) -> None:
        self.underway = True
        for kept, tensor in zip(self.kept or [], self.tensors, strict=True):
            # (n_networks,) -> (n_networks, 1, ...)
            rows = chosen.to(tensor.device).view(-1, *[1] * (tensor.ndim - 1))
            torch.where(rows, tensor, kept, out=kept)
        self.underway = False

    def restore(self, place: int) -> None:
        """Put the kept weights of a network back."""
        if self.underway or self.kept is None:
            return
        for kept, tensor in zip(self.kept, self.tensors, strict=True):
            self._row(tensor, place).copy_(self._row(kept, place))

    def is_finite(self, place: int) -> bool:
        """Whether the weights of a network, as they are now, are all finite."""
        return all(bool(torch.isfinite(self._row(t, place)).all()) for t in self.tensors)

    def _row(self, tensor: Tensor, place: int) -> Tensor:
        return tensor[place] if len(self.loss) > 1 else tensor

    def of(self, places: list[int], tensors: list[Tensor]) -> Snapshot:
        """Give the snapshot of some networks, whose rows are in other ``tensors`` now."""
        snapshot = Snapshot(tensors, len(places))
        if self.kept is not None:
            snapshot.kept = [kept[places] for kept in self.kept]
        snapshot.loss = [self.loss[place] for place in places]
        snapshot.epoch = [self.epoch[place] for place in places]
        return snapshot

    def memory(self) -> dict[str, Any]:
        """Give the weights of one network as they are now, and the kept ones."""
        return {
            "tensors": self.tensors,
            "kept": self.kept,
            "loss": self.loss[0],
            "epoch": self.epoch[0],
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
        self.loss, self.epoch = [memory["loss"]], [memory["epoch"]]


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
