"""What is kept of a fit when it is over: small numbers, no rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchreg.diagnosis.lines import Lines
from torchreg.diagnosis.record import FitSummary, Journey
from torchreg.diagnosis.statistics import lines_of, look_inside
from torchreg.engine.described_rows import DescribedRows
from torchreg.engine.problem import Outcome, Problem
from torchreg.engine.rows import Table
from torchreg.nn.links import link_of

#: Parameter tensors of so many numbers are measured as lists: less than a call of torch costs.
FEW = 256


class Sample(NamedTuple):
    """Rows that are sent through the network as the fit ends, and what lines make of them.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
        In the network's units.
    lines : Lines
    """

    x: Tensor
    lines: Lines


def take_sample(table: Table, chosen: Tensor | slice) -> Sample:
    """Take the rows that are looked at: before the fit, so that fits on the same rows share it.

    Parameters
    ----------
    table : Table
        The training rows in the network's units.
    chosen : Tensor of shape (n,) or slice
    """
    x = table.x[chosen]
    return Sample(x, lines_of(x, table.t[chosen]))


def summarize(
    problem: Problem,
    outcome: Outcome,
    travel: Travel,
    module: nn.Sequential,
    rows: DescribedRows,
    sample: Sample,
    n_networks: int = 1,
) -> FitSummary:
    """Write the numbers of a fit down.

    Parameters
    ----------
    problem, outcome : Problem, Outcome
        What the fit was asked, and what it answered.
    travel : Travel
        Made before the fit.
    module : nn.Sequential
        The network between its scaling layers.
    rows : DescribedRows
        Of the training rows.
    sample : Sample
        Some of them.
    n_networks : int, default=1
        How many networks, trained on other folds each, the problem's network is the mean of.
    """
    layers = dict(module.named_children())
    link = link_of(module) if "link" in layers else None
    validation, lr = problem.validation, problem.optimizer.options.get("lr")
    n_validation = 0 if validation is None else len(validation.t)
    if n_networks > 1:
        # Each row was held out by one of them.
        n_validation = rows.n_rows
    journeys = travel.finish()
    return FitSummary(
        n_rows=rows.n_rows,
        n_validation=n_validation,
        n_parameters=sum(journey.n for journey in journeys),
        batch_size=problem.batch_size,
        max_epochs=problem.max_epochs,
        first_epoch=problem.first_epoch,
        optimizer=problem.optimizer.name,
        loss=problem.loss.name,
        dtype=str(problem.training.t.dtype).removeprefix("torch."),
        reason=outcome.reason,
        lr=None if lr is None else float(lr),
        standardize_x="standardize" in layers,
        standardize_y="unstandardize" in layers,
        x=rows.x,
        y=rows.y,
        far=rows.far,
        copies=rows.copies,
        journeys=journeys,
        look=look_inside(problem.network, sample.x, sample.lines, link),
        schedule=problem.schedule.name,
        n_networks=n_networks,
        keeps_best=validation is not None and problem.stopping.on_validation,
    )


class Travel:
    """Measures how far parameters go.

    Parameters
    ----------
    network : nn.Module
        As it is before it is trained; two numbers per tensor are kept in the end.
    """

    def __init__(self, network: nn.Module) -> None:
        self.names, self.tensors = [], []
        for name, parameter in network.named_parameters():
            # What holds no number goes nowhere.
            if parameter.numel():
                self.names.append(name)
                self.tensors.append(parameter)
        self.start = self._numbers()

    @classmethod
    def of_several(cls, travels: Sequence[Travel]) -> Travel:
        """Put those of the members of an ensemble together."""
        whole = cls.__new__(cls)
        numbered = [*enumerate(travels)]
        whole.names = [f"members.{i}.{name}" for i, travel in numbered for name in travel.names]
        whole.tensors = [tensor for travel in travels for tensor in travel.tensors]
        whole.start = [numbers for travel in travels for numbers in travel.start]
        return whole

    def finish(self) -> list[Journey]:
        """Hold the parameters against their start."""
        pairs = zip(self.names, self.start, self._numbers(), strict=True)
        return [_journey(name, before, after) for name, before, after in pairs]

    def _numbers(self) -> list[list[float] | Tensor]:
        """Copy the numbers of each tensor; few of them into a list."""
        return [
            _flat(tensor.tolist())
            if tensor.numel() <= FEW
            else tensor.detach().to("cpu", torch.float64, copy=True)
            for tensor in self.tensors
        ]


def _flat(values: Any) -> list[float]:
    """Unpack the lists in a list: of a few numbers it takes less time than a view of a tensor."""
    if not isinstance(values, list):
        return [values]
    while isinstance(values[0], list):
        values = [*chain.from_iterable(values)]
    numbers: list[float] = values
    return numbers


def _journey(name: str, before: list[float] | Tensor, after: list[float] | Tensor) -> Journey:
    """Measure how far one tensor went."""
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        n = before.numel()
        start, way = (float(torch.linalg.vector_norm(v)) for v in (before, after - before))
    else:
        n, start, way = len(before), math.hypot(*before), math.dist(before, after)
    return Journey(name, n, start / math.sqrt(n), way / math.sqrt(n))
