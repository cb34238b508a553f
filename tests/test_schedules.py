"""A schedule is a parameter like others: tuned, cloned, saved, and refused in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch.optim import lr_scheduler

import torchreg
from tests._schedules import Table, quick, rates_of, table_of_numbers
from torchreg import TorchRegressor
from torchreg.nn import MLP
from torchreg.optim import SCHEDULES, build_optimizer, build_schedule
from torchreg.reporting.code import estimator_code

NAMES = ["constant", *SCHEDULES]


@pytest.fixture(scope="module")
def table() -> Table:
    return table_of_numbers()


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
        (
            lr_scheduler.StepLR,
            {},
            "options for schedule 'StepLR', \\{\\}, with 12 steps: .*step_size",
        ),
        ("one_cycle", {"pct_start": 2.0}, "Invalid options for .*'pct_start': 2.0.* with 12 steps"),
        # Torch divides by 0 where the rise has one step.
        ("one_cycle", {"pct_start": 1 / 12}, "Invalid options for .*division by zero"),
        ("reduce_on_plateau", {"factor": 2.0}, "Invalid options for .*1.0"),
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
    with pytest.raises(ValueError, match="computes its own step sizes"):
        quick(schedule, optimizer).fit(*table)
    quick("constant", optimizer, max_epochs=1).fit(*table)


def test_what_is_no_schedule_is_refused(table: Table) -> None:
    with pytest.raises(ValueError, match=r"'schedule' parameter .* must be an instance of 'str'"):
        quick(3).fit(*table)
    with pytest.raises(TypeError, match="schedule must be a name such as 'cosine', a torch"):
        build_schedule(3, {}, build_optimizer("adam", None, {}))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"'<lambda>' must return a scheduler of .*, got dict"):
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


# On its way out and back


@pytest.mark.parametrize(
    "params",
    [
        {"schedule": "one_cycle", "schedule__pct_start": 0.2},
        {"schedule": lr_scheduler.StepLR, "schedule__step_size": 3},
    ],
)
def test_a_file_holds_the_schedule_and_its_learning_rates(
    params: dict[str, Any], table: Table, tmp_path: Path
) -> None:
    X, y = table
    reg = TorchRegressor(module=MLP, max_epochs=3, random_state=0, **params).fit(X, y)
    reg.save(tmp_path / "fit.safetensors")
    again = torchreg.load(tmp_path / "fit.safetensors")
    assert again.get_params() == reg.get_params()
    assert again.history_ == reg.history_
    np.testing.assert_array_equal(clone(again).fit(X, y).predict(X), reg.predict(X))


def test_the_code_of_a_report_builds_the_schedule_again() -> None:
    reg = TorchRegressor(module=MLP, schedule=lr_scheduler.StepLR, schedule__step_size=3)
    names: dict[str, Any] = {}
    exec(estimator_code(reg).replace("reg.fit(X, y)", ""), names)
    assert names["reg"].get_params() == reg.get_params()


def test_the_printed_table_shows_the_learning_rate_where_it_moves(
    table: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    quick("cosine", lr=0.125, max_epochs=2, verbose=2).fit(*table)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["epoch", "loss", "validation", "lr", "seconds"]
    assert [line.split()[2] for line in lines[2:4]] == ["0.125", "0.0625"]
    quick("constant", max_epochs=2, verbose=2).fit(*table)
    assert "lr" not in capsys.readouterr().out.splitlines()[1].split()


def test_a_diagnosis_names_the_schedule_and_recommends_one_where_there_is_none(
    table: Table,
) -> None:
    advice = {}
    for schedule in ("constant", "cosine"):
        reg = TorchRegressor(
            module=MLP, schedule=schedule, lr=0.7, max_epochs=40, random_state=0
        ).fit(*table)
        assert reg.fit_summary_["schedule"] == schedule
        found = {finding.code: finding for finding in reg.diagnose().findings}
        advice[schedule] = found["oscillating"].advice
        text = found["learning-rate-too-high"].message
        assert ("with schedule 'cosine'" in text) == (schedule == "cosine")
    assert advice == {
        "constant": "A lower lr, larger batches, or a learning rate that falls "
        "(schedule='cosine').",
        "cosine": "A lower lr, or larger batches.",
    }
