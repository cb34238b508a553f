"""Configuration and raw data of a fit."""

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


@dataclass(frozen=True, eq=False)
class RawData:
    """Rows in raw units: x (n, n_features), y (n, n_outputs), weight (n,) or ``None``.

    Compared and hashed by identity.
    """

    x: Rows
    y: Tensor
    weight: Tensor | None


@dataclass(frozen=True)
class FitConfig:
    """Configuration of a fit, in the terms of the estimator's parameters.

    Parameters
    ----------
    module, module_options : see :func:`torchreg.engine.build.build_network`
    loss : Loss
    optimizer : OptimizerSpec
    batch_size : int, None or "auto"
    max_epochs : int
    standardize_x, standardize_y : bool
    stopping : Stopping
    callbacks, callback_options : skorch callbacks and their parameters
    ensemble : object or None, default=None
        Identity of the ensemble that the fit belongs to; its fits share one history.
    fit_callbacks : sequence
        Those callbacks that receive the epochs of the fit instead of each network's batches.
    device : torch.device
    dtype : {"auto", "float32", "float64"} or torch.dtype
    seed : int
    observers : callable
        Builds the observers of the fit, given a function that builds the module of the fit, which
        averages several networks.
    initial_module : nn.Sequential or None, default=None
        Fitted module to continue from; its statistics and dtype are kept.
    first_epoch : int, default=0
        Number of epochs that ``initial_module`` was trained for.
    checkpoint_store : CheckpointStore or None, default=None
        Stores the state of the fit, so that another process can resume it.
    n_init : int, default=1
        Number of networks to train, of which the best is selected.
    n_folds : int, default=1
        Number of cross-validation folds. Above 1, one network is trained per fold, and their
        predictions are averaged.
    schedule : ScheduleSpec
        Learning-rate schedule.
    report : callable
        Receives lines for the user, which ``verbose`` prints.
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
    observers: Callable[[Callable[[], nn.Sequential]], list[Observer]]
    initial_module: nn.Sequential | None = None
    first_epoch: int = 0
    checkpoint_store: CheckpointStore | None = None
    n_init: int = 1
    n_folds: int = 1
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    report: Callable[[str], object] = str
    ensemble: object | None = None
    fit_callbacks: Sequence[Any] = ()

    @property
    def n_networks(self) -> int:
        """Number of networks to train."""
        return max(self.n_init, self.n_folds)


@dataclass(frozen=True)
class FitJob:
    """One fit: its configuration and its data.

    Parameters
    ----------
    config : FitConfig
    training : RawData
    validation : RawData or None, default=None
        ColumnStatistics are computed from the training rows alone.
    """

    config: FitConfig
    training: RawData
    validation: RawData | None = None
