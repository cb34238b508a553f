"""Many fits in one call: each with its own result, in parallel threads, without side effects."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchreg.engine.stack.train_many as train_many
from tests._stacks import Rows, assert_same, both_ways, fit_alone, job_of, with_config
from tests._trials import surroundings
from tests._zoo import Body
from torchreg import TorchRegressor
from torchreg.engine.build import FitResult
from torchreg.engine.run import fit_networks, unwrap_result
from torchreg.engine.spec import FitJob, NotStartedError
from torchreg.engine.stack import Stack
from torchreg.engine.train import FlatBackend
from torchreg.nn import MLP

Fit = tuple[TorchRegressor, Rows]


def rows(seed: int, n: int = 40) -> Rows:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    return {"X": X, "y": np.sin(X[:, 0]) + X[:, 1]}


def plain() -> nn.Module:
    return Body(nn.Tanh())


def small(seed: int, module: Any = plain, n: int = 40, **options: Any) -> Fit:
    settings: dict[str, Any] = {"max_epochs": 20, "lr": 0.02, "dtype": "float64", **options}
    return TorchRegressor(module, random_state=seed, **settings), rows(seed, n)


def large(seed: int, n: int = 1500, width: int = 64, **options: Any) -> Fit:
    """Return a fit of which at most four are in a stack, which then keeps a thread busy."""
    return small(seed, MLP, n, module__hidden_sizes=(width,), batch_size=None, **options)


def jobs_of(fits: list[Fit]) -> list[FitJob]:
    return [job_of(*fit) for fit in fits]


@pytest.fixture
def thread_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Let torch use two threads; return the names of threads that take steps."""
    names: set[str] = set()
    for backend in (Stack, FlatBackend):

        def step(self: Any, *args: Any, step: Any = backend.step) -> None:
            names.add(threading.current_thread().name)
            step(self, *args)

        monkeypatch.setattr(backend, "step", step)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield names
    torch.set_num_threads(n_threads)


# Results


def test_each_fit_has_its_own_result_in_its_place() -> None:
    def fits() -> list[Fit]:
        """Return stacks, fits that cannot be stacked, and fits that fail."""
        return [
            fit
            for k in range(4)
            for fit in (
                small(k),
                small(k, MLP, module__hidden_sizes=(3 + k % 2,)),
                small(k, optimizer="lbfgs", max_epochs=3),
                small(k, n=60, batch_size=20),
                small(k, loss=lambda p, t: (p - t) ** 2 / 0.0),
                small(k, nn.Linear(3, 1)),
                small(k, n_init=2),
            )
        ]

    results, alone, seen = both_ways(fits)
    assert sorted(seen.sizes) == [2, 2, 4, 12]
    for index, (one, other) in enumerate(zip(results, alone, strict=True)):
        k, kind = divmod(index, 7)
        if kind in (4, 5):
            assert type(one) is type(other) is ValueError
            assert str(one).partition(" is ")[0] == str(other).partition(" is ")[0]
        else:
            assert_same(one, other, near=1e-6 if kind == 2 else 1e-9)
            assert one.seed == k or kind == 6


def test_no_fits_have_no_results() -> None:
    assert fit_networks([]) == []


def test_stacks_in_parallel_threads_give_what_each_fit_gives_alone(thread_names: set[str]) -> None:
    results, alone, seen = both_ways(
        lambda: [large(k, early_stopping=k % 2 == 0) for k in range(16)]
    )
    assert seen.sizes == [4] * 4 and len(thread_names) == 2
    for one, other in zip(results, alone, strict=True):
        assert_same(one, other)


