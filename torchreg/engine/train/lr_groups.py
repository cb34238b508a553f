"""The learning rates of networks that train together, each on a course of its own."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from torchreg.engine.spec.train_task import TrainTask
from torchreg.optim.lr_schedule import LRSchedule, sharing_key


class StackedLRSchedule:
    """Moves the learning rates of networks, and says which of their numbers have changed.

    Networks with the same schedule, optimizer and number of steps share a course, which is then
    computed once.

    Parameters
    ----------
    tasks : sequence of TrainTask
        With as many steps in an epoch as each other.

    Attributes
    ----------
    rates : list of float
        The learning rate of each network's last step.
    """

    def __init__(self, tasks: Sequence[TrainTask]) -> None:
        self.tasks = [*tasks]
        shared: dict[Hashable, LRSchedule] = {}
        self.courses: list[LRSchedule] = []
        for place, task in enumerate(tasks):
            own = sharing_key(task.schedule, task.optimizer, task.n_steps)
            key = ("alone", place) if own is None else own
            if key not in shared:
                shared[key] = task.lr_schedule()
            self.courses.append(shared[key])
        self._begin()

    def _begin(self) -> None:
        self._trains = [True] * len(self.courses)
        self._by_step = self._that_move_by_step()
        self._hears_epochs = any(course.every in ("epoch", "loss") for course in self.courses)
        self._known: dict[str, list[float]] = {}
        self.rates = [course.numbers["lr"] for course in self.courses]

    def _that_move_by_step(self) -> list[LRSchedule]:
        own = zip(self.courses, self._trains, strict=True)
        distinct = {id(course): course for course, trains in own if trains}
        return [course for course in distinct.values() if course.every == "step"]

    def end(self, place: int) -> None:
        """Let a course rest whose network has ended: beyond its budget a scheduler may fail."""
        self._trains[place] = False
        self._by_step = self._that_move_by_step()

    def after_step(self) -> None:
        """Hear that all weights were moved, once."""
        self.rates = self._known["lr"]
        for course in self._by_step:
            course.after_step()

    def after_epoch(self, losses: Sequence[float]) -> None:
        """Hear that an epoch has ended, and each network's loss: validation, if there is any."""
        if self._hears_epochs:
            for course, loss, trains in zip(self.courses, losses, self._trains, strict=True):
                if trains:
                    course.after_epoch(loss)

    def news(self) -> dict[str, list[float]]:
        """Give the numbers of the next step that have changed: by name, one for each network."""
        news = {}
        for name in self.courses[0].numbers:
            values = [course.numbers[name] for course in self.courses]
            if values != self._known.get(name):
                news[name] = self._known[name] = values
        return news

    def of(self, places: list[int]) -> StackedLRSchedule:
        """Give the pace of some of the networks, which stand in other places now."""
        pace = object.__new__(StackedLRSchedule)
        pace.tasks = [self.tasks[place] for place in places]
        pace.courses = [self.courses[place] for place in places]
        pace._begin()
        pace.rates = [self.rates[place] for place in places]
        return pace

    def replay(self, losses: Sequence[float]) -> None:
        """Go once more, from the start, through what a network saw: one loss for each epoch."""
        (task,) = self.tasks
        (course,) = self.courses = [task.lr_schedule()]
        for loss in losses:
            for _ in range(task.steps_in_epoch):
                course.after_step()
            course.after_epoch(loss)
        self._begin()


def stacked_schedule_of(tasks: Sequence[TrainTask]) -> StackedLRSchedule | None:
    """Make the pace of networks; ``None`` where every learning rate stays what it is."""
    return StackedLRSchedule(tasks) if any(task.schedule.moves for task in tasks) else None
