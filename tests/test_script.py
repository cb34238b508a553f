"""Steps taken without Python in between are the steps that Python takes."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, library, nn

import torchreg.engine.stack.script as script
import torchreg.engine.stack.stack as stack
import torchreg.engine.train.best_weights as progress
from tests._stacks import Rows, assert_same, both_ways, job_of, watched
from tests._zoo import ZOO, Body
from torchreg import TorchRegressor
from torchreg.engine.run import fit_networks
from torchreg.engine.stack.grouping import MANY
from torchreg.engine.stack.script import Script, write_script
from torchreg.nn import MLP
from torchreg.optim.base import Stateful

#: Whose steps TorchScript has words for, and that can be stacked.
LONE = ["GRU", "plain RNN", "weight norm", "spectral norm", "transformer"]
ZOO_IN_STACKS = [name for name in ZOO if "dropout" not in name and name not in LONE]
OPTIMIZERS: list[dict[str, Any]] = [
    {"optimizer": "adam", "optimizer__weight_decay": 0.01},
    {"optimizer": "adamw"},
    {"optimizer": "sgd"},
    {"optimizer": "sgd", "optimizer__momentum": 0.9, "optimizer__nesterov": True},
    {"optimizer": "rmsprop", "optimizer__centered": True},
]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A few steps are worth a script, and torch's setting for it comes out as it went in."""
    monkeypatch.setattr(stack, "WORTH_SCRIPTING", 3)
    before = torch._C._get_graph_executor_optimize()
    yield
    assert torch._C._get_graph_executor_optimize() == before


def rows(k: int, *, weighted: bool = False) -> Rows:
    rng = np.random.default_rng(k)
    X = rng.normal(size=(23 + k, 4))
    X[:, 3] = rng.integers(0, 5, size=len(X))
    given: Rows = {"X": X, "y": np.sin(X[:, 0]) + X[:, 1] + 0.1 * X[:, 3]}
    return given | ({"sample_weight": rng.uniform(0.5, 2.0, size=len(X))} if weighted else {})


def plain() -> nn.Module:
    return Body(nn.ReLU())


def fits(
    module: Any = plain,
    each: Callable[[int], dict[str, Any]] = lambda _: {},
    n: int = 3,
    weighted: bool = False,
    **options: Any,
) -> list[tuple[TorchRegressor, Rows]]:
    settings: dict[str, Any] = {"optimizer": "sgd", "lr": 0.02, "dtype": "float64"}
    settings |= {"max_epochs": 20, "batch_size": None, **options}
    return [
        (
            TorchRegressor(module, **{**settings, "random_state": k, **each(k)}),
            rows(k, weighted=weighted),
        )
        for k in range(n)
    ]


class Halving(Stateful):
    """A step by hand: it halves theta, whose square is the loss, and counts."""

    state_names = ("count",)

    def __init__(self, *theta: float) -> None:
        self.theta, self.count = torch.tensor(theta), torch.zeros(())

    def __call__(self) -> Tensor:
        loss = self.theta.square()
        self.theta.mul_(0.5)
        self.count.add_(1)
        return loss

    def written(self, step: Callable[[], Tensor] | None = None) -> Script | None:
        return write_script(step or self, [self.theta], self)


def room(n_steps: int, *tensors: Tensor) -> list[Tensor]:
    return [torch.full((n_steps, *tensor.shape), torch.nan) for tensor in tensors]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", OPTIMIZERS, ids=str)
