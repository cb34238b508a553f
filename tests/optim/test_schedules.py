"""The parameters schedule and schedule__*: searches, clones, files and their errors."""

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


@pytest.fixture(scope="module")
def table() -> Table:
    return table_of_numbers()


def test_a_search_tunes_the_schedule_and_its_options(table: Table) -> None:
    grid = [
        {"schedule": ["constant", *SCHEDULES]},
        {"schedule": ["cosine"], "schedule__eta_min": [0.0, 1e-3], "lr": [0.01, 0.1]},
    ]
    results = (
        GridSearchCV(quick("constant"), grid, cv=2, error_score="raise").fit(*table).cv_results_
    )
    scores = {
        str(params): score
        for params, score in zip(results["params"], results["mean_test_score"], strict=True)
    }
    # 12 epochs are too few for a plateau of 10.
    assert scores["{'schedule': 'constant'}"] == scores["{'schedule': 'reduce_on_plateau'}"]
    assert len(scores) == 8 and len({*scores.values()}) == 7


@pytest.mark.parametrize(
    "params",
    [
        {"schedule": "one_cycle", "schedule__pct_start": 0.2},
        {"schedule": lr_scheduler.StepLR, "schedule__step_size": 3},
    ],
)
def test_a_clone_a_file_and_the_code_of_a_report_keep_schedule_and_options(
    params: dict[str, Any], table: Table, tmp_path: Path
) -> None:
    X, y = table
    reg = TorchRegressor(module=MLP, max_epochs=3, random_state=0, **params)
    assert clone(reg).get_params() == reg.get_params()
    names: dict[str, Any] = {}
    exec(estimator_code(reg).replace("reg.fit(X, y)", ""), names)
    assert names["reg"].get_params() == reg.get_params()

    reg.fit(X, y).save(tmp_path / "fit.safetensors")
    loaded = torchreg.load(tmp_path / "fit.safetensors")
    assert loaded.get_params() == reg.get_params()
    assert loaded.history_ == reg.history_
    np.testing.assert_array_equal(clone(loaded).fit(X, y).predict(X), reg.predict(X))


# Errors


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        ("cosin", {}, "'cosin'. Did you mean 'cosine'?.*'one_cycle'"),
        ("Cosine", {}, "'Cosine'. Did you mean 'cosine'?"),
        ("cosine", {"eta_max": 1.0}, r"'cosine' .*\(schedule__eta_max\).*'eta_min'"),
        ("cosine", {"T_max": 3}, r"'cosine' sets 'T_max' .*Remove schedule__T_max"),
        ("one_cycle", {"max_lr": 1.0}, "'one_cycle' sets 'max_lr'"),
        ("reduce_on_plateau", {"mode": "max"}, "sets 'mode'"),
        ("constant", {"gamma": 0.5}, "'constant' .*'gamma'.* It takes none"),
        (lr_scheduler.StepLR, {"step": 1}, "'StepLR' .*'step'.*Did you mean 'step_size'"),
        (lr_scheduler.StepLR, {}, "'StepLR', {}, with 12 steps: .*step_size"),
        ("one_cycle", {"pct_start": 2.0}, "'one_cycle', .*'pct_start': 2.0.* with 12 steps"),
        # Torch divides by the number of steps of the rise minus one.
        ("one_cycle", {"pct_start": 1 / 12}, "'one_cycle', .*division by zero"),
        ("reduce_on_plateau", {"factor": 2.0}, "'reduce_on_plateau', .*1.0"),
    ],
)
def test_an_invalid_schedule_or_option_raises_with_its_name_and_value(
    schedule: Any, options: dict[str, Any], message: str, table: Table
) -> None:
    nested = {f"schedule__{name}": value for name, value in options.items()}
    with pytest.raises(ValueError, match=message):
        quick(schedule, **nested).fit(*table)


@pytest.mark.parametrize("optimizer", ["lbfgs", "rprop", torch.optim.LBFGS, torch.optim.Rprop])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_optimizers_with_their_own_step_sizes_take_no_schedule(
    optimizer: Any, schedule: str, table: Table
) -> None:
    with pytest.raises(ValueError, match=f"'{schedule}' .*Set schedule='constant'"):
        quick(schedule, optimizer).fit(*table)
    quick("constant", optimizer, max_epochs=1).fit(*table)


def test_what_is_not_a_schedule_raises(table: Table) -> None:
    with pytest.raises(ValueError, match=r"'schedule' parameter .* must be an instance of 'str'"):
        quick(3).fit(*table)
    with pytest.raises(TypeError, match=r"schedule must be .*, got 3"):
        build_schedule(3, {}, build_optimizer("adam", None, {}))
    with pytest.raises(TypeError, match=r"'<lambda>' must return a scheduler .*, got dict"):
        quick(lambda _: {}).fit(*table)


def test_an_optimizer_without_a_learning_rate_takes_no_schedule(table: Table) -> None:
    class NoRate(torch.optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

        def step(self, closure: Callable[[], float] | None = None) -> float | None:
            with torch.enable_grad():
                return None if closure is None else closure()

    with pytest.raises(ValueError, match=r"'norate' has no lr. Set schedule='constant'"):
        quick("cosine", NoRate).fit(*table)


def test_a_callable_is_called_with_its_options(table: Table) -> None:
    def halved(optimizer: torch.optim.Optimizer, every: int = 1) -> Any:
        return lr_scheduler.StepLR(optimizer, every, 0.5)

    reg = quick(halved, lr=0.8, schedule__every=2, max_epochs=5).fit(*table)
    assert rates_of(reg) == [0.8, 0.8, 0.4, 0.4, 0.2]
    with pytest.raises(ValueError, match=r"'halved' takes no 'evry'.*Did you mean 'every'"):
        quick(halved, schedule__evry=2).fit(*table)


# What the user sees


def test_the_printed_table_shows_the_learning_rate_if_a_schedule_changes_it(
    table: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    quick("cosine", lr=0.125, max_epochs=2, verbose=2).fit(*table)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["epoch", "loss", "validation", "lr", "seconds"]
    assert [line.split()[2] for line in lines[2:4]] == ["0.125", "0.0625"]
    quick("constant", max_epochs=2, verbose=2).fit(*table)
    assert "lr" not in capsys.readouterr().out.splitlines()[1].split()


def test_a_diagnosis_names_the_schedule_or_recommends_one(table: Table) -> None:
    for schedule in ("constant", "cosine"):
        reg = TorchRegressor(
            module=MLP, schedule=schedule, lr=0.7, max_epochs=40, random_state=0
        ).fit(*table)
        assert reg.fit_summary_["schedule"] == schedule
        found = {finding.code: finding for finding in reg.diagnose().findings}
        is_constant = schedule == "constant"
        assert ("schedule='cosine'" in found["oscillating"].advice) == is_constant
        named = "'cosine'" in found["learning-rate-too-high"].message
        assert named != is_constant
