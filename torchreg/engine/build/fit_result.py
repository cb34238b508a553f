"""What a fit gave."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from torchreg.diagnosis.record import FitSummary
from torchreg.engine.inspect.probe import Looks, ProbeTarget
from torchreg.engine.spec.train_task import TrainResult


@dataclass(frozen=True)
class FitResult:
    """What a fit gave.

    Parameters
    ----------
    module : nn.Sequential
        Raw units to raw units.
    dtype : torch.dtype
        Of its network.
    train_result : TrainResult
        What training said.
    summary : FitSummary
        Its numbers.
    seed : int
        From which the network was drawn that was kept.
    init_losses : list of float
        The loss that each of ``n_init`` networks ended with, in standardized units; infinite
        for one that could not begin.
    interrupted : bool
        Whether the user ended the training, of this network or of another.
    is_copy : bool
        Whether the module has empty containers in common with others; see
        :func:`torchreg.engine.build.drafts.give_containers`.
    """

    module: nn.Sequential
    dtype: torch.dtype
    train_result: TrainResult
    summary: FitSummary
    seed: int
    init_losses: list[float]
    interrupted: bool = False
    is_copy: bool = False


class SelectedModel(NamedTuple):
    """What is kept of a job, before it is looked at.

    Parameters
    ----------
    view : ProbeTarget
        What is to be looked at.
    summarized, fitted : callable
        Give the numbers of the fit when they are given the look, and what it gave when they are
        given those.
    """

    view: ProbeTarget
    summarized: Callable[..., FitSummary]
    fitted: Callable[..., FitResult]

    def conclude(self, looks: Looks) -> FitResult:
        """Write down the numbers that a diagnosis needs."""
        return self.fitted(summary=self.summarized(look=looks.of(self.view)))


def final_loss(result: TrainResult) -> float:
    """Give the loss of the weights that a network holds: validation, where there is any."""
    # The weights from before the first epoch have no loss of their own but that of the first.
    losses = result.losses if result.validation_losses is None else result.validation_losses
    loss = losses[max(result.best_epoch - result.first_epoch, 1) - 1]
    return loss if math.isfinite(loss) else math.inf
