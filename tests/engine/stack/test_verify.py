"""A stack is compared with single networks before any weight changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests._stacks import Rows, both_ways, job_of, task_of, watched
from tests._zoo import ZOO, Body
from torchreg import TorchRegressor
from torchreg.engine.data import Batch
from torchreg.engine.run import fit_networks
from torchreg.engine.spec import TrainTask
from torchreg.engine.stack import NotStackableError, Stack, StackVerifier

X = np.random.default_rng(0).normal(size=(60, 4))


def tasks_of(
    module: Any, sizes: Sequence[int], held_out: int = 0, **options: Any
) -> list[TrainTask]:
    settings = {"max_epochs": 20, "dtype": "float64", "batch_size": None, **options}
    tasks = []
    for k, n in enumerate(sizes):
        rows: Rows = {"X": X[:n], "y": X[:n, 0]}
        if held_out:
            rows |= {"X_val": X[-held_out - k :], "y_val": X[-held_out - k :, 0]}
        tasks.append(task_of(TorchRegressor(module, random_state=k, **settings), rows))
    return tasks


def plain() -> nn.Module:
    return Body(nn.Tanh())


def normalized() -> nn.Module:
    return Body(nn.BatchNorm1d(6))


def state_of(tasks: list[TrainTask]) -> list[dict[str, Tensor]]:
    return [{n: t.clone() for n, t in task.network.state_dict().items()} for task in tasks]


Step = tuple[Tensor, Tensor, dict[str, Tensor]]


def step_of(tasks: list[TrainTask], batch_of: Callable[[int], Batch]) -> Step:
    """Compute losses, gradients and buffers of one step with autograd, network by network."""
    losses, grads, buffers = [], [], []
    for slot, task in enumerate(tasks):
        network, batch = task.network.train(), batch_of(slot)
        before = {name: t.clone() for name, t in network.named_buffers()}
        loss = task.loss.function(network(batch.x), batch.t).mean()
        parameters = [*network.parameters()]
        grads.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)]))
        losses.append(loss.detach())
        buffers.append({name: t.clone() for name, t in network.named_buffers()})
        for name, tensor in network.named_buffers():
            tensor.copy_(before[name])
    stacked = {name: torch.stack([own[name] for own in buffers]) for name in buffers[0]}
    return torch.stack(losses), torch.stack(grads), stacked


@pytest.mark.parametrize("wrong", ["nothing", "loss", "gradient", "buffer"])
def test_a_wrong_loss_gradient_or_buffer_is_detected(wrong: str) -> None:
    tasks = tasks_of(normalized, [40, 40, 40])
    before = state_of(tasks)

    def batch_of(slot: int) -> Batch:
        return Batch(tasks[slot].training.x, tasks[slot].training.t, None)

    losses, grads, buffers = step_of(tasks, batch_of)
    if wrong == "loss":
        losses[2] *= 1 + 1e-6
    elif wrong == "gradient":
        grads[2, 3] *= 1 + 1e-6
    elif wrong == "buffer":
        buffers["middle.running_var"][2, 0] *= 1 + 1e-6
    verifier = StackVerifier(tasks)
    steps = verifier.compute_steps(batch_of, [40] * 3)
    if wrong == "nothing":
        verifier.check_steps(steps, losses, grads, buffers)
    else:
        with pytest.raises(NotStackableError, match="its loss or gradient differs"):
            verifier.check_steps(steps, losses, grads, buffers)
    for old, new in zip(before, state_of(tasks), strict=True):
        assert all(torch.equal(tensor, new[name]) for name, tensor in old.items())


def test_a_wrong_validation_loss_is_detected() -> None:
    tasks = tasks_of(plain, [40, 40, 40], held_out=6)
    losses = Stack(tasks, features_first=True).evaluate()
    assert losses is not None
    verifier = StackVerifier(tasks)
    verifier.check_evaluation(losses)
    for slot in (0, 2):
        wrong = [loss * (1 + 1e-6 * (k == slot)) for k, loss in enumerate(losses)]
        with pytest.raises(NotStackableError, match="its validation loss differs"):
            verifier.check_evaluation(wrong)


@pytest.mark.parametrize("batch_size", [None, 16])
def test_building_a_stack_changes_no_weight_row_or_random_state(batch_size: int | None) -> None:
    tasks = tasks_of(normalized, [40, 40, 40], held_out=6, batch_size=batch_size)
    rows = [[t.clone() for t in (task.training.x, task.training.t)] for task in tasks]
    before, generator = state_of(tasks), torch.get_rng_state()
    Stack(tasks, features_first=True)
    assert torch.equal(torch.get_rng_state(), generator)
    for task, old, new, (x, t) in zip(tasks, before, state_of(tasks), rows, strict=True):
        assert all(torch.equal(tensor, new[name]) for name, tensor in old.items())
        assert torch.equal(x, task.training.x) and torch.equal(t, task.training.t)
        assert not any(p.grad is not None for p in task.network.parameters())


class WrongIfPadded(Body):
    """Returns other outputs for a batch of nine rows, which one network alone never has."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2.0 if len(x) == 9 else 1.0)


def test_batches_of_each_width_are_verified() -> None:
    # 39, 38 and 37 rows in batches of 10: the last batches of 9, 8 and 7 rows are padded to 9.
    def fits() -> list[tuple[TorchRegressor, Rows]]:
        regs = [
            TorchRegressor(lambda: WrongIfPadded(nn.Tanh()), max_epochs=20, batch_size=10)
            for _ in range(3)
        ]
        return [(reg, {"X": X[: 37 + k], "y": X[: 37 + k, 0]}) for k, reg in enumerate(regs)]

    _, _, seen = both_ways(fits)
    assert seen.sizes == []
    assert set(seen.reasons) == {"in a stack its loss or gradient differs"}


def fit_two(name: str) -> Any:
    # An embedding takes the integers of its last column as they are.
    table = np.abs(X[:20]).round()
    options: dict[str, Any] = {"standardize": "y" if name == "embedding" else True}
    regs = [TorchRegressor(ZOO[name], max_epochs=20, random_state=k, **options) for k in (0, 1)]
    with watched() as seen:
        results = fit_networks([job_of(reg, {"X": table, "y": X[:20, 0]}) for reg in regs])
    assert not any(isinstance(result, Exception) for result in results)
    return seen


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", [name for name in ZOO if name != "weight norm"])
def test_no_stack_uses_the_slow_loop_of_vmap(name: str) -> None:
    # torch warns of a performance drop.
    seen = fit_two(name)
    if name == "transformer":
        assert seen.sizes == [] and "torch has no batching rule for" in seen.reasons[0]


class RandomEvaluation(Body):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.1 * torch.randn_like(x[:, :1])


@pytest.mark.parametrize(
    "module", [lambda: Body(nn.Dropout(0.5)), lambda: RandomEvaluation(nn.Tanh())]
)
def test_random_networks_are_stacked_without_comparison(module: Any) -> None:
    tasks = tasks_of(module, [40, 40], held_out=6)
    assert all(task.uses_rng for task in tasks)
    with torch.random.fork_rng():
        Stack(tasks, features_first=True)
