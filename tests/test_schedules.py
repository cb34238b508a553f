"""Learning rates move as torch's own schedulers move them, whoever takes the steps."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.optim import lr_scheduler

from torchreg import TorchRegressor
from torchreg.optimizers import build_optimizer
from torchreg.schedules import SCHEDULES, Course, build_schedule

Array = np.ndarray
Table = tuple[Array, Array]
EPOCHS = 12
N = 50
NAMES = ["constant", *SCHEDULES]


@pytest.fixture(scope="module")
def table() -> Table:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 3))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.1 * rng.normal(size=N)


def net(in_features: int, out_features: int) -> nn.Module:
    return nn.Sequential(nn.Linear(in_features, 5), nn.Tanh(), nn.Linear(5, out_features))


def quick(schedule: Any, optimizer: Any = "adam", **params: Any) -> TorchRegressor:
    settings: dict[str, Any] = {"max_epochs": EPOCHS, "random_state": 0, "standardize": False}
    settings |= {"batch_size": None, "dtype": "float64"}
    return TorchRegressor(net, schedule=schedule, optimizer=optimizer, **{**settings, **params})


def rates_of(reg: TorchRegressor) -> list[float]:
    return [row["lr"] for row in reg.history_]


# Against a loop of torch's own optimizer and scheduler

#: Torch's classes, and options of ours and theirs.
OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.5}),
    "nadam": (torch.optim.NAdam, {}),  # Torch's own optimizer takes these steps.
}


def by_hand(
    table: Table,
    make_optimizer: Callable[..., torch.optim.Optimizer],
    make_scheduler: Callable[[torch.optim.Optimizer, int], Any],
    *,
    lr: float,
    batch_size: int | None,
    every: str,
) -> tuple[nn.Module, list[float], list[float]]:
    """Train as a textbook does; give the network, losses, and the lr of each epoch's last step."""
    x, t = torch.from_numpy(table[0]), torch.from_numpy(table[1])[:, None]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = net(3, 1).double()
    optimizer = make_optimizer(network.parameters(), lr=lr)
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
            used = optimizer.param_groups[0]["lr"]
            if every == "step":
                scheduler.step()
        losses.append(total / N)
        rates.append(used)
        if every == "epoch":
            scheduler.step()
        elif every == "loss":
            scheduler.step(losses[-1])
    return network, losses, rates


#: Our parameters, torch's scheduler for so many steps, and when it moves.
CASES: dict[str, tuple[dict[str, Any], Callable[..., Any], str]] = {
    "cosine": (
        {"schedule": "cosine"},
        lambda o, n: lr_scheduler.CosineAnnealingLR(o, n),
        "step",
    ),
    "cosine above 0": (
        {"schedule": "cosine", "schedule__eta_min": 1e-3},
        lambda o, n: lr_scheduler.CosineAnnealingLR(o, n, eta_min=1e-3),
        "step",
    ),
    "one_cycle": (
        {"schedule": "one_cycle"},
        lambda o, n: lr_scheduler.OneCycleLR(o, 0.02, n),
        "step",
    ),
    "one_cycle with options": (
        {"schedule": "one_cycle", "schedule__pct_start": 0.2, "schedule__div_factor": 5.0},
        lambda o, n: lr_scheduler.OneCycleLR(o, 0.02, n, pct_start=0.2, div_factor=5.0),
        "step",
    ),
    "reduce_on_plateau": (
        {
            "schedule": "reduce_on_plateau",
            "schedule__patience": 0,
            "schedule__factor": 0.5,
            "schedule__threshold": 0.2,
        },
        lambda o, _: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0, threshold=0.2),
        "loss",
    ),
    "a class by epoch": (
        {"schedule": lr_scheduler.StepLR, "schedule__step_size": 3, "schedule__gamma": 0.5},
        lambda o, _: lr_scheduler.StepLR(o, 3, 0.5),
        "epoch",
    ),
    "a class by step": (
        {
            "schedule": lr_scheduler.CyclicLR,
            "schedule__base_lr": 1e-3,
            "schedule__max_lr": 0.03,
            "schedule__step_size_up": 4,
        },
        lambda o, _: lr_scheduler.CyclicLR(o, 1e-3, 0.03, step_size_up=4),
        "step",
    ),
    "a callable": (
        {"schedule": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch))},
        lambda o, _: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
        "epoch",
    ),
    "warm-up by epochs": (
        {
            "schedule": lambda o: lr_scheduler.SequentialLR(
                o,
                [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.8)],
                milestones=[4],
            )
        },
        lambda o, _: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.8)], milestones=[4]
        ),
        "epoch",
    ),
}


