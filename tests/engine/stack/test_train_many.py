"""Fits together: in their order, side by side, each with its own errors, leaving nothing behind."""

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

import torchreg.engine.stack.grouping as groups
import torchreg.engine.stack.train_many as together
from tests._stacks import Rows, assert_same, both_ways, fit_alone, job_of
from tests._trials import surroundings
from tests._zoo import Body
from torchreg import TorchRegressor
from torchreg.engine.build import FitResult
from torchreg.engine.run import fit_networks, unwrap_result
from torchreg.engine.spec import NotStartedError
from torchreg.nn import MLP

Fit = tuple[TorchRegressor, Rows]


def rows(seed: int, n: int = 40) -> Rows:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    return {"X": X, "y": np.sin(X[:, 0]) + X[:, 1]}


def plain() -> nn.Module:
    return Body(nn.Tanh())


def fit_of(seed: int, module: Any = plain, n: int = 40, **options: Any) -> Fit:
    settings: dict[str, Any] = {"max_epochs": 20, "lr": 0.02, "dtype": "float64", **options}
    return TorchRegressor(module, random_state=seed, **settings), rows(seed, n)


def jobs_of(fits: list[Fit]) -> list[Any]:
    return [job_of(*fit) for fit in fits]


@pytest.fixture
def side_by_side(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let small stacks, of four networks, train in two threads; give the threads' names."""
    monkeypatch.setattr(groups, "WIDE_LAYER", 1)
    monkeypatch.setattr(groups, "MAX_STACK_WIDTH", 4 * 40 * 6)
    names: list[str] = []
    train = together.train

    def noting(*args: Any) -> Any:
        names.append(threading.current_thread().name)
        return train(*args)

    monkeypatch.setattr(together, "train", noting)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield names
    torch.set_num_threads(before)


# Answers


def mixed() -> list[Fit]:
    """Stacks, fits that are alone, and fits with something wrong, in no order."""
    fits = []
    for k in range(4):
        fits += [
            fit_of(k),
            fit_of(k, MLP, module__hidden_sizes=(3 + k % 2,)),
            fit_of(k, optimizer="lbfgs", max_epochs=3),
            fit_of(k, n=60, batch_size=20),
            fit_of(k, loss=lambda p, t: (p - t) ** 2 / 0.0),
            fit_of(k, nn.Linear(3, 1)),
            fit_of(k, n_init=2),
        ]
    return fits


def test_each_fit_has_its_own_answer_in_its_place() -> None:
    answers, alone, seen = both_ways(mixed)
    assert sorted(seen.sizes) == [2, 2, 4, 12]
    for number, (one, other) in enumerate(zip(answers, alone, strict=True)):
        if number % 7 in (4, 5):
            assert type(one) is type(other) is ValueError
            assert str(one).partition(" is ")[0] == str(other).partition(" is ")[0]
        else:
            assert_same(one, other, near=1e-6 if number % 7 == 2 else 1e-9)
            assert one.seed in (number // 7, *[one.seed][: number % 7 == 6])


def test_nothing_to_fit_is_done_at_once() -> None:
    assert fit_networks([]) == []


def test_stacks_train_side_by_side_and_give_what_they_give_in_turn(side_by_side: list[str]) -> None:
    def fits() -> list[Fit]:
        return [fit_of(k, batch_size=None, early_stopping=k % 2 == 0) for k in range(16)]

    answers, alone, seen = both_ways(fits)
    assert len(seen.sizes) == 4 and sum(seen.sizes) == 16
    for one, other in zip(answers, alone, strict=True):
        assert_same(one, other)


def test_networks_of_a_kind_that_are_large_enough_by_themselves_train_side_by_side_too(
    side_by_side: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "MAX_STACK_WIDTH", 40 * 6)
    begun, learn = threading.Barrier(2, timeout=20), together._StackScheduler._run_queue

    def learning(self: Any, todo: Any) -> None:
        begun.wait()
        learn(self, todo)

    monkeypatch.setattr(together._StackScheduler, "_run_queue", learning)
    fits = [fit_of(k, batch_size=None) for k in range(4)]
    answers: list[Any] = fit_networks(jobs_of(fits))
    assert begun.n_waiting == 0 and len(side_by_side) == 4
    for one, fit in zip(answers, fits, strict=True):
        assert_same(one, fit_alone(job_of(*fit)))
        assert "because it is large enough by itself" in one.train_result.execution_mode


@pytest.mark.parametrize("wrong", [AssertionError("never here"), KeyError("k"), MemoryError()])
def test_whatever_goes_wrong_in_a_stack_its_networks_train_in_turn(
    wrong: Exception, side_by_side: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = together.Stack.step, [0]

    def failing(self: Any, *args: Any) -> None:
        calls[0] += 1
        if calls[0] % 7 == 0:
            raise wrong
        step(self, *args)

    monkeypatch.setattr(together.Stack, "step", failing)
    answers, alone, _ = both_ways(lambda: [fit_of(k) for k in range(8)])
    for one, other in zip(answers, alone, strict=True):
        assert_same(one, other)
        assert "because training as a stack failed" in one.train_result.execution_mode


# Interrupts


@pytest.mark.parametrize("while_it", ["trains", "waits"])
def test_an_interrupt_ends_stacks_in_all_threads_and_keeps_what_they_learned(
    while_it: str, side_by_side: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes to the main thread: while it trains, or while it waits for the other one."""
    main_trains, other_has_learned = threading.Event(), threading.Event()
    step, helping, join = together.Stack.step, together._StackScheduler._work, threading.Thread.join
    counts = {True: 0, False: 0}

    def stepping(self: Any, *args: Any) -> None:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main:
            main_trains.set()
            if counts[True] == 10:
                other_has_learned.wait(20)
                if while_it == "trains":
                    raise KeyboardInterrupt
        step(self, *args)
        counts[in_main] += 1
        if counts[False] == 5:
            other_has_learned.set()

    def helping_later(self: Any, todo: Any) -> None:
        main_trains.wait(20)
        helping(self, todo)

    def joining(self: threading.Thread, timeout: float | None = None) -> None:
        if while_it == "waits" and counts[True] == 20 and "helping_later" in self.name:
            counts[True] += 1
            raise KeyboardInterrupt
        join(self, timeout)

    with monkeypatch.context() as patch:
        patch.setattr(together.Stack, "step", stepping)
        patch.setattr(together._StackScheduler, "_work", helping_later)
        patch.setattr(threading.Thread, "join", joining)
        budgets = [20, 20, 1_000_000, 1_000_000]
        fits = [fit_of(k, max_epochs=budget) for k, budget in enumerate(budgets)]
        fits += [] if while_it == "waits" else [fit_of(k, n=60) for k in range(4)]
        answers: list[Any] = fit_networks(jobs_of(fits))
    reasons = [None if isinstance(a, NotStartedError) else a.train_result.reason for a in answers]
    here = "interrupted" if while_it == "trains" else "budget"
    assert reasons == [here, here, "interrupted", "interrupted", *[None] * (len(fits) - 4)]
    for answer, reason in zip(answers, reasons, strict=True):
        if reason is not None:
            assert np.isfinite(answer.train_result.losses).all()
            assert answer.train_result.losses[-1] < answer.train_result.losses[0]
    assert not any("helping_later" in thread.name for thread in threading.enumerate())
    again, alone, seen = both_ways(lambda: [fit_of(k) for k in range(4)])
    assert sum(seen.sizes) == 4
    for one, other in zip(again, alone, strict=True):
        assert_same(one, other)


def test_an_interrupt_that_nobody_noticed_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """It came when all had been trained: to forget it would be to go on with what comes next."""
    run_serial = together._StackScheduler.run_serial

    def late(self: Any, *args: Any) -> None:
        run_serial(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(together._StackScheduler, "run_serial", late)
    with pytest.raises(KeyboardInterrupt):
        fit_networks(jobs_of([fit_of(k) for k in range(3)]))


@pytest.mark.parametrize("n", [1, 3])
def test_an_interrupt_behind_an_error_of_cleaning_up_is_raised(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def confused(*_: Any) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("trying to pop from empty mode stack")

    jobs = jobs_of([fit_of(k) for k in range(n)])
    monkeypatch.setattr(together.Stack if n > 1 else together.SingleBackend, "step", confused)
    with pytest.raises(KeyboardInterrupt):
        fit_networks(jobs)


def test_a_halt_from_another_thread_ends_all_fits(side_by_side: list[str]) -> None:
    cancel_event = threading.Event()
    jobs = jobs_of([fit_of(k, max_epochs=10_000_000) for k in range(12)])
    timer = threading.Timer(0.6, cancel_event.set)
    timer.start()
    answers = fit_networks(jobs, cancel_event)
    assert len(set(side_by_side)) == 2
    ended = [a for a in answers if isinstance(a, FitResult)]
    assert ended and all(a.interrupted for a in ended)
    assert all(isinstance(a, FitResult | NotStartedError) for a in answers)
    timer.join()


def test_with_a_halt_that_is_set_nothing_is_begun() -> None:
    cancel_event = threading.Event()
    cancel_event.set()
    answers = fit_networks(jobs_of([fit_of(k) for k in range(3)]), cancel_event)
    assert [type(answer) for answer in answers] == [NotStartedError] * 3


# What is left behind: nothing


def test_fits_together_leave_the_surroundings_as_they_were(side_by_side: list[str]) -> None:
    torch.manual_seed(5)
    seen: list[int] = []
    ends: list[int] = []

    class Spying(Body):
        """Sees how many threads a new thread would have while a stack trains."""

        def forward(self, x: Tensor) -> Tensor:
            # Whoever changes the count of its own changes that of new threads for a moment.
            for _ in range(100):
                other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
                other.start()
                other.join()
                if seen[-1] == 2:
                    break
            ends.append(seen[-1])
            return super().forward(x)

    before = surroundings()
    fits = [fit_of(k, lambda: Spying(nn.Tanh())) for k in range(8)]
    fits += [fit_of(k, MLP, module__dropout=0.2) for k in range(4)]
    with torch.no_grad():
        answers = fit_networks(jobs_of(fits))
    assert all(isinstance(answer, FitResult) for answer in answers)
    assert surroundings() == before
    assert set(ends) == {2}
    assert torch.is_grad_enabled()


def test_threads_that_fit_at_the_same_time_do_not_meet(side_by_side: list[str]) -> None:
    results: list[Any] = []
    # Regressors are asked one after another, for the spy that catches their jobs is global.
    jobs = [jobs_of([fit_of(k) for k in range(8)]) for _ in range(3)]
    threads = [
        threading.Thread(target=lambda own=own: results.append(fit_networks(own))) for own in jobs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    expected = [fit_alone(job) for job in jobs_of([fit_of(k) for k in range(8)])]
    assert len(results) == 3
    for answers in results:
        for one, other in zip(answers, expected, strict=True):
            assert_same(one, other)  # type: ignore[arg-type]


def gone_without_the_collector(make: Callable[[], list[weakref.ref[Any]]]) -> None:
    """Require that nothing of it lives on, nor waits for Python to look for circles."""
    make()
    gc.collect()
    gc.disable()
    try:
        refs = make()
        alive = [ref for ref in refs if ref() is not None]
    finally:
        gc.enable()
    assert refs and not alive


LENT: list[weakref.ref[Any]] = []


@pytest.mark.parametrize("batch_size", [None, 16])
def test_a_stack_is_gone_when_its_fits_are(
    batch_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lend = together.Stack.bind_views

    def noting(self: Any, *given: Any) -> None:
        tables = [task.training for task in self.tasks]
        LENT.extend(weakref.ref(held) for held in [self, self.params, *[t.x for t in tables]])
        lend(self, *given)

    monkeypatch.setattr(together.Stack, "bind_views", noting)

    def make() -> list[weakref.ref[Any]]:
        options: dict[str, Any] = {"batch_size": batch_size, "early_stopping": True}
        LENT.clear()
        answers = fit_networks(
            jobs_of([fit_of(k, n_iter_no_change=2 + k, **options) for k in range(5)])
        )
        assert all(isinstance(a, FitResult) for a in answers)
        return [*LENT]

    gone_without_the_collector(make)


class KeptError(Exception):
    """An error of a listener; what it holds is held as long as somebody holds it."""


class Failing(TorchRegressor):
    def _observers(self, *given: Any) -> list[Any]:
        return [self]

    def on_epoch_begin(self) -> None: ...

    def on_epoch_end(self, record: Any) -> bool:
        raise KeptError

    def on_fit_end(self, outcome: Any) -> None: ...


@pytest.mark.parametrize("n_init", [1, 3])
@pytest.mark.parametrize("kind", ["loss", "listener", "module"])
def test_an_error_that_nobody_keeps_keeps_nothing(kind: str, n_init: int) -> None:
    def make() -> list[weakref.ref[Any]]:
        refs: list[weakref.ref[Any]] = []
        for alone in (True, False):
            options: dict[str, Any] = {"max_epochs": 20, "n_init": n_init, "random_state": 0}
            given = rows(0)
            module: Any = plain
            if kind == "loss":
                options["loss"] = log_of
            if kind == "module":
                module = FailsLater
            regressor = Failing if kind == "listener" else TorchRegressor
            job = job_of(regressor(module, **options), given)
            refs += [weakref.ref(job.training.y), weakref.ref(job.config)]
            try:
                if alone:
                    unwrap_result(*fit_networks([job]))
                assert all(isinstance(answer, Exception) for answer in fit_networks([job, job]))
            except Exception:
                pass
            del job
        return refs

    gone_without_the_collector(make)


def log_of(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).abs().neg().log()


class FailsLater(Body):
    """Cannot compute many rows in training mode."""

    def __init__(self) -> None:
        super().__init__(nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) > 10:
            raise RuntimeError("too many rows")
        return super().forward(x)


def test_a_network_that_diverges_leaves_its_stack_in_peace_and_only_its_fit_tells() -> None:
    rates = (1e-2, 1e30, 1e-1)

    def fits() -> list[Fit]:
        own = {"optimizer": "sgd", "module__hidden_sizes": (5,)}
        return [fit_of(0, MLP, lr=lr, **own) for lr in rates]

    ours, alone, seen = both_ways(fits)
    assert seen.sizes == [3]
    assert seen.reasons == []
    assert [fitted.train_result.reason for fitted in ours] == ["budget", "diverged", "budget"]
    for one, other in zip(ours, alone, strict=True):
        assert_same(one, other)
