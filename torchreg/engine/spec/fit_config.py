"""What a fit is asked for, in the words of the estimator's parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from torchreg.engine.data import Rows
from torchreg.engine.spec.train_task import CheckpointStore, Observer, Stopping
from torchreg.losses import Loss
from torchreg.optim import OptimizerSpec, ScheduleSpec


@dataclass(frozen=True)
class RawData:
    """Rows in raw units: x (n, n_features), y (n, n_outputs), weight (n,) or ``None``."""

    x: Rows
    y: Tensor
    weight: Tensor | None


@dataclass(frozen=True)
class FitConfig:
    """What a fit is asked for, in the words of the estimator's parameters.

    Parameters
    ----------
    module, module_options : see :func:`torchreg.engine.build.network.build_network`
    loss : Loss
    optimizer : OptimizerSpec
    batch_size : int, None or "auto"
    max_epochs : int
    standardize_x, standardize_y : bool
    stopping : Stopping
    callbacks, callback_options : skorch's callbacks and their parameters
    device : torch.device
    dtype : {"auto", "float32", "float64"} or torch.dtype
    seed : int
    observers : callable
        Makes the observers of this fit, given the module.
    start : nn.Sequential or None
        A fitted module to go on from: its statistics and dtype are kept.
    first_epoch : int
        How many epochs ``start`` has seen.
    checkpoint_store : CheckpointStore or None
        Who keeps the state of the fit, so that it can go on in another process.
    n_init : int
        How many networks are drawn and trained, of which the best is kept.
    n_folds : int
        How many are trained to be averaged, each of which holds out another part of the rows.
        1: one, on all rows.
    schedule : ScheduleSpec
        How the learning rate moves.
    """

    module: nn.Module | Callable[..., nn.Module]
    module_options: Mapping[str, Any]
    loss: Loss
    optimizer: OptimizerSpec
    batch_size: int | str | None
    max_epochs: int
    standardize_x: bool
    standardize_y: bool
    stopping: Stopping
    callbacks: Sequence[Any]
    callback_options: Mapping[str, Any]
    device: torch.device
    dtype: str | torch.dtype
    seed: int
    observers: Callable[[nn.Sequential], list[Observer]]
    start: nn.Sequential | None = None
    first_epoch: int = 0
    checkpoint_store: CheckpointStore | None = None
    n_init: int = 1
    n_folds: int = 1
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)

    @property
    def n_networks(self) -> int:
        """Count the networks that are trained."""
        return max(self.n_init, self.n_folds)


@dataclass(frozen=True)
class FitJob:
    """One fit that is to be done: how, and on which rows.

    Parameters
    ----------
    config : FitConfig
        How.
    training, validation : RawData
        On what. Statistics never see the validation rows.
    """

    config: FitConfig
    training: RawData
    validation: RawData | None = None
