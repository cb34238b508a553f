"""Each task is in one group; groups are homogeneous, bounded in size, and explain single tasks."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests._stacks import task_of
from torchreg import TorchRegressor
from torchreg.engine.spec import TrainTask
from torchreg.engine.stack import group_tasks, stack_signature
from torchreg.nn import MLP, BinEmbedding, MemberLinear, PeriodicEmbedding

X = np.random.default_rng(0).normal(size=(6000, 3))


def build_task(n_rows: int = 40, **options: Any) -> TrainTask:
    settings = {"module": MLP, "module__hidden_sizes": (4,), "max_epochs": 20, **options}
    if settings["module"] is not MLP:
        del settings["module__hidden_sizes"]
    rows = {"X": X[:n_rows], "y": X[:n_rows, 0]}
    return task_of(TorchRegressor(random_state=0, **settings), rows)


def copies(task: TrainTask, n: int) -> list[TrainTask]:
    return [replace(task, network=copy.deepcopy(task.network)) for _ in range(n)]


def sizes(tasks: list[TrainTask], n_threads: int = 1) -> list[int]:
    return [len(group.indices) for group in group_tasks(tasks, n_threads=n_threads)]


#: Unequal numbers of rows, another optimizer, and an optimizer that cannot be stacked.
POOL = [
    *[build_task(n) for n in (10, 12, 13, 200, 240, 260)],
    *[build_task(n, batch_size=20) for n in (100, 110, 119)],
    *[build_task(1500, batch_size=None, module__hidden_sizes=(width,)) for width in (50, 50, 100)],
    *[build_task(40, optimizer="lbfgs"), build_task(40, optimizer="sgd")],
]


@given(chosen=st.lists(st.sampled_from(range(len(POOL))), max_size=60), n_threads=st.integers(1, 5))
def test_each_task_is_in_one_group_of_similar_tasks(chosen: list[int], n_threads: int) -> None:
    tasks = [copies(POOL[number], 1)[0] for number in chosen]
    groups = group_tasks(tasks, n_threads=n_threads)
    assert sorted(index for group in groups for index in group.indices) == [*range(len(tasks))]
    for group in groups:
        own = [tasks[index] for index in group.indices]
        if len(own) == 1:
            assert group.not_stacked_reason is not None
            continue
        assert group.not_stacked_reason is None
        assert len({stack_signature(task) for task in own}) == 1
        rows = [len(task.training.t) for task in own]
        assert max(rows) <= 1.25 * min(rows)


def test_a_group_is_split_so_that_all_threads_have_work() -> None:
    # 64 units x 1000 rows keep about one thread busy.
    large = build_task(1000, batch_size=None, module__hidden_sizes=(64,))
    assert sorted(sizes(copies(large, 4), 3)) == [1, 1, 2]
    assert sizes(copies(large, 4)) == [4]
    assert sizes(copies(build_task(10), 4), 3) == [4]
    # Layers of 256 x 256 units do so with batches of 32 rows.
    wide = build_task(320, batch_size=32, module__hidden_sizes=(256, 256))
    assert sizes(copies(wide, 4), 2) == [4]
    assert sizes(copies(wide, 8)) == [8]
    for n_threads in (2, 3, 8):
        assert sizes(copies(wide, 8), n_threads) == [4, 4]


def test_the_layers_of_a_stack_and_what_it_keeps_in_memory_are_bounded() -> None:
    # 64 units x 6000 rows are 3 / 4 of the bound of a layer.
    assert (
        sizes(copies(build_task(6000, batch_size=None, module__hidden_sizes=(64,)), 3)) == [1] * 3
    )
    # Two matrices of 1500 x 1500 weights: 2.25 million values of 16.8 million.
    heavy = build_task(20, module__hidden_sizes=(1500, 1500))
    assert sizes(copies(heavy, 9)) == [4, 5]


@pytest.mark.parametrize("part", [nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False)])
def test_networks_that_share_what_training_changes_are_not_stacked(part: nn.Module) -> None:

    class Sharing(nn.Module):
        def __init__(self, *, frozen: bool) -> None:
            super().__init__()
            self.part, self.last = part.requires_grad_(not frozen), nn.Linear(3, 1)

        def forward(self, x: Any) -> Any:
            return self.last(self.part(x))

    def groups(*, frozen: bool) -> Any:
        options: dict[str, Any] = {"module__frozen": frozen, "dtype": "float32"}
        tasks = [build_task(9, module=Sharing, **options) for _ in range(3)]
        return group_tasks(tasks, n_threads=1)

    reason = "it shares trainable tensors with another network"
    assert groups(frozen=False) == [([k], reason) for k in range(3)]
    if isinstance(part, nn.Linear):
        assert groups(frozen=True) == [([0, 1, 2], None)]


@pytest.mark.parametrize(
    ("tasks", "reason"),
    [
        ([build_task(), build_task(optimizer="sgd")], "no other network is like it"),
        (
            copies(build_task(6000, batch_size=None, module__hidden_sizes=(64,)), 2),
            "it is large enough by itself",
        ),
        (
            copies(build_task(optimizer="lbfgs"), 2),
            "optimizer 'lbfgs' trains one network at a time",
        ),
        (copies(build_task(max_epochs=15), 2), "15 steps are too few"),
        (copies(build_task(max_epochs=5, batch_size=20), 2), "10 steps are too few"),
    ],
)
def test_a_single_task_has_a_reason(tasks: list[TrainTask], reason: str) -> None:
    groups = group_tasks(tasks, n_threads=1)
    assert [group.indices for group in groups] == [[0], [1]]
    assert [group.not_stacked_reason for group in groups] == [reason] * 2


def test_a_few_steps_of_one_network_are_enough_if_another_takes_many() -> None:
    tasks = [build_task(max_epochs=max_epochs) for max_epochs in (5, 5, 20)]
    assert sizes(tasks) == [3]


def test_all_members_count_and_embeddings_count_a_fifth() -> None:
    waves, bins = PeriodicEmbedding(3, [0, 2], 75, 1), BinEmbedding(5, [0, 2, 4], 50, 1)
    layers = [waves, bins, nn.Linear(3, 7), MemberLinear(20, 7, 1)]
    base = build_task(6000, batch_size=None)
    # As wide as a layer of 30, 30 and 20 units, of which two, two and three fit a stack.
    for first, width in ((0, 30), (1, 30), (2, 20)):
        embedded = replace(base, network=nn.Sequential(*layers[first:]))
        plain = replace(base, network=nn.Linear(3, width))
        assert sizes(copies(embedded, 6)) == sizes(copies(plain, 6))
