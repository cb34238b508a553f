"""Captured and eager steps leave the same state: buffers, generators, fits of other threads."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests._capture import CAPTURED, FORCED, assert_same_fit, eager, eager_steps
from torchreg import TorchRegressor
from torchreg.engine.capture import CompiledGradient, EagerGradient
from torchreg.engine.data import Batch
from torchreg.engine.spec import Objective
from torchreg.losses import build_loss, probe_loss

N_EPOCHS = 24
FAILED = "a repetition of the recorded step failed"
RNG = np.random.default_rng(2)
X = RNG.normal(size=(22, 3))
Y = np.sin(X[:, 0]) + X[:, 1]


class Net(nn.Module):
    """With batch normalization and dropout."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)
        self.norm, self.dropout = nn.BatchNorm1d(4), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.norm(self.first(x))))

    def between(self, h: Tensor) -> Tensor:
        return self.dropout(torch.tanh(h))


class DrawsAgain(Net):
    """Recomputes activations in the backward pass with the same random numbers."""

    def between(self, h: Tensor) -> Tensor:
        return checkpoint(super().between, h, use_reentrant=False)


def fit(module: Any = Net, **options: Any) -> TorchRegressor:
    settings: dict[str, Any] = {"batch_size": None, "lr": 0.02, "dtype": "float64"}
    settings |= {"optimizer": "sgd", "max_epochs": N_EPOCHS, "random_state": 0, **options}
    return TorchRegressor(module, **settings).fit(X, Y)


@pytest.fixture(params=[CAPTURED, FORCED], ids=["captured", "eager"])
def mode(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Iterator[str]:
    """Run the test with captured and with eager steps."""
    with eager_steps() if request.param == FORCED else nullcontext():
        fit(verbose=1)
        assert capsys.readouterr().out.splitlines()[-1] == request.param
        yield request.param


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("module", [Net, DrawsAgain])
def test_buffers_count_each_step_once(module: Any, batch_size: int | None, mode: str) -> None:
    reg = fit(module, batch_size=batch_size)
    # 22 rows in batches of 5 are 5 steps an epoch.
    n_steps = N_EPOCHS * (1 if batch_size is None else 5)
    assert int(reg.module_.network.norm.num_batches_tracked) == n_steps


@pytest.mark.parametrize("batch_size", [None, 5])
def test_a_failed_repetition_leaves_no_trace_in_the_fit(
    batch_size: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = fit(DrawsAgain, batch_size=batch_size, verbose=1)
    assert capsys.readouterr().out.splitlines()[-1] == eager(FAILED)
    with eager_steps():
        plain = fit(DrawsAgain, batch_size=batch_size)
    assert_same_fit(tried, plain, X, tolerance=0.0)


class Disturbed(EagerGradient):
    """Eager gradient whose gradient or buffer differs, or that fails, in some of its calls.

    The first call is recorded, the second compared with the program where it is, the third and
    the fourth at perturbed parameters.
    """

    def __init__(
        self, *args: Any, differs: Sequence[int], fails: Sequence[int], what: str = "gradient"
    ) -> None:
        super().__init__(*args)
        self.differs, self.fails, self.what, self.n_calls = differs, fails, what, 0

    def compute(self, batch: Batch) -> tuple[Tensor, Sequence[Tensor]]:
        self.n_calls += 1
        if self.n_calls in self.fails:
            raise RuntimeError("not defined here")
        loss, gradients = super().compute(batch)
        if self.n_calls in self.differs and self.what == "gradient":
            gradients = [gradients[0] + 1.0, *gradients[1:]]
        elif self.n_calls in self.differs:
            self.objective.network[1].running_mean.add_(1.0)
        return loss, gradients


@pytest.mark.parametrize("what", ["gradient", "buffer"])
@pytest.mark.parametrize(
    ("differs", "fails", "blocker"),
    [
        ([2], [], None),
        ([2, 3], [], FAILED),
        ([2, 4], [], FAILED),
        ([2], [3], FAILED),
        ([], [1], "the step cannot be recorded"),
    ],
)
def test_a_program_that_differs_at_one_point_must_agree_at_two_others(
    differs: list[int], fails: list[int], blocker: str | None, what: str
) -> None:
    torch.manual_seed(0)
    layers = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)
    network = nn.Sequential(*layers).double()
    parameters = [*network.parameters()]
    before = [p.detach().clone() for p in parameters]
    objective = Objective(network, probe_loss(build_loss("squared_error", {}), 1))
    batch = Batch(torch.from_numpy(X), torch.from_numpy(Y)[:, None], None)
    expected = torch.autograd.grad(objective.of(batch), parameters)
    out = [torch.empty_like(p) for p in before]
    disturbed = Disturbed(objective, parameters, out, differs=differs, fails=fails, what=what)
    gradient = CompiledGradient(disturbed, uses_rng=False, full_batch=None)
    twin = copy.deepcopy(network[:2])
    for _ in range(8):
        gradient(batch)
        twin(batch.x)
    if what == "gradient":
        for one, other in zip(network.buffers(), twin.buffers(), strict=True):
            torch.testing.assert_close(one, other)
    assert gradient.capture_blocker == blocker
    torch.testing.assert_close(out, list(expected))
    assert all(map(torch.equal, parameters, before))


def test_a_fit_with_dropout_leaves_the_global_generator_unchanged(mode: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        fit()
        assert torch.equal(torch.rand(4), expected)


def test_dropout_depends_on_random_state_alone(mode: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one = fit().loss_curve_
        torch.manual_seed(2)
        assert fit().loss_curve_ == one
        assert fit(random_state=1).loss_curve_ != one


def test_every_step_draws_new_random_numbers(mode: str) -> None:
    # Parameters do not move, so that only dropout can change the loss.
    losses = fit(lr=1e-300).loss_curve_
    assert len(set(losses)) == N_EPOCHS


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_fits_in_several_threads_are_those_of_one_thread(dropout: float, mode: str) -> None:
    class Some(Net):
        def __init__(self) -> None:
            super().__init__(dropout)

    def run(seed: int) -> TorchRegressor:
        return fit(Some, random_state=seed, batch_size=None if seed % 2 else 5)

    seeds = range(6)
    alone = [run(seed) for seed in seeds]
    together: dict[int, TorchRegressor] = {}
    start = threading.Barrier(len(seeds))

    def work(seed: int) -> None:
        start.wait()
        together[seed] = run(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in seeds:
        assert together[seed].loss_curve_ == alone[seed].loss_curve_
        np.testing.assert_array_equal(together[seed].predict(X), alone[seed].predict(X))