@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("case", CASES)
def test_a_loop_of_torch_with_the_same_scheduler_gives_the_same_weights(
    case: str, optimizer: str, batch_size: int | None, table: Table
) -> None:
    params, make_scheduler, every = CASES[case]
    cls, options = OPTIMIZERS[optimizer]
    network, losses, rates = by_hand(
        table,
        partial(cls, **options),
        make_scheduler,
        lr=0.02,
        batch_size=batch_size,
        every=every,
    )
    nested = {f"optimizer__{name}": value for name, value in options.items()}
    settings = {"lr": 0.02, "batch_size": batch_size, **nested, **params}
    reg = quick(optimizer=optimizer, **settings).fit(*table)
    np.testing.assert_allclose(rates_of(reg), rates, rtol=1e-14)
    assert len(set(rates)) > 1
    np.testing.assert_allclose(reg.loss_curve_, losses, rtol=1e-12)
    for ours, theirs in zip(reg.module_.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


# Learning rates


def course(schedule: Any, n_steps: int, lr: float = 0.1, **options: Any) -> Course:
    optimizer = build_optimizer("sgd", lr, {})
    return Course(build_schedule(schedule, options, optimizer), optimizer, n_steps)


def test_cosine_falls_from_lr_to_0() -> None:
    moving = course("cosine", 40)
    rates = [moving.numbers["lr"]]
    for _ in range(40):
        moving.after_step()
        rates.append(moving.numbers["lr"])
    expected = 0.05 * (1 + np.cos(np.pi * np.arange(41) / 40))
    np.testing.assert_allclose(rates, expected, rtol=0, atol=1e-15)
    assert rates[0] == 0.1 and rates[-1] == 0


def test_one_cycle_rises_to_lr_while_momentum_falls_and_ends_far_below() -> None:
    moving = course("one_cycle", 100)
    numbers = []
    for _ in range(100):
        numbers.append(moving.numbers)
        moving.after_step()
    rates = [n["lr"] for n in numbers]
    momenta = [n["momentum"] for n in numbers]
    assert max(rates) == pytest.approx(0.1) and rates[0] == pytest.approx(0.1 / 25)
    assert rates[-1] == pytest.approx(0.1 / 25e4)
    assert momenta[int(np.argmax(rates))] == min(momenta) == pytest.approx(0.85)
    assert max(momenta) == pytest.approx(0.95)


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_one_cycle_leaves_an_optimizer_without_momentum_without(optimizer: str) -> None:
    spec = build_optimizer(optimizer, 0.1, {"momentum": 0.0})
    moving = Course(build_schedule("one_cycle", {}, spec), spec, 10)
    for _ in range(10):
        moving.after_step()
        assert moving.numbers["momentum"] == 0


def test_a_plateau_hears_the_validation_rows_where_there_are_any(table: Table) -> None:
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


def test_a_constant_learning_rate_is_the_default_and_leaves_no_trace(table: Table) -> None:
    reg = quick("constant").fit(*table)
    assert TorchRegressor().schedule == "constant"
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


def test_a_warm_start_begins_the_schedule_anew(table: Table) -> None:
    reg = quick("cosine", lr=0.1, max_epochs=3, warm_start=True).fit(*table).fit(*table)
    assert [row["epoch"] for row in reg.history_] == [1, 2, 3, 4, 5, 6]
    assert rates_of(reg)[:3] == rates_of(reg)[3:]


def test_no_warning_comes_and_no_class_of_torch_is_changed(table: Table) -> None:
    before = inspect.getsource(torch.optim.SGD.step), dict(vars(lr_scheduler.CosineAnnealingLR))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for schedule in NAMES:
            quick(schedule).fit(*table)
    after = inspect.getsource(torch.optim.SGD.step), dict(vars(lr_scheduler.CosineAnnealingLR))
    assert before == after


# As a parameter


def test_a_search_tunes_the_schedule_and_its_options(table: Table) -> None:
    grid = [
        {"schedule": NAMES},
        {"schedule": ["cosine"], "schedule__eta_min": [0.0, 1e-3], "lr": [0.01, 0.1]},
    ]
    search = GridSearchCV(quick("constant"), grid, cv=2, error_score="raise").fit(*table)
    assert len(search.cv_results_["params"]) == 8
    # In 12 epochs nothing becomes a plateau of 10.
    scores = {
        str(params): score
        for params, score in zip(
            search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
        )
    }
    assert scores["{'schedule': 'constant'}"] == scores["{'schedule': 'reduce_on_plateau'}"]
    assert len({*scores.values()}) == 7


def test_a_clone_keeps_the_schedule_and_its_options() -> None:
    reg = quick("one_cycle", schedule__pct_start=0.2)
    params = clone(reg).get_params()
    assert params["schedule"] == "one_cycle" and params["schedule__pct_start"] == 0.2
    reg.set_params(schedule=lr_scheduler.StepLR, schedule__step_size=2)
    assert clone(reg).schedule is lr_scheduler.StepLR


# Refusals


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        ("cosin", {}, "Unknown schedule 'cosin'. Did you mean 'cosine'?.*'one_cycle'"),
        ("Cosine", {}, "Unknown schedule 'Cosine'. Did you mean 'cosine'?"),
        ("cosine", {"eta_max": 1.0}, r"takes no 'eta_max' \(schedule__eta_max\).*'eta_min'"),
        ("cosine", {"T_max": 3}, r"sets 'T_max' itself, from lr, max_epochs and the number"),
        ("one_cycle", {"max_lr": 1.0}, "schedule 'one_cycle' sets 'max_lr' itself"),
        ("reduce_on_plateau", {"mode": "max"}, "sets 'mode' itself"),
        ("constant", {"gamma": 0.5}, "'constant' takes no 'gamma'.* It takes none"),
        (lr_scheduler.StepLR, {"step": 1}, "'StepLR' takes no 'step'.*Did you mean 'step_size'"),
        (lr_scheduler.StepLR, {}, "'StepLR' refused its options {} for 12 steps: .*step_size"),
        ("one_cycle", {"pct_start": 2.0}, "refused its options .*'pct_start': 2.0.* for 12 steps"),
        # Torch divides by 0 where the rise has one step.
        ("one_cycle", {"pct_start": 1 / 12}, "refused its options .*division by zero"),
        ("reduce_on_plateau", {"factor": 2.0}, "refused its options .*1.0"),
    ],
)
def test_a_schedule_that_will_not_do_is_refused_by_name_and_value(
    schedule: Any, options: dict[str, Any], message: str, table: Table
) -> None:
    nested = {f"schedule__{name}": value for name, value in options.items()}
    with pytest.raises(ValueError, match=message):
        quick(schedule, **nested).fit(*table)


