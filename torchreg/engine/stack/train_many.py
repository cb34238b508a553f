"""Training of many networks: stacks in parallel threads, other networks one after another."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from itertools import chain
from queue import Empty, SimpleQueue

import torch

from torchreg._utils import num_threads, with_seed
from torchreg.engine.spec import (
    NotStartedError,
    TaskResult,
    TrainResult,
    TrainTask,
    is_interrupted,
    reraise_interrupt,
)
from torchreg.engine.stack.grouping import REASON_LARGE, Group, group_tasks, n_busy_threads
from torchreg.engine.stack.replay_observer import ReplayObserver
from torchreg.engine.stack.stack import Stack
from torchreg.engine.stack.verify import NotStackableError
from torchreg.engine.train import TrainingLoop, train_single


def train_tasks(tasks: Sequence[TrainTask], cancel_event: threading.Event) -> list[TaskResult]:
    """Train networks in place, those of one architecture as stacks.

    Parameters
    ----------
    tasks : sequence of TrainTask
    cancel_event : Event
        Once it is set, all fits end as if they were interrupted.

    Returns
    -------
    list of TrainResult or Exception
        One for each task, in the same order. An exception is the result of its task alone, an
        interrupt ends all of them.

    Raises
    ------
    KeyboardInterrupt
        If the user interrupts training before the first epoch has ended.
    """
    scheduler = _StackScheduler(tasks, cancel_event)
    n_available = torch.get_num_threads()
    groups = group_tasks(tasks, n_threads=n_available)
    parallel = [group for group in groups if scheduler.can_run_in_parallel(group)]
    n_threads = min(n_available, len(parallel))
    try:
        if n_threads > 1:
            with num_threads(1, others=n_available):
                scheduler.run_parallel(parallel, n_threads)
        scheduler.run_serial([g for g in groups if n_threads <= 1 or g not in parallel])
    except KeyboardInterrupt:
        # Keep what was learned, unless the results would not show the interrupt.
        results = scheduler.pop_results()
        if not any(isinstance(result, TrainResult) for result in results):
            raise
        if not any(map(is_interrupted, results)):
            raise
        return results
    return scheduler.pop_results()


class _StackScheduler:
    """Trains groups of tasks, and collects their results.

    Parameters
    ----------
    tasks : sequence of TrainTask
    cancel_event : Event
    """

    def __init__(self, tasks: Sequence[TrainTask], cancel_event: threading.Event) -> None:
        self.tasks, self.cancel_event = tasks, cancel_event
        self.results: dict[int, TaskResult] = {}

    def pop_results(self) -> list[TaskResult]:
        """Return the results, and drop them here.

        The traceback of an exception refers to this object, so keeping it would be a cycle.
        """
        results, self.results = self.results, {}
        return [results.get(index) or NotStartedError() for index in range(len(self.tasks))]

    def can_run_in_parallel(self, group: Group) -> bool:
        """Return whether a stack, or a large network, may train in a thread and gains by it.

        Observers run in the calling thread only, and torch's global generators are shared.
        """
        tasks = [self.tasks[index] for index in group.indices]
        first = tasks[0]
        return (
            (len(tasks) > 1 or group.not_stacked_reason == REASON_LARGE)
            and first.training.t.device.type == "cpu"
            and not first.uses_rng
            and not any(task.observers for task in tasks)
            and n_busy_threads(tasks) >= 1
        )

    def run_parallel(self, groups: list[Group], n_threads: int) -> None:
        """Train groups in the calling thread and in ``n_threads - 1`` others, on one core each."""
        queue: SimpleQueue[Group] = SimpleQueue()
        for group in groups:
            queue.put(group)
        workers = [threading.Thread(target=self._work, args=(queue,)) for _ in range(n_threads - 1)]
        for worker in workers:
            worker.start()
        try:
            self._run_queue(queue)
            for worker in workers:
                worker.join()
        except BaseException:
            self.cancel_event.set()
            for worker in workers:
                worker.join()
            raise

    def _work(self, queue: SimpleQueue[Group]) -> None:
        try:
            with num_threads(1, others=torch.get_num_threads()):
                self._run_queue(queue)
        except KeyboardInterrupt:
            return

    def _run_queue(self, queue: SimpleQueue[Group]) -> None:
        while not self.cancel_event.is_set():
            try:
                self.run_serial([queue.get_nowait()])
            except Empty:
                return

    def run_serial(self, groups: list[Group]) -> None:
        """Train one group after another; an interrupt ends the current one and cancels the rest."""
        for group in groups:
            reason = group.not_stacked_reason
            if len(group.indices) > 1 and not self.cancel_event.is_set():
                reason = self._train_stack(group.indices)
                if reason is None:
                    continue
            for index in group.indices:
                if self.cancel_event.is_set():
                    return
                # No local name for the result: an exception refers to the frames it passed through.
                self.results[index] = train_single(self.tasks[index], self.cancel_event, reason)
                if is_interrupted(self.results[index]):
                    self.cancel_event.set()

    def _train_stack(self, indices: list[int]) -> str | None:
        """Train a group as one stack; return why that is impossible, or None."""
        tasks = [self.tasks[index] for index in indices]
        observers = [[ReplayObserver(observer) for observer in task.observers] for task in tasks]
        first, reason = tasks[0], ""

        def build_and_train(features_first: bool) -> list[TaskResult]:
            stack = Stack(tasks, features_first=features_first)
            for task, own in zip(tasks, observers, strict=True):
                task.observers = [*own]
            try:
                return TrainingLoop(tasks, stack, self.cancel_event).run()
            except Exception as error:
                reraise_interrupt(error)
                stack.undo()
                for observer in chain(*observers):
                    observer.reset()
                raise NotStackableError(f"training as a stack failed: {error}") from error

        with num_threads(1, others=torch.get_num_threads()):
            for features_first in (True, False):
                work = partial(build_and_train, features_first)
                try:
                    if first.uses_rng:
                        results = with_seed(first.generators, first.training.t.device, work)
                    else:
                        results = work()
                except NotStackableError as error:
                    reason = str(error)
                    continue
                if any(map(is_interrupted, results)):
                    self.cancel_event.set()
                self.results |= zip(indices, results, strict=True)
                # An exception among the results refers to this frame.
                del results
                return None
        return reason
