"""Adapters that run skorch callbacks in the training loop of torchreg.

A skorch net exists for the time of a fit. It has the attributes that callbacks use (``module_``,
``optimizer_``, ``history``, ``predict``). Callbacks see losses in standardized units; ``X``, ``y``
and predictions in raw units.

Callbacks that act on a network within an epoch (:func:`acts_on_network`) belong to one network,
whose net is notified of every batch: :class:`NetworkCallbacks`. All others receive the epochs of
the fit, the means of its networks: :class:`FitCallbacks`. With one network, all callbacks are in
one net, so that they share one history.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import CodeType
from typing import Any

import skorch
import torch
from skorch.callbacks import Callback, LRScheduler, ParamMapper, ProgressBar, TensorBoard
from skorch.dataset import Dataset
from torch import Tensor, nn

from torchreg._utils import did_you_mean
from torchreg.engine.data import Batch
from torchreg.engine.spec import EpochRecord, FitConfig, ObserverError, trainable_parameters
from torchreg.nn.links import point_prediction, target_layer

_BATCH_EVENTS = ("on_batch_begin", "on_batch_end", "on_grad_computed")
#: Names that code uses which acts on the optimizer or on gradients.
_ACTING_NAMES = {
    "get_all_learnable_params",
    "load_params",
    "optimizer_",
    "param_groups",
    "requires_grad",
    "requires_grad_",
}
#: What a net records of each epoch itself.
_OWN_KEYS = ("batches", "epoch", "train_loss", "valid_loss")

Rows = tuple[Tensor, Tensor]


def split_callbacks(config: FitConfig) -> FitConfig:
    """Move the callbacks that receive the epochs of the fit to ``fit_callbacks``.

    Raises
    ------
    ValueError
        If an option names no callback.
    """
    named = {item[0] for item in config.callbacks if isinstance(item, tuple | list)}
    for option in config.callback_options:
        name = option.partition("__")[0]
        if name not in named:
            raise ValueError(
                f"callbacks__{option} names no callback.{did_you_mean(name, named)} "
                "Give callbacks as (name, callback) pairs to set their parameters."
            )
    several = config.n_networks > 1 or config.ensemble is not None
    acting = [acts_on_network(_callback_of(item), several=several) for item in config.callbacks]
    if any(acting) and not several:
        return config
    pairs = [*zip(acting, config.callbacks, strict=True)]
    return replace(
        config,
        callbacks=[item for acts, item in pairs if acts],
        fit_callbacks=[item for acts, item in pairs if not acts],
    )


def _callback_of(item: Any) -> Any:
    return item[1] if isinstance(item, tuple | list) else item


def acts_on_network(callback: Any, *, several: bool = False) -> bool:
    """Return whether a callback acts on a network or its optimizer, or listens to batches.

    Its methods are searched for the names of such actions.

    Parameters
    ----------
    callback : skorch callback, its class or None
    several : bool, default=False
        Whether the fit has several networks, whose progress bars and logs would interleave.

    Examples
    --------
    >>> from skorch.callbacks import EarlyStopping, Freezer
    >>> acts_on_network(EarlyStopping()), acts_on_network(Freezer("a.*"))
    (False, True)
    """
    kind = callback if isinstance(callback, type) else type(callback)
    log_batches = getattr(callback, "log_on_batch_end", None)
    # Loggers have batch methods, which do nothing unless they log batches.
    if log_batches is False or (several and (log_batches or issubclass(kind, ProgressBar))):
        return False
    if hasattr(callback, "dirname"):
        # It saves the state of the optimizer.
        return True
    own = [cls for cls in kind.__mro__ if cls not in (Callback, object)]
    codes = [code for cls in own for code in _codes_of(vars(cls).values())]
    if any(not _ACTING_NAMES.isdisjoint(code.co_names) for code in codes):
        return True
    own = [cls for cls in own if cls is not TensorBoard]
    return any(event in vars(cls) for cls in own for event in _BATCH_EVENTS)


def _codes_of(values: Iterable[Any]) -> Iterator[CodeType]:
    for value in values:
        function = getattr(value, "__func__", getattr(value, "fget", value))
        code = value if isinstance(value, CodeType) else getattr(function, "__code__", None)
        if code is not None:
            yield code
            yield from _codes_of(code.co_consts)


class _Net(skorch.NeuralNet):
    """skorch net around an existing module and optimizer."""

    def initialize_optimizer(self, triggered_directly: bool | None = None) -> _Net:
        """Use the existing optimizer."""
        self.optimizer_ = self.optimizer
        return self

    def get_all_learnable_params(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters with their names in the module of the user."""
        yield from self.module_.get_submodule("network").named_parameters()


