"""The pool runs every task once, at most as many at once as allowed, and joins its threads."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests._deadline import within
from torchreg._parallel import ParallelCall, Task, WorkerPool, current_pool

Function = Callable[[], Any]


def run(
    pool: WorkerPool, functions: list[Function], *, limit: int = 256, depth: int = 0
) -> list[Task]:
    """Run functions as one call, and wait for all of them."""
    call = pool.open_call(limit, depth)
    tasks = [pool.submit(call, function, None) for function in functions]
    wait_for(pool, call)
    pool.close_call(call)
    return tasks


def wait_for(pool: WorkerPool, call: ParallelCall) -> None:
    """Wait for a call, as a nested one if the calling thread is a worker."""
    if current_pool() is not None:
        pool.begin_wait(call)
    assert call.done.wait(30)
    if current_pool() is not None:
        pool.end_wait(call)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what a worker does after it has finished a task."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Concurrency:
    """The number of threads in a block, and its maximum."""

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
def pool(no_thread_is_left: None) -> Iterator[WorkerPool]:
    pool = WorkerPool(8)
    yield pool
    pool.shutdown()


@within(30)
def test_the_error_of_a_callback_is_that_of_the_call(pool: WorkerPool) -> None:
    def callback(task: Task) -> None:
        raise OSError("in the callback")

    call = pool.open_call(8, 0)
    pool.submit(call, lambda: 1, callback)
    assert call.done.wait(10)
    assert isinstance(call.error, OSError)
    assert run(pool, [lambda: 2])[0].get() == 2


@within(30)
def test_nested_tasks_run_first() -> None:
    single = WorkerPool(1)
    order: list[str] = []

    def outer(name: str) -> Function:
        def task() -> None:
            order.append(name)
            run(single, [lambda: order.append(f"inner of {name}")] * 2, depth=1)

        return task

    run(single, [outer("first"), outer("second")])
    single.shutdown()
    assert order == ["first", *["inner of first"] * 2, "second", *["inner of second"] * 2]


@within(60)
@pytest.mark.parametrize("seed", range(3))
def test_nested_calls_all_end_whatever_their_limits(seed: int, pool: WorkerPool) -> None:
    rng = random.Random(seed)
    done = []

    def tree(depth: int) -> Function:
        limit, n_tasks = rng.randrange(2, 12), rng.randrange(1, 9)
        below = [tree(depth + 1) for _ in range(n_tasks)] if depth < 3 else []

        def task() -> int:
            done.append(depth)
            return 1 + sum(t.get() for t in run(pool, below, limit=limit, depth=depth + 1))

        return task

    (root,) = run(pool, [tree(0)])
    assert root.get() == len(done)
    wait_until(lambda: pool.n_active == pool.batcher.n_running == 0)


@within(30)
def test_the_batcher_counts_a_running_thread_as_long_as_a_fit_may_arrive(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    unregister = pool.batcher.unregister

    def recorded() -> None:
        unregister()
        counts.append(pool.batcher.n_running)

    monkeypatch.setattr(pool.batcher, "unregister", recorded)

    def deep(depth: int) -> Function:
        below = [deep(depth + 1)] * 2 if depth < 3 else []
        return lambda: run(pool, below, depth=depth + 1)

    pool.activate()
    call = pool.open_call(8, 0)
    for _ in range(20):
        pool.submit(call, deep(0), None)
    pool.begin_wait(call)
    assert call.done.wait(20)
    pool.end_wait(call)
    assert min(counts) > 0
    pool.deactivate()
    wait_until(lambda: counts[-1] == 0)


@within(30)
def test_shutdown_cancels_queued_tasks_and_calls_their_callbacks(pool: WorkerPool) -> None:
    begun, end, finished = threading.Event(), threading.Event(), []

    def blocks() -> None:
        begun.set()
        end.wait(20)

    call = pool.open_call(1, 0)
    first = pool.submit(call, blocks, finished.append)
    second = pool.submit(call, lambda: 1, finished.append)
    assert begun.wait(10)
    threading.Timer(0.05, end.set).start()
    pool.shutdown()
    assert first.get() is None
    with pytest.raises(KeyboardInterrupt):
        second.get()
    third = pool.submit(call, lambda: 1, finished.append)
    assert isinstance(third.error, KeyboardInterrupt)
    assert finished == [second, first, third]


@within(30)
def test_shutdown_does_not_wait_forever_for_a_running_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(WorkerPool, "SHUTDOWN_TIMEOUT_S", 0.02)
    pool, begun, end = WorkerPool(), threading.Event(), threading.Event()

    def blocks() -> None:
        begun.set()
        end.wait(20)

    call = pool.open_call(8, 0)
    pool.submit(call, blocks, None)
    assert begun.wait(10)
    (thread,) = [t for t in threading.enumerate() if t.name.startswith("torchreg")]
    pool.shutdown()
    assert thread.is_alive()
    end.set()
    thread.join(10)
    assert call.done.is_set()


@within(30)
def test_shutdown_joins_threads_that_were_just_started() -> None:
    for _ in range(20):
        pool = WorkerPool()
        call = pool.open_call(256, 0)
        for _ in range(10):
            pool.submit(call, threading.current_thread, None)
        pool.shutdown()
        assert not [t for t in threading.enumerate() if t.name.startswith("torchreg")]


@within(30)
def test_an_interrupt_while_a_thread_starts_cancels_the_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    pool, finished = WorkerPool(), []
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(threading.Thread, "start", interrupted)
        pool.submit(pool.open_call(8, 0), lambda: 1, finished.append)
    pool.shutdown()
    (task,) = finished
    assert isinstance(task.error, KeyboardInterrupt)


@within(30)
def test_existing_threads_do_the_work_if_the_system_allows_no_more(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
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
    inside = Concurrency()

    def task() -> None:
        with inside:
            time.sleep(0.01)

    tasks = run(pool, [task] * 20)
    assert [task.error for task in tasks] == [None] * 20
    assert inside.most == 2
    other = WorkerPool()
    with pytest.raises(RuntimeError, match="start new thread"):
        other.submit(other.open_call(8, 0), task, None)
