"""Each network keeps its own learning rates: alone, in a stack, before and after an interrupt."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback, LRScheduler
from torch import nn
from torch.optim import lr_scheduler

from tests._stacks import Rows, assert_same, both_ways
from torchreg import TorchEnsembleRegressor, TorchRegressor
from torchreg.engine.data import Table
from torchreg.engine.spec import Stopping, TrainTask
from torchreg.engine.train.lr_groups import StackedLRSchedule
from torchreg.losses import build_loss
from torchreg.nn import MLP
from torchreg.optim import LRSchedule, build_optimizer, build_schedule

Array = np.ndarray
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {},
    "cosine": {"schedule__eta_min": 1e-4},
    "one_cycle": {"schedule__pct_start": 0.2},
    "reduce_on_plateau": {"schedule__patience": 0, "schedule__threshold": 0.1},
}


@pytest.fixture(scope="module")
def table() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3)) * [1, 30, 400] + 200
    return X, np.sin(X[:, 0]) + X[:, 1] / 30 + rng.normal(size=60)


def small(schedule: Any = "cosine", **params: Any) -> TorchRegressor:
    settings: dict[str, Any] = {"max_epochs": 10, "random_state": 0, "lr": 0.02}
    settings |= {"module__hidden_sizes": [5]} | SCHEDULES.get(str(schedule), {})
    return TorchRegressor(**{"module": MLP, "schedule": schedule, **settings, **params})


def rates_of(reg: TorchRegressor) -> list[float]:
    return [row["lr"] for row in reg.history_]


def weights_of(reg: TorchRegressor) -> list[torch.Tensor]:
    return list(reg.module_.state_dict().values())


# Stacks


@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
def test_networks_of_all_schedules_train_as_one_stack_and_as_they_do_alone(
    optimizer: str, batch_size: int | None, table: tuple[Array, Array]
) -> None:
    X, y = table

    def fits() -> Sequence[tuple[TorchRegressor, Rows]]:
        return [
            (
                small(
                    schedule,
                    optimizer=optimizer,
                    batch_size=batch_size,
                    lr=0.01 * (1 + k),
                    # Who ends earlier leaves the stack, and has fewer steps to spread over.
                    max_epochs=30 - 10 * k,
                    random_state=k,
                ),
                {"X": X[: 60 - k], "y": y[: 60 - k], "X_val": X[:10], "y_val": y[:10]},
            )
            for k in range(3)
            for schedule in SCHEDULES
        ]

    together, alone, seen = both_ways(fits)
    assert seen.sizes == [12], seen.reasons
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)
        np.testing.assert_allclose(
            one.train_result.rates, other.train_result.rates or one.train_result.rates
        )
    moved = [len(set(one.train_result.rates)) for one in together]
    assert [n > 1 for n in moved] == [name != "constant" for name in SCHEDULES] * 3


def test_networks_with_early_stopping_keep_their_schedules_when_others_leave(
    table: tuple[Array, Array],
) -> None:
    X, y = table

    def fits() -> Sequence[tuple[TorchRegressor, Rows]]:
        params = {"early_stopping": True, "n_iter_no_change": 3, "max_epochs": 30, "lr": 0.1}
        return [
            (small(schedule, random_state=k, **params), {"X": X, "y": y})
            for k in range(4)
            for schedule in ("cosine", "reduce_on_plateau")
        ]

    together, alone, seen = both_ways(fits)
    assert seen.sizes == [8], seen.reasons
    assert len({len(one.train_result.losses) for one in together}) > 2
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)
        np.testing.assert_allclose(one.train_result.rates, other.train_result.rates, rtol=1e-12)


def task(schedule: str, lr: float = 0.1, **params: Any) -> TrainTask:
    table = Table(torch.zeros(10, 2), torch.zeros(10, 1), None)
    optimizer = build_optimizer("sgd", lr, {})
    settings: dict[str, Any] = {"max_epochs": 4, "batch_size": 5, **params}
    return TrainTask(
        nn.Linear(2, 1),
        table,
        None,
        build_loss("squared_error", {}),
        optimizer,
        stopping=Stopping(),
        seed=0,
        schedule=build_schedule(schedule, {}, optimizer),
        **settings,
    )


def test_networks_with_the_same_numbers_share_a_course_and_those_with_losses_do_not() -> None:
    tasks = [
        task("cosine"),
        task("cosine"),
        task("cosine", lr=0.2),
        task("cosine", max_epochs=5),
        task("one_cycle"),
        task("reduce_on_plateau"),
        task("reduce_on_plateau"),
        task("constant"),
    ]
    courses = StackedLRSchedule(tasks).schedules
    assert courses[0] is courses[1]
    assert len({id(course) for course in courses}) == 7


def test_a_pace_tells_each_change_once_and_to_those_who_stay() -> None:
    pace = StackedLRSchedule([task("cosine"), task("cosine", lr=0.2), task("constant")])
    assert pace.changed_hyperparams() == {"lr": [0.1, 0.2, 0.1], "momentum": [0.9] * 3}
    assert pace.changed_hyperparams() == {}
    pace.after_step()
    assert pace.rates == [0.1, 0.2, 0.1]
    ((name, first),) = pace.changed_hyperparams().items()
    assert name == "lr" and first[1] == pytest.approx(2 * first[0]) and first[2] == 0.1
    fewer = pace.subset([1])
    assert fewer.changed_hyperparams() == {"lr": first[1:2], "momentum": [0.9]} and fewer.rates == [
        0.2
    ]


# Searches, ensembles, restarts


def test_a_search_over_schedules_finds_the_same_together_as_alone(
    table: tuple[Array, Array],
) -> None:
    grid = {"schedule": ["constant", "cosine", "one_cycle"], "lr": [0.01, 0.1]}
    search = GridSearchCV(TorchRegressor(module=MLP, max_epochs=15, random_state=0), grid, cv=3)
    alone = copy.deepcopy(search).fit(*table)
    with joblib.parallel_config(backend="torchreg"):
        together = search.fit(*table)
    for fold in range(3):
        key = f"split{fold}_test_score"
        np.testing.assert_allclose(together.cv_results_[key], alone.cv_results_[key], rtol=1e-7)
    assert together.best_params_ == alone.best_params_


@pytest.mark.parametrize("schedule", ["one_cycle", "reduce_on_plateau"])
def test_the_members_of_an_ensemble_follow_the_schedule_of_its_estimator(
    schedule: str, table: tuple[Array, Array]
) -> None:
    ensemble = TorchEnsembleRegressor(small(schedule), n_estimators=3, random_state=5).fit(*table)
    for member in ensemble.estimators_:
        alone = small(schedule, random_state=member.random_state).fit(*table)
        np.testing.assert_allclose(rates_of(member), rates_of(alone), rtol=1e-12)
        np.testing.assert_allclose(member.predict(table[0]), alone.predict(table[0]), rtol=1e-8)


def test_every_restart_follows_the_schedule(table: tuple[Array, Array]) -> None:
    reg = small("one_cycle", n_init=3).fit(*table)
    assert len(reg.init_losses_) == 3
    np.testing.assert_allclose(rates_of(reg), rates_of(small("one_cycle").fit(*table)))


# Callbacks


class TraceGraph(Callback):
    """Writes down what learning rate a batch was trained with."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_batch_end(self, net: Any, training: bool = False, **_: Any) -> None:
        if training:
            self.rates.append(net.optimizer_.param_groups[0]["lr"])


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "reduce_on_plateau"])
def test_a_fit_with_a_listener_has_the_same_learning_rates(
    schedule: str, table: tuple[Array, Array]
) -> None:
    notes = TraceGraph()
    listened = small(schedule, batch_size=20, callbacks=[notes]).fit(*table)
    plain = small(schedule, batch_size=20).fit(*table)
    np.testing.assert_allclose(listened.predict(table[0]), plain.predict(table[0]), rtol=1e-8)
    np.testing.assert_allclose(rates_of(listened), rates_of(plain), rtol=1e-12)
    np.testing.assert_allclose(notes.rates[2::3], rates_of(plain), rtol=1e-12)


