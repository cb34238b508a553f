"""The observers of a fit, which receive one history: the mean of its networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any, Protocol

from torch import nn

from torchreg.engine.spec.train_task import EpochRecord, Observer, ObserverError, TaskResult


class LossHistory(Protocol):
    """What a network recorded: losses of each epoch, and values of callbacks by epoch."""

    losses: list[float]
    extra: dict[int, dict[str, Any]]

    @property
    def validation_losses(self) -> list[float] | None:
        """Validation loss of each epoch; empty or ``None`` without validation rows."""


class NetworkRun(LossHistory, Protocol):
    """A network of the fit that trains, or has a result."""

    network: nn.Module
    rates: list[float]
    result: TaskResult | None


class FitMonitor:
    """Notifies the observers of a fit, once per epoch, of the mean over its networks.

    The networks of the fit train epoch by epoch in turn, or together. What an observer raises ends
    the fit.

    Parameters
    ----------
    observers : list of Observer
    first_epoch : int
        Number of epochs trained by earlier fits (warm start).

    Attributes
    ----------
    runs : dict of int to NetworkRun
        By identity of the task.
    last_epoch : float
        The epoch after which an observer asked to stop; infinite until then.
    error : Exception or None
        What an observer raised.
    extra : dict of int to dict
        Values that callbacks recorded, by epoch.
    warnings : list of str
        What is wrong with the callbacks.
    """

    def __init__(self, observers: list[Observer], first_epoch: int) -> None:
        self.observers, self.first_epoch = observers, first_epoch
        self.runs: dict[int, NetworkRun] = {}
        self.last_epoch, self.is_over = math.inf, False
        self.error: Exception | None = None
        self.extra: dict[int, dict[str, Any]] = {}
        self.warnings: list[str] = []

    @property
    def is_active(self) -> bool:
        """Whether a network of the fit still trains."""
        return any(run.result is None for run in self.runs.values())

    def begin_fit(self) -> None:
        """Notify the observers before the first step."""
        self._notify(lambda observer: observer.on_fit_begin())

    def begin_epoch(self) -> None:
        """Notify the observers that an epoch begins."""
        if self.is_active:
            self._notify(lambda observer: observer.on_epoch_begin())

    def end_epoch(self) -> None:
        """Notify the observers of the mean losses of an epoch, which all networks have finished."""
        if not self.is_active:
            return
        record = self._last_record()
        if any(self._notify(lambda observer: observer.on_epoch_end(record))):
            self.last_epoch = record.epoch
        if record.extra:
            self.extra[record.epoch] = record.extra

    def end_fit(self) -> None:
        """Notify the observers once all networks hold their final weights."""
        if not (self.is_active or self.is_over):
            self.is_over = True
            if any(not isinstance(run.result, Exception) for run in self.runs.values()):
                self._notify(lambda observer: observer.on_fit_end())

    def _last_record(self) -> EpochRecord:
        runs = [run for run in self.runs.values() if not isinstance(run.result, Exception)]
        longest = max(runs, key=lambda run: len(run.losses))
        index = len(longest.losses) - 1
        epoch = self.first_epoch + index + 1
        return EpochRecord(
            epoch,
            mean_training_loss(runs, index),
            mean_validation_loss(runs, index) if longest.validation_losses else None,
            extra=mean_extra(runs, longest.extra.get(epoch, {}), epoch),
            lr=longest.rates[-1] if longest.rates else None,
        )

    def _notify(self, call: Callable[[Observer], Any]) -> list[Any]:
        if self.error is not None:
            return []
        try:
            return [call(observer) for observer in self.observers]
        except Exception as error:
            self.error = error.error if isinstance(error, ObserverError) else error
            return []
        finally:
            self._restore_training_mode()

    def _restore_training_mode(self) -> None:
        """Undo that an observer that predicts leaves the networks in evaluation mode."""
        for run in self.runs.values():
            if run.result is None and not run.network.training:
                run.network.train()


def mean_training_loss(runs: Sequence[LossHistory], index: int) -> float:
    """Average the training loss of an epoch.

    Of a network that has stopped, the loss of the weights that it keeps counts in later epochs.
    """
    return _mean(run.losses[index : index + 1] or _kept_loss(run) for run in runs)


def _kept_loss(run: LossHistory) -> list[float]:
    validation = run.validation_losses
    kept = validation.index(min(validation)) if validation else len(run.losses) - 1
    return run.losses[kept : kept + 1]


def mean_validation_loss(runs: Sequence[LossHistory], index: int) -> float:
    """Average the validation loss of an epoch.

    A network that has stopped keeps its best weights, whose loss counts in later epochs.
    """
    losses = [run.validation_losses or [] for run in runs]
    return _mean(own[index : index + 1] or [min(own)] for own in losses)


def mean_extra(runs: Sequence[LossHistory], extra: dict[str, Any], epoch: int) -> dict[str, Any]:
    """Average the numbers that callbacks recorded in an epoch; keep other values."""

    def mean(key: str, value: Any) -> Any:
        if not isinstance(value, Real) or isinstance(value, bool):
            return value
        extras = (run.extra.get(epoch, {}) for run in runs)
        return _mean([float(own[key])] for own in extras if key in own)

    return {key: mean(key, value) for key, value in extra.items()}


def _mean(parts: Iterable[list[float]]) -> float:
    values = [value for part in parts for value in part]
    return sum(values) / len(values)
