"""From an estimator and its rows to a job for the engine, and back to a fitted estimator."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from sklearn.base import BaseEstimator
from torch import nn

from torchreg._estimator.callbacks import (
    PrintedTable,
    SklearnCallbackBridge,
    print_folds,
    print_starts,
)
from torchreg._estimator.dataset import Data, hold_out, names_of
from torchreg._estimator.defaults import resolve_auto
from torchreg._estimator.fit_warnings import describe_lost_digits
from torchreg._estimator.history import PAST, HistoryAttribute, Past
from torchreg._estimator.params import as_callbacks, nested_parameters, seed_from
from torchreg._estimator.provenance import origin_of
from torchreg._estimator.validation import (
    ArrayFormat,
    check_start,
    check_training_data,
    check_validation_data,
)
from torchreg._utils import resolve_device
from torchreg.engine.build import FitResult
from torchreg.engine.spec import CheckpointStore, FitConfig, FitJob, Observer, RawData, Stopping
from torchreg.losses import Loss, build_loss
from torchreg.nn import TabularMLP
from torchreg.nn.links import link_of
from torchreg.optim import ScheduleSpec, build_optimizer, build_schedule


@dataclass(frozen=True)
class FitInputs:
    """What ``fit`` was given, checked.

    Parameters
    ----------
    data, held_out : Data
        Training rows, and the user's own validation rows or ``None``.
    form : ArrayFormat
        Of X.
    seen : dict
        Fitted attributes that are known already: widths and names.
    arrays : dict
        ``X``, ``y`` and ``sample_weight`` as they came.
    """

    data: Data
    held_out: Data | None
    form: ArrayFormat
    seen: dict[str, Any]
    arrays: dict[str, Any]


def check_given(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    sample_weight: Any,
    X_val: Any,
    y_val: Any,
    sample_weight_val: Any,
) -> FitInputs:
    """Validate the arguments of ``fit``; the estimator itself is left as it was.

    Raises
    ------
    ValueError, TypeError
        With what was expected and what came.
    """
    data, form, seen = check_training_data(estimator, X, y, sample_weight)
    held_out = check_validation_data(estimator, seen, data, X_val, y_val, sample_weight_val)
    return FitInputs(data, held_out, form, seen, {"X": X, "y": y, "sample_weight": sample_weight})


@dataclass(frozen=True)
class FitContext:
    """A job for the engine, and what is needed when it is done.

    Parameters
    ----------
    job : FitJob
        How, and on what.
    given : FitInputs
        What ``fit`` was given.
    data : Data
        Rows that it trains on, without those held out.
    seen : dict
        Fitted attributes that are known before the fit.
    native : SklearnCallbackBridge or None
        The fit as scikit-learn's callbacks see it, if there are any.
    """

    job: FitJob
    given: FitInputs
    data: Data
    seen: dict[str, Any]
    native: SklearnCallbackBridge | None


class FittingMixin(BaseEstimator):
    """The steps of ``fit`` before and after the engine's work."""

    _nested: dict[str, Any]
    module_: nn.Sequential
    n_iter_: int
    chosen_params_: dict[str, Any]
    history_ = HistoryAttribute()
    loss_curve_: list[float]
    validation_loss_curve_: list[float] | None

    def _ask(
        self,
        given: FitInputs,
        *,
        chosen: dict[str, Any],
        checkpoint_store: Any = None,
        draw: Callable[[Data, int], Data] | None = None,
    ) -> FitContext:
        """Hold rows out where early stopping asks for it, and write a job.

        Parameters
        ----------
        given : FitInputs
        chosen : dict
            What the parameters come to that follow from the data.
        checkpoint_store : Checkpoint or None
            Who keeps the state of the fit, and knows its seed.
        draw : callable or None
            Draws the rows to train on from those that are not held out, given a seed.
        """
        twin = self._settled(chosen)
        loss = build_loss(self.loss, nested_parameters(self._nested, "loss"))
        data, held_out = given.data, given.held_out
        loss.check_target(data.y, name="y")
        if held_out is not None:
            loss.check_target(held_out.y, name="y_val", training=False)
        seed = seed_from(self.random_state) if checkpoint_store is None else checkpoint_store.seed
        twin._check_folds(given)
        if twin.early_stopping and twin.n_folds is None and held_out is None:
            data, held_out = hold_out(data, self.validation_fraction, seed=seed)
        if draw is not None:
            data = draw(data, seed)
        seen = {
            **given.seen,
            "_form": given.form,
            "_y_is_vector": data.y_is_vector,
            "n_outputs_": data.y.shape[1],
            "_origin": origin_of(self, seed, data, own_validation=given.held_out is not None),
            "chosen_params_": chosen,
        }
        native = None
        if getattr(self, "_skl_callbacks", None):
            native = SklearnCallbackBridge(
                self, seen, given.arrays, twin._n_networks(), twin.max_epochs
            )
        config = twin._request(seed, loss, seen, data, native, checkpoint_store)
        validation = None if held_out is None else _raw(held_out)
        return FitContext(FitJob(config, _raw(data), validation), given, data, seen, native)

    def _choose(self, given: FitInputs, *, is_member: bool = False) -> dict[str, Any]:
        """Say what the parameters come to that follow from the data."""
        own = given.held_out is not None
        return resolve_auto(self, given.data, own_validation=own, is_member=is_member)

    def _settled(self, chosen: Mapping[str, Any] | None = None) -> Self:
        """Copy the estimator with what was chosen, or is about to be, where it is left to the data.

        Parameters
        ----------
        chosen : mapping or None
            Parameters by name; ``None`` takes those of the last fit.
        """
        twin = copy.copy(self)
        twin.set_params(**(getattr(self, "chosen_params_", {}) if chosen is None else chosen))
        if twin.module is None:
            twin.module = TabularMLP
        return twin

    def _request(
        self,
        seed: int,
        loss: Loss,
        seen: dict[str, Any],
        data: Data,
        native: SklearnCallbackBridge | None,
        checkpoint_store: CheckpointStore | None,
    ) -> FitConfig:
        """Read the parameters in the engine's words."""
        options = nested_parameters(self._nested, "optimizer")
        optimizer = build_optimizer(self.optimizer, self.lr, options)
        options = nested_parameters(self._nested, "schedule")
        schedule = build_schedule(self.schedule, options, optimizer)
        start, first_epoch = None, 0
        if self._goes_on():
            check_start(self, seen, data)
            _check_link(self.module_, loss)
            start, first_epoch = self.module_, self.n_iter_
        return FitConfig(
            module=self.module,
            module_options=nested_parameters(self._nested, "module"),
            loss=loss,
            optimizer=optimizer,
            batch_size=self.batch_size,
            max_epochs=self.max_epochs,
            standardize_x=self.standardize in (True, "X"),
            standardize_y=self.standardize in (True, "y"),
            stopping=self._stopping(),
            callbacks=as_callbacks(self.callbacks, n_networks=self._n_networks()),
            callback_options=nested_parameters(self._nested, "callbacks"),
            device=resolve_device(self.device),
            dtype=self.dtype,
            seed=seed,
            observers=lambda module: self._observers(module, first_epoch, native, schedule),
            initial_module=start,
            first_epoch=first_epoch,
            checkpoint_store=checkpoint_store,
            n_init=1 if self._goes_on() else self.n_init,
            n_folds=self.n_folds or 1,
            schedule=schedule,
        )

    def _goes_on(self) -> bool:
        return self.warm_start and hasattr(self, "module_")

    def _n_networks(self) -> int:
        """Count the networks to train; a warm start goes on with those that there are."""
        return self.n_folds or (1 if self._goes_on() else self.n_init)

    def _check_folds(self, given: FitInputs) -> None:
        """Refuse what does not go with networks that hold out a fold each."""
        if self.n_folds is None:
            return
        if given.held_out is not None:
            raise ValueError(
                f"n_folds={self.n_folds} holds rows out itself, and X_val, y_val were given, too. "
                "Set n_folds=None and early_stopping=True to stop by them, or leave them out."
            )
        if self.n_init > 1:
            raise ValueError(
                f"n_folds={self.n_folds} expects n_init=1, got {self.n_init}: of networks that are "
                "averaged none is chosen. Set one of them only."
            )

    def _stopping(self) -> Stopping:
        """Read when a fit ends; with folds, the rows held out always say which weights to keep."""
        if self.n_folds is None or self.early_stopping:
            return Stopping(self.early_stopping, self.n_iter_no_change, self.tol)
        return Stopping(True, None, self.tol)

    def _observers(
        self,
        module: nn.Sequential,
        before: int,
        native: SklearnCallbackBridge | None,
        schedule: ScheduleSpec,
    ) -> list[Observer]:
        """List who follows a network: the printed table, and scikit-learn's callbacks."""
        observers: list[Observer] = []
        if self.verbose and self._n_networks() == 1:
            standardized = self.standardize in (True, "y")
            observers.append(
                PrintedTable(
                    self.max_epochs,
                    first_epoch=before,
                    verbose=int(self.verbose),
                    standardized=standardized,
                    moves=schedule.changes_lr,
                )
            )
        if native is not None:
            observers.append(native.follow(module))
        return observers

    def _hear(self, asked: FitContext, fitted: FitResult) -> FitResult:
        """Tell who listens that all is over, and complete what is known of the fit."""
        if asked.native is not None:
            asked.native.conclude(fitted.module)
        if self.verbose and asked.job.config.n_networks > 1:
            show = print_folds if asked.job.config.n_folds > 1 else print_starts
            show(fitted, standardized=asked.job.config.standardize_y)
        summary = replace(
            fitted.summary,
            target_names=names_of(asked.given.arrays["y"]),
            lost_digits=describe_lost_digits(asked.data, fitted.module, asked.seen),
        )
        return replace(fitted, summary=summary)

    def _store(self, asked: FitContext, fitted: FitResult) -> None:
        """Take what was learned."""
        result = fitted.train_result
        learned = {**asked.seen, "fit_summary_": fitted.summary.to_dict()}
        losses, validation = [*result.losses], result.validation_losses
        history: dict[str, Any] = {PAST: Past(result)}
        if self._goes_on():
            rows = [*self.history_, *result.history()]
            losses = [row["loss"] for row in rows]
            if validation is not None:
                validation = [row.get("validation_loss", math.nan) for row in rows]
            history = {"history_": rows}
        else:
            learned["init_losses_"] = fitted.init_losses
            learned["_origin"] = {**learned["_origin"], "start_seed": fitted.seed}
        learned |= {
            "module_": fitted.module,
            "dtype_": fitted.dtype,
            **history,
            "n_iter_": result.last_epoch,
            "best_epoch_": result.best_epoch,
            "loss_curve_": losses,
            "loss_": losses[max(result.best_epoch, 1) - 1],
            "validation_loss_curve_": None if validation is None else [*validation],
        }
        replaced = {"feature_names_in_", "history_", PAST}
        kept = {name: v for name, v in vars(self).items() if name not in replaced}
        # All at once: what comes in between, as Ctrl-C may, finds the old fit or the new one.
        self.__dict__ = kept | learned


def _check_link(module: nn.Module, loss: Loss) -> None:
    """Require of a warm start that the network gives what the loss asks for.

    Raises
    ------
    ValueError
        If it learned to give something else.
    """
    before = link_of(module)
    if repr(before) != repr(loss.link):
        raise ValueError(
            f"warm_start=True goes on with a network that ends in {before or 'no link'}, but the "
            f"loss {loss.name!r} expects {loss.link or 'none'}. Set warm_start=False to start "
            "afresh, or take the loss of the last fit."
        )


def _raw(data: Data) -> RawData:
    return RawData(data.x, data.y, data.weight)