def test_large_networks_train_in_parallel_threads_too(
    thread_names: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, both_train = FlatBackend.step, threading.Barrier(2, timeout=20)
    local = threading.local()

    def waiting(self: Any, *args: Any) -> None:
        if not hasattr(local, "has_begun"):
            local.has_begun = True
            both_train.wait()
        step(self, *args)

    fits = [large(k, n=3000, width=90) for k in range(4)]
    with monkeypatch.context() as patch:
        patch.setattr(FlatBackend, "step", waiting)
        results: list[Any] = fit_networks(jobs_of(fits))
    assert len(thread_names) == 2
    for one, fit in zip(results, fits, strict=True):
        assert_same(one, fit_alone(job_of(*fit)))
        assert "because it is large enough by itself" in one.train_result.execution_mode


@pytest.mark.parametrize("error", [AssertionError("never here"), KeyError("k"), MemoryError()])
def test_networks_of_a_failed_stack_train_one_at_a_time(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, n_steps = Stack.step, [0]

    def failing(self: Any, *args: Any) -> None:
        n_steps[0] += 1
        if n_steps[0] % 7 == 0:
            raise error
        step(self, *args)

    monkeypatch.setattr(Stack, "step", failing)
    results, alone, _ = both_ways(lambda: [small(k) for k in range(8)])
    for one, other in zip(results, alone, strict=True):
        assert_same(one, other)
        assert "because training as a stack failed" in one.train_result.execution_mode


# Interrupts


@pytest.mark.parametrize("main_thread", ["trains", "waits"])
def test_an_interrupt_ends_the_stacks_of_all_threads_and_keeps_their_weights(
    main_thread: str, thread_names: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main_trains, worker_trains = threading.Event(), threading.Event()
    step, start, join = Stack.step, threading.Thread.start, threading.Thread.join
    n_steps = {True: 0, False: 0}
    workers: list[threading.Thread] = []

    def stepping(self: Any, *args: Any) -> None:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main:
            main_trains.set()
            if n_steps[True] == 10:
                worker_trains.wait(20)
                if main_thread == "trains":
                    raise KeyboardInterrupt
        step(self, *args)
        n_steps[in_main] += 1
        if n_steps[False] == 5:
            worker_trains.set()

    def starting(thread: threading.Thread) -> None:
        if "set_num_threads" not in thread.name:
            # The main thread takes the first stack, whose budget is small.
            run = thread.run
            thread.run = lambda: (main_trains.wait(20), run())
            workers.append(thread)
        start(thread)

    def joining(thread: threading.Thread, timeout: float | None = None) -> None:
        if main_thread == "waits" and thread in workers and n_steps[True] == 20:
            n_steps[True] += 1
            raise KeyboardInterrupt
        join(thread, timeout)

    budgets = [20] * 4 + [1_000_000] * 4
    fits = [large(k, max_epochs=budget) for k, budget in enumerate(budgets)]
    fits += [] if main_thread == "waits" else [small(k, n=60) for k in range(4)]
    jobs = jobs_of(fits)
    with monkeypatch.context() as patch:
        patch.setattr(Stack, "step", stepping)
        patch.setattr(threading.Thread, "start", starting)
        patch.setattr(threading.Thread, "join", joining)
        results: list[Any] = fit_networks(jobs)
    first = "interrupted" if main_thread == "trains" else "budget"
    reasons = [None if isinstance(r, NotStartedError) else r.train_result.reason for r in results]
    assert reasons == [first] * 4 + ["interrupted"] * 4 + [None] * (len(fits) - 8)
    for result in results[:8]:
        losses = result.train_result.losses
        assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert len(workers) == 1 and not workers[0].is_alive()


def test_an_interrupt_after_all_networks_have_trained_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_groups = train_many._StackScheduler.run_groups

    def late(self: Any, *args: Any) -> None:
        run_groups(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_many._StackScheduler, "run_groups", late)
    with pytest.raises(KeyboardInterrupt):
        fit_networks(jobs_of([small(k) for k in range(3)]))


@pytest.mark.parametrize(("n", "backend"), [(1, FlatBackend), (3, Stack)])
def test_an_interrupt_hidden_by_an_error_of_a_cleanup_is_raised(
    n: int, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: Any) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("trying to pop from empty mode stack")

    jobs = jobs_of([small(k) for k in range(n)])
    monkeypatch.setattr(backend, "step", step)
    with pytest.raises(KeyboardInterrupt):
        fit_networks(jobs)


def test_a_cancel_event_of_another_thread_ends_all_fits(thread_names: set[str]) -> None:
    cancel_event = threading.Event()
    jobs = jobs_of([large(k, max_epochs=10_000_000) for k in range(12)])
    timer = threading.Timer(1.0, cancel_event.set)
    timer.start()
    results = fit_networks(jobs, cancel_event)
    timer.join()
    assert len(thread_names) == 2
    ended = [result for result in results if isinstance(result, FitResult)]
    assert ended and all(result.interrupted for result in ended)
    assert all(isinstance(result, FitResult | NotStartedError) for result in results)


def test_a_cancel_event_that_is_set_starts_no_fit() -> None:
    cancel_event = threading.Event()
    cancel_event.set()
    results = fit_networks(jobs_of([small(k) for k in range(3)]), cancel_event)
    assert [type(result) for result in results] == [NotStartedError] * 3


# Side effects


def test_global_state_is_unchanged_after_and_thread_counts_during_training(
    thread_names: set[str],
) -> None:
    torch.manual_seed(5)
    counts: list[int] = []

    class CountsThreads(Body):
        """Records how many threads torch gives to a new thread during training."""

        def forward(self, x: Tensor) -> Tensor:
            # The count of new threads changes for a moment while that of this thread is set.
            for _ in range(100):
                seen: list[int] = []
                other = threading.Thread(target=lambda s=seen: s.append(torch.get_num_threads()))
                other.start()
                other.join()
                if seen == [2]:
                    break
            counts.extend(seen)
            return super().forward(x)

    before = surroundings()
    fits = [small(k, lambda: CountsThreads(nn.Tanh())) for k in range(8)]
    fits += [small(k, MLP, module__dropout=0.2) for k in range(4)]
    with torch.no_grad():
        results = fit_networks(jobs_of(fits))
        assert not torch.is_grad_enabled()
    assert all(isinstance(result, FitResult) for result in results)
    assert surroundings() == before
    assert set(counts) == {2}


def test_calls_in_several_threads_do_not_affect_each_other(thread_names: set[str]) -> None:
    jobs = [jobs_of([large(k) for k in range(8)]) for _ in range(3)]
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda own=own: results.append(fit_networks(own))) for own in jobs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 3
    expected = [fit_alone(job) for job in jobs_of([large(k) for k in range(8)])]
    for own in results:
        for one, other in zip(own, expected, strict=True):
            assert_same(one, other)


def assert_freed_without_collector(make: Callable[[], list[weakref.ref[Any]]]) -> None:
    """Require that no reference cycle keeps the objects alive."""
    make()
    gc.collect()
    gc.disable()
    try:
        refs = make()
        alive = [ref for ref in refs if ref() is not None]
    finally:
        gc.enable()
    assert refs and not alive


@pytest.mark.parametrize("batch_size", [None, 16])
def test_a_stack_is_freed_after_its_fits(
    batch_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind_views, refs = Stack.bind_views, []

    def noting(self: Any) -> None:
        tables = [task.training.x for task in self.tasks]
        refs.extend(weakref.ref(each) for each in [self, self.params, *tables])
        bind_views(self)

    monkeypatch.setattr(Stack, "bind_views", noting)

    def make() -> list[weakref.ref[Any]]:
        refs.clear()
        options: dict[str, Any] = {"batch_size": batch_size, "early_stopping": True}
        fits = [small(k, n_iter_no_change=2 + k, **options) for k in range(5)]
        assert all(isinstance(result, FitResult) for result in fit_networks(jobs_of(fits)))
        return [*refs]

    assert_freed_without_collector(make)


class FailingObserver:
    def on_epoch_begin(self) -> None: ...

    def on_epoch_end(self, record: Any) -> bool:
        raise OSError

    def on_fit_begin(self) -> None: ...

    def on_fit_end(self) -> None: ...


class FailsInTraining(Body):
    """Cannot compute many rows in training mode."""

    def __init__(self) -> None:
        super().__init__(nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) > 10:
            raise RuntimeError("too many rows")
        return super().forward(x)


def log_of_negative(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).abs().neg().log()


@pytest.mark.parametrize("n_init", [1, 3])
@pytest.mark.parametrize("kind", ["loss", "observer", "module"])
def test_an_error_that_is_dropped_keeps_nothing_alive(kind: str, n_init: int) -> None:
    def make() -> list[weakref.ref[Any]]:
        refs: list[weakref.ref[Any]] = []
        for alone in (True, False):
            options: dict[str, Any] = {"n_init": n_init}
            if kind == "loss":
                options["loss"] = log_of_negative
            module: Any = FailsInTraining if kind == "module" else plain
            job = job_of(*small(0, module, **options))
            if kind == "observer":
                job = with_config(job, observers=lambda _: [FailingObserver()])
            refs += [weakref.ref(job.training.y), weakref.ref(job.config)]
            try:
                if alone:
                    unwrap_result(*fit_networks([job]))
                assert all(isinstance(result, Exception) for result in fit_networks([job, job]))
            except (OSError, RuntimeError, ValueError):
                pass
            del job
        return refs

    assert_freed_without_collector(make)
