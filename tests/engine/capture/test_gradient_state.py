"""What both lanes leave behind: buffers, generators, and other threads' fits."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from torchreg import TorchRegressor
from torchreg.engine.capture import EagerGradient, gradient

N_EPOCHS = 24
CAPTURED = "The steps were captured once and repeated."
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
    """Computes again what backward needs, with the same draws: no repetition can do that."""

    def between(self, h: Tensor) -> Tensor:
        return checkpoint(super().between, h, use_reentrant=False)


def fit(module: Any = Net, **options: Any) -> TorchRegressor:
    settings: dict[str, Any] = {"batch_size": None, "lr": 0.02, "dtype": "float64"}
    settings |= {"optimizer": "sgd", "max_epochs": N_EPOCHS, "random_state": 0, **options}
    return TorchRegressor(module, **settings).fit(X, Y)


@pytest.fixture(params=["captured", "eager"])
def lane(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """Every fit goes this way."""
    if request.param == "eager":
        monkeypatch.setattr(gradient, "find_capture_blocker", lambda *_: "this test asks for it")
    fit(verbose=1)
    ran = capsys.readouterr().out.splitlines()[-1]
    assert (ran == CAPTURED) == (request.param == "captured")
    return str(request.param)


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("module", [Net, DrawsAgain])
def test_each_step_is_counted_once_by_the_buffers(
    module: Any, batch_size: int | None, lane: str
) -> None:
    reg = fit(module, batch_size=batch_size)
    # 22 rows in batches of 5 are 5 steps an epoch.
    n_steps = N_EPOCHS * (1 if batch_size is None else 5)
    assert int(reg.module_.network.norm.num_batches_tracked) == n_steps


@pytest.mark.parametrize("batch_size", [None, 5])
def test_after_a_repetition_that_failed_the_fit_goes_on_as_if_none_had_been_tried(
    batch_size: int | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = fit(DrawsAgain, batch_size=batch_size, verbose=1)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "The steps ran eagerly, because a repetition of the recorded step failed."
    )
    monkeypatch.setattr(gradient, "find_capture_blocker", lambda *_: "this test asks for it")
    plain = fit(DrawsAgain, batch_size=batch_size)
    assert tried.loss_curve_ == plain.loss_curve_
    for name, tensor in plain.module_.state_dict().items():
        assert torch.equal(tried.module_.state_dict()[name], tensor), name


def tip(tipped: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let some calls of a program give another gradient, as at a kink."""
    calls, compile_trace = itertools.count(1), gradient.compile_trace

    def as_at_a_kink(*args: Any, out: Any, **options: Any) -> Any:
        program = compile_trace(*args, out=out, **options)

        def run(*batch: Any) -> Tensor:
            loss = program(*batch)
            if next(calls) in tipped:
                out[0].add_(1.0)
            return loss

        return run

    monkeypatch.setattr(gradient, "compile_trace", as_at_a_kink)


@pytest.mark.parametrize(
    ("tipped", "ran"),
    [
        ((1,), CAPTURED),
        ((1, 2), "The steps ran eagerly, because a repetition of the recorded step failed."),
        ((1, 3), "The steps ran eagerly, because a repetition of the recorded step failed."),
    ],
)
def test_a_repetition_that_fails_at_one_place_must_succeed_at_two_others(
    tipped: tuple[int, ...],
    ran: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = fit()
    tip(tipped, monkeypatch)
    reg = fit(verbose=1)
    assert capsys.readouterr().out.splitlines()[-1] == ran
    np.testing.assert_allclose(reg.loss_curve_, plain.loss_curve_, rtol=1e-12)


def test_a_network_that_fails_where_it_is_tried_nearby_trains_eagerly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = fit(), itertools.count(1)
    compute = EagerGradient.compute

    def fails_nearby(self: Any, batch: Any) -> Any:
        # The first is recorded, the second tried where it is, the third elsewhere.
        if next(calls) == 3:
            raise RuntimeError("not defined here")
        return compute(self, batch)

    tip((1,), monkeypatch)
    monkeypatch.setattr(EagerGradient, "compute", fails_nearby)
    reg = fit(verbose=1)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "The steps ran eagerly, because a repetition of the recorded step failed."
    )
    np.testing.assert_allclose(reg.loss_curve_, plain.loss_curve_, rtol=1e-12)


def test_a_step_that_cannot_be_recorded_is_taken_without_the_recorder(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fit()

    def refuses(*_: Any, **__: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(gradient.Recorder, "__torch_dispatch__", refuses)
    reg = fit(verbose=1)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "The steps ran eagerly, because the step cannot be recorded."
    )
    np.testing.assert_allclose(reg.loss_curve_, plain.loss_curve_, rtol=1e-9)
    assert int(reg.module_.network.norm.num_batches_tracked) == N_EPOCHS


def test_a_fit_that_draws_leaves_torchs_generator_as_it_was(lane: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        fit()
        assert torch.equal(torch.rand(4), expected)


def test_what_a_fit_draws_depends_on_its_seed_and_on_no_other_generator(lane: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one = fit().loss_curve_
        torch.manual_seed(2)
        assert fit().loss_curve_ == one
        assert fit(random_state=1).loss_curve_ != one


def test_every_step_draws_anew(lane: str) -> None:
    # Nothing but the draws can change the loss where the parameters stand still.
    losses = fit(lr=1e-300).loss_curve_
    assert len(set(losses)) == N_EPOCHS


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_fits_in_several_threads_are_the_fits_alone(dropout: float, lane: str) -> None:
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