def test_every_rule_that_works_in_place_moves_networks_as_it_does_from_python(
    options: dict[str, Any], weighted: bool
) -> None:
    def build() -> list[tuple[TorchRegressor, Rows]]:
        return fits(each=lambda k: {"lr": 0.01 * (k + 1)}, weighted=weighted, **options)

    together, alone, seen = both_ways(build)
    assert [s.written is not None for s in seen.stacks] == [True]
    assert (
        "repeated without Python in between, for a stack" in together[0].train_result.execution_mode
    )
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("hidden", [1, 5])
def test_networks_with_the_same_rows_move_as_they_do_from_python(hidden: int) -> None:
    def build() -> list[tuple[TorchRegressor, Rows]]:
        table = rows(0)
        own = fits(lambda: MLP(4, 1, [hidden]), n=8, optimizer="adam")
        return [(reg, table) for reg, _ in own]

    together, alone, seen = both_ways(build)
    assert [s.written is not None for s in seen.stacks] == [True]
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("name", ZOO_IN_STACKS)
def test_every_module_of_the_zoo_trains_as_it_does_from_python(name: str) -> None:
    options = {"standardize": "y" if name == "embedding" else True}
    together, alone, seen = both_ways(lambda: fits(ZOO[name], n=2, **options))
    assert any(s.written is not None for s in seen.stacks) == bool(seen.stacks)
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)


