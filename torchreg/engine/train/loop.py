"""The training loop: epochs of optimizer steps, validation, best weights and early stopping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from threading import Event
from typing import Any, cast

import numpy as np
from torch import Tensor

from torchreg.engine.spec import TaskResult, TrainResult, TrainTask
from torchreg.engine.train.run_state import BestWeights, RunState
from torchreg.engine.train.step_backend import ResumableBackend, StepBackend

#: A resumed run repeats this many epochs before it loads its checkpoint, so that each kind of
#: step is captured exactly as it was in the first process.
REPLAY_EPOCHS = 3

#: A stack is compacted when at least this share of its networks has finished, ...
_MIN_SHARE_FINISHED = 0.3
#: ... and when that saves the work of this many steps: a smaller stack is captured again.
_MIN_STEPS_SAVED = 100


class TrainingLoop:
    """Trains networks in place: one network, or several as one stack.

    Call :meth:`run`, or :meth:`start` and then, for each epoch, :meth:`run_epoch` and
    :meth:`end_epoch`, between which the observers of the fit are notified.

    A network that has finished holds its last weights; after early stopping, or where the loss
    became infinite or NaN, the best ones.

    Parameters
    ----------
    tasks : sequence of TrainTask
        Networks, rows, losses, optimizers and budgets.
    backend : StepBackend
        Of these tasks.
    cancel_event : Event
        Once it is set, training ends as if it were interrupted.
    """

    def __init__(
        self, tasks: Sequence[TrainTask], backend: StepBackend, cancel_event: Event
    ) -> None:
        first = tasks[0]
        self.backend, self.cancel_event, self.store = backend, cancel_event, first.checkpoint_store
        self.runs = [RunState(task, slot) for slot, task in enumerate(tasks)]
        #: Runs that still train, and runs whose weights are in the stack.
        self.active, self.in_stack = [*self.runs], [*self.runs]
        self.batch_observer = first.batch_observer
        self.monitored = [run for run in self.runs if run.is_monitored]
        self.min_epochs = min(task.max_epochs for task in tasks)
        #: Epochs that have begun, that were trained, and that have ended.
        self.n_epochs = self.n_finished = self.n_ended = 0
        self.on_validation = first.stopping.on_validation
        #: Whether each step gives the training loss of the weights before it. The best weights
        #: are then saved before the step, otherwise at the end of an epoch.
        self.tracks_train_loss = backend.full_batch is not None and not self.on_validation
        self.best = BestWeights(backend.tensors(), len(tasks))
        if not self.tracks_train_loss:
            self.best.save_all()
        #: Weights at the end of the last epoch, which an interrupted run returns to.
        self.last = BestWeights(backend.tensors(), len(tasks))
        # Reading a number from an accelerator waits for all its pending work.
        self.syncs_each_step = (
            first.training.t.device.type == "cpu"
            or backend.full_batch is not None
            or self.batch_observer is not None
        )
        self.is_first_step = True
        self.batch_losses: list[float] | Tensor = []

    def run(self) -> list[TaskResult]:
        """Run epochs until every network has finished.

        Returns
        -------
        list of TrainResult or Exception
            One for each task; a ``ValueError`` if the first loss was not finite.

        Raises
        ------
        KeyboardInterrupt
            If the user interrupts training before the first epoch has ended.
        """
        try:
            self.start()
            while self.active:
                self.run_epoch()
                self.end_epoch()
        except KeyboardInterrupt:
            if self.n_finished == 0:
                raise
            self.interrupt()
        finally:
            self._detach_active()
        return [run.result for run in self.runs if run.result is not None]

    def _detach_active(self) -> None:
        # A function, because an error that ends the loop refers to the frames it passed through.
        for run in self.active:
            self.backend.detach(run.slot)

    def start(self) -> None:
        """Resume from the last checkpoint, if there is one."""
        checkpoint = None if self.store is None else self.store.load()
        if checkpoint is not None:
            self._resume(checkpoint)

    def run_epoch(self) -> None:
        """Train for an epoch, evaluate the validation rows, and record the losses."""
        if self.cancel_event.is_set():
            raise KeyboardInterrupt
        self._end_failed_fits()
        if not self.active:
            return
        self.n_epochs += 1
        # 1. Notify callbacks of this network.
        if self.batch_observer is not None:
            self.batch_observer.on_epoch_begin()
        # 2. Train: one step per batch.
        losses = self._train_epoch()
        # 3. Evaluate the validation rows.
        validation_losses = self.backend.evaluate() if self.active else None
        # 4. Record the losses. A run whose loss is infinite or NaN ends here.
        self._record_epoch(losses, validation_losses)
        if not self.active:
            return
        self.n_finished = self.n_epochs
        self.last.save_all()
        # 5. Keep the best weights.
        monitored = validation_losses if self.on_validation else losses
        if monitored is not None and not self.tracks_train_loss:
            self.best.update_if_better(monitored, self.n_epochs)
        # 6. Update the learning rates.
        if self.backend.lr_schedule is not None:
            self.backend.lr_schedule.after_epoch(validation_losses or losses)
            self.backend.apply_lr()
        if self.batch_observer is not None:
            self.active[0].notify_epoch_end()

    def end_epoch(self, *, save: bool = True) -> None:
        """Stop the networks whose losses, observers or budgets say so; save a checkpoint."""
        # 7. Stop early, or because an observer asks for it.
        self._end_failed_fits()
        for run in self.monitored:
            reason = None if run.result is not None else run.stop_reason()
            if reason is not None:
                self._finalize(run, reason)
        if self.active and self.backend.converged:
            self._finalize(self.active[0], "converged")
        # 8. Save a checkpoint.
        if self.store is not None and self.active and save:
            self.store.save(self._state_dict, ended=False)
        # 9. End the runs whose budget is used up.
        self._end_budgets()
        if self._should_compact():
            self._compact_stack()
        self.n_ended = self.n_epochs

    def _train_epoch(self) -> list[float]:
        """Take one step per batch; return the mean loss of each network, as before each step."""
        if self.backend.full_batch is not None:
            self.backend.step(self.backend.full_batch, self._before_update)
            self._check_first_step()
            return _to_list(self.batch_losses)
        totals: Any = [0.0] * len(self.in_stack) if self.syncs_each_step else 0.0
        for batch, n_rows in self.backend.batches():
            self.backend.step(batch, self._before_update)
            self._check_first_step()
            losses = self.batch_losses
            if isinstance(losses, Tensor):
                same = len(set(n_rows)) == 1
                totals = totals + losses * (n_rows[0] if same else losses.new_tensor(n_rows))
                continue
            # A total that is infinite stays infinite: inf - inf would make it NaN.
            totals = [
                total + loss * n if math.isfinite(total) else total
                for total, loss, n in zip(totals, losses, n_rows, strict=True)
            ]
            if not self.active or not any(map(math.isfinite, totals)):
                break
        n_all = [len(run.task.training.t) for run in self.in_stack]
        return [total / n for total, n in zip(_to_list(totals), n_all, strict=True)]

    def _check_first_step(self) -> None:
        """End the runs whose first loss is infinite or NaN."""
        if not self.is_first_step:
            return
        self.is_first_step = False
        losses = _to_list(self.batch_losses)
        for run in self.active:
            if not math.isfinite(losses[run.slot]):
                self._finish(run, run.nonfinite_error(losses[run.slot]))

    def _before_update(self, loss: Tensor, prediction: Tensor | None) -> None:
        """Receive the losses of a batch while the weights are those that gave them."""
        self.batch_losses = _to_list(loss) if self.syncs_each_step else loss
        if self.tracks_train_loss:
            self.best.update_if_better(self.batch_losses, self.n_epochs - 1)

    def _record_epoch(self, losses: list[float], validation_losses: list[float] | None) -> None:
        schedule = self.backend.lr_schedule
        for run in self.active:
            run.losses.append(losses[run.slot])
            if validation_losses is not None:
                run.validation_losses.append(validation_losses[run.slot])
            if schedule is not None:
                run.rates.append(schedule.rates[run.slot])
        # Fast path: a finite sum has finite terms.
        is_full_batch = self.backend.full_batch is not None
        if is_full_batch and math.isfinite(sum(losses) + sum(validation_losses or [])):
            return
        is_finite = np.isfinite(losses)
        if validation_losses is not None:
            is_finite &= np.isfinite(validation_losses)
        if not is_full_batch:
            is_finite &= self.backend.are_finite()
        for run in self.active:
            if not is_finite[run.slot]:
                self._finalize(run, "diverged")

    def _end_failed_fits(self) -> None:
        """End the runs of fits whose observers raised an exception."""
        for run in self.monitored:
            monitor = run.task.monitor
            if run.result is None and monitor is not None and monitor.error is not None:
                self._finish(run, monitor.error)

    def _end_budgets(self) -> None:
        if self.n_epochs < self.min_epochs:
            return
        ended = [run for run in self.active if self.n_epochs >= run.task.max_epochs]
        # One check for all networks is much faster than one for each.
        is_finite = self.backend.are_finite() if ended else []
        for run in ended:
            self._finalize(run, "budget", is_finite=is_finite[run.slot])

    def _finalize(self, run: RunState, reason: str, *, is_finite: bool | None = None) -> None:
        """Put the best weights in place where they are wanted, and write the result."""
        if self.store is not None and reason != "interrupted":
            self.store.save(lambda: self._state_dict(reason), ended=True)
        best_epoch = len(run.losses)
        if not (self.best.is_finite(run.slot) if is_finite is None else is_finite):
            reason = "diverged"
        if reason == "diverged" or self.on_validation:
            self.best.restore(run.slot)
            best_epoch = int(self.best.epoch[run.slot])
        self._finish(run, run.train_result(reason, self.backend.execution_mode, best_epoch))

    def _finish(self, run: RunState, result: TaskResult) -> None:
        self.backend.detach(run.slot)
        if self.backend.lr_schedule is not None:
            self.backend.lr_schedule.end(run.slot)
        run.result = result
        self.active = [other for other in self.active if other is not run]
        if self.batch_observer is not None and isinstance(result, TrainResult):
            self.batch_observer.on_fit_end()

    def fail(self, error: Exception) -> None:
        """End all runs with an error."""
        for run in self.active:
            self._finish(run, error)

    def interrupt(self) -> None:
        """End all runs as they were after the last complete epoch."""
        is_mid_epoch = self.n_epochs != self.n_finished
        if not (is_mid_epoch or self.tracks_train_loss):
            losses = [math.inf] * len(self.in_stack)
            for run in self.active:
                losses[run.slot] = run.monitored_losses[-1]
            self.best.update_if_better(losses, self.n_epochs)
        for run in self.active:
            run.truncate(self.n_finished)
            if is_mid_epoch:
                self.last.restore(run.slot)
            self._finalize(run, "interrupted")

    def _should_compact(self) -> bool:
        """Return whether the runs that still train should leave the others behind."""
        share_finished = 1 - len(self.active) / len(self.in_stack)
        if not self.active or share_finished < _MIN_SHARE_FINISHED:
            return False
        n_epochs_left = max(run.n_epochs_left(self.n_epochs) for run in self.active)
        n_steps_left = n_epochs_left * self.active[0].task.steps_in_epoch
        return share_finished * n_steps_left >= _MIN_STEPS_SAVED

    def _compact_stack(self) -> None:
        """Move the runs that still train to a smaller stack."""
        runs = [*self.active]
        slots = [run.slot for run in runs]
        backend = self.backend.subset(slots)
        best, last = (w.subset(slots, backend.tensors()) for w in (self.best, self.last))

        def move() -> None:
            backend.bind_views()
            self.backend, self.best, self.last, self.in_stack = backend, best, last, runs
            for slot, run in enumerate(runs):
                run.slot = slot

        try:
            move()
        except KeyboardInterrupt:
            # Complete the move: networks would otherwise be views of two stacks.
            move()
            raise

    def _state_dict(self, reason: str | None = None) -> dict[str, Any]:
        """Return all that another process needs to continue after this epoch, bit for bit."""
        (run,) = self.in_stack
        return {
            **run.state_dict(),
            "snapshot": self.best.state_dict(),
            "reason": reason,
            # A run with a store trains alone.
            **cast(ResumableBackend, self.backend).state_dict(),
        }

    def _resume(self, checkpoint: dict[str, Any]) -> None:
        """Repeat the first epochs, and continue from what :meth:`_state_dict` returned."""
        (run,) = self.in_stack
        while self.active and len(run.losses) < min(REPLAY_EPOCHS, len(checkpoint["losses"])):
            self.run_epoch()
            self.end_epoch(save=False)
        if not self.active:
            return
        run.load_state_dict(checkpoint)
        self.n_epochs = self.n_finished = self.n_ended = len(run.losses)
        self.best.load_state_dict(checkpoint["snapshot"])
        self.last.save_all()
        cast(ResumableBackend, self.backend).load_state_dict(checkpoint)
        if checkpoint["reason"] is not None:
            self._finalize(run, str(checkpoint["reason"]))
        else:
            self._end_budgets()

    def pop_results(self) -> list[TaskResult]:
        """Return the results and drop them: tracebacks refer to this object, which is a cycle."""
        results = [run.result for run in self.runs if run.result is not None]
        self.runs = self.in_stack = self.monitored = []
        return results


def _to_list(values: list[float] | Tensor) -> list[float]:
    """Return one float per network: from shape (n_networks,) or ()."""
    return values.reshape(-1).tolist() if isinstance(values, Tensor) else values