class _Callbacks:
    """Notifies callbacks, and copies what they record to the records of epochs.

    Parameters
    ----------
    callbacks : sequence
        skorch callbacks, or ``(name, callback)`` pairs.
    config : FitConfig
    module : nn.Sequential
        The network with its scaling layers: raw units to raw units.
    training, validation : pair of tensors (X, y), or None
        Data sets for the callbacks, in raw units.
    batch_size : int
        For progress bars.

    Raises
    ------
    ValueError
        If an option names no parameter, or if both a callback and ``schedule`` change the learning
        rate.
    """

    def __init__(
        self,
        callbacks: Sequence[Any],
        config: FitConfig,
        module: nn.Sequential,
        training: Rows,
        validation: Rows | None,
        batch_size: int,
    ) -> None:
        self.optimizer = config.optimizer.build_torch(trainable_parameters(module))
        named = {item[0] for item in callbacks if isinstance(item, tuple | list)}
        options: Mapping[str, Any] = {
            f"callbacks__{option}": value
            for option, value in config.callback_options.items()
            if option.partition("__")[0] in named
        }
        self.net = _Net(
            module,
            criterion=nn.MSELoss,
            optimizer=self.optimizer,
            callbacks=list(callbacks),
            train_split=None,
            max_epochs=config.max_epochs,
            batch_size=batch_size,
            device=str(config.device),
            verbose=0,
            **options,
        )
        self.net.initialize()
        schedulers = [c for _, c in self.net.callbacks_ if isinstance(c, LRScheduler)]
        if schedulers and config.schedule.changes_lr:
            raise ValueError(
                f"callbacks has an LRScheduler and schedule={config.schedule.name!r}, but only one "
                "of them can change the learning rate. Remove the callback, or set "
                "schedule='constant'."
            )
        self.training = training
        self.counts = {"train": 0, "valid": 0}
        self.data = {
            "dataset_train": Dataset(*training),
            "dataset_valid": None if validation is None else Dataset(*validation),
        }

    def on_fit_begin(self) -> None:
        """Notify the callbacks that training begins."""
        self._notify("on_train_begin", X=self.training[0], y=self.training[1])

    def on_fit_end(self) -> None:
        """Notify the callbacks that training has ended; they may restore other weights."""
        self._notify("on_train_end", X=self.training[0], y=self.training[1])

    def on_epoch_begin(self) -> None:
        """Start a new epoch in the history."""
        self.counts = {"train": 0, "valid": 0}
        self._notify("on_epoch_begin", **self.data)

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
        record.extra.update({k: v for k, v in self.net.history[-1].items() if k not in _OWN_KEYS})
        return stop

    def _record_batch(self, kind: str, loss: float, n_rows: int) -> None:
        self.counts[kind] += 1
        self.net.history.record_batch(f"{kind}_loss", loss)
        self.net.history.record_batch(f"{kind}_batch_size", n_rows)

    def _notify(self, event: str, **values: Any) -> None:
        try:
            self.net.notify(event, **values)
        except Exception as error:
            if not self.counts["valid"] and "not found in history" in str(error):
                error = ValueError(
                    f"A callback failed because there are no validation rows: {error.args[0]} Set "
                    "early_stopping=True or n_folds, pass X_val and y_val to fit, or let the "
                    "callback use the training rows, as with monitor='train_loss'."
                )
            raise ObserverError(error) from error


class NetworkCallbacks(_Callbacks):
    """Notifies callbacks of the batches and epochs of one network, whose steps are eager.

    Parameters
    ----------
    config, module, *args : see :class:`_Callbacks`
    """

    def __init__(self, config: FitConfig, module: nn.Sequential, *args: Any) -> None:
        super().__init__(config.callbacks, config, module, *args)
        self.module, self.targets_to_raw = module, target_layer(module) or nn.Identity()

    def unmatched_patterns(self) -> list[str]:
        """Describe the patterns of callbacks such as ``Freezer`` that match no parameter."""
        named = [*self.net.get_all_learnable_params()]
        mappers = [c for _, c in self.net.callbacks_ if isinstance(c, ParamMapper)]
        return [
            f"{type(mapper).__name__}({pattern!r}) matches no parameter of the module, which has "
            f"{', '.join(name for name, _ in named[:6])}{', ...' if len(named) > 6 else ''}"
            for mapper in mappers
            for pattern in mapper.patterns
            if not any(mapper.filter_parameters([pattern], named))
        ]

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
        self._record_batch("train" if training else "valid", loss, len(batch.t))
        self._notify(
            "on_batch_end",
            batch=self._raw(batch),
            training=training,
            loss=torch.tensor(loss),
            y_pred=self._to_raw(prediction),
        )

    def _to_raw(self, output: Tensor) -> Tensor:
        """Convert the network's output to predictions in raw units, one column per output."""
        for name in ("link", "average", "unstandardize"):
            layer = getattr(self.module, name, None)
            output = output if layer is None else layer(output)
        return point_prediction(self.module, output)

    def _raw(self, batch: Batch) -> Rows:
        return batch.x, self.targets_to_raw(batch.t)


class FitCallbacks(_Callbacks):
    """Notifies callbacks of the epochs of a fit, each with one batch: the mean of its networks.

    Parameters
    ----------
    config, *args : see :class:`_Callbacks`
        With several networks the module averages them.
    """

    def __init__(self, config: FitConfig, *args: Any) -> None:
        super().__init__(config.fit_callbacks, config, *args)
        self.initial = self._hyperparams()

    def on_epoch_end(self, record: EpochRecord) -> bool:
        """Record the means of the epoch as a batch, and notify the callbacks.

        Raises
        ------
        ObserverError
            If a callback changed the optimizer, which takes no part in captured steps.
        """
        for kind, loss in (("train", record.loss), ("valid", record.validation_loss)):
            if loss is not None:
                self.net.history.new_batch()
                self._record_batch(kind, loss, len(self.training[1]))
                self._notify("on_batch_end", batch=None, training=kind == "train")
        for key, value in record.extra.items():
            self.net.history.record(key, value)
        stop = super().on_epoch_end(record)
        if self._hyperparams() != self.initial:
            raise ObserverError(
                ValueError(
                    "A callback changed the optimizer or froze parameters through a function "
                    "outside its class, so that torchreg could not know that it does. Use "
                    "net.optimizer_ or get_all_learnable_params in a method of the callback, "
                    "skorch's LRScheduler or Freezer, or schedule."
                )
            )
        return stop

    def _hyperparams(self) -> list[Any]:
        groups = self.optimizer.param_groups
        options = [{k: v for k, v in group.items() if k != "params"} for group in groups]
        return [options, [p.requires_grad for group in groups for p in group["params"]]]
