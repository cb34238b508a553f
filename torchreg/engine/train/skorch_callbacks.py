"""A skorch net that lives for the time of one fit, so that skorch's callbacks can listen.

The loop stays ours. The net holds what callbacks reach for (``module_``, ``optimizer_``,
``history``, ``predict``) and is told what happens: every batch, every epoch. Callbacks see
losses in standardized units, and ``X``, ``y`` and predictions in raw units.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import skorch
import torch
from skorch.callbacks import LRScheduler
from skorch.dataset import Dataset
from torch import Tensor, nn

from torchreg._utils import did_you_mean
from torchreg.engine.data import Batch
from torchreg.engine.spec import EpochRecord, TrainResult, trainable_parameters
from torchreg.optim import OptimizerSpec, ScheduleSpec


class _Net(skorch.NeuralNet):
    """skorch's net around a module and an optimizer that exist already."""

    def initialize_optimizer(self, triggered_directly: bool | None = None) -> _Net:
        """Take the optimizer as it is."""
        self.optimizer_ = self.optimizer
        return self


class SkorchObserver:
    """Tells skorch callbacks what happens; what they note ends up in the records.

    Parameters
    ----------
    callbacks : sequence
        skorch callbacks, or ``(name, callback)`` pairs.
    options : mapping
        Parameters of named callbacks, ``name__parameter``.
    module : nn.Module
        The whole network, raw units to raw units.
    optimizer : OptimizerSpec
        Built over the module's parameters, so that schedulers can reach it.
    to_raw : callable
        What the network gives to predictions in raw units.
    targets_to_raw : callable or None
        Standardized targets to raw units; ``None`` where they are the same.
    training, validation : pair of tensors (X, y), or None
        What data sets callbacks are shown, in raw units.
    device : torch.device
        Where the module lives.
    max_epochs, batch_size : int
        What progress bars count.
    schedule : ScheduleSpec
        How the learning rate moves, if no callback moves it.

    Raises
    ------
    ValueError
        If an option names no callback or parameter, or a callback moves the learning rate
        beside a schedule.
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
                f"callbacks has skorch's LRScheduler beside schedule={schedule.name!r}, but one "
                "alone can move the learning rate. Leave the callback out, or set "
                "schedule='constant'."
            )
        self.training = training
        self.data = {
            "dataset_train": Dataset(*training),
            "dataset_valid": None if validation is None else Dataset(*validation),
        }

    def begin(self) -> None:
        """Tell that training begins."""
        self.net.notify("on_train_begin", X=self.training[0], y=self.training[1])

    def on_fit_end(self, result: TrainResult) -> None:
        """Tell that training ends; a callback may put other weights back."""
        self.net.notify("on_train_end", X=self.training[0], y=self.training[1])

    def on_epoch_begin(self) -> None:
        """Open a new epoch in the history."""
        self.counts = {"train": 0, "valid": 0}
        self.net.notify("on_epoch_begin", **self.data)

    def on_batch_begin(self, batch: Batch, *, training: bool) -> None:
        """Open a new batch in the history."""
        self.net.notify("on_batch_begin", batch=self._raw(batch), training=training)

    def on_gradient(self) -> None:
        """Show the gradient, which a callback may clip."""
        named = list(self.net.get_all_learnable_params())
        self.net.notify("on_grad_computed", named_parameters=iter(named), training=True)

    def on_batch_end(
        self, batch: Batch, loss: float, prediction: Tensor, *, training: bool
    ) -> None:
        """Record the batch's loss and size, and show its predictions in raw units."""
        kind = "train" if training else "valid"
        self.counts[kind] += 1
        self.net.history.record_batch(f"{kind}_loss", loss)
        self.net.history.record_batch(f"{kind}_batch_size", len(batch.t))
        self.net.notify(
            "on_batch_end",
            batch=self._raw(batch),
            training=training,
            loss=torch.tensor(loss),
            y_pred=self.to_raw(prediction),
        )

    def on_epoch_end(self, record: EpochRecord) -> bool:
        """Close the epoch; skorch's callbacks end a fit by a KeyboardInterrupt."""
        for kind, count in self.counts.items():
            if count:
                self.net.history.record(f"{kind}_batch_count", count)
        stop = False
        try:
            self.net.notify("on_epoch_end", **self.data)
        except KeyboardInterrupt:
            stop = True
        ours = ("batches", "epoch", "train_loss", "valid_loss")
        noted = {k: v for k, v in self.net.history[-1].items() if k not in ours}
        record.extra.update(copy.copy(noted))
        return stop

    def _raw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return batch.x, self.targets_to_raw(batch.t)
