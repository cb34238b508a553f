"""The story of many fits at once is the story of each: ends, best weights, records, listeners."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests._stacks import Rows, Seen, assert_same, both_ways, fit_alone, job_of, watched
from tests._zoo import Body
from torchreg import TorchRegressor
from torchreg.engine.run import fit_networks
from torchreg.engine.spec import EpochRecord, TrainResult
from torchreg.engine.stack import Stack

Each = Callable[[int], dict[str, Any]]
WAYS = pytest.mark.parametrize("batch_size", [None, 16], ids=["whole", "batches"])


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
    """With buffers that every step changes; what comes before them bends, or would not matter."""
    return Body(nn.Sequential(nn.Tanh(), nn.BatchNorm1d(6)))


def plain() -> nn.Module:
    return Body(nn.Tanh())


def build(
    module: Any, each: Each, tables: list[Rows], regressor: Any = TorchRegressor, **options: Any
) -> list[tuple[TorchRegressor, Rows]]:
    settings: dict[str, Any] = {"dtype": "float64", "max_epochs": 60, "lr": 0.02, **options}
    return [
        (regressor(module, **{**settings, "random_state": k, **each(k)}), table)
        for k, table in enumerate(tables)
    ]


def compare(
    module: Any, each: Each, tables: list[Rows], **options: Any
) -> tuple[list[Any], list[Any], Seen]:
    together, alone, seen = both_ways(lambda: build(module, each, tables, **options))
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)
    return together, alone, seen


# Ends


@WAYS
@pytest.mark.parametrize("module", [plain, normalized])
@pytest.mark.parametrize("own_rows", [True, False], ids=["own rows", "rows held out"])
def test_each_stops_early_by_its_own_validation_rows_and_keeps_its_best_weights(
    own_rows: bool, module: Any, batch_size: int | None
) -> None:
    def each(k: int) -> dict[str, Any]:
        return {"lr": 0.02 * (1 + k), "n_iter_no_change": 2 + k, "tol": 1e-3 * (k % 2)}

    unequal = own_rows and module is plain
    tables = [
        rows(k, 40 + k * (module is plain), (6 + 2 * k * unequal) * own_rows) for k in range(9)
    ]
    options = {"early_stopping": True, "batch_size": batch_size}
    together, _, seen = compare(module, each, tables, **options)
    assert seen.sizes == [9]
    lengths = {fitted.train_result.last_epoch for fitted in together}
    assert len(lengths) >= 5 and min(lengths) < 15
    assert {fitted.train_result.reason for fitted in together} >= {"early_stopping"}
    assert any(f.train_result.best_epoch < f.train_result.last_epoch for f in together)


@WAYS
def test_each_ends_when_it_has_settled_by_its_own_tolerance(batch_size: int | None) -> None:
    def each(k: int) -> dict[str, Any]:
        return {
            "tol": 10.0 ** -(1 + 2 * (k % 3)),
            "n_iter_no_change": 2 + k,
            "max_epochs": 60 - 8 * k,
        }

    tables = [rows(k, 40 + k, weighted=k == 3) for k in range(7)]
    together, _, seen = compare(plain, each, tables, batch_size=batch_size)
    assert seen.sizes == [7]
    assert {f.train_result.reason for f in together} == {"converged", "budget"}
    assert {f.train_result.still_falling for f in together} == {True, False}


@WAYS
@pytest.mark.parametrize("module", [plain, normalized])
def test_each_has_a_budget_of_its_own(module: Any, batch_size: int | None) -> None:
    # From one epoch to 40: those that go on are few in the end, and then one.
    budgets = [1, 2, 3, 5, 8, 13, 21, 40]
    together, _, seen = compare(
        module,
        lambda k: {"max_epochs": budgets[k]},
        [rows(k, 40, 5) for k in range(8)],
        batch_size=batch_size,
        optimizer="rmsprop",
    )
    assert seen.sizes == [8]
    assert [len(fitted.train_result.losses) for fitted in together] == budgets


def test_few_epochs_that_are_left_are_no_reason_to_begin_anew() -> None:
    # When the first has stopped, those that go on have too few steps to be worth a capture.
    def each(k: int) -> dict[str, Any]:
        return {
            "max_epochs": [100, 15, 14, 13][k],
            "lr": [3.0, 0.02, 0.02, 0.02][k],
            "n_iter_no_change": [2, 50, 50, 50][k],
        }

    together, _, seen = compare(
        plain,
        each,
        [rows(k, 40, 7) for k in range(4)],
        batch_size=None,
        early_stopping=True,
        optimizer="sgd",
    )
    assert len(together[0].train_result.losses) < 12
    assert seen.sizes == [4]


@WAYS
def test_one_whose_first_loss_is_not_finite_is_refused_alone(batch_size: int | None) -> None:
    class Endless(Body):
        def __init__(self, factor: float) -> None:
            super().__init__(nn.Tanh())
            self.register_buffer("factor", torch.tensor(factor))

        def forward(self, x: Tensor) -> Tensor:
            output = super().forward(x)
            return output * self.factor if self.training else output

    def each(k: int) -> dict[str, Any]:
        return {"module__factor": np.inf if k in (0, 2, 4) else 1.0}

    tables = [rows(k) for k in range(5)]
    together, alone, seen = both_ways(
        lambda: build(Endless, each, tables, batch_size=batch_size, max_epochs=20)
    )
    assert seen.sizes == [5]
    for k in (0, 2, 4):
        assert type(together[k]) is type(alone[k]) is ValueError
        assert str(together[k]) == str(alone[k])
        assert "at the first step, before anything was learned" in str(together[k])
    for k in (1, 3):
        assert_same(together[k], alone[k])


@WAYS
@pytest.mark.parametrize("early_stopping", [False, True])
def test_one_that_diverges_keeps_its_best_finite_weights_and_leaves_the_others_alone(
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
    assert seen.sizes == [6]
    for k, rate in enumerate(rates):
        one, other = together[k], alone[k]
        if rate < 1:
            assert_same(one, other)
            continue
        # What explodes amplifies the last bit without bound, but the best weights are early.
        assert one.train_result.reason == other.train_result.reason == "diverged"
        assert one.train_result.best_epoch == other.train_result.best_epoch
        assert len(one.train_result.losses) == len(other.train_result.losses)
        assert not np.isfinite(
            one.train_result.losses[-1] + one.train_result.history()[-1]["loss"]
        ) or (not np.isfinite(one.train_result.validation_losses[-1]))
        for name, tensor in one.module.state_dict().items():
            assert bool(torch.isfinite(tensor).all())
            torch.testing.assert_close(tensor, other.module.state_dict()[name])


def test_a_warm_start_counts_on_from_the_epochs_of_its_own() -> None:
    begun = [
        TorchRegressor(plain, warm_start=True, random_state=k, max_epochs=3 + 4 * k, lr=0.02)
        for k in range(4)
    ]
    for k, reg in enumerate(begun):
        reg.fit(**rows(k))
        reg.set_params(max_epochs=25 - k, lr=0.01, tol=1e-9)

    def fits() -> list[tuple[TorchRegressor, Rows]]:
        return [(copy.deepcopy(reg), rows(k + 9)) for k, reg in enumerate(begun)]

    together, alone, seen = both_ways(fits)
    assert seen.sizes == [4]
    for k, (one, other) in enumerate(zip(together, alone, strict=True)):
        assert_same(one, other)
        assert one.train_result.first_epoch == 3 + 4 * k
        assert one.train_result.history()[0]["epoch"] == 4 + 4 * k


# Listeners


class Watching(TorchRegressor):
    """Looks at its own network after each epoch; may stop, note, or fail."""

    stop_at = fail_at = 0

    def _observers(self, module: nn.Sequential, *given: Any) -> list[Any]:
        # What fits is a copy; who asks finds what it heard in the list that both have.
        self.module_seen = module
        vars(self).setdefault("heard", [])
        return [self]

    def on_epoch_begin(self) -> None:
        self.heard.append("begin")

    def on_epoch_end(self, record: EpochRecord) -> bool:
        state = {n: t.clone() for n, t in self.module_seen.network.state_dict().items()}
        self.heard.append((record.epoch, record.loss, record.validation_loss, state))
        record.extra["twice"] = 2 * record.epoch
        if record.epoch == self.fail_at:
            raise OSError("the disk is full")
        return record.epoch == self.stop_at

    def on_fit_end(self, outcome: TrainResult) -> None:
        state = {n: t.clone() for n, t in self.module_seen.network.state_dict().items()}
        self.heard.append((outcome.reason, outcome.best_epoch, None, state))


def watching(n: int, each: Each, **options: Any) -> tuple[list[Any], list[Any]]:
    """Give what each of n regressors heard, beside its answer: together, and alone."""

    def begin() -> list[Any]:
        fits = build(normalized, each, [rows(k, 40, 5) for k in range(n)], Watching, **options)
        for k, (reg, _) in enumerate(fits):
            vars(reg).update(stop_at=4 if k == 1 else 0, fail_at=6 if k == 2 else 0, heard=[])
        return fits

    ways = []
    for together in (True, False):
        fits = begin()
        jobs = [job_of(*fit) for fit in fits]
        with watched() as seen:
            answers = fit_networks(jobs) if together else [fit_alone(job) for job in jobs]
        assert seen.sizes == ([n] if together else [])
        ways.append([(answer, reg.heard) for answer, (reg, _) in zip(answers, fits, strict=True)])
    return ways[0], ways[1]


@WAYS
def test_who_listens_hears_of_the_own_network_what_it_hears_alone(batch_size: int | None) -> None:
    budgets = [20, 20, 20, 9, 17]
    ours, theirs = watching(5, lambda k: {"max_epochs": budgets[k]}, batch_size=batch_size)
    for k, ((answer, heard), (expected, heard_alone)) in enumerate(zip(ours, theirs, strict=True)):
        assert len(heard) == len(heard_alone)
        for one, other in zip(heard, heard_alone, strict=True):
            if one == "begin":
                assert other == "begin"
                continue
            assert one[:1] == other[:1]
            np.testing.assert_allclose(
                [v for v in one[1:3] if v is not None],
                [v for v in other[1:3] if v is not None],
                rtol=1e-9,
            )
            for name, tensor in one[3].items():
                torch.testing.assert_close(tensor, other[3][name], rtol=1e-9, atol=1e-9)
        if k == 2:
            assert type(answer) is type(expected) is OSError
            continue
        assert_same(answer, expected)
        assert answer.train_result.reason == ("callback" if k == 1 else "budget")
        assert answer.train_result.history()[2]["twice"] == 6


def test_who_fails_at_the_end_of_its_fit_has_that_for_an_answer() -> None:
    class Failing(Watching):
        def on_fit_end(self, outcome: TrainResult) -> None:
            if self.random_state == 1:
                raise OSError("too late")

    fits = build(plain, lambda _: {"max_epochs": 20}, [rows(k) for k in range(3)], Failing)
    answers: Any = fit_networks([job_of(*fit) for fit in fits])
    assert [type(answer).__name__ for answer in answers] == ["FitResult", "OSError", "FitResult"]


def test_what_a_listener_writes_into_its_network_is_trained_from() -> None:
    class Clamping(Watching):
        def on_epoch_end(self, record: EpochRecord) -> bool:
            with torch.no_grad():
                self.module_seen.network.last.weight.clamp_(-0.1, 0.1)
            return False

    tables = [rows(k) for k in range(3)]
    together, _, seen = compare(
        plain, lambda _: {"max_epochs": 20}, tables, regressor=Clamping, batch_size=None
    )
    assert seen.sizes == [3]
    for fitted in together:
        assert float(fitted.module.network.last.weight.abs().max()) <= 0.1


# Interrupts


def interrupted_at(n: int, *, epoch: int, module: Any, **options: Any) -> list[Any]:
    """Interrupt n fits in an epoch of one of them."""

    class Interrupting(Watching):
        def on_epoch_begin(self) -> None:
            self.epochs = getattr(self, "epochs", 0) + 1
            if self.random_state == 1 and self.epochs == epoch:
                raise KeyboardInterrupt

        def on_epoch_end(self, record: EpochRecord) -> bool:
            return False

    tables = [rows(k, 40, 5) for k in range(n)]
    fits = build(module, lambda _: {"max_epochs": 30}, tables, Interrupting, **options)
    return fit_networks([job_of(*fit) for fit in fits])


@WAYS
@pytest.mark.parametrize("module", [plain, normalized])
@pytest.mark.parametrize("epoch", [2, 7])
def test_an_interrupt_leaves_all_as_they_were_after_the_last_whole_epoch(
    epoch: int, module: Any, batch_size: int | None
) -> None:
    options = {"batch_size": batch_size}
    answers = interrupted_at(3, epoch=epoch, module=module, **options)
    budget: Each = lambda _: {"max_epochs": epoch - 1}  # noqa: E731
    expected = build(module, budget, [rows(k, 40, 5) for k in range(3)], **options)
    for answer, fit in zip(answers, expected, strict=True):
        assert answer.train_result.reason == "interrupted" and answer.interrupted
        other = fit_alone(job_of(*fit))
        assert not isinstance(other, Exception)
        other.train_result.reason = "interrupted"
        assert_same(answer, other)


def test_an_interrupt_before_anything_was_learned_is_raised() -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted_at(3, epoch=1, module=plain)


class _Ranks:
    """Interrupts a stack while it closes its ranks, at one of the steps of the move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.calls, self.at = itertools.count(1), at
        for name in ("subset", "bind_views"):
            monkeypatch.setattr(Stack, name, self.wrap(getattr(Stack, name)))

    def wrap(self, method: Any) -> Any:
        def called(stack: Stack, *args: Any) -> Any:
            # The first call lends the rows of the whole stack.
            if next(self.calls) == self.at:
                if args == ():
                    # Half of the networks look at their new rows already.
                    own = stack.own
                    stack.own = own[: len(own) // 2]
                    method(stack)
                    stack.own = own
                raise KeyboardInterrupt
            return method(stack, *args)

        return called


@pytest.mark.parametrize("at", [2, 3], ids=["building", "moving"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_an_interrupt_that_meets_closing_ranks_mixes_no_weights(
    early_stopping: bool, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [rows(k, 40, 6) for k in range(4)]

    def each(k: int) -> dict[str, Any]:
        return {"max_epochs": 240 if k in (1, 2) else 600, "early_stopping": early_stopping}

    options: dict[str, Any] = {"optimizer": "rprop", "n_iter_no_change": 600}
    jobs = [job_of(*fit) for fit in build(normalized, each, tables, **options)]
    with monkeypatch.context() as patch:
        _Ranks(patch, at)
        answers: list[Any] = fit_networks(jobs)
    options |= {"max_epochs": 240, "early_stopping": early_stopping}
    short = build(normalized, lambda _: {}, tables, **options)
    for k, (answer, fit) in enumerate(zip(answers, short, strict=True)):
        assert answer.train_result.reason == ("budget" if k in (1, 2) else "interrupted")
        other = fit_alone(job_of(*fit))
        assert not isinstance(other, Exception)
        other.train_result.reason = answer.train_result.reason
        assert_same(answer, other)
        for tensor in answer.module.state_dict().values():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


@pytest.fixture(autouse=True)
def nothing_is_left(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    """No thread, mode or generator is left as it was not."""
    before = torch.get_num_threads(), torch.get_rng_state().numpy().tobytes()
    yield
    assert before == (torch.get_num_threads(), torch.get_rng_state().numpy().tobytes())
