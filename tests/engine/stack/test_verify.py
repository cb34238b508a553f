"""A stack is held against networks that compute alone, before anything is moved by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests._stacks import job_of, watched
from tests._zoo import ZOO, Body
from torchreg import TorchRegressor
from torchreg.engine.build import FitCache, prepare_fit
from torchreg.engine.run import fit_networks
from torchreg.engine.spec import TrainTask
from torchreg.engine.stack.stack import Stack
from torchreg.engine.stack.verify import NotStackableError, StackVerifier

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))


def tasks(module: Any, sizes: list[int], held_out: int = 0, **options: Any) -> list[TrainTask]:
    settings = {"max_epochs": 20, "dtype": "float64", "batch_size": None, **options}
    rows: list[dict[str, Any]] = [{"X": X[:n], "y": X[:n, 0]} for n in sizes]
    for k, given in enumerate(rows):
        if held_out:
            n = held_out + k
            given |= {"X_val": X[-n:], "y_val": X[-n:, 0]}
    return [
        prepare_fit(
            job_of(TorchRegressor(module, random_state=k, **settings), given),
            FitCache(finds_equal=False),
        ).tasks[0]
        for k, given in enumerate(rows)
    ]


def plain() -> nn.Module:
    return Body(nn.Tanh())


def values_of(stack: Stack) -> dict[str, Tensor]:
    return {"theta": stack.theta.clone(), **{n: t.clone() for n, t in stack.fixed.items()}}


class Spoilt(Stack):
    """Computes something for one of its networks wrongly."""

    wrong = ""

    def _prepare(self) -> None:
        super()._prepare()
        captured = self.captured
        place = len(self.tasks) - 1

        def step(batch: Any) -> Tensor:
            losses = captured(batch)
            if self.wrong == "loss":
                losses = losses.clone()
                losses[place] *= 1 + 1e-6
            if self.wrong == "slope":
                self.slope[place, 3] *= 1 + 1e-6
            if self.wrong == "buffer":
                self.fixed["middle.running_var"][place, 0] *= 1 + 1e-6
            return losses

        step.capture_blocker, step.mutated_tensors = None, captured.mutated_tensors  # type: ignore[attr-defined]
        self.captured = step  # type: ignore[assignment]


@pytest.mark.parametrize("features_first", [True, False])
@pytest.mark.parametrize("wrong", ["", "loss", "slope", "buffer"])
def test_a_loss_a_slope_or_a_buffer_that_is_wrong_is_noticed(
    wrong: str, features_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spoilt, "wrong", wrong)
    given = tasks(lambda: Body(nn.BatchNorm1d(6)), [40, 40, 40])
    before = [{n: t.clone() for n, t in p.network.state_dict().items()} for p in given]
    if wrong:
        with pytest.raises(NotStackableError, match="it does not compute what it computes alone"):
            Spoilt(given, features_first=features_first)
    else:
        Spoilt(given, features_first=features_first)
    for task, kept in zip(given, before, strict=True):
        assert all(torch.equal(kept[n], t) for n, t in task.network.state_dict().items())


def test_a_loss_of_validation_rows_that_is_wrong_is_noticed() -> None:
    given = tasks(plain, [40, 40, 40], held_out=6)
    trial = StackVerifier(given)
    losses = Stack(given, features_first=True).evaluate()
    assert losses is not None
    trial.check_evaluation(losses)
    # The first, the last, and those with the fewest and the most rows.
    for place in (0, 2):
        wrong = [loss * (1 + 1e-6 * (k == place)) for k, loss in enumerate(losses)]
        with pytest.raises(NotStackableError, match="it is not evaluated as it is alone"):
            trial.check_evaluation(wrong)


@pytest.mark.parametrize("batch_size", [None, 16])
def test_a_trial_moves_nothing(batch_size: int | None) -> None:
    given = tasks(lambda: Body(nn.BatchNorm1d(6)), [40, 40, 40], held_out=6, batch_size=batch_size)
    rows = [[t.clone() for t in (p.training.x, p.training.t)] for p in given]
    before = [{n: t.clone() for n, t in p.network.state_dict().items()} for p in given]
    generator = torch.get_rng_state()
    stack = Stack(given, features_first=True)
    assert torch.equal(torch.get_rng_state(), generator)
    assert stack.optimizer.state is None  # type: ignore[attr-defined]
    values = values_of(stack)
    for place, (task, kept, own) in enumerate(zip(given, before, rows, strict=True)):
        network = task.network
        assert all(torch.equal(kept[n], t) for n, t in network.state_dict().items())
        assert torch.equal(own[0], task.training.x) and torch.equal(own[1], task.training.t)
        trained = torch.cat([p.detach().reshape(-1) for p in network.parameters()])
        assert torch.equal(trained, values["theta"][place])
        assert not any(p.grad is not None for p in network.parameters())


def test_each_width_of_batch_is_tried_padded_and_not() -> None:
    stack = Stack(tasks(plain, [37, 38, 39], batch_size=10), features_first=True)
    tried = [(batch.x.shape[2], counts) for batch, counts, _ in stack._batches_to_try()]
    assert tried == [(10, [10] * 3), (9, [7, 8, 9])]
    # What has been tried is known, and need not be recorded any more.
    assert len(stack.captured.programs) == 2
    stack = Stack(tasks(plain, [40, 40], batch_size=10), features_first=True)
    assert [counts for _, counts, _ in stack._batches_to_try()] == [[10, 10]]
    # Where a lone last row has joined the batch before it.
    stack = Stack(tasks(plain, [20, 21], batch_size=10), features_first=True)
    assert [counts for _, counts, _ in stack._batches_to_try()] == [[10, 10], [10, 11]]


@pytest.mark.parametrize(
    "name", [name for name in ZOO if name not in ("transformer", "weight norm")]
)
def test_torch_knows_how_to_compute_many_of_a_module_without_a_loop(
    name: str, recwarn: pytest.WarningsRecorder
) -> None:
    jobs = [
        job_of(
            TorchRegressor(ZOO[name], max_epochs=20, random_state=k),
            {"X": np.abs(X[:20]).round() if name == "embedding" else X[:20], "y": X[:20, 0]},
        )
        for k in range(2)
    ]
    fit_networks(jobs)
    assert not [w for w in recwarn if "performance drop" in str(w.message)]


@pytest.mark.filterwarnings("error")
def test_an_operation_that_torch_would_compute_in_a_loop_keeps_networks_alone() -> None:
    rows = {"X": X[:20], "y": X[:20, 0]}
    jobs = [
        job_of(TorchRegressor(ZOO["transformer"], max_epochs=20, random_state=k), rows)
        for k in range(2)
    ]
    with watched() as seen:
        answers = fit_networks(jobs)
    assert seen.sizes == [] and not any(isinstance(a, Exception) for a in answers)
    assert all("for many networks at once" in reason for reason in seen.reasons)


def test_what_draws_is_not_compared_but_must_repeat() -> None:
    dropout = tasks(lambda: Body(nn.Dropout(0.5)), [40, 40], held_out=6)
    assert all(task.uses_rng for task in dropout)
    with torch.random.fork_rng():
        Stack(dropout, features_first=True)

    class AlsoInEvaluation(Body):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 0.1 * torch.randn_like(x[:, :1])

    always = tasks(lambda: AlsoInEvaluation(nn.Tanh()), [40, 40], held_out=6)
    with torch.random.fork_rng():
        Stack(always, features_first=True)