def test_two_who_move_the_learning_rate_are_one_too_many(table: tuple[Array, Array]) -> None:
    callbacks = [LRScheduler("StepLR", step_size=2)]
    with pytest.raises(ValueError, match="LRScheduler beside schedule='cosine', but one alone"):
        small(callbacks=callbacks).fit(*table)
    small("constant", callbacks=callbacks).fit(*table)


# Going on


@pytest.mark.parametrize("schedule", [*SCHEDULES, lr_scheduler.ExponentialLR])
@pytest.mark.parametrize("optimizer", ["adam", "nadam"])
def test_a_fit_that_goes_on_from_a_checkpoint_ends_with_the_same_bits(
    schedule: Any, optimizer: str, table: tuple[Array, Array], tmp_path: Path
) -> None:
    params: dict[str, Any] = {"optimizer": optimizer, "batch_size": 20, "early_stopping": True}
    params |= {"n_iter_no_change": 20}
    if not isinstance(schedule, str):
        params |= {"schedule__gamma": 0.8}
    reg, path = small(schedule, **params), tmp_path / "fit.checkpoint"
    whole = copy.deepcopy(reg).fit(*table)

    for epoch in (1, 5):
        with pytest.MonkeyPatch.context() as patch:
            _kill_after(patch, epoch)
            with pytest.raises(SystemExit):
                copy.deepcopy(reg).fit(*table, checkpoint=path)
    on = reg.fit(*table, checkpoint=path)
    assert all(map(torch.equal, weights_of(on), weights_of(whole)))
    assert on.history_ == whole.history_


