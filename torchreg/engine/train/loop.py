"""The story of a fit: epoch after epoch, until the budget, the data or the user ends it.

It is told of one network as of many that train as one stack: a plain fit is a stack of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import methodcaller
from threading import Event
from typing import Any, cast

import torch
from torch import Tensor

from torchreg.engine.data import Batch
from torchreg.engine.spec import Observer, TaskResult, TrainResult, TrainTask
from torchreg.engine.train.best_weights import BestWeights, Trail
from torchreg.engine.train.curves import Curves
from torchreg.engine.train.ranks import should_compact
from torchreg.engine.train.run_state import RunState
from torchreg.engine.train.step_backend import ResumableBackend, StepBackend, Steps

#: A fit that goes on begins as ever for so many epochs, so that each kind of step is captured
#: as it was captured then, and jumps from there to where it was.
REPLAY_EPOCHS = 2

#: Epochs of a stack that nobody looks at before they have ended, at most.
_UNSEEN = 16


def train(tasks: Sequence[TrainTask], core: StepBackend, cancel_event: Event) -> list[TaskResult]:
    """Train networks in place.

    Parameters
    ----------
    tasks : sequence of TrainTask
        Networks, rows, losses, optimizers and budgets.
    core : StepBackend
        Of these problems.
    cancel_event : Event
        Once it is set, the fits end as if they were interrupted.

    Returns
    -------
    list of Outcome or Exception
        One for each problem. Its network holds the last weights; the best ones after early
        stopping or where the loss ceased to be finite. A ``ValueError`` if its loss was not
        finite before anything was learned; and whatever an observer raised.

    Raises
    ------
    KeyboardInterrupt
        If the user interrupts before anything was learned.
    """
    training = _Training(tasks, core, cancel_event)
    try:
        training.run()
    finally:
        for member in training.active:
            training.core.release(member.place)
    return training.take_results()


class _Training:
    """The moving parts of one call of :func:`train`."""

    def __init__(self, tasks: Sequence[TrainTask], core: StepBackend, cancel_event: Event) -> None:
        self.core, self.cancel_event = core, cancel_event
        self.members = [RunState(task, place) for place, task in enumerate(tasks)]
        #: Those that still train, and those that have a place in the stack.
        self.active, self.placed = [*self.members], [*self.members]
        first = tasks[0]
        self.checkpoint_store = first.checkpoint_store
        self.on_validation = first.stopping.on_validation
        #: Whether each step shows the loss of all rows, so that the best weights can be kept then.
        self.watches = core.whole is not None and not self.on_validation
        keep = Trail if self.watches and len(tasks) > 1 else BestWeights
        self.best = keep(core.tensors(), len(tasks))
        if not self.watches:
            self.best.take_all()
        #: The weights at the end of the last epoch, to which an interrupted fit goes back.
        self.last = BestWeights(core.tensors(), len(tasks))
        #: Epochs that all networks have begun, and that they have ended.
        self.n_epochs = self.n_finished = 0
        #: Networks to whose fits somebody listens, and those that may settle before their budget.
        self.heard = [member for member in self.members if member.listeners]
        self.asked = [m for m in self.members if m.listeners or m.patience is not None]
        self.curves = Curves(
            self.placed, asked=bool(self.asked) or self.checkpoint_store is not None
        )
        #: Whether a look at the losses can wait for some epochs: nobody asks, and nothing follows.
        self.is_quiet = isinstance(self.best, Trail) and all(p.is_quiet for p in tasks)
        self.shortest = min(task.max_epochs for task in tasks)
        self.fresh = True
        self.batch_losses: list[float] | Tensor = []
        # To read a number from an accelerator is to wait for it.
        on_accelerator = first.training.t.device.type != "cpu"
        self.waits = (
            not on_accelerator or core.whole is not None or first.batch_observer is not None
        )

    def take_results(self) -> list[TaskResult]:
        """Give the answers away: an error that is kept here would keep all this, in a circle."""
        results = [member.result for member in self.members if member.result is not None]
        for member in self.members:
            member.result = None
        return results

    def run(self) -> None:
        """Train until all have ended."""
        kept = None if self.checkpoint_store is None else self.checkpoint_store.load()
        try:
            self._run_epochs(kept)
        except KeyboardInterrupt:
            if self.n_finished == 0:
                raise
            self._interrupt()

    def _run_epochs(self, kept: dict[str, Any] | None) -> None:
        while self.active:
            if kept is not None:
                member = self.active[0]
                if len(member.losses) == min(REPLAY_EPOCHS, len(kept["losses"])):
                    self._recall(kept)
                    if kept["reason"] is not None:
                        self._conclude(member, str(kept["reason"]))
                        return
                    kept = None
                    self._end_budgets()
                    continue
            if self.cancel_event.is_set():
                raise KeyboardInterrupt
            if self.is_quiet and not self.fresh:
                self._run_quietly()
                self._remove_finished()
                continue
            # 1. Tell who listens.
            self._begin_epoch()
            if not self.active:
                return
            # 2. Move the weights, once per batch.
            losses = self._epoch_of_training()
            # 3. Look at the validation rows.
            validation = self.core.evaluate() if self.active else None
            # 4. Write it down. A loss that is not a number ends a fit; good weights are kept.
            self._write_down(losses, validation)
            if not self.active:
                return
            self.n_finished = self.n_epochs
            self.last.take_all()
            # 5. Keep the best weights.
            self._keep_if_best(losses, validation)
            # 6. Let learning rates follow their schedules.
            self._move_rates(losses if validation is None else validation)
            # 7. Ask who listens, and whether it has settled.
            self._ask()
            if self.active and self.core.converged:
                self._conclude(self.active[0], "converged")
            # 8. Keep what is needed to go on from here, in another process.
            if self.checkpoint_store is not None and self.active and kept is None:
                self.checkpoint_store.save(self._memory, ended=False)
            # 9. Let those go that have ended, be it with their budget.
            self._remove_finished()

    def _run_quietly(self) -> None:
        """Run some epochs, and look at what they saw when the last of them has ended.

        A loss that was not a number ends a fit as if it had been seen at once: what became of the
        network since then is forgotten.
        """
        before, whole = self.n_epochs, self.core.whole
        assert whole is not None
        budget = min(member.task.max_epochs for member in self.active)
        script = self.core.script(budget - before)
        if script is not None and self._run_script(script, budget - before):
            return
        until = min(before + _UNSEEN, budget)
        losses: list[Tensor] = []

        def note(loss: Tensor, prediction: Tensor | None) -> None:
            losses.append(loss)
            self.best.take_lower(loss, self.n_epochs - 1)

        try:
            while self.n_epochs < until and not self.cancel_event.is_set():
                self.n_epochs += 1
                self.core.step(whole, note)
                self.n_finished = self.n_epochs
                self.last.take_all()
        finally:
            for row in _rows(losses[: self.n_finished - before]):
                self._write_down(row, None)

    def _run_script(self, script: Steps, most: int) -> bool:
        """Run some epochs as one, at most so many; tell whether they went well."""
        trail, before = cast(Trail, self.best), self.n_epochs
        places = trail.room(min(most, script.n_at_once))
        self.n_epochs += len(places[0])
        losses = script.run(places)
        if losses is None:
            self.n_epochs = before
            return False
        trail.note(losses, before)
        self.n_finished = self.n_epochs
        self.last.take_all()
        for row in losses.tolist():
            self._write_down(row, None)
        return True

    def _begin_epoch(self) -> None:
        self.n_epochs += 1
        for member in self.heard:
            if member.result is None:
                self._tell(member, methodcaller("on_epoch_begin"))

    def _epoch_of_training(self) -> list[float]:
        """Give the mean loss of each network, of the weights as they were before each step."""
        core, n = self.core, len(self.placed)
        if core.whole is not None:
            return _numbers(self._step(core.whole))
        totals: Any = [0.0] * n if self.waits else 0.0
        for batch, counts in core.batches():
            losses = self._step(batch)
            if isinstance(losses, Tensor):
                same = len(set(counts)) == 1
                totals = totals + losses * (counts[0] if same else losses.new_tensor(counts))
                continue
            # What has ceased to be finite stays what it is, as it does alone.
            totals = [
                t + v * c if math.isfinite(t) else t
                for t, v, c in zip(totals, losses, counts, strict=True)
            ]
            if not self.active or not any(map(math.isfinite, totals)):
                break
        n_rows = [len(member.task.training.t) for member in self.placed]
        return [total / n for total, n in zip(_numbers(totals), n_rows, strict=True)]

    def _step(self, batch: Batch) -> list[float] | Tensor:
        self.core.step(batch, self._before_move)
        if self.fresh:
            self.fresh = False
            self._require_finite(_numbers(self.batch_losses))
        return self.batch_losses

    def _before_move(self, loss: Tensor, prediction: Tensor | None) -> None:
        """Hear the losses of the weights as they are before the step."""
        if not self.waits:
            self.batch_losses = loss
            return
        self.batch_losses = values = _numbers(loss)
        if self.watches:
            self.best.take_lower(loss if len(values) > 1 else values, self.n_epochs - 1)

    def _require_finite(self, losses: list[float]) -> None:
        for member in self.active:
            loss = losses[member.place]
            if not math.isfinite(loss):
                self._finish(member, member.refusal(loss))

    def _write_down(self, losses: list[float], validation: list[float] | None) -> None:
        rates = None if self.core.pace is None else self.core.pace.rates
        self.curves.note(self.active, losses, validation, rates)
        # A finite sum has finite terms; only where it is not is each of them looked at.
        if self.core.whole is not None and math.isfinite(sum(losses) + sum(validation or [])):
            return
        sound = [math.isfinite(loss) for loss in losses]
        if validation is not None:
            sound = [is_so and math.isfinite(v) for is_so, v in zip(sound, validation, strict=True)]
        if self.core.whole is None:
            finite = self.core.are_finite()
            sound = [is_so and weights for is_so, weights in zip(sound, finite, strict=True)]
        if not all(sound):
            for member in self.active:
                if not sound[member.place]:
                    self._conclude(member, "diverged")

    def _keep_if_best(self, losses: list[float], validation: list[float] | None) -> None:
        watched = validation if self.on_validation else losses
        if watched is not None and not self.watches:
            self.best.take_lower(watched, self.n_epochs)

    def _move_rates(self, losses: list[float]) -> None:
        if self.core.pace is not None:
            self.core.pace.after_epoch(losses)
            self.core.apply_lr()

    def _ask(self) -> None:
        for member in self.asked:
            if member.result is not None:
                continue
            stops: list[bool] = []
            if member.listeners:
                record = member.last_record()
                stops = self._tell(member, methodcaller("on_epoch_end", record))
                if record.extra:
                    member.extra[record.epoch] = record.extra
            reason = "callback" if any(stops) else member.settled()
            if reason is not None and member.result is None:
                self._conclude(member, reason)

    def _remove_finished(self) -> None:
        """Let those go that have ended, be it with their budget."""
        self._end_budgets()
        n_placed = len(self.placed)
        if self.active and should_compact(self.active, n_placed, self.n_epochs):
            self._compact_stack()

    def _end_budgets(self) -> None:
        if self.n_epochs < self.shortest:
            return
        ended = [m for m in self.active if self.n_epochs >= m.task.max_epochs]
        # Of hundreds at once, for each look takes as long as that at all.
        finite = self.core.are_finite() if ended else []
        for member in ended:
            self._conclude(member, "budget", is_finite=finite[member.place])

    def _conclude(self, member: RunState, reason: str, *, is_finite: bool | None = None) -> None:
        """Put the right weights in place, and write the answer."""
        self.curves.write(member)
        if self.checkpoint_store is not None and reason != "interrupted":
            self.checkpoint_store.save(lambda: self._memory(reason), ended=True)
        best, best_epoch = self.best, member.task.first_epoch + len(member.losses)
        if not (best.is_finite(member.place) if is_finite is None else is_finite):
            reason = "diverged"
        if reason == "diverged" or self.on_validation:
            best.restore(member.place)
            best_epoch = member.task.first_epoch + best.epoch_of(member.place)
        self._finish(member, member.make_result(reason, self.core.execution_mode, best_epoch))

    def _finish(self, member: RunState, result: TaskResult) -> None:
        self.core.release(member.place)
        if self.core.pace is not None:
            self.core.pace.end(member.place)
        member.result = result
        self.active = [other for other in self.active if other is not member]
        if isinstance(result, TrainResult):
            self._tell(member, methodcaller("on_fit_end", result))

    def _tell(self, member: RunState, news: Callable[[Observer], Any]) -> list[Any]:
        """Tell who listens to a network; what goes wrong with them is its trouble alone."""
        if not member.listeners:
            return []
        try:
            return [news(listener) for listener in member.listeners]
        except Exception as error:
            if member.result is None:
                self._finish(member, error)
            member.result = error
            return []

    def _interrupt(self) -> None:
        """End all fits as they were after the last whole epoch."""
        for member in self.active:
            self.curves.write(member)
        self.curves.forget_after(self.n_finished)
        if not self.watches:
            losses = [math.inf] * len(self.placed)
            for member in self.active:
                if self.n_epochs == self.n_finished:
                    losses[member.place] = member.watched()[-1]
            self.best.take_lower(losses, self.n_epochs)
        for member in self.active:
            member.forget_after(self.n_finished)
            if self.n_epochs != self.n_finished:
                # In the middle of an epoch, or of a line search, weights are nobody's.
                self.last.restore(member.place)
            self._conclude(member, "interrupted")

    def _compact_stack(self) -> None:
        """Let those that still train go on without the others."""
        staying = [*self.active]
        places = [member.place for member in staying]
        core = self.core.of(places)
        best, last = (s.of(places, core.tensors()) for s in (self.best, self.last))
        for member in staying:
            self.curves.write(member)
        curves = Curves(staying, asked=self.curves.asked)

        def move() -> None:
            core.lend()
            self.core, self.best, self.last, self.placed = core, best, last, staying
            self.curves = curves
            for place, member in enumerate(staying):
                member.place = place

        try:
            move()
        except KeyboardInterrupt:
            # Half moved, they would be neither here nor there.
            move()
            raise

    def _memory(self, reason: str | None = None) -> dict[str, Any]:
        """Give all that another process needs to go on after this epoch, bit for bit."""
        (member,) = self.placed
        return {
            **member.memory(),
            "snapshot": self.best.memory(),
            "reason": reason,
            # Where there is a keeper, there is one network.
            **cast(ResumableBackend, self.core).memory(),
        }

    def _recall(self, memory: dict[str, Any]) -> None:
        """Put back what :meth:`_memory` gave, in this or another process."""
        (member,) = self.placed
        member.recall(memory)
        self.n_epochs = self.n_finished = len(member.losses)
        self.best.recall(memory["snapshot"])
        self.last.take_all()
        cast(ResumableBackend, self.core).recall(memory)


def _rows(losses: list[Tensor]) -> list[list[float]]:
    """Read one number per network of each of several epochs."""
    rows: list[list[float]] = torch.stack(losses).tolist() if losses else []
    return rows


def _numbers(values: list[float] | Tensor) -> list[float]:
    """Read one number per network: from shape (n_networks,) or ()."""
    if isinstance(values, Tensor):
        return values.tolist() if values.ndim else [values.item()]
    return values
