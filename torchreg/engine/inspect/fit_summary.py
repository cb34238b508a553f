"""What is kept of a fit when it is over: small numbers, no rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from torchreg.diagnosis.record import FitSummary, NetworkSummary, ParameterDrift
from torchreg.engine.inspect.row_summary import RowSummary
from torchreg.engine.spec.module_tensors import named_tensors
from torchreg.engine.spec.train_task import TrainResult, TrainTask

#: The parameters of a network, if so few, are measured as lists: less than calls of torch cost.
FEW = 256


def summarize(
    task: TrainTask,
    result: TrainResult,
    travel: DriftTracker,
    module: nn.Sequential,
    rows: RowSummary,
    look: NetworkSummary | None,
    n_networks: int = 1,
) -> FitSummary:
    """Write the numbers of a fit down.

    Parameters
    ----------
    task, result : TrainTask, TrainResult
        What the fit was asked, and what it answered.
    travel : DriftTracker
        Made before the fit.
    module : nn.Sequential
        The network between its scaling layers.
    rows : RowSummary
        Of the training rows.
    look : NetworkSummary or None
        What was seen of the network.
    n_networks : int, default=1
        How many networks, trained on other folds each, the problem's network is the mean of.
    """
    layers = module._modules
    validation, lr = task.validation, task.optimizer.options.get("lr")
    n_validation = 0 if validation is None else len(validation.t)
    if n_networks > 1:
        # Each row was held out by one of them.
        n_validation = rows.n_rows
    journeys = travel.finish()
    return FitSummary(
        n_rows=rows.n_rows,
        n_validation=n_validation,
        n_parameters=sum(journey.n for journey in journeys),
        batch_size=task.batch_size,
        max_epochs=task.max_epochs,
        first_epoch=task.first_epoch,
        optimizer=task.optimizer.name,
        loss=task.loss.name,
        dtype=str(task.training.t.dtype).removeprefix("torch."),
        reason=result.reason,
        lr=None if lr is None else float(lr),
        standardize_x="standardize" in layers,
        standardize_y="unstandardize" in layers,
        x=rows.x,
        y=rows.y,
        far=rows.far,
        copies=rows.copies,
        journeys=journeys,
        look=look,
        schedule=task.schedule.name,
        n_networks=n_networks,
        keeps_best=validation is not None and task.stopping.on_validation,
    )


class DriftTracker:
    """Measures how far parameters go.

    Parameters
    ----------
    network : nn.Module
        As it is before it is trained; two numbers per tensor are kept in the end.
    is_member : bool, default=False
        Whether it is to be one of several; see :meth:`of_several`.
    """

    def __init__(self, network: nn.Module, *, is_member: bool = False) -> None:
        # What holds no number goes nowhere.
        own = [(name, p) for name, p in network.named_parameters() if p.numel()]
        self.names = [name for name, _ in own]
        self.tensors: list[Tensor] = [tensor for _, tensor in own]
        self.sizes = [tensor.numel() for tensor in self.tensors]
        self.as_lists = not is_member and sum(self.sizes) <= FEW
        self.start: Any = _lists(self.tensors) if self.as_lists else _vector(self.tensors)
        #: So many networks of the same sizes come one after the other.
        self.n_alike = 1

    def of_copy(self, network: nn.Module) -> DriftTracker:
        """Begin where this one begins, with a network that is a copy of the one it was made of."""
        twin = object.__new__(DriftTracker)
        vars(twin).update(vars(self))
        twin.tensors = [p for p in named_tensors(network)[0].values() if p.numel()]
        return twin

    @classmethod
    def of_several(cls, travels: Sequence[DriftTracker]) -> DriftTracker:
        """Put those of the members of an ensemble together."""
        whole = cls.__new__(cls)
        numbered = [*enumerate(travels)]
        whole.names = [f"members.{i}.{name}" for i, travel in numbered for name in travel.names]
        whole.tensors = [tensor for travel in travels for tensor in travel.tensors]
        whole.sizes = [size for travel in travels for size in travel.sizes]
        whole.as_lists = False
        whole.start = torch.cat([travel.start for travel in travels])
        alike = all(travel.sizes == travels[0].sizes for travel in travels)
        whole.n_alike = len(travels) if alike else 1
        return whole

    def finish(self) -> list[ParameterDrift]:
        """Hold the parameters against their start."""
        if self.as_lists:
            pairs = zip(self.start, _lists(self.tensors), strict=True)
            lengths = [[math.hypot(*before), math.dist(before, after)] for before, after in pairs]
        else:
            lengths = self._lengths_in_vector()
        return [
            ParameterDrift(name, n, start / math.sqrt(n), gone / math.sqrt(n))
            for name, n, (start, gone) in zip(self.names, self.sizes, lengths, strict=True)
        ]

    def _lengths_in_vector(self) -> list[list[float]]:
        """Measure start and way of each tensor, the same one of several networks at once."""
        both = torch.stack([self.start, _vector(self.tensors)])
        both[1] -= both[0]
        # (2, n_numbers) -> (2, n_alike, n_numbers_of_one)
        each = both.reshape(2, self.n_alike, -1)
        sizes = self.sizes[: len(self.sizes) // self.n_alike]
        lengths = torch.stack([_length(part) for part in each.split(sizes, dim=2)])
        if not math.isfinite(float(lengths.sum())):
            # The squares of large numbers are too large for float32.
            lengths = torch.stack([_length(part.double()) for part in each.split(sizes, dim=2)])
        # (n_tensors_of_one, 2, n_alike) -> (n_alike, n_tensors_of_one, 2) -> (n_tensors, 2)
        found: list[list[float]] = lengths.permute(2, 0, 1).flatten(0, 1).tolist()
        return found


def _length(values: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(values, dim=2)
    return length


def _vector(tensors: list[Tensor]) -> Tensor:
    """Copy all numbers to one place."""
    # In one mode for all: to detach each would take as long as all else.
    with torch.no_grad():
        return torch.cat([tensor.reshape(-1) for tensor in tensors]).cpu()


def _lists(tensors: list[Tensor]) -> list[list[float]]:
    """Copy the numbers of each tensor: of a few it takes less time than a call of torch."""
    return [_flat(tensor.tolist()) for tensor in tensors]


def _flat(values: Any) -> list[float]:
    """Unpack the lists in a list."""
    if not isinstance(values, list):
        return [values]
    while isinstance(values[0], list):
        values = [*chain.from_iterable(values)]
    numbers: list[float] = values
    return numbers
