"""Observers of a fit: the printed table and scikit-learn's callbacks."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from typing import Any

from torch import nn

from torchreg.engine.build import FitResult
from torchreg.engine.spec import EpochRecord, Observer


class EpochPrinter(Observer):
    """Print the losses as a table: about 20 rows with ``verbose=1``, every epoch with more.

    Parameters
    ----------
    max_epochs : int
        Budget, which sets the number of epochs per row.
    first_epoch : int
        Number of epochs of earlier fits.
    verbose : int
        1 or more.
    standardized : bool
        Whether the losses are those of the standardized target.
    show_lr : bool
        Whether to print the learning rate.
    """

    def __init__(
        self,
        max_epochs: int,
        *,
        first_epoch: int,
        verbose: int,
        standardized: bool,
        show_lr: bool = False,
    ) -> None:
        self.interval = 1 if verbose > 1 else max(1, max_epochs // 20)
        self.last_epoch = first_epoch + max_epochs
        self.start_time = time.perf_counter()
        self.units = _units(standardized)
        self.show_lr = show_lr

    def on_fit_begin(self) -> None:
        """Print the header."""
        print(f"losses {self.units}")
        lr = f"  {'lr':>10}" if self.show_lr else ""
        print(f"{'epoch':>7}  {'loss':>12}  {'validation':>12}{lr}  {'seconds':>8}")

    def on_epoch_end(self, record: EpochRecord) -> bool:
        """Print a row for the first epoch, the last one, and every few epochs."""
        if record.epoch % self.interval == 0 or record.epoch in (1, self.last_epoch):
            validation = record.validation_loss
            shown = "" if validation is None else f"{validation:.6g}"
            seconds = time.perf_counter() - self.start_time
            lr = f"  {record.lr:>10.3g}" if self.show_lr else ""
            print(f"{record.epoch:>7}  {record.loss:>12.6g}  {shown:>12}{lr}  {seconds:>8.2f}")
        return False


def print_init_losses(result: FitResult, *, standardized: bool) -> None:
    """Print the final losses of ``n_init`` networks, and which one was kept."""
    losses = result.init_losses
    _print_losses("start", losses, result, standardized, kept=losses.index(min(losses)))


def print_fold_losses(result: FitResult, *, standardized: bool) -> None:
    """Print the validation loss of each fold."""
    _print_losses("fold", result.init_losses, result, standardized)


def print_member_losses(results: Sequence[FitResult], *, standardized: bool) -> None:
    """Print the final loss of each member of an ensemble."""
    losses = [min(result.init_losses) for result in results]
    _print_losses("member", losses, results[0], standardized)


def print_summary(result: FitResult, *, standardized: bool) -> None:
    """Print one line about a fit inside a search."""
    training = result.train_result
    index = max(training.best_epoch - training.first_epoch, 1) - 1
    parts = [f"{len(training.losses)} epochs", f"loss {training.losses[index]:.6g}"]
    if training.validation_losses is not None:
        parts.append(f"validation loss {training.validation_losses[index]:.6g}")
    # One write, because fits may end in several threads.
    print(f"fit: {', '.join(parts)} {_units(standardized)}\n", end="")


def _print_losses(
    name: str, losses: list[float], result: FitResult, standardized: bool, kept: int | None = None
) -> None:
    training = result.train_result
    rows = "training" if training.validation_losses is None else "validation"
    print(f"{rows} losses {_units(standardized)}")
    for index, loss in enumerate(losses):
        shown = f"loss {loss:.6g}" if math.isfinite(loss) else "not trained"
        suffix = ", kept" if index == kept else ""
        print(f"{name} {index + 1} of {len(losses)}: {shown}{suffix}")
    print(training.execution_mode)


def _units(standardized: bool) -> str:
    return "of the standardized target" if standardized else "in units of y"


class SklearnCallbackBridge:
    """Report a fit to scikit-learn's callbacks (version 1.9 or later).

    The fit is a task and its epochs are subtasks. The fitted estimator that callbacks receive
    averages the networks of the fit.

    Parameters
    ----------
    estimator : TorchRegressor
        Has callbacks of scikit-learn.
    attributes : dict
        Fitted attributes that are known before training.
    arrays : dict
        ``X``, ``y`` and ``sample_weight`` as the user passed them.
    max_epochs : int
    """

    def __init__(
        self,
        estimator: Any,
        attributes: dict[str, Any],
        arrays: dict[str, Any],
        max_epochs: int,
    ) -> None:
        self.estimator, self.attributes, self.max_epochs = estimator, attributes, max_epochs
        weight = arrays["sample_weight"]
        metadata = {} if weight is None else {"sample_weight": weight}
        self.data = {"X": arrays["X"], "y": arrays["y"], "metadata": metadata}
        self.context: Any = None

    def begin_fit(self) -> None:
        """Report that the fit begins."""
        self.context = self.estimator._init_callback_context(max_subtasks=self.max_epochs)
        self.begin_task(self.context)

    def begin_task(self, context: Any) -> Any:
        """Report that a task begins."""
        return context.call_on_fit_task_begin(estimator=self.estimator, **self.data)

    def end_task(self, context: Any, module: nn.Sequential) -> bool:
        """Report that a task has ended; return whether a callback stops the fit."""

        def fitted_attributes() -> dict[str, Any]:
            # A buffer may be a view of the memory of all networks, which deepcopy would copy.
            buffers = {id(buffer): buffer.clone() for buffer in module.buffers()}
            fitted = copy.deepcopy(module, buffers).eval()
            dtype = next(fitted.get_submodule("network").parameters()).dtype
            return {**self.attributes, "module_": fitted, "dtype_": dtype}

        stop = context.call_on_fit_task_end(
            estimator=self.estimator, reconstruction_attributes=fitted_attributes, **self.data
        )
        return bool(stop)

    def end_fit(self, module: nn.Sequential) -> None:
        """Report that the fit has ended with this network."""
        self.end_task(self.context, module)


class SklearnEpochObserver(Observer):
    """Report the epochs of a fit to scikit-learn's callbacks."""

    def __init__(self, bridge: SklearnCallbackBridge, module: nn.Sequential) -> None:
        self.bridge, self.module = bridge, module
        self.epoch: Any = None

    def on_fit_begin(self) -> None:
        """Begin the task of the fit."""
        self.bridge.begin_fit()

    def on_epoch_begin(self) -> None:
        """Begin the task of an epoch."""
        self.epoch = self.bridge.begin_task(self.bridge.context.subcontext(task_name="epoch"))

    def on_epoch_end(self, record: EpochRecord) -> bool:
        """End the task of an epoch; return whether a callback stops the fit."""
        return self.bridge.end_task(self.epoch, self.module)
