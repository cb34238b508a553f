"""A resumed fit ends with the same bits as a fit that was never stopped."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests._stacks import fit_alone, job_of, with_config
from torchreg import TorchRegressor
from torchreg.nn import MLP

State = dict[str, Any]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)) * [1, 30, 400] + 200
Y = np.sin(X[:, 0]) + X[:, 1] / 30 + RNG.normal(size=60)


class InMemory:
    """Checkpoint store that keeps the state of each epoch, and may raise an interrupt."""

    def __init__(self, start: State | None = None, interrupt_after: int | None = None) -> None:
        self.start, self.interrupt_after = copy.deepcopy(start), interrupt_after
        self.states: list[State] = []
        self.ended = False

    def load(self) -> State | None:
        return self.start

    def save(self, state: Callable[[], State], *, ended: bool) -> None:
        self.states.append(copy.deepcopy(state()))
        self.ended = ended
        if len(self.states) == self.interrupt_after:
            raise KeyboardInterrupt


def fit(store: InMemory | None, **params: Any) -> Any:
    reg = TorchRegressor(**{"module": MLP, "random_state": 0, **params})
    return fit_alone(with_config(job_of(reg, {"X": X, "y": Y}), checkpoint_store=store))


def assert_same_bits(one: Any, other: Any) -> None:
    first, second = one.module.state_dict(), other.module.state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert one.train_result == other.train_result


def with_dropout_and_batch_norm(in_features: int, out_features: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(in_features, 8),
        nn.BatchNorm1d(8),
        nn.Dropout(0.2),
        nn.ReLU(),
        nn.Linear(8, out_features),
    )


class ReadsValues(nn.Module):
    """Cannot be captured."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x if x.abs().max() > 1 else 2 * x)


CASES: dict[str, dict[str, Any]] = {
    **{
        name: {"optimizer": name}
        for name in ("adam", "adamw", "rmsprop", "rprop", "sgd", "nadam", "asgd", "adafactor")
    },
    "lbfgs": {"optimizer": "lbfgs", "optimizer__history_size": 4, "max_epochs": 6},
    "torch's lbfgs": {"optimizer": torch.optim.LBFGS, "optimizer__max_iter": 4},
    "mini-batches": {"batch_size": 16, "max_epochs": 20},
    "early stopping": {"early_stopping": True, "n_iter_no_change": 3, "max_epochs": 60, "lr": 0.05},
    "dropout": {"module": with_dropout_and_batch_norm, "batch_size": 13},
    "a tolerance": {"tol": 0.05, "n_iter_no_change": 4, "max_epochs": 60},
    "eager steps": {"module": ReadsValues, "batch_size": 25},
    "centered": {"optimizer": "rmsprop", "optimizer__centered": True, "optimizer__momentum": 0.5},
    "cosine": {"schedule": "cosine", "optimizer": "nadam", "batch_size": 20},
    "one_cycle": {"schedule": "one_cycle", "batch_size": 20},
    "plateau": {"schedule": "reduce_on_plateau", "schedule__patience": 0, "early_stopping": True},
    "by epoch": {"schedule": torch.optim.lr_scheduler.ExponentialLR, "schedule__gamma": 0.8},
    "one epoch": {"max_epochs": 1},
    "diverges": {"optimizer": "sgd", "lr": 1e3, "max_epochs": 30, "batch_size": 20},
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", CASES)
def test_a_fit_resumed_after_any_epoch_ends_with_the_same_bits(case: str) -> None:
    params = {"max_epochs": 25, **CASES[case]}
    if "module" not in params:
        params["module__hidden_sizes"] = [6]
    store = InMemory()
    expected = fit(store, **params)
    n_states = len(store.states)
    assert store.ended and n_states >= len(expected.train_result.losses)
    assert_same_bits(fit(None, **params), expected)
    for after in sorted({0, 1, 2, n_states // 2, n_states - 2, n_states - 1}):
        if 0 <= after < n_states:
            assert_same_bits(fit(InMemory(store.states[after]), **params), expected)


def test_epochs_that_were_saved_are_not_saved_again() -> None:
    store = InMemory()
    fit(store, max_epochs=10)
    resumed = InMemory(store.states[6])
    fit(resumed, max_epochs=10)
    assert [len(state["losses"]) for state in resumed.states] == [8, 9, 10, 10]


def test_an_interrupted_fit_can_be_resumed() -> None:
    store = InMemory(interrupt_after=5)
    assert fit(store, max_epochs=10).interrupted and not store.ended
    assert_same_bits(fit(InMemory(store.states[-1]), max_epochs=10), fit(None, max_epochs=10))
