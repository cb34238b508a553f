"""Those who follow a fit: the printed table, and scikit-learn's own callbacks."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from typing import Any

from torch import nn

from torchreg.engine.build import FitResult
from torchreg.engine.spec import EpochRecord, TrainResult


class PrintedTable:
    """Prints losses as a table: about 20 rows with ``verbose=1``, every epoch with more.

    Parameters
    ----------
    max_epochs : int
        Budget, which sets how often a row is printed.
    first_epoch : int
        Epochs that earlier fits have run.
    verbose : int
        1 or more.
    standardized : bool
        Whether the loss compares standardized targets.
    moves : bool
        Whether a schedule moves the learning rate, which is shown then.
    """

    def __init__(
        self,
        max_epochs: int,
        *,
        first_epoch: int,
        verbose: int,
        standardized: bool,
        moves: bool = False,
    ) -> None:
        self.every = 1 if verbose > 1 else max(1, max_epochs // 20)
        self.last = first_epoch + max_epochs
        self.started = time.perf_counter()
        self.units = "of the standardized target" if standardized else "in units of y"
        self.moves = moves
        self.printed_header = False

    def on_epoch_begin(self) -> None:
        """Print the header, once."""
        if not self.printed_header:
            print(f"losses {self.units}")
            lr = f"  {'lr':>10}" if self.moves else ""
            print(f"{'epoch':>7}  {'loss':>12}  {'validation':>12}{lr}  {'seconds':>8}")
            self.printed_header = True

    def on_epoch_end(self, record: EpochRecord) -> bool:
        """Print a row, now and then."""
        if record.epoch % self.every == 0 or record.epoch in (1, self.last):
            validation = record.validation_loss
            shown = "" if validation is None else f"{validation:.6g}"
            seconds = time.perf_counter() - self.started
            lr = f"  {record.lr:>10.3g}" if self.moves else ""
            print(f"{record.epoch:>7}  {record.loss:>12.6g}  {shown:>12}{lr}  {seconds:>8.2f}")
        return False

    def on_fit_end(self, result: TrainResult) -> None:
        """Say how the steps were computed."""
        print(result.execution_mode)


def print_starts(fitted: FitResult, *, standardized: bool) -> None:
    """Print how each of several networks ended, of which one is kept."""
    losses = fitted.init_losses
    _print_losses("start", losses, fitted, standardized, kept=losses.index(min(losses)))


def print_folds(fitted: FitResult, *, standardized: bool) -> None:
    """Print how each of several networks did on the rows that it held out."""
    _print_losses("fold", fitted.init_losses, fitted, standardized)


def print_members(fitted: Sequence[FitResult], *, standardized: bool) -> None:
    """Print how each of several networks ended, which are all kept."""
    _print_losses("member", [min(one.init_losses) for one in fitted], fitted[0], standardized)


def _print_losses(
    name: str, losses: list[float], fitted: FitResult, standardized: bool, kept: int | None = None
) -> None:
    of = "training" if fitted.train_result.validation_losses is None else "validation"
    print(f"{of} losses {'of the standardized target' if standardized else 'in units of y'}")
    for number, loss in enumerate(losses, 1):
        shown = f"loss {loss:.6g}" if math.isfinite(loss) else "not trained"
        mark = ", kept" if number - 1 == kept else ""
        print(f"{name} {number} of {len(losses)}: {shown}{mark}")
    print(fitted.train_result.execution_mode)


class SklearnCallbackBridge:
    """The fit as a task of scikit-learn's callbacks (1.9 and newer), of which epochs are parts.

    Parameters
    ----------
    estimator : TorchRegressor
        Whose fit it is; it has callbacks set.
    seen : dict
        The fitted attributes that are known already.
    given : dict
        ``X``, ``y`` and ``sample_weight``, as the user gave them.
    n_init : int
        How many networks are trained. If several, each is a task between fit and epochs.
    n_epochs : int
        For how many epochs, at most.
    """

    def __init__(
        self,
        estimator: Any,
        seen: dict[str, Any],
        given: dict[str, Any],
        n_init: int,
        n_epochs: int,
    ) -> None:
        self.estimator, self.seen = estimator, seen
        self.n_init, self.n_epochs = n_init, n_epochs
        weight = given["sample_weight"]
        metadata = {} if weight is None else {"sample_weight": weight}
        self.data = {"X": given["X"], "y": given["y"], "metadata": metadata}
        self.context: Any = None

    def follow(self, module: nn.Sequential) -> NativeCallbacks:
        """Give one of the networks an observer; the fit begins with the first."""
        if self.context is None:
            n_tasks = self.n_epochs if self.n_init == 1 else self.n_init
            self.context = self.estimator._init_callback_context(max_subtasks=n_tasks)
            self.begin(self.context)
        if self.n_init == 1:
            return NativeCallbacks(self, self.context, module)
        context = self.context.subcontext(task_name="start", max_subtasks=self.n_epochs)
        return NativeCallbacks(self, self.begin(context), module)

    def begin(self, context: Any) -> Any:
        """Tell that a task begins."""
        return context.call_on_fit_task_begin(estimator=self.estimator, **self.data)

    def end(self, context: Any, module: nn.Sequential) -> bool:
        """Tell that a task has ended, and show the network as if it were fitted."""

        def as_fitted() -> dict[str, Any]:
            # A buffer can be a row of many networks' memory, all of which would be copied.
            own = {id(buffer): buffer.clone() for buffer in module.buffers()}
            fitted = copy.deepcopy(module, own).eval()
            dtype = next(fitted.get_submodule("network").parameters()).dtype
            return {**self.seen, "module_": fitted, "dtype_": dtype}

        stop = context.call_on_fit_task_end(
            estimator=self.estimator, reconstruction_attributes=as_fitted, **self.data
        )
        return bool(stop)

    def conclude(self, module: nn.Sequential) -> None:
        """Tell that the fit is over, and which network it keeps."""
        self.end(self.context, module)


class NativeCallbacks:
    """Tells scikit-learn's callbacks about each epoch of one network.

    Parameters
    ----------
    fit : SklearnCallbackBridge
    context : CallbackContext
        Whose parts the epochs are: the fit, or one of several starts.
    module : nn.Sequential
        What is trained.
    """

    def __init__(self, fit: SklearnCallbackBridge, context: Any, module: nn.Sequential) -> None:
        self.fit, self.context, self.module = fit, context, module
        self.epoch: Any = None

    def on_epoch_begin(self) -> None:
        """Open a task for the epoch."""
        self.epoch = self.fit.begin(self.context.subcontext(task_name="epoch"))

    def on_epoch_end(self, record: EpochRecord) -> bool:
        """Close it; a callback may ask to stop."""
        return self.fit.end(self.epoch, self.module)

    def on_fit_end(self, result: TrainResult) -> None:
        """Close the task of a start; that of the fit ends when a network has been chosen."""
        if self.fit.n_init > 1:
            self.fit.end(self.context, self.module)
