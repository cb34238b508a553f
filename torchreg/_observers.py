"""Those who follow a fit: the printed table, and scikit-learn's own callbacks."""

from __future__ import annotations

import copy
import time
from typing import Any

from torch import nn

from torchreg.engine.problem import EpochRecord, Outcome


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
    """

    def __init__(
        self, max_epochs: int, *, first_epoch: int, verbose: int, standardized: bool
    ) -> None:
        self.every = 1 if verbose > 1 else max(1, max_epochs // 20)
        self.last = first_epoch + max_epochs
        self.started = time.perf_counter()
        self.units = "of the standardized target" if standardized else "in units of y"
        self.printed_header = False

    def on_epoch_begin(self) -> None:
        """Print the header, once."""
        if not self.printed_header:
            print(f"losses {self.units}")
            print(f"{'epoch':>7}  {'loss':>12}  {'validation':>12}  {'seconds':>8}")
            self.printed_header = True

    def on_epoch_end(self, record: EpochRecord) -> bool:
        """Print a row, now and then."""
        if record.epoch % self.every == 0 or record.epoch in (1, self.last):
            validation = record.validation_loss
            shown = "" if validation is None else f"{validation:.6g}"
            seconds = time.perf_counter() - self.started
            print(f"{record.epoch:>7}  {record.loss:>12.6g}  {shown:>12}  {seconds:>8.2f}")
        return False

    def on_fit_end(self, outcome: Outcome) -> None:
        """Say how the steps were computed."""
        print(outcome.lane)


class NativeCallbacks:
    """Tells scikit-learn's callbacks (1.9 and newer) about the fit and each of its epochs.

    Parameters
    ----------
    estimator : TorchRegressor
        Whose fit it is; it has callbacks set.
    module : nn.Sequential
        What is trained.
    seen : dict
        The fitted attributes that are known already.
    given : dict
        ``X``, ``y`` and ``sample_weight``, as the user gave them.
    """

    def __init__(
        self, estimator: Any, module: nn.Sequential, seen: dict[str, Any], given: dict[str, Any]
    ) -> None:
        self.estimator, self.module, self.seen = estimator, module, seen
        weight = given["sample_weight"]
        metadata = {} if weight is None else {"sample_weight": weight}
        self.data = {"X": given["X"], "y": given["y"], "metadata": metadata}
        self.context = estimator._init_callback_context(max_subtasks=estimator.max_epochs)
        self.context.call_on_fit_task_begin(estimator=estimator, **self.data)
        self.epoch: Any = None

    def on_epoch_begin(self) -> None:
        """Open a task for the epoch."""
        self.epoch = self.context.subcontext(task_name="epoch")
        self.epoch.call_on_fit_task_begin(estimator=self.estimator, **self.data)

    def on_epoch_end(self, record: EpochRecord) -> bool:
        """Close it; a callback may ask to stop."""
        stop = self.epoch.call_on_fit_task_end(
            estimator=self.estimator, reconstruction_attributes=self._as_fitted, **self.data
        )
        return bool(stop)

    def on_fit_end(self, outcome: Outcome) -> None:
        """Close the task of the fit."""
        self.context.call_on_fit_task_end(
            estimator=self.estimator, reconstruction_attributes=self._as_fitted, **self.data
        )

    def _as_fitted(self) -> dict[str, Any]:
        module = copy.deepcopy(self.module).eval()
        return {
            **self.seen,
            "module_": module,
            "dtype_": next(module.get_submodule("network").parameters()).dtype,
        }
