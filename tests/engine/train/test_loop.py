"""Each network of a stack ends, records, notifies and is interrupted as it is alone."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests._stacks import (
    Rows,
    Seen,
    assert_same,
    both_ways,
    fit_alone,
    job_of,
    watched,
    with_config,
)
from tests._zoo import Body
from torchreg import TorchRegressor
from torchreg.engine.run import fit_networks
from torchreg.engine.spec import EpochRecord, FitJob
from torchreg.engine.stack import Stack

Each = Callable[[int], dict[str, Any]]
BATCHES = pytest.mark.parametrize("batch_size", [None, 16], ids=["full batch", "mini-batches"])


def rows(seed: int, n: int = 40, held_out: int = 0, *, weighted: bool = False) -> Rows:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n + held_out, 4))
    y = np.sin(X[:, 0]) + X[:, 1] + 0.3 * rng.normal(size=n + held_out)
    given: Rows = {"X": X[:n], "y": y[:n]}
    if weighted:
        given["sample_weight"] = rng.uniform(0.5, 2.0, size=n)
    if held_out:
        given |= {"X_val": X[n:], "y_val": y[n:]}
    return given


def normalized() -> nn.Module:
    """Return a network with buffers that change in every step."""
    return Body(nn.Sequential(nn.Tanh(), nn.BatchNorm1d(6)))


def plain() -> nn.Module:
    return Body(nn.Tanh())


def build(
    module: Any, each: Each, tables: list[Rows], **options: Any
) -> list[tuple[TorchRegressor, Rows]]:
    """Return one fit per table; ``each`` gives the parameters of its own."""
    settings: dict[str, Any] = {"dtype": "float64", "max_epochs": 60, "lr": 0.02, **options}
    return [
        (TorchRegressor(module, **{**settings, "random_state": k, **each(k)}), table)
        for k, table in enumerate(tables)
    ]


def compare(module: Any, each: Each, tables: list[Rows], **options: Any) -> tuple[list[Any], Seen]:
    """Require that fits give the same as a stack and alone."""
    together, alone, seen = both_ways(lambda: build(module, each, tables, **options))
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)
    assert seen.sizes == [len(tables)]
    return [fit.train_result for fit in together], seen


@pytest.fixture(autouse=True)
def unchanged_torch_state(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    before = torch.get_num_threads(), torch.get_rng_state().numpy().tobytes()
    yield
    assert before == (torch.get_num_threads(), torch.get_rng_state().numpy().tobytes())


# Ends


@BATCHES
@pytest.mark.parametrize("module", [plain, normalized])
@pytest.mark.parametrize("own_rows", [True, False], ids=["X_val", "held out"])
def test_each_stops_early_by_its_validation_loss_and_keeps_its_best_weights(
    own_rows: bool, module: Any, batch_size: int | None
) -> None:
    def each(k: int) -> dict[str, Any]:
        return {"lr": 0.02 * (1 + k), "n_iter_no_change": 2 + k, "tol": 1e-3 * (k % 2)}

    unequal = own_rows and module is plain
    tables = [
        rows(k, 40 + k * (module is plain), (6 + 2 * k * unequal) * own_rows) for k in range(9)
    ]
    results, _ = compare(module, each, tables, early_stopping=True, batch_size=batch_size)
    lengths = {result.last_epoch for result in results}
    assert len(lengths) >= 5 and min(lengths) < 15
    assert "early_stopping" in {result.reason for result in results}
    assert any(result.best_epoch < result.last_epoch for result in results)


@BATCHES
def test_each_converges_by_its_own_tolerance(batch_size: int | None) -> None:
    def each(k: int) -> dict[str, Any]:
        tol = 10.0 ** -(1 + 2 * (k % 3))
        return {"tol": tol, "n_iter_no_change": 2 + k, "max_epochs": 60 - 8 * k}

    tables = [rows(k, 40 + k, weighted=k == 3) for k in range(7)]
    results, _ = compare(plain, each, tables, batch_size=batch_size)
    assert {result.reason for result in results} == {"converged", "budget"}
    assert {result.still_falling for result in results} == {True, False}


@BATCHES
@pytest.mark.parametrize("module", [plain, normalized])
def test_each_has_its_own_budget(module: Any, batch_size: int | None) -> None:
    # The stack is compacted when few networks are left, down to one.
    budgets = [1, 2, 3, 5, 8, 13, 21, 40]
    tables = [rows(k, 40, 5) for k in range(8)]
    results, _ = compare(
        module,
        lambda k: {"max_epochs": budgets[k]},
        tables,
        batch_size=batch_size,
        optimizer="rmsprop",
    )
    assert [len(result.losses) for result in results] == budgets


def test_a_stack_with_few_epochs_left_is_not_captured_again() -> None:
    def each(k: int) -> dict[str, Any]:
        return {
            "max_epochs": [100, 15, 14, 13][k],
            "lr": [3.0, 0.02, 0.02, 0.02][k],
            "n_iter_no_change": [2, 50, 50, 50][k],
        }

    tables = [rows(k, 40, 7) for k in range(4)]
    results, _ = compare(plain, each, tables, batch_size=None, early_stopping=True, optimizer="sgd")
    assert len(results[0].losses) < 12


@BATCHES
def test_only_the_network_with_an_infinite_first_loss_is_refused(batch_size: int | None) -> None:
    class Multiplied(Body):
        def __init__(self, factor: float) -> None:
            super().__init__(nn.Tanh())
            self.register_buffer("factor", torch.tensor(factor))

        def forward(self, x: Tensor) -> Tensor:
            output = super().forward(x)
            return output * self.factor if self.training else output

    def each(k: int) -> dict[str, Any]:
        return {"module__factor": 1.0 if k % 2 else np.inf}

    tables = [rows(k) for k in range(5)]
    together, alone, seen = both_ways(
        lambda: build(Multiplied, each, tables, batch_size=batch_size, max_epochs=20)
    )
    assert seen.sizes == [5]
    for k, (one, other) in enumerate(zip(together, alone, strict=True)):
        if k % 2:
            assert_same(one, other)
        else:
            assert type(one) is ValueError and str(one) == str(other)
            assert "'squared_error' is inf at the first step" in str(one)


@BATCHES
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_network_that_diverges_keeps_its_best_weights_and_does_not_affect_others(
    early_stopping: bool, batch_size: int | None
) -> None:
    rates = [0.02, 1e6, 0.02, 1e30, 1e200, 0.02]
    tables = [rows(k, 48, 8 * early_stopping) for k in range(6)]
    together, alone, seen = both_ways(
        lambda: build(
            normalized if batch_size else plain,
            lambda k: {"lr": rates[k]},
            tables,
            optimizer="sgd",
            optimizer__momentum=0.0,
            batch_size=batch_size,
            early_stopping=early_stopping,
            n_iter_no_change=60,
        )
    )
    assert seen.sizes == [6] and seen.reasons == []
    for one, other, rate in zip(together, alone, rates, strict=True):
        if rate < 1:
            assert_same(one, other)
            continue
        # Losses that explode amplify rounding without bound; the best weights are early.
        ours, theirs = one.train_result, other.train_result
        assert ours.reason == theirs.reason == "diverged"
        assert ours.best_epoch == theirs.best_epoch and len(ours.losses) == len(theirs.losses)
        assert not np.isfinite([ours.losses[-1], (ours.validation_losses or [0.0])[-1]]).all()
        for name, tensor in one.module.state_dict().items():
            assert bool(torch.isfinite(tensor).all())
            torch.testing.assert_close(tensor, other.module.state_dict()[name])


def test_warm_starts_continue_their_own_count_of_epochs() -> None:
    options: dict[str, Any] = {"warm_start": True, "lr": 0.02}
    begun = [
        TorchRegressor(plain, random_state=k, max_epochs=3 + 4 * k, **options).fit(**rows(k))
        for k in range(4)
    ]
    for k, reg in enumerate(begun):
        reg.set_params(max_epochs=25 - k, lr=0.01, tol=1e-9)
    together, alone, seen = both_ways(
        lambda: [(copy.deepcopy(reg), rows(k + 9)) for k, reg in enumerate(begun)]
    )
    assert seen.sizes == [4]
    for k, (one, other) in enumerate(zip(together, alone, strict=True)):
        assert_same(one, other)
        assert one.train_result.history()[0]["epoch"] == 4 + 4 * k


# Observers


class Observer:
    """Records what it sees of its network; may stop the fit or fail, in a given epoch."""

    def __init__(self, module: nn.Sequential, stop_at: int = 0, fail_at: float = 0) -> None:
        self.module, self.stop_at, self.fail_at = module, stop_at, fail_at
        self.seen: list[Any] = []

    def state(self) -> dict[str, Tensor]:
        return {name: t.clone() for name, t in self.module.network.state_dict().items()}

    def on_fit_begin(self) -> None:
        self.seen.append(("fit", [], {}))

    def on_epoch_begin(self) -> None:
        self.seen.append(("begin", [], {}))

    def on_epoch_end(self, record: EpochRecord) -> bool:
        losses = [record.loss, record.validation_loss]
        self.seen.append((record.epoch, losses, self.state()))
        record.extra["twice"] = 2 * record.epoch
        if record.epoch == self.fail_at:
            raise OSError("the disk is full")
        return record.epoch == self.stop_at

    def on_fit_end(self) -> None:
        self.seen.append(("end", [], self.state()))
        if self.fail_at == np.inf:
            raise OSError("too late")


def observed(
    fits: list[tuple[TorchRegressor, Rows]], create: Callable[[int, nn.Sequential], Any]
) -> tuple[list[FitJob], list[Any]]:
    """Return the jobs of fits with one observer each, and the observers."""
    observers: list[Any] = [None] * len(fits)

    def attach(k: int, build_module: Callable[[], nn.Sequential]) -> list[Any]:
        observers[k] = create(k, build_module())
        return [observers[k]]

    jobs = [
        with_config(job_of(*fit), observers=lambda build_module, k=k: attach(k, build_module))
        for k, fit in enumerate(fits)
    ]
    return jobs, observers


@BATCHES
def test_observers_see_in_a_stack_what_they_see_alone(batch_size: int | None) -> None:
    budgets = [20, 20, 20, 9, 17]

    def jobs() -> tuple[list[FitJob], list[Any]]:
        tables = [rows(k, 40, 5) for k in range(5)]
        fits = build(
            normalized, lambda k: {"max_epochs": budgets[k]}, tables, batch_size=batch_size
        )
        return observed(fits, lambda k, m: Observer(m, stop_at=4 * (k == 1), fail_at=6 * (k == 2)))

    stacked, ours = jobs()
    with watched() as seen:
        results: list[Any] = fit_networks(stacked)
    assert seen.sizes == [5]
    single, theirs = jobs()
    for k, job in enumerate(single):
        expected: Any = fit_alone(job)
        for one, other in zip(ours[k].seen, theirs[k].seen, strict=True):
            assert one[0] == other[0]
            np.testing.assert_allclose(one[1], other[1], rtol=1e-9)
            torch.testing.assert_close(one[2], other[2], rtol=1e-9, atol=1e-9)
        if k == 2:
            assert type(results[k]) is type(expected) is OSError
            continue
        assert_same(results[k], expected)
        assert results[k].train_result.reason == ("callback" if k == 1 else "budget")
        assert results[k].train_result.history()[2]["twice"] == 6


def test_an_observer_that_fails_after_the_fit_fails_this_fit_alone() -> None:
    fits = build(plain, lambda _: {"max_epochs": 20}, [rows(k) for k in range(3)])
    jobs, _ = observed(fits, lambda k, m: Observer(m, fail_at=np.inf if k == 1 else 0))
    assert [type(result).__name__ for result in fit_networks(jobs)] == [
        "FitResult",
        "OSError",
        "FitResult",
    ]


def test_training_continues_from_weights_that_an_observer_changes() -> None:
    class Clamping(Observer):
        def on_epoch_end(self, record: EpochRecord) -> bool:
            with torch.no_grad():
                self.module.network.last.weight.clamp_(-0.1, 0.1)
            return False

    def jobs() -> list[FitJob]:
        fits = build(plain, lambda _: {"max_epochs": 20}, [rows(k) for k in range(3)])
        return observed(fits, lambda _, module: Clamping(module))[0]

    for one, job in zip(fit_networks(jobs()), jobs(), strict=True):
        other = fit_alone(job)
        assert not isinstance(one, Exception) and not isinstance(other, Exception)
        assert_same(one, other)
        assert float(one.module.network.last.weight.abs().max()) <= 0.1


# Interrupts


def interrupted_in(epoch: int, module: Any, **options: Any) -> list[Any]:
    """Interrupt three fits at the beginning of an epoch of the second one."""

    class Interrupting(Observer):
        def on_epoch_begin(self) -> None:
            super().on_epoch_begin()
            if len([each for each in self.seen if each[0] == "begin"]) == epoch:
                raise KeyboardInterrupt

    tables = [rows(k, 40, 5) for k in range(3)]
    jobs, _ = observed(
        build(module, lambda _: {"max_epochs": 30}, tables, **options),
        lambda k, m: Interrupting(m) if k == 1 else Observer(m),
    )
    return fit_networks(jobs)


def assert_interrupted(results: list[Any], expected: list[tuple[TorchRegressor, Rows]]) -> None:
    """Require the state of shorter fits."""
    for result, fit in zip(results, expected, strict=True):
        assert result.train_result.reason == "interrupted" and result.interrupted
        other: Any = fit_alone(job_of(*fit))
        other.train_result.reason = "interrupted"
        result.train_result.extra.clear()
        assert_same(result, other)


@BATCHES
@pytest.mark.parametrize("module", [plain, normalized])
@pytest.mark.parametrize("epoch", [2, 7])
def test_an_interrupt_restores_the_last_complete_epoch(
    epoch: int, module: Any, batch_size: int | None
) -> None:
    tables = [rows(k, 40, 5) for k in range(3)]
    shorter = build(module, lambda _: {"max_epochs": epoch - 1}, tables, batch_size=batch_size)
    assert_interrupted(interrupted_in(epoch, module, batch_size=batch_size), shorter)


@pytest.mark.parametrize("late", [False, True], ids=["before the update", "after the update"])
@pytest.mark.parametrize("epoch", [2, 20])
def test_an_interrupt_of_a_step_restores_the_last_complete_epoch(
    epoch: int, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, n_steps = Stack.step, itertools.count(1)

    def interrupting(stack: Stack, *args: Any) -> None:
        is_last = next(n_steps) == epoch
        if late or not is_last:
            step(stack, *args)
        if is_last:
            raise KeyboardInterrupt

    tables = [rows(k) for k in range(3)]
    jobs = [job_of(*fit) for fit in build(plain, lambda _: {}, tables, batch_size=None)]
    shorter = build(plain, lambda _: {"max_epochs": epoch - 1}, tables, batch_size=None)
    with monkeypatch.context() as patch:
        patch.setattr(Stack, "step", interrupting)
        results = fit_networks(jobs)
    assert_interrupted(results, shorter)


def test_an_interrupt_in_the_first_epoch_is_raised() -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted_in(1, plain)


@pytest.mark.parametrize("method", ["subset", "bind_views"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_an_interrupt_of_a_compaction_mixes_no_weights(
    early_stopping: bool, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [rows(k, 40, 6) for k in range(4)]
    original, n_calls = getattr(Stack, method), itertools.count(1)

    def interrupting(stack: Stack, *args: Any) -> Any:
        # The first call of bind_views binds the whole stack.
        if next(n_calls) == (1 if method == "subset" else 2):
            if method == "bind_views":
                own = stack.own
                stack.own = own[: len(own) // 2]
                original(stack)
                stack.own = own
            raise KeyboardInterrupt
        return original(stack, *args)

    def each(k: int) -> dict[str, Any]:
        return {"max_epochs": 240 if k in (1, 2) else 600}

    options: dict[str, Any] = {"optimizer": "rprop", "early_stopping": early_stopping}
    options |= {"n_iter_no_change": 600}
    jobs = [job_of(*fit) for fit in build(normalized, each, tables, **options)]
    with monkeypatch.context() as patch:
        patch.setattr(Stack, method, interrupting)
        results: list[Any] = fit_networks(jobs)
    shorter = build(normalized, lambda _: {"max_epochs": 240}, tables, **options)
    for k, (result, fit) in enumerate(zip(results, shorter, strict=True)):
        assert result.train_result.reason == ("budget" if k in (1, 2) else "interrupted")
        other: Any = fit_alone(job_of(*fit))
        other.train_result.reason = result.train_result.reason
        assert_same(result, other)
        for tensor in result.module.state_dict().values():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
