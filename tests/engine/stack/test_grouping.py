"""Every fit is in one group; those of a group are alike, and no more than memory is kind to."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import torchreg.engine.stack.grouping as groups
from tests._stacks import job_of
from torchreg import TorchRegressor
from torchreg.engine.build import FitCache, prepare_fit
from torchreg.engine.spec import TrainTask
from torchreg.engine.stack.grouping import (
    MANY,
    MAX_RELEASED,
    group_tasks,
    share_of_thread,
    width_in_numbers,
)
from torchreg.engine.stack.signature import UnstackableError, stack_signature
from torchreg.nn import MLP, BinEmbedding, MemberLinear, PeriodicEmbedding

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3000, 3))


def task(n_rows: int = 40, held_out: int = 0, **options: Any) -> TrainTask:
    settings = {"module__hidden_sizes": (4,), "max_epochs": 20, "random_state": 0, **options}
    rows: dict[str, Any] = {"X": X[:n_rows], "y": X[:n_rows, 0]}
    if held_out:
        rows |= {"X_val": X[:held_out], "y_val": X[:held_out, 0]}
    return prepare_fit(
        job_of(TorchRegressor(module=MLP, **settings), rows), FitCache(finds_equal=False)
    ).tasks[0]


def copies(task: TrainTask, n: int) -> list[TrainTask]:
    return [replace(task, network=copy.deepcopy(task.network)) for _ in range(n)]


def places(tasks: list[TrainTask], n_threads: int) -> list[list[int]]:
    return [group.places for group in group_tasks(tasks, n_threads=n_threads)]


#: A few of each kind: of unequal size, of another optimizer, and one that is always alone.
POOL = [
    *[task(n) for n in (10, 12, 13, 200, 240, 260)],
    *[task(n, batch_size=20) for n in (100, 110, 119)],
    *[task(1500, batch_size=None, module__hidden_sizes=(width,)) for width in (50, 50, 100)],
    *[task(40, optimizer="lbfgs"), task(40, optimizer="sgd")],
]


@given(chosen=st.lists(st.sampled_from(range(len(POOL))), max_size=60), n_threads=st.integers(1, 5))
def test_each_problem_is_in_one_group_with_its_like_and_no_group_is_too_large(
    chosen: list[int], n_threads: int
) -> None:
    tasks = [copies(POOL[number], 1)[0] for number in chosen]
    found = places(tasks, n_threads)
    assert sorted(index for group in found for index in group) == list(range(len(tasks)))
    for group in found:
        members = [tasks[index] for index in group]
        if len(members) == 1:
            continue
        assert len({stack_signature(member) for member in members}) == 1
        assert len(members) * max(map(width_in_numbers, members)) <= MAX_RELEASED
        rows = [len(member.training.t) for member in members]
        assert max(rows) <= 1.25 * min(rows)


def test_a_large_group_is_cut_so_that_all_threads_have_something_to_do() -> None:
    large = task(1000, batch_size=None, module__hidden_sizes=(64,))
    assert width_in_numbers(large) == 64_000 and 3 * MANY <= 4 * 64_000
    found = places(copies(large, 4), 3)
    assert sorted(map(len, found)) == [1, 1, 2]
    assert [len(group) for group in places(copies(large, 4), 1)] == [4]
    small = task(10)
    assert len(places(copies(small, 4), 3)) == 1


def test_small_batches_of_wide_layers_keep_threads_busy_too() -> None:
    wide = task(320, batch_size=32, module__hidden_sizes=(256, 256))
    # Of a few numbers in each layer, and of many parameters.
    assert width_in_numbers(wide) / MANY < share_of_thread(wide)
    assert 1 < 4 * share_of_thread(wide) < 2 and 2 < 8 * share_of_thread(wide) < 3
    assert [len(group) for group in places(copies(wide, 4), 2)] == [4]
    assert [len(group) for group in places(copies(wide, 8), 1)] == [8]
    # As many stacks as there is work for, however many threads there are.
    for n_threads in (2, 3, 8):
        assert [len(group) for group in places(copies(wide, 8), n_threads)] == [4, 4]


def test_of_an_optimizer_that_moves_one_network_at_a_time_each_is_alone() -> None:
    lone = task(optimizer="lbfgs")
    found = group_tasks(copies(lone, 2), n_threads=1)
    assert found == [([k], "optimizer 'lbfgs' moves one network at a time") for k in (0, 1)]
    with pytest.raises(UnstackableError, match="optimizer 'lbfgs' moves one network at a time"):
        stack_signature(lone)


def test_no_stack_holds_more_validation_rows_or_parameters_than_memory_is_kind_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    each = task(40, held_out=500)
    # 500 rows of 3 columns, and 21 parameters.
    monkeypatch.setattr(groups, "HELD", 4 * 1521)
    assert [len(group) for group in places(copies(each, 10), 1)] == [3, 3, 4]
    monkeypatch.setattr(groups, "HELD", 100)
    assert len(places(copies(each, 10), 1)) == 10


def test_networks_that_share_what_is_trained_train_one_after_another() -> None:
    part = nn.Linear(3, 3)

    class Sharing(nn.Module):
        def __init__(self, *, frozen: bool) -> None:
            super().__init__()
            self.part, self.last = part.requires_grad_(not frozen), nn.Linear(3, 1)

        def forward(self, x: Any) -> Any:
            return self.last(self.part(x))

    def sharing(*, frozen: bool) -> list[TrainTask]:
        options: dict[str, Any] = {"module__frozen": frozen, "dtype": "float32"}
        settings = {"max_epochs": 20, "random_state": 0, **options}
        jobs = [job_of(TorchRegressor(Sharing, **settings), {"X": X[:9], "y": X[:9, 0]})] * 3
        return [prepare_fit(job, FitCache(finds_equal=False)).tasks[0] for job in jobs]

    found = group_tasks(sharing(frozen=False), n_threads=1)
    assert found == [([k], "it shares with another network what is trained") for k in range(3)]
    assert group_tasks(sharing(frozen=True), n_threads=1) == [([0, 1, 2], None)]


def test_one_that_is_alone_in_its_group_is_told_why() -> None:
    found = group_tasks([task(), task(optimizer="sgd")], n_threads=1)
    assert [group.apart for group in found] == ["no other network is like it"] * 2
    large = task(3000, batch_size=None, module__hidden_sizes=(90,))
    found = group_tasks(copies(large, 3), n_threads=1)
    assert [group.apart for group in found] == ["it is large enough by itself"] * 3
    assert [group.apart for group in group_tasks(copies(task(), 3), n_threads=1)] == [None]


def test_the_units_of_all_members_are_counted_and_a_fifth_of_waves_and_bins() -> None:
    waves, bins = PeriodicEmbedding(3, [0, 2], 75, 1), BinEmbedding(5, [0, 2, 4], 50, 1)
    layers = [waves, bins, nn.Linear(3, 7), MemberLinear(20, 7, 1)]
    for first, width in ((0, 30), (1, 30), (2, 20)):
        wide = replace(task(), network=nn.Sequential(*layers[first:]))
        assert width_in_numbers(wide) == 40 * width
