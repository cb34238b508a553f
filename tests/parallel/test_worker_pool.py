"""Threads run every task once, so many at a time as they may, and are gone in the end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests._deadline import within
from torchreg._parallel.tasks import ParallelCall, Task, TaskError
from torchreg._parallel.worker_pool import WorkerPool, current_pool

Function = Callable[[], Any]


def run(
    crew: WorkerPool, functions: list[Function], *, limit: int = 256, depth: int = 0
) -> list[Task]:
    """Run functions as one call, and wait for all of them."""
    call = crew.open(limit, depth)
    tasks = [crew.submit(call, function, None) for function in functions]
    wait_for(crew, call)
    crew.close(call)
    return tasks


def wait_for(crew: WorkerPool, call: ParallelCall) -> None:
    """Wait as a thread at work does, if the calling one is."""
    if current_pool() is None:
        assert call.over.wait(30)
        return
    crew.begin_to_wait(call)
    assert call.over.wait(30)
    crew.end_to_wait(call)


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for what threads do after they have told the end of their task."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Most:
    """Counts how many are inside at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.lock = threading.Lock()

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1


@pytest.fixture
def crew() -> Iterator[WorkerPool]:
    crew = WorkerPool(8)
    yield crew
    crew.end()
    assert not any(thread.name.startswith("torchreg") for thread in threading.enumerate())


@within(30)
def test_every_task_runs_once_and_gives_its_result(crew: WorkerPool) -> None:
    tasks = run(crew, [lambda n=n: n * n for n in range(1000)])
    assert [task.get() for task in tasks] == [n * n for n in range(1000)]


@within(30)
def test_so_many_run_at_once_as_the_call_and_the_crew_allow(crew: WorkerPool) -> None:
    for limit, expected in [(3, 3), (8, 8), (100, 8)]:
        inside, full = Most(), threading.Barrier(expected)

        def task(inside: Most = inside, full: threading.Barrier = full) -> None:
            with inside:
                full.wait(20)

        run(crew, [task] * (4 * expected), limit=limit)
        assert inside.most == expected


@within(30)
def test_an_error_is_that_of_its_task_and_tells_where_it_happened(crew: WorkerPool) -> None:
    def fails() -> None:
        raise ValueError("of this task")

    call = crew.open(8, 0)
    task = crew.submit(call, fails, None)
    assert call.over.wait(10)
    with pytest.raises(ValueError, match="of this task") as caught:
        task.get()
    assert isinstance(caught.value.__cause__, TaskError)
    assert "in fails" in str(caught.value.__cause__)
    assert run(crew, [lambda: 1])[0].get() == 1


@within(30)
def test_the_deepest_task_goes_first(crew: WorkerPool) -> None:
    single = WorkerPool(1)
    order: list[str] = []

    def outer(name: str) -> Function:
        def task() -> None:
            order.append(name)
            run(single, [lambda: order.append(f"inner of {name}")] * 2, depth=1)

        return task

    run(single, [outer("first"), outer("second")])
    single.end()
    assert order == ["first", *["inner of first"] * 2, "second", *["inner of second"] * 2]


@within(30)
def test_the_meeting_is_never_empty_while_somebody_may_come(crew: WorkerPool) -> None:
    counts = []
    leave = crew.meeting.leave

    def watched() -> None:
        leave()
        counts.append(crew.meeting._running)

    crew.meeting.leave = watched  # type: ignore[method-assign]

    def deep(depth: int) -> Function:
        below = [deep(depth + 1)] * 2 if depth < 3 else []
        return lambda: run(crew, below, depth=depth + 1)

    crew.come()
    call = crew.open(8, 0)
    for _ in range(20):
        crew.submit(call, deep(0), None)
    crew.begin_to_wait(call)
    assert call.over.wait(20)
    crew.end_to_wait(call)
    assert min(counts) > 0
    crew.go()
    wait_until(lambda: counts[-1] == 0)


