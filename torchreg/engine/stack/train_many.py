"""Training of many networks: stacks side by side, and one after another what cannot be stacked."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from itertools import chain
from queue import Empty, SimpleQueue

import torch

from torchreg._utils import num_threads, with_seed
from torchreg.engine.spec import (
    ONE_THREAD,
    NotStartedError,
    TaskResult,
    TrainResult,
    TrainTask,
    is_interrupted,
    reraise_interrupt,
)
from torchreg.engine.stack.grouping import ENOUGH, Group, group_tasks, share_of_threads
from torchreg.engine.stack.replay_observer import ReplayObserver
from torchreg.engine.stack.stack import Stack
from torchreg.engine.stack.verify import NotStackableError
from torchreg.engine.train.loop import train
from torchreg.engine.train.single import SingleBackend


def train_together(
    tasks: Sequence[TrainTask], cancel_event: threading.Event | None = None
) -> list[TaskResult]:
    """Train networks in place, those of one kind together.

    Parameters
    ----------
    tasks : sequence of TrainTask
    cancel_event : Event or None
        Once it is set, all fits end as if they were interrupted.

    Returns
    -------
    list of Outcome or Exception
        One for each problem, in their order. An interrupt ends them all.

    Raises
    ------
    KeyboardInterrupt
        If the user interrupts before anything was learned.
    """
    work = _StackScheduler(tasks, cancel_event or threading.Event())
    available = torch.get_num_threads()
    groups = group_tasks(tasks, n_threads=available) if len(tasks) != 1 else [Group([0])]
    beside = [group for group in groups if work.can_be_beside_others(group)]
    n_threads = min(available, len(beside))
    try:
        if n_threads > 1:
            with num_threads(1, others=available):
                work.run_parallel(beside, n_threads)
        work.run_serial([group for group in groups if n_threads <= 1 or group not in beside])
    except KeyboardInterrupt:
        # What was learned before shall not be lost, nor that somebody wants an end.
        results = work.take_results()
        if not any(isinstance(result, TrainResult) for result in results):
            raise
        if not any(map(is_interrupted, results)):
            raise
        return results
    return work.take_results()


class _StackScheduler:
    """Groups of problems to train, and their answers.

    Parameters
    ----------
    tasks : sequence of TrainTask
    cancel_event : Event
    """

    def __init__(self, tasks: Sequence[TrainTask], cancel_event: threading.Event) -> None:
        self.tasks, self.cancel_event = tasks, cancel_event
        self.several_threads = False
        self.results: dict[int, TaskResult] = {}

    def take_results(self) -> list[TaskResult]:
        """Give the answers away: an error that is kept here would keep all this, in a circle."""
        results, self.results = self.results, {}
        return [results.get(number) or NotStartedError() for number in range(len(self.tasks))]

    def can_be_beside_others(self, group: Group) -> bool:
        """Whether a stack, or one of a kind, can train in another thread, and gains by it.

        Nobody may be listening, and torch's global generators are one thread's at a time.
        """
        tasks = [self.tasks[place] for place in group.places]
        first = tasks[0]
        return (
            (len(tasks) > 1 or group.apart == ENOUGH)
            and first.training.t.device.type == "cpu"
            and not first.uses_rng
            and not any(task.observers for task in tasks)
            and share_of_threads(tasks) >= 1
        )

    def run_parallel(self, groups: list[Group], n_threads: int) -> None:
        """Train stacks in so many threads, of which this is one, each on one processor."""
        self.several_threads = True
        todo: SimpleQueue[Group] = SimpleQueue()
        for group in groups:
            todo.put(group)
        helpers = [threading.Thread(target=self._help, args=(todo,)) for _ in range(n_threads - 1)]
        for helper in helpers:
            helper.start()
        try:
            self._train_from(todo)
            for helper in helpers:
                helper.join()
        except BaseException:
            self.cancel_event.set()
            for helper in helpers:
                helper.join()
            raise
        self.several_threads = False

    def _help(self, todo: SimpleQueue[Group]) -> None:
        try:
            with num_threads(1, others=torch.get_num_threads()):
                self._train_from(todo)
        except KeyboardInterrupt:
            return

    def _train_from(self, todo: SimpleQueue[Group]) -> None:
        while not self.cancel_event.is_set():
            try:
                self.run_serial([todo.get_nowait()])
            except Empty:
                return

    def run_serial(self, groups: list[Group]) -> None:
        """Train one group after another; an interrupt ends the one that it meets, and the rest."""
        for group in groups:
            if self.cancel_event.is_set():
                return
            # No name here for the answers: an error holds all frames that it came through.
            self.results |= zip(group.places, self._train(group), strict=True)
            if any(is_interrupted(self.results[place]) for place in group.places):
                self.cancel_event.set()

    def _train(self, group: Group) -> list[TaskResult]:
        """Train networks of one kind as one stack, or else one after another."""
        tasks = [self.tasks[place] for place in group.places]
        apart = group.apart
        if len(tasks) > 1:
            available = torch.get_num_threads()
            with num_threads(1, others=available):
                for features_first in (True, False):
                    try:
                        return self._train_stack(tasks, features_first=features_first)
                    except NotStackableError as error:
                        apart = str(error)
        return [self._train_alone(task, apart) for task in tasks]

    def _train_stack(self, tasks: list[TrainTask], *, features_first: bool) -> list[TaskResult]:
        first = tasks[0]
        listeners = [[ReplayObserver(observer) for observer in task.observers] for task in tasks]

        def work() -> list[TaskResult]:
            stack = Stack(tasks, features_first=features_first, beside_others=self.several_threads)
            for task, own in zip(tasks, listeners, strict=True):
                task.observers = [*own]
            try:
                return train(tasks, stack, self.cancel_event)
            except Exception as error:
                reraise_interrupt(error)
                stack.undo()
                for told in chain(*listeners):
                    told.reset()
                raise NotStackableError(f"training as a stack failed: {error}") from error

        device = first.training.t.device
        return with_seed(first.generators, device, work) if first.uses_rng else work()

    def _train_alone(self, task: TrainTask, apart: str | None) -> TaskResult:
        """Train, with random numbers of our own if the network draws; other threads wait then."""
        available = torch.get_num_threads()
        with num_threads(1 if task.work <= ONE_THREAD else available, others=available):
            work = partial(self._begin_alone, task, apart)
            device = task.training.t.device
            try:
                return with_seed(task.generators, device, work) if task.uses_rng else work()
            except Exception as error:
                reraise_interrupt(error)
                return error

    def _begin_alone(self, task: TrainTask, apart: str | None) -> TaskResult:
        if task.batch_observer is not None:
            task.batch_observer.begin()
        return train([task], SingleBackend(task, apart), self.cancel_event)[0]
