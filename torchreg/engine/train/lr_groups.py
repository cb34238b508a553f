"""Learning rates of networks that train together, each with its own schedule."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from torchreg.engine.spec import TrainTask
from torchreg.optim import LRSchedule, sharing_key


class StackedLRSchedule:
    """Learning-rate schedules of a stack of networks.

    Networks with the same schedule, optimizer and number of steps share an :class:`LRSchedule`.

    Parameters
    ----------
    tasks : sequence of TrainTask
        With the same number of steps per epoch.

    Attributes
    ----------
    rates : list of float
        Learning rate of the last step, one per network.
    """

    def __init__(self, tasks: Sequence[TrainTask]) -> None:
        self.tasks = [*tasks]
        shared: dict[Hashable, LRSchedule] = {}
        self.schedules: list[LRSchedule] = []
        for slot, task in enumerate(tasks):
            key = sharing_key(task.schedule, task.optimizer, task.n_steps)
            key = ("unshared", slot) if key is None else key
            if key not in shared:
                shared[key] = task.lr_schedule()
            self.schedules.append(shared[key])
        self._reset()

    def _reset(self) -> None:
        self._trains = [True] * len(self.schedules)
        self._per_step = self._find_per_step()
        self._per_epoch = any(s.interval in ("epoch", "loss") for s in self.schedules)
        self._applied: dict[str, list[float]] = {}
        self.rates = [schedule.hyperparams["lr"] for schedule in self.schedules]

    def _find_per_step(self) -> list[LRSchedule]:
        """List the distinct schedules that change after each step."""
        pairs = zip(self.schedules, self._trains, strict=True)
        distinct = {id(schedule): schedule for schedule, trains in pairs if trains}
        return [schedule for schedule in distinct.values() if schedule.interval == "step"]

    def end(self, slot: int) -> None:
        """Stop updating the schedule of a finished network; a scheduler may fail after its end."""
        self._trains[slot] = False
        self._per_step = self._find_per_step()

    def after_step(self) -> None:
        """Update the schedules after a step of all networks."""
        self.rates = self._applied["lr"]
        for schedule in self._per_step:
            schedule.after_step()

    def after_epoch(self, losses: Sequence[float]) -> None:
        """Update the schedules after an epoch, given the monitored loss of each network."""
        if self._per_epoch:
            for schedule, loss, trains in zip(self.schedules, losses, self._trains, strict=True):
                if trains:
                    schedule.after_epoch(loss)

    def changed_hyperparams(self) -> dict[str, list[float]]:
        """Return the hyperparameters that changed since the last call, by name, per network."""
        changed = {}
        for name in self.schedules[0].hyperparams:
            values = [schedule.hyperparams[name] for schedule in self.schedules]
            if values != self._applied.get(name):
                changed[name] = self._applied[name] = values
        return changed

    def subset(self, indices: list[int]) -> StackedLRSchedule:
        """Return the schedules of some of the networks."""
        subset = object.__new__(StackedLRSchedule)
        subset.tasks = [self.tasks[index] for index in indices]
        subset.schedules = [self.schedules[index] for index in indices]
        subset._reset()
        subset.rates = [self.rates[index] for index in indices]
        return subset

    def replay(self, losses: Sequence[float]) -> None:
        """Restart the schedule of a single network and run it through these epochs."""
        (task,) = self.tasks
        (schedule,) = self.schedules = [task.lr_schedule()]
        for loss in losses:
            for _ in range(task.steps_in_epoch):
                schedule.after_step()
            schedule.after_epoch(loss)
        self._reset()


def build_stacked_schedule(tasks: Sequence[TrainTask]) -> StackedLRSchedule | None:
    """Build the schedules of a stack, or ``None`` if all learning rates are constant."""
    return StackedLRSchedule(tasks) if any(task.schedule.changes_lr for task in tasks) else None
