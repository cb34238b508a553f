"""Fits that end together have the summaries of fits that end alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests._stacks import answer_alone, job_of
from torchreg import TorchRegressor
from torchreg.diagnosis.record import FitSummary, NetworkSummary
from torchreg.diagnosis.statistics import look_inside, look_inside_each
from torchreg.engine.build import fit_job as plan
from torchreg.engine.data import Table
from torchreg.engine.inspect import probe as looks
from torchreg.engine.inspect.probe import Looks, ProbeRows, ProbeTarget, take_sample
from torchreg.engine.run import fit_networks
from torchreg.nn import MLP, Ensemble, TabularMLP

Array = np.ndarray


def sample_of(n: int = 60, seed: int = 0) -> ProbeRows:
    x = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return take_sample(Table(x, x[:, :1] ** 2, None), slice(None))


def network(width: int = 5, **options: Any) -> nn.Module:
    return MLP(3, hidden_sizes=[width], **options).double().eval()


class Broken(nn.Module):
    """A network that cannot be looked at."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("not today")


class Own(MLP):
    """A network of the user's."""


def assert_close(one: Any, other: Any) -> None:
    """Compare what was counted exactly, and numbers but for the order of sums."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        one, other = [*one.values()], [*other.values()]
    if isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, yours in zip(one, other, strict=True):
            assert_close(mine, yours)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-9, nan_ok=True)
    else:
        assert one == other


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many networks were looked at at once, each time."""
    counts: list[int] = []

    def count(members: list[Any], *sample: Any) -> list[NetworkSummary | None]:
        counts.append(len(members))
        return look_inside_each(members, *sample)

    monkeypatch.setattr(looks, "look_inside_each", count)
    return counts


def test_each_view_gets_its_own_look_whatever_comes_beside_it(taken: list[int]) -> None:
    torch.manual_seed(0)
    one, other = sample_of(), sample_of(80, seed=1)
    views = [
        ProbeTarget(make(), sample)
        for _ in range(3)
        for sample in (one, other)
        for make in (
            network,
            lambda: network(4),
            lambda: network(activation="tanh"),
            lambda: Own(3, hidden_sizes=[5]).double().eval(),
            lambda: Ensemble([network(), network()]).eval(),
        )
    ]
    together = Looks(views)
    assert taken == [3] * 6
    for view in views:
        expected = look_inside(view.network, *view.sample)
        assert expected is not None
        assert_close(together.of(view), expected)


def test_what_would_take_much_memory_at_once_is_looked_at_in_pieces(
    taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    sample = sample_of()
    views = [ProbeTarget(network(), sample) for _ in range(7)]
    monkeypatch.setattr(looks, "MAX_RELEASED", 3 * 60 * 5 + 1)
    together = Looks(views)
    # The seventh is alone.
    assert taken == [3, 3]
    for view in views:
        assert_close(together.of(view), look_inside(view.network, *view.sample))


def test_of_one_view_nothing_is_done_before_it_is_asked_for(taken: list[int]) -> None:
    view = ProbeTarget(network(), sample_of())
    assert_close(Looks([view]).of(view), look_inside(view.network, *view.sample))
    assert taken == []


def test_a_network_that_cannot_be_looked_at_is_no_other_ones_trouble() -> None:
    sample = sample_of()
    wrong = network()
    # Torch will say that the shapes do not fit.
    wrong.get_submodule("layers")[-1].bias.data = torch.zeros(7)
    views = [ProbeTarget(each, sample) for each in (network(), Broken(), wrong, network())]
    together = Looks(views)
    for view in (views[0], views[3]):
        assert together.of(view) is not None
    for view in views[1:3]:
        with pytest.raises(RuntimeError):
            together.of(view)


def test_an_interrupt_among_the_looks_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(looks, "look_inside_each", interrupted)
    sample = sample_of()
    with pytest.raises(KeyboardInterrupt):
        Looks([ProbeTarget(network(), sample) for _ in range(2)])


# Fits


def rows(seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(70, 3)) * [1, 10, 100] + 5
    return {"X": X, "y": np.abs(X[:, 0] + X[:, 1]) + 0.1 + rng.random(70)}


FITS: dict[str, dict[str, Any]] = {
    "alike": {},
    "no hidden layer": {"module__hidden_sizes": ()},
    "early stopping": {"early_stopping": True},
    "restarts": {"n_init": 2},
    "folds": {"n_folds": 2},
    "dropout": {"module__dropout": 0.1},
    "for tables": {"module": TabularMLP},
    "of the user's": {"module": Own},
    "mini-batches": {"batch_size": 20},
    "a loss with a link": {"loss": "gamma"},
    "in raw units": {"standardize": False, "dtype": "float32"},
}


@pytest.mark.parametrize("name", FITS)
def test_fits_of_a_search_have_the_summaries_of_lone_fits(name: str, taken: list[int]) -> None:
    options = {"module": MLP, "module__hidden_sizes": (4,), "max_epochs": 5, "random_state": 0}
    fits = [
        (TorchRegressor(**{**options, **FITS[name], "lr": lr}), rows(seed))
        for lr in (1e-3, 1e-2)
        for seed in range(2)
    ]
    together: list[Any] = fit_networks([job_of(*fit) for fit in fits])
    alone: list[Any] = [answer_alone(job_of(*fit)) for fit in fits]
    one_by_one = name in ("folds", "of the user's", "a loss with a link")
    assert taken == ([] if one_by_one else [2, 2])
    for one, other in zip(together, alone, strict=True):
        assert one.summary.look is not None
        assert_close(one.summary.to_dict(), other.summary.to_dict())


def test_who_cannot_be_concluded_costs_no_other_fit_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    summarize = plan.summarize

    def failing(task: Any, *rest: Any, **named: Any) -> FitSummary:
        if task.seed == 1:
            raise OSError("too late")
        return summarize(task, *rest, **named)

    monkeypatch.setattr(plan, "summarize", failing)
    regs = [TorchRegressor(module=MLP, max_epochs=2, random_state=seed) for seed in range(3)]
    answers = fit_networks([job_of(reg, rows(0)) for reg in regs])
    assert [type(answer).__name__ for answer in answers] == ["FitResult", "OSError", "FitResult"]
