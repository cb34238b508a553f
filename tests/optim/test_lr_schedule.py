"""Learning rates are those of torch's own schedulers."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from tests._schedules import EPOCHS, N, Table, net, quick, rates_of, table_of_numbers
from torchreg import TorchRegressor
from torchreg.nn import MLP
from torchreg.optim import SCHEDULES, LRSchedule, build_optimizer, build_schedule


@pytest.fixture(scope="module")
def table() -> Table:
    return table_of_numbers()


# Compared with a loop of torch's own optimizer and scheduler

#: Torch's classes and options.
OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.5}),
    "nadam": (torch.optim.NAdam, {}),  # has no flat implementation
}


def train_by_hand(
    table: Table,
    make_optimizer: Callable[..., torch.optim.Optimizer],
    make_scheduler: Callable[[torch.optim.Optimizer, int], Any],
    *,
    batch_size: int | None,
    interval: str,
) -> tuple[nn.Module, list[float], list[float]]:
    """Return the network, the losses, and the learning rate of the last step of each epoch."""
    x, t = torch.from_numpy(table[0]), torch.from_numpy(table[1])[:, None]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = net(3, 1).double()
    optimizer = make_optimizer(network.parameters(), lr=0.02)
    size = batch_size or N
    scheduler = make_scheduler(optimizer, EPOCHS * -(-N // size))
    generator = torch.Generator().manual_seed(0)
    losses, rates = [], []
    for _ in range(EPOCHS):
        order = torch.arange(N) if batch_size is None else torch.randperm(N, generator=generator)
        total = 0.0
        for rows in order.split(size):
            optimizer.zero_grad()
            loss = ((network(x[rows]) - t[rows]) ** 2).mean()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
            lr = optimizer.param_groups[0]["lr"]
            if interval == "step":
                scheduler.step()
        losses.append(total / N)
        rates.append(lr)
        if interval == "epoch":
            scheduler.step()
        elif interval == "loss":
            scheduler.step(losses[-1])
    return network, losses, rates


def make_warm_up(optimizer: torch.optim.Optimizer) -> lr_scheduler.SequentialLR:
    phases = [lr_scheduler.LinearLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.8)]
    return lr_scheduler.SequentialLR(optimizer, phases, milestones=[4])


#: Schedule and its options, torch's scheduler, when it changes the rate, and the arguments that the
#: fit sets, given the number of steps.
CASES: dict[str, tuple[Any, dict[str, Any], Callable[..., Any], str, Callable[[int], Any]]] = {
    "cosine": (
        "cosine",
        {"eta_min": 1e-3},
        lr_scheduler.CosineAnnealingLR,
        "step",
        lambda n: {"T_max": n},
    ),
    "one_cycle": (
        "one_cycle",
        {"pct_start": 0.2, "div_factor": 5.0},
        lr_scheduler.OneCycleLR,
        "step",
        lambda n: {"max_lr": 0.02, "total_steps": n},
    ),
    "plateau": (
        "reduce_on_plateau",
        {"factor": 0.5, "patience": 0, "threshold": 0.2},
        lr_scheduler.ReduceLROnPlateau,
        "loss",
        lambda n: {},
    ),
    **{
        cls.__name__: (cls, options, cls, interval, lambda n: {})
        for cls, options, interval in (
            (lr_scheduler.StepLR, {"step_size": 3, "gamma": 0.5}, "epoch"),
            (lr_scheduler.CyclicLR, {"base_lr": 1e-3, "max_lr": 0.03, "step_size_up": 4}, "step"),
            (make_warm_up, {}, "epoch"),
        )
    },
}


@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("case", CASES)
def test_a_loop_of_torch_with_the_same_scheduler_gives_the_same_weights(
    case: str, optimizer: str, batch_size: int | None, table: Table
) -> None:
    schedule, params, make_scheduler, interval, extra = CASES[case]
    cls, options = OPTIMIZERS[optimizer]
    network, losses, rates = train_by_hand(
        table,
        partial(cls, **options),
        lambda o, n: make_scheduler(o, **params, **extra(n)),
        batch_size=batch_size,
        interval=interval,
    )
    nested = {f"optimizer__{name}": value for name, value in options.items()}
    nested |= {f"schedule__{name}": value for name, value in params.items()}
    reg = quick(schedule, optimizer, lr=0.02, batch_size=batch_size, **nested).fit(*table)
    np.testing.assert_allclose(rates_of(reg), rates, rtol=1e-14)
    assert len(set(rates)) > 1
    np.testing.assert_allclose(reg.loss_curve_, losses, rtol=1e-12)
    for ours, theirs in zip(reg.module_.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


# Learning rates


def hyperparams_of(schedule: str, n_steps: int, name: str = "sgd", **options: Any) -> list[Any]:
    """Return the hyperparameters of each step."""
    optimizer = build_optimizer(name, 0.1, options)
    lr_schedule = LRSchedule(build_schedule(schedule, {}, optimizer), optimizer, n_steps)
    values = [lr_schedule.hyperparams]
    for _ in range(n_steps - 1):
        lr_schedule.after_step()
        values.append(lr_schedule.hyperparams)
    return values


def test_cosine_falls_from_lr_to_almost_0() -> None:
    rates = [values["lr"] for values in hyperparams_of("cosine", 40)]
    expected = 0.05 * (1 + np.cos(np.pi * np.arange(40) / 40))
    np.testing.assert_allclose(rates, expected, rtol=0, atol=1e-15)


def test_one_cycle_rises_to_lr_while_momentum_falls_and_ends_far_below() -> None:
    values = hyperparams_of("one_cycle", 100)
    rates, momenta = ([v[name] for v in values] for name in ("lr", "momentum"))
    assert max(rates) == pytest.approx(0.1) and rates[0] == pytest.approx(0.1 / 25)
    assert rates[-1] == pytest.approx(0.1 / 25e4)
    assert momenta[int(np.argmax(rates))] == min(momenta) == pytest.approx(0.85)
    assert max(momenta) == pytest.approx(0.95)


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_one_cycle_adds_no_momentum_to_an_optimizer_without(optimizer: str) -> None:
    values = hyperparams_of("one_cycle", 10, optimizer, momentum=0.0)
    assert {v["momentum"] for v in values} == {0.0}


def test_a_plateau_is_one_of_the_validation_loss_if_there_is_one(table: Table) -> None:
    X, y = table
    params = {"schedule__patience": 1, "schedule__threshold": 0.1, "lr": 0.05}
    with_rows = quick("reduce_on_plateau", max_epochs=60, **params)
    with_rows.fit(X[:30], y[:30], X_val=X[30:], y_val=y[30:])
    without = quick("reduce_on_plateau", max_epochs=60, **params).fit(X[:30], y[:30])
    for reg, losses in (
        (with_rows, with_rows.validation_loss_curve_),
        (without, without.loss_curve_),
    ):
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.05)
        scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, threshold=0.1)
        expected = []
        for loss in losses:
            expected.append(optimizer.param_groups[0]["lr"])
            scheduler.step(loss)
        assert rates_of(reg) == expected
        assert len(set(expected)) > 1
    assert rates_of(with_rows) != rates_of(without)


def test_a_constant_learning_rate_is_the_default_and_not_in_the_history(
    table: Table,
) -> None:
    reg = quick("constant").fit(*table)
    left = TorchRegressor(module=MLP, max_epochs=1).fit(*table)
    assert left.chosen_params_["schedule"] == "constant"
    assert reg.history_[-1].keys() == {"epoch", "loss"}


def test_a_schedule_of_one_factor_is_a_constant_learning_rate(table: Table) -> None:
    flat = quick(lr_scheduler.LambdaLR, schedule__lr_lambda=lambda _: 1.0).fit(*table)
    np.testing.assert_array_equal(
        flat.predict(table[0]), quick("constant").fit(*table).predict(table[0])
    )
    assert rates_of(flat) == [2e-3] * EPOCHS


def test_the_learning_rate_of_an_epoch_is_that_of_its_last_step(table: Table) -> None:
    reg = quick("cosine", lr=0.1, batch_size=10, max_epochs=2).fit(*table)
    expected = 0.05 * (1 + np.cos(np.pi * np.array([4, 9]) / 10))
    np.testing.assert_allclose(rates_of(reg), expected, rtol=1e-12)


def test_a_warm_start_restarts_the_schedule(table: Table) -> None:
    reg = quick("cosine", lr=0.1, max_epochs=3, warm_start=True).fit(*table).fit(*table)
    assert [row["epoch"] for row in reg.history_] == [1, 2, 3, 4, 5, 6]
    assert rates_of(reg)[:3] == rates_of(reg)[3:]


def test_there_is_no_warning_and_the_classes_of_torch_are_unchanged(table: Table) -> None:
    before = inspect.getsource(torch.optim.SGD.step), dict(vars(lr_scheduler.CosineAnnealingLR))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for schedule in SCHEDULES:
            quick(schedule).fit(*table)
    after = inspect.getsource(torch.optim.SGD.step), dict(vars(lr_scheduler.CosineAnnealingLR))
    assert before == after


def test_a_scheduler_that_fails_during_the_fit_raises_with_its_name(table: Table) -> None:
    short = {"schedule__max_lr": 0.1, "schedule__total_steps": 5}
    with pytest.raises(ValueError, match=r"schedule 'OneCycleLR' failed after 6 updates: .*total"):
        quick(lr_scheduler.OneCycleLR, **short).fit(*table)
