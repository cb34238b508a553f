"""Where the fits of several threads wait for one another, to be trained together."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from torchreg._parallel.events import HeadStart, Signal
from torchreg.engine.build.drafts import give_containers
from torchreg.engine.build.fit_result import FitResult
from torchreg.engine.run import fit_networks, given_or_raised
from torchreg.engine.spec.fit_config import FitJob

#: Seconds after the last arrival that a fit waits for threads that do nothing meanwhile: they may
#: wait for what a waiting fit holds, as a lock.
IDLE_TIMEOUT_S = 0.2
#: Seconds after the last arrival that it waits for threads that compute, and may never come.
BUSY_TIMEOUT_S = 2.0
#: Threads that go on at once when their fits are done.
MAX_RELEASED = max(2, os.cpu_count() or 1)
#: A process that uses less than this share of one core does nothing.
_IDLE = 0.1


class _Here(threading.local):
    """What each thread has by itself."""

    meeting: FitBatcher | None = None
    training: bool = False


_here = _Here()


def _forget() -> None:
    """Let fits go alone in a forked process: who would meet them is not here."""
    global _here
    _here = _Here()


if hasattr(os, "register_at_fork"):  # Windows knows no fork.
    os.register_at_fork(after_in_child=_forget)


def run_fit(job: FitJob) -> FitResult:
    """Fit: together with what other threads bring, where the calling thread attends a meeting.

    Parameters
    ----------
    job : FitJob
        How, and on what.

    Returns
    -------
    FitResult

    Raises
    ------
    ValueError, TypeError
        If module, loss, optimizer and data do not fit each other.
    KeyboardInterrupt
        If the meeting has ended.
    """
    return given_or_raised(*run_fits([job]))


def run_fits(jobs: Sequence[FitJob]) -> list[FitResult | Exception]:
    """Do several fits, which belong together; see :func:`run_fit`.

    Parameters
    ----------
    jobs : sequence of FitJob

    Returns
    -------
    list of Fitted or Exception
        One for each job; what is wrong with one is not the others' trouble.

    Raises
    ------
    KeyboardInterrupt
        If the meeting has ended.
    """
    if _here.meeting is not None and not _here.training:
        answers = _here.meeting.fit(jobs)
    else:
        # A fit that a callback of the running training asks for cannot wait for its end.
        with _Training():
            answers = fit_networks(jobs)
    for answer in answers:
        if isinstance(answer, FitResult) and answer.is_copy:
            # Here, one after another: those of all who still wait would be many.
            give_containers(answer.module)
    return answers


def is_training() -> bool:
    """Tell whether the calling thread is inside a training: in a callback, or in a module."""
    return _here.training


class _Training:
    """Marks the calling thread as one that trains."""

    def __enter__(self) -> None:
        self.before = _here.training
        _here.training = True

    def __exit__(self, *_: object) -> None:
        _here.training = self.before


@dataclass(eq=False)
class _PendingFit:
    """Fits that wait."""

    jobs: Sequence[FitJob]
    #: Set when there is an answer, or a group that its thread is to train.
    called: Signal = field(default_factory=Signal)
    #: Whether its thread looks at the clock, for all who wait.
    watches: bool = False
    #: Whether somebody trains it already.
    taken: bool = False
    #: Set when its thread may go on with its answer.
    turn: Signal = field(default_factory=Signal)
    group: Sequence[_PendingFit] = ()
    answer: list[FitResult | Exception] | BaseException | None = None


class FitBatcher:
    """Where threads bring their fits and wait until all are there; one of them trains them all.

    *Running* are the threads that may still bring a fit: they have entered, have not left, and
    neither wait nor are being trained. All fits that wait are taken as one group, and trained by
    the thread of one of them, as soon as

    1. no thread is running: nobody is left to wait for; or
    2. no fit has arrived for a while (``IDLE_TIMEOUT_S`` where the process is idle,
       ``BUSY_TIMEOUT_S`` where it computes): a running thread may wait for a pending fit.

    So no fit waits for ever. While it waits, either a clock is ticking, and rule 2 holds in the
    end, as arrivals are finite while nobody is released; or it is in a group, whose thread trains
    and waits for nobody. The clock is that of the first of those who wait, and all of them are
    taken at once: hundreds of clocks would keep waking threads while others train. None is trained
    twice: a visit is taken under the lock, once.
    Before any thread of a group goes on, all of them are running again, so that the first one
    to arrive anew waits for the others. They go on a few at a time, the next one as soon as one
    of them arrives or leaves, for hundreds at once would stand in each other's way; and all that
    are left, if nobody has gone on for ``IDLE_TIMEOUT_S``.

    A thread whose training asks for further fits (a callback may) does them by itself.
    """

    def __init__(self) -> None:
        #: Reentrant, and the only one: joblib ends a call whose results nobody wants wherever the
        #: collector finds them, and that may be in here.
        self.lock = threading.RLock()
        self._running = 0
        self._waiting: list[_PendingFit] = []
        #: In a group, without an answer yet.
        self._taken: set[_PendingFit] = set()
        #: With an answer, and not gone on yet.
        self._answered: deque[_PendingFit] = deque()
        self._head_start = HeadStart()
        self._last_turn = 0.0
        self._last_arrival = 0.0
        self._cpu_at_arrival = 0.0
        self._halt = threading.Event()

    @property
    def ended(self) -> bool:
        """Whether all who wait have been released."""
        return self._halt.is_set()

    def bind_thread(self) -> None:
        """Let the calling thread bring its fits here from now on."""
        _here.meeting = self

    def enter(self) -> None:
        """Count one thread more that may bring a fit."""
        with self.lock:
            self._running += 1

    def leave(self) -> None:
        """Count one less: its task has ended, or waits for others to end."""
        with self.lock:
            self._running -= 1
            self._flush_if_complete()
            self._release(1)
            if self._running <= 1:
                self._head_start.end()

    def give_head_start(self) -> None:
        """Wait a little until all other threads have brought their fits, or have left.

        The calling thread has entered. Tasks that take longer run beside it, as they would.
        """
        with self.lock:
            if self._running <= 1:
                return
            self._head_start.begin()
        self._head_start.wait()

    def fit(self, jobs: Sequence[FitJob]) -> list[FitResult | Exception]:
        """Wait until fits are done: by this thread, or by another one.

        Parameters
        ----------
        jobs : sequence of FitJob

        Returns
        -------
        list of Fitted or Exception
            One for each job.

        Raises
        ------
        KeyboardInterrupt
            If the meeting has ended.
        """
        visit = _PendingFit(jobs)
        with self.lock:
            if self.ended:
                raise KeyboardInterrupt
            visit.watches = not self._waiting
            self._waiting.append(visit)
            self._running -= 1
            self._last_arrival, self._cpu_at_arrival = time.monotonic(), time.process_time()
            self._flush_if_complete()
            self._release(1)
            if self._running <= 1:
                self._head_start.end()
        self._wait(visit)
        if visit.group and visit.answer is None:
            self._train(visit.group)
        self._wait_for_turn(visit)
        answer = visit.answer
        assert answer is not None
        if not isinstance(answer, BaseException):
            return answer
        try:
            raise answer
        finally:
            # An error holds this frame, which is not to hold the error.
            del answer, visit

    def end(self) -> None:
        """Release whoever waits, with ``KeyboardInterrupt``, and ask what is trained to end."""
        with self.lock:
            self._halt.set()
            released = [*self._waiting, *self._taken]
            self._waiting = []
            self._answer(released, [KeyboardInterrupt() for _ in released])
            self._release(len(self._answered))

    def _wait_for_turn(self, visit: _PendingFit) -> None:
        while not visit.turn.wait(IDLE_TIMEOUT_S):
            with self.lock:
                if visit.turn.is_set():
                    return
                if time.monotonic() - self._last_turn >= IDLE_TIMEOUT_S:
                    self._answered.remove(visit)
                    return

    def _release(self, n: int) -> None:
        """Let some go on that have an answer. The lock is held."""
        for _ in range(min(n, len(self._answered))):
            self._answered.popleft().turn.set()
            self._last_turn = time.monotonic()

    def _wait(self, visit: _PendingFit) -> None:
        if not visit.watches:
            visit.called.wait()
            return
        pause = IDLE_TIMEOUT_S
        while not visit.called.wait(pause):
            with self.lock:
                if self.ended:
                    raise KeyboardInterrupt
                if not visit.taken and self._timed_out():
                    self._take(visit)
                left = self._last_arrival + IDLE_TIMEOUT_S - time.monotonic()
            pause = left if left > 0 else IDLE_TIMEOUT_S
            if visit.taken:
                visit.called.wait()

    def _timed_out(self) -> bool:
        waited = time.monotonic() - self._last_arrival
        used = time.process_time() - self._cpu_at_arrival
        return waited >= (IDLE_TIMEOUT_S if used < _IDLE * waited else BUSY_TIMEOUT_S)

    def _flush_if_complete(self) -> None:
        if self._waiting and self._running <= 0:
            self._take(self._waiting[-1])

    def _take(self, leader: _PendingFit) -> None:
        """Make a group of all who wait. The lock is held."""
        leader.group, self._waiting = self._waiting, []
        self._taken.update(leader.group)
        for visit in leader.group:
            visit.taken = True
        leader.called.set()

    def _train(self, group: Sequence[_PendingFit]) -> None:
        answers: Sequence[list[FitResult | Exception] | BaseException]
        try:
            with _Training():
                each = iter(fit_networks([job for v in group for job in v.jobs], self._halt))
            answers = [[next(each) for _ in visit.jobs] for visit in group]
        except BaseException as error:
            # It ends a whole search, as it does where fits come one after another.
            answers = [error] * len(group)
        with self.lock:
            self._running += len(group)
            self._answer(group, answers)
            self._release(MAX_RELEASED)

    def _answer(
        self,
        visits: Sequence[_PendingFit],
        answers: Sequence[list[FitResult | Exception] | BaseException],
    ) -> None:
        """Hand out answers; who was released before has one. The lock is held."""
        for visit, answer in zip(visits, answers, strict=True):
            visit.taken = True
            visit.group = ()  # A circle, if it is the thread that trains.
            if visit.answer is None:
                visit.answer = answer
            self._taken.discard(visit)
            self._answered.append(visit)
            visit.called.set()
