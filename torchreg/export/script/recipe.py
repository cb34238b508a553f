"""What a script is to be written about: plain records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchreg.nn import Link


class RowsToWrite(NamedTuple):
    """Rows in raw units: x (n, n_features), y (n, n_outputs), weight (n,) or ``None``."""

    x: Tensor
    y: Tensor
    weight: Tensor | None


class Constants(NamedTuple):
    """Mean and scale of each column, float64, in raw units."""

    mean: Tensor
    scale: Tensor


@dataclass(frozen=True)
class NetworkRecipe:
    """The network, and how it came to be.

    Parameters
    ----------
    networks : sequence of nn.Module
        Fitted, from standardized inputs to standardized outputs: one, or several whose mean is
        the prediction.
    of_x, of_y : Constants or None
        ``None`` where nothing is standardized. ``of_y`` has a place for each number that the
        network gives.
    dtype : torch.dtype
        In which it computes.
    build : callable or None
        What built it; ``None`` writes it layer by layer.
    settings : mapping
        Arguments of ``build``.
    starts : sequence of nn.Module
        The same before they were trained, where building them anew does not give that; else
        empty.
    draws_before : bool
        Whether its weights were drawn from the seed, and so come before dropout's numbers.
    is_lazy : bool
        Whether ``build`` makes layers that take their widths from the first rows.
    draws : bool
        Whether it draws random numbers while it trains.
    mutates_input : bool
        Whether it must be given a copy of its input.
    is_flat : bool
        Whether it gives shape (n,) and not (n, n_outputs).
    has_members : bool
        Whether it gives shape (n, n_members, n_outputs).
    has_data_init : bool
        Whether it has a method ``initialize_from`` that is shown the training rows.
    changed : sequence of (str, nn.Module or object)
        What that made of it, beside new numbers: see
        :func:`torchreg.export.script.reshaped.changed_parts`.
    casts : bool
        Whether building it anew gives numbers that are not float32.
    link : Link or None
        What makes predictions of the numbers that the network gives, still standardized.
    """

    networks: Sequence[nn.Module]
    of_x: Constants | None
    of_y: Constants | None
    dtype: torch.dtype
    build: Callable[..., Any] | None
    settings: Mapping[str, Any]
    starts: Sequence[nn.Module]
    draws_before: bool
    is_lazy: bool
    draws: bool
    mutates_input: bool
    is_flat: bool
    has_members: bool
    has_data_init: bool
    changed: Sequence[tuple[str, Any]] = ()
    casts: bool = False
    link: Link | None = None

    @property
    def central(self) -> str:
        """The columns among those that the network gives that are the predictions, as an index."""
        if self.link is None or self.link.per_output == 1:
            return ""
        return f"{self.link.index}::{self.link.per_output}"

    @property
    def fitted(self) -> nn.Module:
        """The fitted network, or the first of several that differ in their numbers only."""
        return self.networks[0]

    @property
    def start(self) -> nn.Module | None:
        """The same before it was trained, where building it anew does not give that."""
        return self.starts[0] if self.starts else None


@dataclass(frozen=True)
class ScheduleRecipe:
    """How the learning rate moved.

    Parameters
    ----------
    build : callable
        Torch's scheduler, or what makes one, given the optimizer.
    options : mapping
        Its further arguments.
    steps : str or None
        The argument that is the number of steps.
    every : {"step", "epoch", "loss"}
        When it moves: after each step, after each epoch, or by the loss of each epoch.
    epochs : int
        Over which it was to go.
    """

    build: Callable[..., Any]
    options: Mapping[str, Any]
    steps: str | None
    every: str
    epochs: int


@dataclass(frozen=True)
class TrainingRecipe:
    """How the network was trained.

    Parameters
    ----------
    loss : callable
        Compares standardized values.
    loss_shape : {"element", "row", "number", "other"}
        What it returns for shape (n, n_outputs): (n, n_outputs), (n,), () or more.
    optimizer : type
        A ``torch.optim.Optimizer`` class.
    options : mapping
        Its arguments, learning rate included.
    uses_line_search : bool
        Whether a step evaluates the loss several times, on inputs rounded to float32.
    seed : int
        Of weights and batches.
    split_seed : int
        Of the rows held out.
    epochs : int
        At most.
    batch_size : int or None
        Rows per step; ``None`` is all of them.
    lone_row : bool
        Whether a last batch of one row may be left, which joins the one before.
    merges : bool
        Whether identical rows are merged, their weights summed.
    weighted_rows : bool
        Whether rows come with weights.
    held_out : float or None
        Share of the rows held out.
    given_validation : bool
        Whether there are validation rows of their own.
    keeps_best : bool
        Whether validation rows say which weights to keep, and with patience when to stop.
    patience : int or None
        Epochs without improvement that are waited for; ``None`` trains to the end.
    tol : float
        Relative improvement that counts.
    schedule : ScheduleRecipe or None
        ``None`` leaves the learning rate as it is.
    seeds : sequence of int, default=()
        Of several networks, each of which holds out a fold of the rows.
    """

    loss: Callable[..., Any]
    loss_shape: str
    optimizer: type[torch.optim.Optimizer]
    options: Mapping[str, Any]
    uses_line_search: bool
    seed: int
    split_seed: int
    epochs: int
    batch_size: int | None
    lone_row: bool
    merges: bool
    weighted_rows: bool
    held_out: float | None
    given_validation: bool
    keeps_best: bool
    patience: int | None
    tol: float
    schedule: ScheduleRecipe | None = None
    seeds: Sequence[int] = ()

    @property
    def weighted(self) -> bool:
        """Whether rows have weights when the loss is averaged."""
        return self.weighted_rows or self.merges

    @property
    def validates(self) -> bool:
        """Whether validation rows decide which weights to keep, or what the learning rate is."""
        return self.held_out is not None or self.given_validation or bool(self.seeds)


@dataclass(frozen=True)
class Recipe:
    """Everything that a script is written from.

    Parameters
    ----------
    network : NetworkRecipe
    training : TrainingRecipe
    features, targets : list of str
        Names of the columns, all different.
    weight_name : str
        Name of the column of weights, different from these.
    rows, validation_rows : RowsToWrite or None
        Written beside the script.
    remarks : list of str
        What the script cannot repeat: sentences.
    """

    network: NetworkRecipe
    training: TrainingRecipe
    features: list[str]
    targets: list[str]
    weight_name: str
    rows: RowsToWrite | None
    validation_rows: RowsToWrite | None
    remarks: list[str] = field(default_factory=list)
