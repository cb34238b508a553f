"""Adapter that runs skorch callbacks in the training loop of torchreg.

A skorch net exists for the time of a fit. It has the attributes that callbacks use (``module_``,
``optimizer_``, ``history``, ``predict``) and is notified of every batch and epoch. Callbacks see
losses in standardized units; ``X``, ``y`` and predictions in raw units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import skorch
import torch
from skorch.callbacks import LRScheduler
from skorch.dataset import Dataset
from torch import Tensor, nn

from torchreg._utils import did_you_mean
from torchreg.engine.data import Batch
from torchreg.engine.spec import EpochRecord, ObserverError, TrainResult, trainable_parameters
from torchreg.optim import OptimizerSpec, ScheduleSpec


class _Net(skorch.NeuralNet):
    """skorch net around an existing module and optimizer."""

    def initialize_optimizer(self, triggered_directly: bool | None = None) -> _Net:
        """Use the existing optimizer."""
        self.optimizer_ = self.optimizer
        return self


class SkorchObserver:
    """Notifies skorch callbacks, and copies what they record to the records of epochs.

    Parameters
    ----------
    callbacks : sequence
        skorch callbacks, or ``(name, callback)`` pairs.
    options : mapping
        Parameters of named callbacks, ``name__parameter``.
    module : nn.Module
        The network with its scaling layers: raw units to raw units.
    optimizer : OptimizerSpec
        Builds the torch optimizer, which schedulers of callbacks may change.
    to_raw : callable
        Transforms outputs of the network to predictions in raw units.
    targets_to_raw : callable or None
        Transforms standardized targets to raw units; ``None`` for the identity.
    training, validation : pair of tensors (X, y), or None
        Data sets for the callbacks, in raw units.
    device : torch.device
        Device of the module.
    max_epochs, batch_size : int
        For progress bars.
    schedule : ScheduleSpec
        Learning-rate schedule of the fit.

    Raises
    ------
    ValueError
        If an option names no callback or parameter, or if both a callback and ``schedule``
        change the learning rate.
    """

    def __init__(
        self,
        callbacks: Sequence[Any],
        options: Mapping[str, Any],
        *,
        module: nn.Module,
        optimizer: OptimizerSpec,
        to_raw: Callable[[Tensor], Tensor],
        targets_to_raw: Callable[[Tensor], Tensor] | None,
        training: tuple[Tensor, Tensor],
        validation: tuple[Tensor, Tensor] | None,
        device: torch.device,
        max_epochs: int,
        batch_size: int,
        schedule: ScheduleSpec,
    ) -> None:
        self.optimizer = optimizer.build_torch(trainable_parameters(module))
        self.to_raw, self.targets_to_raw = to_raw, targets_to_raw or nn.Identity()
        named = {item[0] for item in callbacks if isinstance(item, tuple | list)}
        for option in options:
            name = option.partition("__")[0]
            if name not in named:
                raise ValueError(
                    f"callbacks__{option} names no callback.{did_you_mean(name, named)} "
                    "Give callbacks as (name, callback) pairs to set their parameters."
                )
        self.net = _Net(
            module,
            criterion=nn.MSELoss,
            optimizer=self.optimizer,
            callbacks=list(callbacks),
            train_split=None,
            max_epochs=max_epochs,
            batch_size=batch_size,
            device=str(device),
            verbose=0,
            **{f"callbacks__{key}": value for key, value in options.items()},
        )
        self.net.initialize()
        schedulers = [c for _, c in self.net.callbacks_ if isinstance(c, LRScheduler)]
        if schedulers and schedule.changes_lr:
            raise ValueError(
                f"callbacks has an LRScheduler and schedule={schedule.name!r}, but only one of "
                "them can change the learning rate. Remove the callback, or set "
                "schedule='constant'."
            )
        self.training = training
        self.data = {
            "dataset_train": Dataset(*training),
            "dataset_valid": None if validation is None else Dataset(*validation),
        }

    def begin(self) -> None:
        """Notify the callbacks that training begins."""
        self._notify("on_train_begin", X=self.training[0], y=self.training[1])

    def on_fit_end(self, result: TrainResult) -> None:
        """Notify the callbacks that training has ended; they may restore other weights."""
        self._notify("on_train_end", X=self.training[0], y=self.training[1])

    def on_epoch_begin(self) -> None:
        """Start a new epoch in the history."""
        self.counts = {"train": 0, "valid": 0}
        self._notify("on_epoch_begin", **self.data)

    def on_batch_begin(self, batch: Batch, *, training: bool) -> None:
        """Start a new batch in the history."""
        self._notify("on_batch_begin", batch=self._raw(batch), training=training)

    def on_gradient(self) -> None:
        """Notify the callbacks of the gradient, which they may clip."""
        named = list(self.net.get_all_learnable_params())
        self._notify("on_grad_computed", named_parameters=iter(named), training=True)

    def on_batch_end(
        self, batch: Batch, loss: float, prediction: Tensor, *, training: bool
    ) -> None:
        """Record loss and size of the batch; pass predictions in raw units to the callbacks."""
        kind = "train" if training else "valid"
        self.counts[kind] += 1
        self.net.history.record_batch(f"{kind}_loss", loss)
        self.net.history.record_batch(f"{kind}_batch_size", len(batch.t))
        self._notify(
            "on_batch_end",
            batch=self._raw(batch),
            training=training,
            loss=torch.tensor(loss),
            y_pred=self.to_raw(prediction),
        )

    def on_epoch_end(self, record: EpochRecord) -> bool:
        """Finish the epoch; skorch callbacks stop a fit with a KeyboardInterrupt."""
        for kind, count in self.counts.items():
            if count:
                self.net.history.record(f"{kind}_batch_count", count)
        stop = False
        try:
            self._notify("on_epoch_end", **self.data)
        except KeyboardInterrupt:
            stop = True
        own = ("batches", "epoch", "train_loss", "valid_loss")
        record.extra.update({k: v for k, v in self.net.history[-1].items() if k not in own})
        return stop

    def _notify(self, event: str, **values: Any) -> None:
        try:
            self.net.notify(event, **values)
        except Exception as error:
            if self.data["dataset_valid"] is None and "not found in history" in str(error):
                error = ValueError(
                    f"A callback failed because there are no validation rows: {error.args[0]} Set "
                    "early_stopping=True or n_folds, pass X_val and y_val to fit, or let the "
                    "callback use the training rows, as with monitor='train_loss'."
                )
            raise ObserverError(error) from error

    def _raw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return batch.x, self.targets_to_raw(batch.t)