def test_a_rule_that_keeps_its_state_in_new_memory_goes_on_from_python() -> None:
    together, alone, seen = both_ways(lambda: fits(optimizer="rprop"))
    assert [s.written for s in seen.stacks] == [None]
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("at_once_s", [0.0, 1e9])
def test_one_that_diverges_and_one_of_a_smaller_budget_end_as_they_do_alone(
    at_once_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "_AT_ONCE_S", at_once_s)
    own = [{"max_epochs": 50}, {"lr": 1e300}, {"max_epochs": 17}]
    together, alone, seen = both_ways(lambda: fits(each=lambda k: own[k], max_epochs=50))
    assert seen.stacks[0].written is not None
    assert [answer.train_result.reason for answer in together] == ["budget", "diverged", "budget"]
    for one, other in zip(together[::2], alone[::2], strict=True):
        assert_same(one, other)
    weights = [
        answer.module.state_dict()["network.first.weight"] for answer in (together[1], alone[1])
    ]
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize(
    "options",
    [
        {"early_stopping": True},
        {"tol": 1e-9},
        {"batch_size": 10},
        {"schedule": "cosine"},
        {"module": ZOO["dropout"]},
        {"verbose": 1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_who_looks_at_epochs_or_differs_from_step_to_step_is_stepped_from_python(
    options: dict[str, Any],
) -> None:
    with watched() as seen:
        fit_networks([job_of(*fit) for fit in fits(**options)])
    assert [s.written for s in seen.stacks] == [None] * len(seen.stacks)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_large_stacks_take_steps_without_python_where_others_compute_beside_them(
    n_threads: int,
) -> None:
    n, before = 2 * (MANY // (23 * 60) + 1), torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        with watched() as seen:
            fit_networks(
                [job_of(*fit) for fit in fits(lambda: Body(nn.ReLU(), 60), n=2) * (n // 2)]
            )
    finally:
        torch.set_num_threads(before)
    assert [s.written is not None for s in seen.stacks] == [n_threads == 2] * n_threads


@pytest.mark.parametrize("run", [1, 2])
@pytest.mark.parametrize("late", [False, True], ids=["before the run", "after it"])
def test_an_interrupt_leaves_all_as_they_were_before_the_run_that_it_meets(
    run: int, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "_AT_ONCE_S", 1e9)
    monkeypatch.setattr(progress, "_LONGEST", 8)
    take, runs = Script.run, itertools.count(1)

    def interrupted(self: Script, before: Sequence[Tensor]) -> Tensor | None:
        # Two steps are taken twice when it is written.
        is_last = len(before[0]) > 2 and next(runs) == run
        losses = take(self, before) if late or not is_last else None
        if is_last:
            raise KeyboardInterrupt
        return losses

    expected = fit_networks([job_of(*fit) for fit in fits(max_epochs=[1, 8][run - 1])])
    jobs = [job_of(*fit) for fit in fits(max_epochs=40)]
    monkeypatch.setattr(Script, "run", interrupted)
    for answer, other in zip(fit_networks(jobs), expected, strict=True):
        assert not isinstance(answer, Exception) and not isinstance(other, Exception)
        assert answer.train_result.reason == "interrupted"
        other.train_result.reason = "interrupted"
        assert_same(answer, other)


class Rooted(nn.Module):
    """Takes a root, which torch does not do without a look at the number."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.weight = nn.Linear(4, 1), nn.Parameter(torch.tensor([[1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x) + 10 * torch.linalg.cholesky(self.weight)[0, 0]


def test_a_run_that_fails_leaves_all_as_it_was() -> None:
    step, three = Halving(1.0), torch.ones(3)

    def looking_up() -> Tensor:
        return three.index_select(0, step.count.long()) * step()

    written = step.written(looking_up)
    assert written is not None
    assert written.run(room(4, step.theta)) is None
    assert step.theta.item() == 1 and step.count == 0
    losses = written.run(room(3, step.theta))
    assert losses is not None and losses.tolist() == [[1], [0.25], [0.0625]]


def test_a_fit_whose_run_fails_goes_on_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    run, runs = Script.run, itertools.count(1)

    def failing(self: Script, before: Sequence[Tensor]) -> Tensor | None:
        return run(self, before) if len(before[0]) == 2 or next(runs) != 2 else None

    monkeypatch.setattr(Script, "run", failing)
    monkeypatch.setattr(progress, "_LONGEST", 8)
    together, alone, _ = both_ways(lambda: fits(max_epochs=60))
    assert next(runs) > 3
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)


def test_a_module_that_checks_its_values_is_stepped_from_python() -> None:
    with watched() as seen:
        answers = fit_networks([job_of(*fit) for fit in fits(Rooted, lr=1e-5)])
    assert [s.written for s in seen.stacks] == [None]
    assert not any(isinstance(answer, Exception) for answer in answers)


def test_steps_are_taken_and_what_was_before_each_is_noted() -> None:
    step = Halving(1.0, 2.0)
    written = step.written()
    assert written is not None and step.theta.tolist() == [1, 2] and step.count == 0
    before = room(3, step.theta)
    losses = written.run(before)
    assert losses is not None
    assert before[0].tolist() == [[1, 2], [0.5, 1], [0.25, 0.5]]
    torch.testing.assert_close(losses, before[0].square())
    assert step.theta.tolist() == [0.125, 0.25] and step.count == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda step, k: step() * k,
        lambda step, k: step() * (1 + 0 * len(step.theta.tolist())),
        lambda step, k: step() + 0 * torch.rand(1),
    ],
    ids=["it counts in Python", "it looks at values", "it draws"],
)
def test_what_does_not_repeat_itself_is_not_written(
    change: Callable[[Halving, int], Tensor],
) -> None:
    step, calls = Halving(1.0), itertools.count(1)
    assert step.written(lambda: change(step, next(calls))) is None
    assert step.theta.tolist() == [1] and step.count == 0


def test_what_torch_knows_of_no_others_is_not_written() -> None:
    step = Halving(1.0)
    with library._scoped_library("torchreg_test", "DEF") as own:
        own.define("twice(Tensor x) -> Tensor")
        own.impl("twice", lambda x: 2 * x, "CompositeExplicitAutograd")
        assert step.written(lambda: torch.ops.torchreg_test.twice(step())) is None
    assert step.theta.tolist() == [1] and step.count == 0


def test_two_threads_run_the_same_function_each_on_its_own() -> None:
    steps = [Halving(float(k), 1.0) for k in range(4)]
    written = [step.written() for step in steps]
    assert len({id(w._function) for w in written if w is not None}) == 1

    def run(k: int) -> None:
        own = written[k]
        assert own is not None
        for _ in range(20):
            own.run(room(1, steps[k].theta))

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, step in enumerate(steps):
        assert step.theta.tolist() == [k * 0.5**20, 0.5**20] and step.count == 20


def test_the_slower_a_step_the_fewer_are_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 0.02)
    monkeypatch.setattr(script.time, "perf_counter", lambda: next(clock))
    written = Halving(1.0).written()
    # Two steps take 0.02 s by this clock.
    assert written is not None and written.n_at_once == int(script._AT_ONCE_S / 0.01)
