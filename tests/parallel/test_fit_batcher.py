"""The fits of several threads are trained in batches, once each, and none waits forever."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from skorch.callbacks import Callback

from tests._deadline import within
from torchreg import TorchRegressor
from torchreg._parallel import FitBatcher
from torchreg.engine.run import fit_networks, is_training, unwrap_result
from torchreg.nn import MLP

Action = Callable[[], Any]


def run_fit(job: Any) -> Any:
    return unwrap_result(*fit_networks([job]))


class Trainer:
    """Replaces the engine: returns each job as its result, and records the batches."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.during: Callable[[list[Any]], Any] = lambda jobs: None
        self.lock = threading.Lock()

    def __call__(self, jobs: list[Any], cancel_event: threading.Event | None = None) -> list[Any]:
        if cancel_event is None:
            self.single.extend(jobs)
            return list(jobs)
        self.cancel_event = cancel_event
        with self.lock:
            self.batches.append(list(jobs))
        self.during(jobs)
        return [ValueError(job) if str(job).startswith("bad") else job for job in jobs]

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    trainer = Trainer()
    monkeypatch.setattr(FitBatcher, "train", staticmethod(trainer))
    return trainer


@pytest.fixture
def no_timeout(set_timeouts: Callable[..., None]) -> None:
    set_timeouts(1000.0, 1000.0)


def start(batcher: FitBatcher, actions: list[Action]) -> tuple[list[threading.Thread], list[Any]]:
    """Run each action in a thread of the batcher."""
    results: list[Any] = [None] * len(actions)

    def work(index: int, action: Action) -> None:
        batcher.bind_thread()
        try:
            results[index] = action()
        except BaseException as error:
            results[index] = error
        finally:
            batcher.unregister()

    threads = [threading.Thread(target=work, args=item) for item in enumerate(actions)]
    for _ in threads:
        batcher.register()
    for thread in threads:
        thread.start()
    return threads, results


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join()


def run_all(batcher: FitBatcher, actions: list[Action]) -> list[Any]:
    threads, results = start(batcher, actions)
    join(threads)
    return results


def fit(job: Any) -> Action:
    return lambda: run_fit(job)


def wait_until(condition: Callable[[], Any]) -> None:
    while not condition():
        time.sleep(0.001)


@within(30)
def test_all_fits_are_one_batch_and_each_thread_gets_its_own_result(
    trainer: Trainer, no_timeout: None
) -> None:
    several = [lambda n=n: fit_networks([n, "bad", n + 1]) for n in range(0, 20, 2)]
    results = run_all(FitBatcher(), [*several, fit("one"), fit("bad")])
    assert trainer.sizes == [32]
    for n, result in zip(range(0, 20, 2), results, strict=False):
        assert result[::2] == [n, n + 1] and isinstance(result[1], ValueError)
    assert results[-2] == "one" and isinstance(results[-1], ValueError)


@within(30)
def test_a_batch_waits_for_threads_that_end_without_a_fit(
    trainer: Trainer, no_timeout: None
) -> None:
    end, batcher = threading.Event(), FitBatcher()
    threads, results = start(batcher, [fit(1), fit(2), end.wait, lambda: 1 / 0])
    wait_until(lambda: batcher.n_pending == 2 and batcher.n_running == 1)
    assert not trainer.batches
    end.set()
    join(threads)
    assert trainer.sizes == [2]
    assert isinstance(results[3], ZeroDivisionError)


@within(30)
def test_repeated_fits_of_the_same_threads_are_one_batch_each_time(
    trainer: Trainer, no_timeout: None
) -> None:
    def three(number: int) -> Action:
        return lambda: [run_fit((number, turn)) for turn in range(3)]

    run_all(FitBatcher(), [three(number) for number in range(20)])
    assert trainer.sizes == [20, 20, 20]
    assert [{turn for _, turn in batch} for batch in trainer.batches] == [{0}, {1}, {2}]


@within(30)
def test_a_batch_does_not_wait_for_a_thread_that_waits_for_a_lock_of_a_pending_fit(
    trainer: Trainer, set_timeouts: Callable[..., None]
) -> None:
    set_timeouts(0.02, 1000.0)
    lock = threading.Lock()

    def locked(number: int) -> Action:
        def action() -> Any:
            with lock:
                return run_fit(number)

        return action

    assert run_all(FitBatcher(), [locked(number) for number in range(4)]) == [0, 1, 2, 3]
    assert trainer.sizes == [1, 1, 1, 1]


def compute_until(is_over: Callable[[], bool]) -> None:
    while not is_over():
        sum(range(1000))


@within(30)
def test_a_batch_waits_longer_for_a_thread_that_computes(
    trainer: Trainer, set_timeouts: Callable[..., None]
) -> None:
    set_timeouts(0.2, 1000.0)

    def busy() -> Any:
        end = time.monotonic() + 0.5
        compute_until(lambda: time.monotonic() > end)
        return run_fit("late")

    assert run_all(FitBatcher(), [fit("early"), busy]) == ["early", "late"]
    assert trainer.sizes == [2]


@within(30)
def test_a_batch_does_not_wait_forever_for_a_thread_that_computes(
    trainer: Trainer, set_timeouts: Callable[..., None]
) -> None:
    set_timeouts(0.02, 0.1)
    fitted = threading.Event()

    def release() -> Any:
        result = run_fit("one")
        fitted.set()
        return result

    actions = [lambda: compute_until(fitted.is_set), release, fit("two")]
    assert run_all(FitBatcher(), actions)[1:] == ["one", "two"]


