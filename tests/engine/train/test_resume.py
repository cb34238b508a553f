"""A fit that goes on in another process ends with the bits of one that was never stopped."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchreg import TorchRegressor
from torchreg.nn import MLP

Array = np.ndarray
State = dict[str, Any]


class InMemory:
    """Keeps the state after each epoch; begins from one that an earlier fit left."""

    def __init__(self, start: State | None = None) -> None:
        self.start = start
        self.states: list[State] = []
        self.ended = False

    def load(self) -> State | None:
        return self.start

    def save(self, state: Callable[[], State], *, ended: bool) -> None:
        self.states.append(copy.deepcopy(state()))
        self.ended = ended


@pytest.fixture
def table() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3)) * [1, 30, 400] + 200
    return X, np.sin(X[:, 0]) + X[:, 1] / 30 + rng.normal(size=60)


def fit(
    monkeypatch: pytest.MonkeyPatch, X: Array, y: Array, store: InMemory, **params: Any
) -> TorchRegressor:
    """Fit with someone who keeps the state."""
    with monkeypatch.context() as patch:
        ask = TorchRegressor._request

        def with_keeper(self: TorchRegressor, *args: Any, **given: Any) -> Any:
            return dataclasses.replace(ask(self, *args, **given), checkpoint_store=store)

        patch.setattr(TorchRegressor, "_request", with_keeper)
        return TorchRegressor(**{"module": MLP, "random_state": 0, **params}).fit(X, y)


def same_bits(a: TorchRegressor, b: TorchRegressor) -> bool:
    states = zip(a.module_.state_dict().values(), b.module_.state_dict().values(), strict=True)
    return (
        all(torch.equal(x, y) for x, y in states)
        and a.history_ == b.history_
        and a.best_epoch_ == b.best_epoch_
        and a.loss_ == b.loss_
    )


def with_dropout_and_batch_norm(in_features: int, out_features: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(in_features, 8),
        nn.BatchNorm1d(8),
        nn.Dropout(0.2),
        nn.ReLU(),
        nn.Linear(8, out_features),
    )


class LooksAtValues(nn.Module):
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
    "eager steps": {"module": LooksAtValues, "batch_size": 25},
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
def test_from_whatever_epoch_a_fit_goes_on_it_ends_with_the_same_bits(
    case: str, table: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {"max_epochs": 25, "module__hidden_sizes": [6], **CASES[case]}
    if "module" in params:
        del params["module__hidden_sizes"]
    whole = InMemory()
    expected = fit(monkeypatch, *table, whole, **params)
    n_states = len(whole.states)
    assert whole.ended
    assert n_states >= expected.n_iter_
    assert same_bits(
        expected, TorchRegressor(**{"module": MLP, "random_state": 0, **params}).fit(*table)
    )
    for after in sorted({0, 1, 2, n_states // 2, n_states - 2, n_states - 1}):
        if not 0 <= after < n_states:
            continue
        rest = InMemory(copy.deepcopy(whole.states[after]))
        resumed = fit(monkeypatch, *table, rest, **params)
        assert same_bits(expected, resumed), f"from epoch {after + 1}"


def test_what_was_kept_already_is_not_kept_again(
    table: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, rest = InMemory(), InMemory()
    fit(monkeypatch, *table, whole, max_epochs=10)
    rest.start = copy.deepcopy(whole.states[6])
    fit(monkeypatch, *table, rest, max_epochs=10)
    epochs = [len(state["losses"]) for state in rest.states]
    assert epochs == [8, 9, 10, 10]


def test_an_interrupted_fit_leaves_the_last_whole_epoch(
    table: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(InMemory):
        def save(self, state: Callable[[], State], *, ended: bool) -> None:
            super().save(state, ended=ended)
            if len(self.states) == 5:
                raise KeyboardInterrupt

    store = Interrupted()
    with pytest.warns(UserWarning, match="Interrupted in epoch 6"):
        fit(monkeypatch, *table, store, max_epochs=10)
    assert not store.ended
    rest = InMemory(store.states[-1])
    resumed = fit(monkeypatch, *table, rest, max_epochs=10)
    whole = TorchRegressor(module=MLP, random_state=0, max_epochs=10).fit(*table)
    assert same_bits(whole, resumed)