def _kill_after(patch: pytest.MonkeyPatch, epoch: int) -> None:
    """Let a checkpoint be written after so many epochs, and the fit end there."""
    from torchreg._persistence.checkpoint import Checkpoint

    def save(self: Checkpoint, state: Callable[[], dict[str, Any]], *, ended: bool) -> None:
        if len(state()["losses"]) >= epoch:
            self.write(state())
            raise SystemExit

    patch.setattr(Checkpoint, "save", save)


def test_an_interrupted_fit_has_a_learning_rate_for_each_whole_epoch(
    table: tuple[Array, Array],
) -> None:
    class Stop(Callback):
        def on_batch_end(self, net: Any, training: bool = False, **_: Any) -> None:
            if len(net.history) == 4 and training:
                raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="Interrupted in epoch 4"):
        reg = small("cosine", batch_size=20, callbacks=[Stop()]).fit(*table)
    assert reg.n_iter_ == 3
    assert rates_of(reg) == rates_of(small("cosine", batch_size=20).fit(*table))[:3]


# A fresh process

SCRIPT = """
import sys, warnings
warnings.simplefilter("error")
import numpy as np, torchreg
X = np.arange(40.0).reshape(20, 2)
for schedule in ("cosine", "one_cycle", "reduce_on_plateau"):
    for optimizer in ("adam", "adamw", "sgd", "rmsprop"):
        reg = torchreg.TorchRegressor(schedule=schedule, optimizer=optimizer, max_epochs=2)
        reg.fit(X, X[:, 0])
print("torch._dynamo" in sys.modules)
"""


def test_a_schedule_loads_no_compiler() -> None:
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.stdout == "False\n", done.stderr


def test_a_course_counts_from_the_start_after_a_replay() -> None:
    pace = StackedLRSchedule([task("reduce_on_plateau", lr=0.5)])
    losses = [1.0] * 15
    expected: list[LRSchedule] = [task("reduce_on_plateau", lr=0.5).lr_schedule()]
    for loss in losses:
        expected[0].after_epoch(loss)
    pace.after_epoch([3.0])
    pace.replay(losses)
    assert (
        pace.changed_hyperparams()["lr"] == [expected[0].hyperparams["lr"]] == [pytest.approx(0.05)]
    )
