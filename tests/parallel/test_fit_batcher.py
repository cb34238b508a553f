"""Fits that meet are trained together and once each, and none waits for ever."""

from __future__ import annotations

import gc
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests._deadline import within
from torchreg._parallel import events as signals
from torchreg._parallel import fit_batcher as room
from torchreg._parallel.fit_batcher import FitBatcher, is_training, run_fit, run_fits

#: So long that what is trained was not trained because time had passed.
NEVER_S = 1000.0


class Trainer:
    """Stands for the engine: answers each job with itself, and notes the groups."""

    def __init__(self) -> None:
        self.groups: list[list[Any]] = []
        self.alone: list[Any] = []
        self.during: Callable[[list[Any]], Any] = lambda jobs: None
        self.lock = threading.Lock()

    def fit_networks(
        self, jobs: list[Any], cancel_event: threading.Event | None = None
    ) -> list[Any]:
        if cancel_event is None:
            self.alone.extend(jobs)
            return list(jobs)
        self.cancel_event = cancel_event
        with self.lock:
            self.groups.append(list(jobs))
        self.during(jobs)
        return [ValueError(job) if str(job).startswith("bad") else job for job in jobs]

    @property
    def sizes(self) -> list[int]:
        return [len(group) for group in self.groups]


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    trainer = Trainer()
    monkeypatch.setattr(room, "fit_networks", trainer.fit_networks)
    return trainer


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time pass that would be long enough."""
    monkeypatch.setattr(room, "IDLE_TIMEOUT_S", NEVER_S)
    monkeypatch.setattr(room, "BUSY_TIMEOUT_S", NEVER_S)


Task = Callable[[], Any]


def start(meeting: FitBatcher, tasks: list[Task]) -> tuple[list[threading.Thread], list[Any]]:
    """Run each task in a thread of its own that attends the meeting."""
    answers: list[Any] = [None] * len(tasks)

    def work(index: int, task: Task) -> None:
        meeting.bind_thread()
        try:
            answers[index] = task()
        except BaseException as error:
            answers[index] = error
        finally:
            meeting.leave()

    threads = [threading.Thread(target=work, args=item) for item in enumerate(tasks)]
    for _ in threads:
        meeting.enter()
    for thread in threads:
        thread.start()
    return threads, answers


def bind_thread(meeting: FitBatcher, tasks: list[Task]) -> list[Any]:
    threads, answers = start(meeting, tasks)
    for thread in threads:
        thread.join()
    return answers


def fit(job: Any) -> Task:
    return lambda: run_fit(job)


def wait_until(true: Callable[[], Any]) -> None:
    while not true():
        time.sleep(0.001)


@within(30)
def test_fits_that_meet_are_one_group_and_each_has_its_own_answer(
    trainer: Trainer, patient: None
) -> None:
    assert bind_thread(FitBatcher(), [fit(n) for n in range(50)]) == list(range(50))
    assert trainer.sizes == [50]
    assert sorted(trainer.groups[0]) == list(range(50))


@within(30)
def test_several_fits_of_one_thread_are_a_part_of_the_group(
    trainer: Trainer, patient: None
) -> None:
    several = [lambda n=n: run_fits([n, "bad", n + 1]) for n in range(0, 20, 2)]
    answers = bind_thread(FitBatcher(), [*several, fit("one")])
    assert answers[-1] == "one" and trainer.sizes == [31]
    for n, answer in zip(range(0, 20, 2), answers, strict=False):
        assert answer[::2] == [n, n + 1] and isinstance(answer[1], ValueError)


@within(30)
def test_one_fit_waits_for_nobody(trainer: Trainer, patient: None) -> None:
    assert bind_thread(FitBatcher(), [fit("one")]) == ["one"]


@within(30)
def test_an_error_is_raised_in_its_own_thread_alone(trainer: Trainer, patient: None) -> None:
    good, bad, other = bind_thread(FitBatcher(), [fit("good"), fit("bad"), fit("other")])
    assert (good, other) == ("good", "other")
    assert isinstance(bad, ValueError)
    assert trainer.sizes == [3]


@within(30)
def test_who_ends_without_a_fit_is_waited_for_until_then(trainer: Trainer, patient: None) -> None:
    end = threading.Event()
    threads, answers = start(FitBatcher(), [fit(1), fit(2), end.wait, lambda: 1 / 0])
    time.sleep(0.05)
    assert not trainer.groups
    end.set()
    for thread in threads:
        thread.join()
    assert trainer.sizes == [2]
    assert isinstance(answers[3], ZeroDivisionError)


@within(30)
def test_threads_that_fit_again_and_again_meet_every_time(trainer: Trainer, patient: None) -> None:
    def three(number: int) -> Task:
        return lambda: [run_fit((number, turn)) for turn in range(3)]

    bind_thread(FitBatcher(), [three(number) for number in range(20)])
    assert trainer.sizes == [20, 20, 20]
    assert [{turn for _, turn in group} for group in trainer.groups] == [{0}, {1}, {2}]


@within(30)
def test_who_waits_for_what_a_waiting_fit_holds_is_not_waited_for(trainer: Trainer) -> None:
    lock = threading.Lock()

    def locked(number: int) -> Task:
        def task() -> Any:
            with lock:
                return run_fit(number)

        return task

    assert bind_thread(FitBatcher(), [locked(number) for number in range(4)]) == [0, 1, 2, 3]
    assert trainer.sizes == [1, 1, 1, 1]


@within(30)
def test_who_computes_is_waited_for_longer_than_who_does_nothing(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BUSY_TIMEOUT_S", NEVER_S)

    def busy() -> Any:
        end = time.monotonic() + 3 * room.IDLE_TIMEOUT_S
        while time.monotonic() < end:
            sum(range(1000))
        return run_fit("late")

    assert bind_thread(FitBatcher(), [fit("early"), busy]) == ["early", "late"]
    assert trainer.sizes == [2]


@within(30)
def test_who_computes_for_ever_is_not_waited_for(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "IDLE_TIMEOUT_S", 0.02)
    monkeypatch.setattr(room, "BUSY_TIMEOUT_S", 0.1)
    fitted = threading.Event()

    def busy() -> None:
        while not fitted.is_set():
            sum(range(1000))

    def release() -> Any:
        answer = run_fit("one")
        fitted.set()
        return answer

    assert bind_thread(FitBatcher(), [busy, release, fit("two")])[1:] == ["one", "two"]


@within(30)
@pytest.mark.parametrize("brings_a_fit", [True, False])
def test_who_begins_tasks_goes_on_when_the_last_one_has_brought_its_fit_or_has_ended(
    trainer: Trainer, patient: None, monkeypatch: pytest.MonkeyPatch, brings_a_fit: bool
) -> None:
    monkeypatch.setattr(signals, "HEAD_START_S", NEVER_S)
    meeting, goes_on = FitBatcher(), threading.Event()
    meeting.enter()

    def task() -> Any:
        goes_on.wait()
        return run_fit("a") if brings_a_fit else "a"

    threads, answers = start(meeting, [task])
    threading.Timer(0.01, goes_on.set).start()
    meeting.give_head_start()
    assert goes_on.is_set()
    assert trainer.sizes == []
    meeting.give_head_start()  # Nobody is left to wait for.
    meeting.leave()
    threads[0].join()
    assert answers == ["a"]


@within(30)
def test_who_begins_tasks_goes_on_beside_one_that_takes_long(
    trainer: Trainer, patient: None
) -> None:
    meeting, goes_on = FitBatcher(), threading.Event()
    meeting.enter()
    threads, _ = start(meeting, [goes_on.wait])
    for _ in range(30):
        meeting.give_head_start()
    goes_on.set()
    threads[0].join()


@within(30)
def test_threads_go_on_a_few_at_a_time(trainer: Trainer, patient: None) -> None:
    now, most, lock = [0], [0], threading.Lock()

    def task() -> None:
        run_fit("job")
        with lock:
            now[0] += 1
            most[0] = max(now[0], most[0])
        time.sleep(0.001)
        with lock:
            now[0] -= 1

    bind_thread(FitBatcher(), [task] * 30)
    assert trainer.sizes == [30]
    assert most[0] <= room.MAX_RELEASED


@within(30)
@pytest.mark.parametrize("by_the_clock", [False, True])
def test_who_waits_for_those_that_have_not_gone_on_waits_in_vain_for_a_while_only(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, by_the_clock: bool
) -> None:
    monkeypatch.setattr(room, "IDLE_TIMEOUT_S", 0.02)
    monkeypatch.setattr(room, "BUSY_TIMEOUT_S", 0.05)
    together = threading.Barrier(20)

    def task(number: int) -> Task:
        def work() -> Any:
            answer = run_fit(number)
            together.wait(20)
            return answer

        return work

    meeting = FitBatcher()
    if by_the_clock:  # Somebody never comes: the first one trains all of them.
        meeting.enter()
    assert bind_thread(meeting, [task(number) for number in range(20)]) == list(range(20))
    assert not meeting._answered


@within(30)
def test_a_group_that_trains_is_waited_for_by_nobody(trainer: Trainer, patient: None) -> None:
    second = threading.Event()

    def during(jobs: list[Any]) -> None:
        if "slow" in jobs:
            assert second.wait(20)
        else:
            second.set()

    trainer.during = during
    meeting = FitBatcher()
    meeting.enter()
    threads, _ = start(meeting, [fit("slow")])
    meeting.leave()
    wait_until(lambda: trainer.groups)
    assert bind_thread(meeting, [fit("quick")]) == ["quick"]
    threads[0].join()
    assert trainer.sizes == [1, 1]


@within(30)
def test_a_fit_that_a_training_asks_for_goes_alone(trainer: Trainer, patient: None) -> None:
    inner = []

    def during(jobs: list[Any]) -> None:
        assert is_training()
        inner.append(run_fit("inner"))

    trainer.during = during
    assert bind_thread(FitBatcher(), [fit(1), fit(2)]) == [1, 2]
    assert (inner, trainer.alone, trainer.sizes) == (["inner"], ["inner"], [2])
    assert not is_training()


@within(30)
def test_a_fit_outside_of_meetings_goes_alone(trainer: Trainer, patient: None) -> None:
    assert run_fit("job") == "job"
    answers = bind_thread(FitBatcher(), [lambda: fit_in_a_thread_of_its_own("theirs"), fit("here")])
    assert answers == ["theirs", "here"]
    assert (trainer.alone, trainer.groups) == (["job", "theirs"], [["here"]])


def fit_in_a_thread_of_its_own(job: Any) -> Any:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(run_fit(job)))
    thread.start()
    thread.join()
    return answers[0]


@within(30)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), MemoryError()])
def test_what_ends_the_training_itself_ends_all_of_its_fits(
    error: BaseException, trainer: Trainer, patient: None
) -> None:
    def during(jobs: list[Any]) -> None:
        raise error

    trainer.during = during
    assert bind_thread(FitBatcher(), [fit(n) for n in range(3)]) == [error] * 3


@within(30)
def test_the_end_of_a_meeting_releases_all_and_asks_the_training_to_end(
    trainer: Trainer, patient: None
) -> None:
    ended = threading.Event()

    def during(jobs: list[Any]) -> None:
        while not ended.wait(0.001):
            if trainer.cancel_event.is_set():
                raise KeyboardInterrupt

    trainer.during = during
    meeting = FitBatcher()
    meeting.enter()
    trained, of_trained = start(meeting, [fit(n) for n in range(3)])
    meeting.leave()
    wait_until(lambda: trainer.groups)
    meeting.enter()
    waiting, of_waiting = start(meeting, [fit(n) for n in range(3)])
    wait_until(lambda: len(meeting._waiting) == 3)
    meeting.end()
    for thread in trained + waiting:
        thread.join()
    late = bind_thread(meeting, [fit("late")])
    ended.set()
    for answer in of_trained + of_waiting + late:
        assert isinstance(answer, KeyboardInterrupt)
    assert trainer.sizes == [3]


@within(60)
@pytest.mark.parametrize("seed", range(5))
def test_whatever_threads_do_each_fit_is_trained_once_and_all_end(
    seed: int, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "IDLE_TIMEOUT_S", 0.01)
    monkeypatch.setattr(room, "BUSY_TIMEOUT_S", 0.02)
    rng = random.Random(seed)
    locks = [threading.Lock(), threading.Lock()]
    expected: list[Any] = []

    def actions(name: int) -> Iterator[Callable[[], Any]]:
        for turn in range(rng.randrange(5)):
            job = ("bad" if rng.random() < 0.1 else "good") + f"{name}-{turn}"
            expected.append(job)
            lock = rng.choice(locks)
            pause_s = rng.choice([0, 0.001, 0.015])

            def locked(job: str = job, lock: Any = lock) -> None:
                with lock:
                    run_fit(job)

            yield lambda pause_s=pause_s: time.sleep(pause_s)
            yield rng.choice([locked, fit(job), fit(job)])
        if rng.random() < 0.1:
            yield lambda: 1 / 0

    def task(steps: list[Callable[[], Any]]) -> Task:
        def work() -> None:
            for step in steps:
                try:
                    step()
                except ValueError:
                    continue

        return work

    trainer.during = lambda jobs: time.sleep(0.001 * (len(jobs) % 3))
    meeting = FitBatcher()
    bind_thread(meeting, [task(list(actions(name))) for name in range(40)])
    assert sorted(job for group in trainer.groups for job in group) == sorted(expected)
    assert (meeting._running, meeting._waiting, meeting._taken) == (0, [], set())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system knows no fork")
@within(30)
def test_a_fit_in_a_fork_of_a_thread_that_attends_goes_alone(
    trainer: Trainer, patient: None
) -> None:
    def fork() -> int:
        child = os.fork()
        if child == 0:
            run_fit("child")
            os._exit(len(trainer.alone))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert bind_thread(FitBatcher(), [fork, fork, fit("parent")]) == [1, 1, "parent"]


@within(30)
def test_no_job_is_held_once_its_fit_has_ended(trainer: Trainer, patient: None) -> None:
    class FitJob:
        def __init__(self, text: str) -> None:
            self.text = text

        def __str__(self) -> str:
            return self.text

    def task(text: str) -> Task:
        def work() -> weakref.ref[FitJob]:
            job: Any = FitJob(text)
            try:
                run_fit(job)
            except ValueError as error:
                assert error.args == (job,)
            trainer.groups.clear()
            return weakref.ref(job)

        return work

    gc.collect()
    gc.disable()
    try:
        references = bind_thread(FitBatcher(), [task("bad"), task("good"), task("bad")])
        left = [reference() for reference in references]
    finally:
        gc.enable()
    assert left == [None] * 3