@within(60)
@pytest.mark.parametrize("seed", range(3))
def test_calls_inside_calls_all_end_whatever_the_limits(seed: int, crew: WorkerPool) -> None:
    rng = random.Random(seed)
    done = []

    def tree(depth: int) -> Function:
        limit, n_tasks = rng.randrange(2, 12), rng.randrange(1, 9)
        below = [tree(depth + 1) for _ in range(n_tasks)] if depth < 3 else []

        def task() -> int:
            done.append(depth)
            return 1 + sum(t.get() for t in run(crew, below, limit=limit, depth=depth + 1))

        return task

    (root,) = run(crew, [tree(0)])
    assert root.get() == len(done)
    wait_until(lambda: crew._n_at_work == crew.meeting._running == 0)


@within(30)
def test_the_end_drops_what_has_not_begun_and_tells_who_waits(crew: WorkerPool) -> None:
    begun, end, told = threading.Event(), threading.Event(), []

    def blocks() -> None:
        begun.set()
        end.wait(20)

    call = crew.open(1, 0)
    first = crew.submit(call, blocks, told.append)
    second = crew.submit(call, lambda: 1, told.append)
    assert begun.wait(10)
    threading.Timer(0.05, end.set).start()
    crew.end()
    assert first.get() is None
    with pytest.raises(KeyboardInterrupt):
        second.get()
    assert told == [second, first]
    third = crew.submit(call, lambda: 1, told.append)
    assert isinstance(third.error, KeyboardInterrupt)
    assert told == [second, first, third]


@within(30)
def test_the_end_tells_who_waits_for_a_task_that_ctrl_c_took_on_its_way_to_a_thread(
    crew: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(task: Task) -> None:
        raise KeyboardInterrupt

    told: list[Task] = []
    monkeypatch.setattr(crew, "_spawn_worker", interrupted)
    with pytest.raises(KeyboardInterrupt):
        crew.submit(crew.open(8, 0), lambda: 1, told.append)
    crew.end()
    (task,) = told
    assert isinstance(task.error, KeyboardInterrupt)


@within(30)
def test_the_end_does_not_wait_for_ever_for_a_task_that_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torchreg._parallel.worker_pool._SHUTDOWN_TIMEOUT_S", 0.1)
    crew, end = WorkerPool(), threading.Event()
    call = crew.open(8, 0)
    crew.submit(call, lambda: end.wait(20), None)
    crew.end()
    end.set()
    assert call.over.wait(10)


def names() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("torchreg")]


@within(30)
def test_the_end_waits_for_threads_that_were_started_just_now() -> None:
    for _ in range(50):
        crew = WorkerPool()
        call = crew.open(256, 0)
        for _ in range(10):
            crew.submit(call, lambda: threading.current_thread(), None)
        crew.end()
        assert not names()


@within(30)
def test_the_end_does_not_wait_for_a_thread_that_ctrl_c_kept_from_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    crew = WorkerPool()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(threading.Thread, "start", interrupted)
        crew.submit(crew.open(8, 0), lambda: 1, None)
    crew.end()
    assert not names()


@within(30)
def test_where_the_system_gives_no_further_thread_those_that_are_there_do_the_work(
    crew: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = threading.Thread.start
    left = [2]

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("torchreg"):
            if not left[0]:
                raise RuntimeError("can't start new thread")
            left[0] -= 1
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    inside = Most()

    def task() -> None:
        with inside:
            time.sleep(0.01)

    tasks = run(crew, [task] * 20)
    assert [task.error for task in tasks] == [None] * 20
    assert inside.most == 2
    other = WorkerPool()
    call = other.open(8, 0)
    with pytest.raises(RuntimeError, match="start new thread"):
        other.submit(call, task, None)


@within(30)
def test_an_error_of_who_hears_of_the_end_is_not_lost(crew: WorkerPool) -> None:
    def callback(task: Task) -> None:
        raise OSError("no one listens")

    call = crew.open(8, 0)
    crew.submit(call, lambda: 1, callback)
    assert call.over.wait(10)
    assert isinstance(call.error, OSError)
    assert run(crew, [lambda: 2])[0].get() == 2


@within(30)
def test_a_result_can_be_waited_for(crew: WorkerPool) -> None:
    begin = threading.Event()
    task = crew.submit(crew.open(8, 0), lambda: begin.wait(20), None)
    threading.Timer(0.02, begin.set).start()
    assert task.get()
