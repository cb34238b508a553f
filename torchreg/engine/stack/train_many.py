"""Training of many networks: stacks in parallel threads, other networks one after another."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import torch

from torchreg._utils import generator_states, num_threads, with_seed
from torchreg.engine.spec import (
    ONE_THREAD,
    FitMonitor,
    NotStartedError,
    ObserverError,
    TaskResult,
    TrainResult,
    TrainTask,
    is_interrupted,
    reraise_interrupt,
)
from torchreg.engine.stack.grouping import (
    REASON_LARGE,
    Group,
    group_tasks,
    join_groups,
    n_busy_threads,
)
from torchreg.engine.stack.stack import Stack
from torchreg.engine.stack.verify import NotStackableError
from torchreg.engine.train import SingleBackend, TrainingLoop, build_backend

#: A method of a training loop.
LoopPart = Callable[[TrainingLoop], object]


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
    groups = [Group([*range(len(tasks))])]
    try:
        # Callbacks may change modules, which decides about stacks.
        for monitor in scheduler.monitors_of(groups):
            monitor.begin_fit()
        if len(tasks) != 1:
            groups = group_tasks(tasks, n_threads=scheduler.n_available)
        fits = join_groups(groups, tasks)
        parallel = [joined for joined in fits if scheduler.can_run_in_parallel(joined)]
        if min(scheduler.n_available, len(parallel)) > 1:
            scheduler.run_parallel([partial(scheduler.run_groups, joined) for joined in parallel])
            fits = [joined for joined in fits if joined not in parallel]
        for joined in fits:
            scheduler.run_groups(joined)
    except KeyboardInterrupt:
        # Keep what was learned, unless the results would not show the interrupt.
        results = scheduler.pop_results()
        if not any(isinstance(result, TrainResult) for result in results):
            raise
        if not any(map(is_interrupted, results)):
            raise
        return results
    return scheduler.pop_results()


class _Lane:
    """One training loop: of a stack, or of one network.

    Parameters
    ----------
    tasks : list of TrainTask
    indices : list of int
        Positions of its tasks among all tasks.
    reason : str or None
        Why a network is not in a stack; completes "because".
    features_first : bool, default=True
        Memory layout of a stack.
    n_epochs : int, default=0
        Epochs that its networks have trained in a stack that failed, and repeat.
    """

    def __init__(
        self,
        tasks: list[TrainTask],
        indices: list[int],
        reason: str | None,
        *,
        features_first: bool = True,
        n_epochs: int = 0,
    ) -> None:
        self.tasks, self.indices, self.reason = tasks, indices, reason
        self.features_first, self.n_epochs = features_first, n_epochs
        self.stack: Stack | None = None
        self.loop: TrainingLoop | None = None
        first = tasks[0]
        is_small = len(tasks) > 1 or first.work <= ONE_THREAD
        self.n_threads = 1 if is_small else torch.get_num_threads()
        self.generators = first.generators if first.uses_rng else None

    def open(self, work: LoopPart, cancel_event: threading.Event) -> TrainingLoop:
        """Build the loop, and repeat what a stack did before it failed in a part."""
        backend: Stack | SingleBackend
        if len(self.tasks) > 1:
            backend = self.stack = Stack(self.tasks, features_first=self.features_first)
        else:
            backend = build_backend(self.tasks[0], self.reason)
        loop = self.loop = TrainingLoop(self.tasks, backend, cancel_event)
        while loop.active and loop.n_ended < self.n_epochs:
            loop.run_epoch()
            loop.end_epoch()
        if work is TrainingLoop.end_epoch:
            loop.run_epoch()
        return loop

    def draw(self, work: LoopPart, cancel_event: threading.Event) -> None:
        """Run a part with the random numbers of this lane."""
        device = self.tasks[0].training.t.device

        def run() -> None:
            work(self.loop or self.open(work, cancel_event))
            self.generators = generator_states(device)

        with_seed(self.generators or 0, device, run)


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
        self.n_available = torch.get_num_threads()

    def pop_results(self) -> list[TaskResult]:
        """Return the results, and drop them here.

        The traceback of an exception refers to this object, so keeping it would be a cycle.
        """
        results, self.results = self.results, {}
        return [results.get(index) or NotStartedError() for index in range(len(self.tasks))]

    def can_run_in_parallel(self, groups: list[Group]) -> bool:
        """Return whether stacks, or large networks, may train in threads and gain by it.

        Observers run in the calling thread only, and torch's global generators are shared.
        """
        return not self.monitors_of(groups) and all(map(self.can_run_in_thread, groups))

    def can_run_in_thread(self, group: Group) -> bool:
        """Return whether the steps of a group may run in a thread, and keep it busy."""
        tasks = [self.tasks[index] for index in group.indices]
        first = tasks[0]
        return (
            (len(tasks) > 1 or group.not_stacked_reason == REASON_LARGE)
            and first.training.t.device.type == "cpu"
            and not first.uses_rng
            and n_busy_threads(tasks) >= 1
        )

    def monitors_of(self, groups: list[Group]) -> list[FitMonitor]:
        """List the monitors of the fits that the networks belong to."""
        monitors = [self.tasks[i].monitor for group in groups for i in group.indices]
        return [*{id(monitor): monitor for monitor in monitors if monitor is not None}.values()]

    def run_parallel(self, works: Sequence[Callable[[], None]]) -> None:
        """Call functions in the calling thread and in others, each of which uses one core."""
        n_threads = min(self.n_available, len(works))
        queue = deque(works)

        def work() -> None:
            with num_threads(1, others=self.n_available):
                while not self.cancel_event.is_set():
                    try:
                        # A deque is thread-safe.
                        call = queue.popleft()
                    except IndexError:
                        return
                    call()

        def work_in_thread() -> None:
            with suppress(KeyboardInterrupt):
                work()

        workers = [threading.Thread(target=work_in_thread) for _ in range(n_threads - 1)]
        for worker in workers:
            worker.start()
        try:
            work()
            for worker in workers:
                worker.join()
        except BaseException:
            self.cancel_event.set()
            for worker in workers:
                worker.join()
            raise

    def run_groups(self, groups: list[Group]) -> None:
        """Train groups one after another; epoch by epoch in turn if they share observers."""
        lanes = deque(
            _Lane([self.tasks[i] for i in group.indices], group.indices, group.not_stacked_reason)
            for group in groups
        )
        monitors = self.monitors_of(groups)
        if monitors:
            in_threads = all(map(self.can_run_in_thread, groups))
            # Changing the number of threads takes as long as a small step.
            with num_threads(max(lane.n_threads for lane in lanes), others=self.n_available):
                self._run_in_turn([*lanes], monitors, in_threads=in_threads)
            return
        while lanes and not self.cancel_event.is_set():
            lanes.extendleft(self._advance(lanes.popleft(), TrainingLoop.run)[::-1])

    def _run_in_turn(
        self, lanes: list[_Lane], monitors: list[FitMonitor], *, in_threads: bool
    ) -> None:
        try:
            lanes[:] = self._advance_all(lanes, TrainingLoop.start)
            while lanes:
                for monitor in monitors:
                    monitor.begin_epoch()
                lanes[:] = self._advance_all(lanes, TrainingLoop.run_epoch, in_threads=in_threads)
                for monitor in monitors:
                    monitor.end_epoch()
                lanes[:] = self._advance_all(lanes, TrainingLoop.end_epoch)
                for monitor in monitors:
                    monitor.end_fit()
        except KeyboardInterrupt:
            for lane in lanes:
                if lane.loop is not None and lane.loop.active and lane.loop.n_finished:
                    lane.loop.interrupt()
                    self._store(lane)
            for monitor in monitors:
                monitor.end_fit()
            raise
        finally:
            for monitor in monitors:
                # Its runs refer to tasks, which refer to it: a reference cycle.
                monitor.runs.clear()

    def _advance_all(
        self, lanes: list[_Lane], work: LoopPart, *, in_threads: bool = False
    ) -> list[_Lane]:
        """Run a part of each lane; return the lanes that still train."""
        left: dict[int, list[_Lane]] = {}

        def advance(place: int, lane: _Lane) -> None:
            left[place] = self._advance(lane, work)

        works = [partial(advance, *item) for item in enumerate(lanes)]
        if in_threads and min(self.n_available, len(lanes)) > 1:
            self.run_parallel(works)
            if self.cancel_event.is_set():
                raise KeyboardInterrupt
        else:
            for call in works:
                call()
        return [lane for place in range(len(lanes)) for lane in left[place]]

    def _advance(self, lane: _Lane, work: LoopPart) -> list[_Lane]:
        """Run a part of a lane; return the lanes that still train, which may be others."""
        try:
            with num_threads(lane.n_threads, others=self.n_available):
                if lane.generators is None:
                    work(lane.loop or lane.open(work, self.cancel_event))
                else:
                    lane.draw(work, self.cancel_event)
        except Exception as error:
            reraise_interrupt(error)
            others = self._replace(lane, error)
        else:
            if lane.loop is not None and lane.loop.active:
                return [lane]
            self._store(lane)
            return []
        return [left for other in others for left in self._advance(other, work)]

    def _store(self, lane: _Lane) -> None:
        assert lane.loop is not None
        results = lane.loop.pop_results()
        if any(map(is_interrupted, results)):
            self.cancel_event.set()
        self.results |= zip(lane.indices, results, strict=True)

    def _replace(self, lane: _Lane, error: Exception) -> list[_Lane]:
        """Return lanes that train the networks of a stack that failed; a network has failed."""
        loop, stack = lane.loop, lane.stack
        lane.loop = lane.stack = None
        if len(lane.tasks) == 1:
            if loop is not None:
                loop.fail(error)
                # The error's traceback refers to the loop.
                loop.pop_results()
            monitor = lane.tasks[0].monitor
            if isinstance(error, ObserverError) and monitor is not None:
                error = monitor.error = error.error
            self.results[lane.indices[0]] = error
            return []
        remaining = [*range(len(lane.tasks))]
        n_epochs = lane.n_epochs
        if stack is not None and loop is not None:
            remaining = [slot for slot, run in enumerate(loop.runs) if run.result is None]
            self.results |= {
                lane.indices[slot]: run.result
                for slot, run in enumerate(loop.runs)
                if run.result is not None
            }
            stack.undo(remaining)
            n_epochs = max(n_epochs, loop.n_ended)
        reason = str(error)
        if not isinstance(error, NotStackableError):
            reason = f"training as a stack failed: {error}"
        groups = [remaining] if lane.features_first else [[slot] for slot in remaining]
        return [
            _Lane(
                [lane.tasks[slot] for slot in slots],
                [lane.indices[slot] for slot in slots],
                reason if len(slots) == 1 else None,
                features_first=False,
                n_epochs=n_epochs,
            )
            for slots in groups
            if slots
        ]