@within(30)
def test_threads_return_from_a_batch_a_few_at_a_time(trainer: Trainer, no_timeout: None) -> None:
    now, most, lock = [0], [0], threading.Lock()

    def action() -> None:
        run_fit("job")
        with lock:
            now[0] += 1
            most[0] = max(now[0], most[0])
        time.sleep(0.001)
        with lock:
            now[0] -= 1

    run_all(FitBatcher(), [action] * 30)
    assert trainer.sizes == [30]
    assert most[0] <= FitBatcher.MAX_RELEASED


@within(30)
@pytest.mark.parametrize("after_timeout", [False, True])
def test_all_threads_of_a_batch_return_even_if_the_first_ones_wait_for_the_others(
    trainer: Trainer, set_timeouts: Callable[..., None], after_timeout: bool
) -> None:
    set_timeouts(0.02, 0.05)
    together = threading.Barrier(20)

    def action(number: int) -> Action:
        def work() -> Any:
            result = run_fit(number)
            together.wait(20)
            return result

        return work

    batcher = FitBatcher()
    if after_timeout:  # One registered thread never submits a fit.
        batcher.register()
    assert run_all(batcher, [action(number) for number in range(20)]) == list(range(20))


@within(30)
def test_a_fit_does_not_wait_for_a_batch_in_training(trainer: Trainer, no_timeout: None) -> None:
    second = threading.Event()

    def during(jobs: list[Any]) -> None:
        if "slow" in jobs:
            assert second.wait(20)
        else:
            second.set()

    trainer.during = during
    batcher = FitBatcher()
    threads, _ = start(batcher, [fit("slow")])
    wait_until(lambda: trainer.batches)
    assert run_all(batcher, [fit("quick")]) == ["quick"]
    join(threads)
    assert trainer.sizes == [1, 1]


def small_fit(callbacks: list[Any] | None = None) -> TorchRegressor:
    X = np.random.default_rng(0).normal(size=(12, 2))
    return TorchRegressor(MLP, max_epochs=2, callbacks=callbacks, random_state=0).fit(X, X[:, 0])


@within(60)
def test_a_fit_inside_a_training_is_trained_at_once(sizes: list[int], no_timeout: None) -> None:
    inner = []

    class FitsAnother(Callback):
        def on_train_end(self, net: Any, **kwargs: Any) -> None:
            assert is_training()
            inner.append(small_fit().n_iter_)

    run_all(FitBatcher(), [lambda: small_fit([FitsAnother()])] * 2)
    assert (inner, sizes) == ([2, 2], [2])
    assert not is_training()


@within(30)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), MemoryError()])
def test_an_error_of_the_engine_ends_all_fits_of_the_batch(
    error: BaseException, trainer: Trainer, no_timeout: None
) -> None:
    def during(jobs: list[Any]) -> None:
        raise error

    trainer.during = during
    assert run_all(FitBatcher(), [fit(n) for n in range(3)]) == [error] * 3


@within(30)
def test_cancelling_ends_pending_fits_and_asks_trainings_to_end(
    trainer: Trainer, no_timeout: None
) -> None:
    def during(jobs: list[Any]) -> None:
        trainer.cancel_event.wait(20)
        raise KeyboardInterrupt

    trainer.during = during
    batcher = FitBatcher()
    in_training, training_results = start(batcher, [fit(n) for n in range(3)])
    wait_until(lambda: trainer.batches)
    batcher.register()
    pending, pending_results = start(batcher, [fit(n) for n in range(3)])
    wait_until(lambda: batcher.n_pending == 3)
    batcher.cancel()
    join(in_training + pending)
    late = run_all(batcher, [fit("late")])
    for result in training_results + pending_results + late:
        assert isinstance(result, KeyboardInterrupt)
    assert trainer.sizes == [3]


@within(60)
@pytest.mark.parametrize("seed", range(3))
def test_each_fit_is_trained_once_whatever_else_the_threads_do(
    seed: int, trainer: Trainer, set_timeouts: Callable[..., None]
) -> None:
    set_timeouts(0.01, 0.02)
    rng = random.Random(seed)
    locks = [threading.Lock(), threading.Lock()]
    expected: list[Any] = []

    def steps(name: int) -> Iterator[Action]:
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

    def action(steps: list[Action]) -> Action:
        def work() -> None:
            for step in steps:
                try:
                    step()
                except ValueError:
                    continue

        return work

    trainer.during = lambda jobs: time.sleep(0.001 * (len(jobs) % 3))
    batcher = FitBatcher()
    run_all(batcher, [action(list(steps(name))) for name in range(40)])
    assert sorted(job for batch in trainer.batches for job in batch) == sorted(expected)
    assert batcher.n_running == batcher.n_pending == 0


@within(30)
def test_jobs_are_freed_without_garbage_collection(trainer: Trainer, no_timeout: None) -> None:
    class Job:
        def __init__(self, text: str) -> None:
            self.text = text

        def __str__(self) -> str:
            return self.text

    def action(text: str) -> Action:
        def work() -> weakref.ref[Job]:
            job: Any = Job(text)
            try:
                run_fit(job)
            except ValueError as error:
                assert error.args == (job,)
            trainer.batches.clear()
            return weakref.ref(job)

        return work

    gc.collect()
    gc.disable()
    try:
        references = run_all(FitBatcher(), [action("bad"), action("good"), action("bad")])
        left = [reference() for reference in references]
    finally:
        gc.enable()
    assert left == [None] * 3
