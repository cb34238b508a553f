"""How far a fit has come: its best weights, and how long it has not become better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

#: Epochs on the trail of a training, at most, and numbers of their weights: 1 MB of them.
_LONGEST, _ON_TRAIL = 32, 2**17


class BestWeights:
    """The best weights so far of one or several networks, ready to be put back.

    Parameters
    ----------
    tensors : list of Tensor
        What is kept: all that training changes. Of several networks, each has a row for each.
    n_networks : int

    Attributes
    ----------
    loss : ndarray of shape (n_networks,)
        Of the kept weights of each network, infinite at the start.
    epoch : ndarray of shape (n_networks,)
        After which they were taken, counted within this fit.
    """

    def __init__(self, tensors: list[Tensor], n_networks: int) -> None:
        self.tensors = tensors
        self.kept: list[Tensor] | None = None
        self.loss = np.full(n_networks, math.inf)
        self.epoch = np.zeros(n_networks, dtype=int)
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

    def take_lower(self, losses: Sequence[float] | Tensor, epoch: int) -> None:
        """Keep the weights of those networks whose loss is lower than ever.

        Parameters
        ----------
        losses : sequence of float or Tensor of shape (n_networks,)
        epoch : int
            After which the weights are as they are now.
        """
        if len(self.loss) == 1:
            if losses[0] < self.loss[0]:
                self.take_all()
                self.loss[0], self.epoch[0] = losses[0], epoch
            return
        found = _read([losses])[0]
        are_lower = found < self.loss
        n_lower = np.count_nonzero(are_lower)
        if n_lower == 0:
            return
        if n_lower == len(found) or self.kept is None:
            self.take_all()
        else:
            self._take_some(torch.from_numpy(are_lower))
        np.copyto(self.loss, found, where=are_lower)
        np.copyto(self.epoch, epoch, where=are_lower)

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

    def epoch_of(self, place: int) -> int:
        """Tell after which epoch the kept weights of a network were taken."""
        return int(self.epoch[place])

    def is_finite(self, place: int) -> bool:
        """Whether the weights of a network, as they are now, are all finite."""
        return all(bool(torch.isfinite(self._row(t, place)).all()) for t in self.tensors)

    def _row(self, tensor: Tensor, place: int) -> Tensor:
        return tensor[place] if len(self.loss) > 1 else tensor

    def of(self, places: list[int], tensors: list[Tensor]) -> Self:
        """Give the snapshot of some networks, whose rows are in other ``tensors`` now."""
        snapshot = type(self)(tensors, len(places))
        if self.kept is not None:
            snapshot.kept = [kept[places] for kept in self.kept]
        snapshot.loss, snapshot.epoch = self.loss[places], self.epoch[places]
        return snapshot

    def memory(self) -> dict[str, Any]:
        """Give the weights of one network as they are now, and the kept ones."""
        return {
            "tensors": self.tensors,
            "kept": self.kept,
            "loss": float(self.loss[0]),
            "epoch": int(self.epoch[0]),
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
        self.loss[0], self.epoch[0] = memory["loss"], memory["epoch"]


class Trail(BestWeights):
    """The best weights so far, looked for among those of the last epochs from time to time.

    To compare, to choose and to keep in each epoch takes as long as to move the weights, and
    Python waits for none of it: a thread beside this one, which trains another stack, waits.

    Parameters
    ----------
    tensors : list of Tensor
    n_networks : int
        See :class:`BestWeights`.
    """

    def __init__(self, tensors: list[Tensor], n_networks: int) -> None:
        super().__init__(tensors, n_networks)
        n_numbers = sum(tensor.numel() for tensor in tensors)
        self._length = max(1, min(_LONGEST, _ON_TRAIL // max(n_numbers, 1)))
        #: Of each tensor, what it was in so many epochs; and the same epoch by epoch.
        self._steps = [tensor.new_empty((self._length, *tensor.shape)) for tensor in tensors]
        self._places = [[step[i] for step in self._steps] for i in range(self._length)]
        #: Losses and number of each epoch that has not been looked at.
        self._noted: list[tuple[Sequence[float] | Tensor, int]] = []

    def take_lower(self, losses: Sequence[float] | Tensor, epoch: int) -> None:
        """Note the weights of all networks; see :meth:`BestWeights.take_lower`.

        A network whose loss is not finite has come to its end: nothing better follows.
        """
        for place, tensor in zip(self._places[len(self._noted)], self.tensors, strict=True):
            place.copy_(tensor)
        self._noted.append((losses, epoch))
        if len(self._noted) == self._length:
            self._look()

    def room(self, n_epochs: int) -> list[Tensor]:
        """Give the places of the next epochs, at most so many: for each tensor (n, ...)."""
        begin = len(self._noted)
        return [step[begin : begin + n_epochs] for step in self._steps]

    def note(self, losses: Tensor, epoch: int) -> None:
        """Hear the losses of some epochs, whose weights have been put in their places.

        Parameters
        ----------
        losses : Tensor of shape (n_epochs, n_networks)
        epoch : int
            After which the first of them begins.
        """
        self._noted += [(row, epoch + i) for i, row in enumerate(losses)]
        if len(self._noted) == self._length:
            self._look()

    def _look(self) -> None:
        """Keep the best of what was noted; interrupted and done again, it is as if done once."""
        if not self._noted:
            return
        # (n_epochs, n_networks)
        losses = _read([losses for losses, _ in self._noted])
        losses[np.logical_or.accumulate(~np.isfinite(losses), axis=0)] = math.inf
        best = losses.argmin(axis=0)
        lowest = losses[best, np.arange(len(best))]
        (lower,) = np.nonzero(lowest < self.loss)
        if self.kept is None:
            self.kept = [tensor.clone() for tensor in self._places[0]]
        for kept, steps in zip(self.kept, self._steps, strict=True):
            rows = torch.from_numpy(lower).to(kept.device)
            kept[rows] = steps[torch.from_numpy(best[lower]).to(kept.device), rows]
        epochs = np.array([epoch for _, epoch in self._noted])
        self.epoch[lower] = epochs[best[lower]]
        self.loss[lower] = lowest[lower]
        self._noted = []

    def restore(self, place: int) -> None:
        """Put the kept weights of a network back."""
        self._look()
        super().restore(place)

    def epoch_of(self, place: int) -> int:
        """Tell after which epoch the kept weights of a network were taken."""
        self._look()
        return super().epoch_of(place)

    def of(self, places: list[int], tensors: list[Tensor]) -> Self:
        """Give the snapshot of some networks, whose rows are in other ``tensors`` now."""
        self._look()
        return super().of(places, tensors)


def _read(rows: Sequence[Sequence[float] | Tensor]) -> np.ndarray:
    """Read losses of several epochs: shape (n_epochs, n_networks)."""
    tensors = [row for row in rows if isinstance(row, Tensor)]
    if len(tensors) == len(rows):
        return torch.stack(tensors).cpu().to(torch.float64).numpy()
    return np.array([row.tolist() if isinstance(row, Tensor) else row for row in rows])


class Patience:
    """Counts the epochs since a loss last improved by more than a relative tolerance.

    Parameters
    ----------
    patience : int
        Epochs to wait.
    tol : float
        Relative; see :class:`torchreg.engine.spec.train_task.Stopping`.
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