@pytest.mark.parametrize("optimizer", ["lbfgs", "rprop", torch.optim.LBFGS, torch.optim.Rprop])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_optimizers_that_size_their_steps_take_no_schedule(
    optimizer: Any, schedule: str, table: Table
) -> None:
    with pytest.raises(ValueError, match="finds the sizes of its steps itself"):
        quick(schedule, optimizer).fit(*table)
    quick("constant", optimizer, max_epochs=1).fit(*table)


def test_what_is_no_schedule_is_refused(table: Table) -> None:
    with pytest.raises(ValueError, match=r"'schedule' parameter .* must be an instance of 'str'"):
        quick(3).fit(*table)
    with pytest.raises(TypeError, match="schedule expects a name such as 'cosine', a torch"):
        build_schedule(3, {}, build_optimizer("adam", None, {}))  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"'<lambda>' must return a torch.*LRScheduler, it returned dict"
    ):
        quick(lambda _: {}).fit(*table)


class NoRate(torch.optim.Optimizer):
    """Steps of a size that it keeps to itself."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        with torch.enable_grad():
            return None if closure is None else closure()


def test_an_optimizer_without_a_learning_rate_takes_no_schedule(table: Table) -> None:
    with pytest.raises(ValueError, match="expects an optimizer with a learning rate, but 'norate'"):
        quick("cosine", NoRate).fit(*table)


def test_a_callable_is_given_its_options(table: Table) -> None:
    def halved(optimizer: torch.optim.Optimizer, every: int = 1) -> Any:
        return lr_scheduler.StepLR(optimizer, every, 0.5)

    reg = quick(halved, lr=0.8, schedule__every=2, max_epochs=5).fit(*table)
    assert rates_of(reg) == [0.8, 0.8, 0.4, 0.4, 0.2]
    with pytest.raises(
        ValueError, match=r"schedule 'halved' takes no 'evry'.*Did you mean 'every'"
    ):
        quick(halved, schedule__evry=2).fit(*table)


def test_a_scheduler_that_fails_on_its_way_says_so(table: Table) -> None:
    short = {"schedule__max_lr": 0.1, "schedule__total_steps": 5}
    with pytest.raises(ValueError, match=r"schedule 'OneCycleLR' failed after 6 moves: .*total"):
        quick(lr_scheduler.OneCycleLR, **short).fit(*table)
