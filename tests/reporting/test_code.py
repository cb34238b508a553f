"""Settings as code."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchreg import TorchRegressor
from torchreg.nn import MLP
from torchreg.reporting.code import estimator_code, versions


def run(code: str) -> TorchRegressor:
    """Run what was written, up to the fit."""
    names: dict[str, Any] = {}
    exec(code.replace("reg.fit(X, y)", ""), names)
    built: TorchRegressor = names["reg"]
    return built


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"lr": 0.1, "max_epochs": 7, "early_stopping": True, "random_state": 0},
        {"module": MLP, "module__hidden_sizes": (5,), "module__activation": nn.Tanh},
        {"optimizer": torch.optim.AdamW, "optimizer__betas": [0.9, 0.99], "loss": nn.HuberLoss},
        {"dtype": torch.float64, "device": torch.device("cpu"), "standardize": "X"},
        {"loss": torch.nn.functional.mse_loss, "batch_size": None, "tol": np.float64(1e-3)},
        {"module__hidden_sizes": [np.int64(3)], "optimizer__weight_decay": float("inf")},
        {"standardize": 1, "loss__delta": 0.5, "loss": "huber"},
    ],
)
def test_the_code_builds_a_regressor_with_the_same_parameters(parameters: dict[str, Any]) -> None:
    reg = TorchRegressor(**{"module": MLP, **parameters})
    assert run(estimator_code(reg)).get_params() == reg.get_params()


def test_what_code_cannot_say_is_left_open_and_described() -> None:
    reg = TorchRegressor(nn.Sequential(nn.Linear(1, 1)), random_state=np.random.RandomState(0))
    code = estimator_code(reg)
    assert "module = ...  # Sequential(\n#       (0): Linear(" in code
    built = run(code)
    assert built.module is Ellipsis and built.random_state is Ellipsis
    local = estimator_code(TorchRegressor(module=MLP, loss=lambda p, t: (p - t).abs()))
    assert run(local).loss is Ellipsis


def test_only_what_differs_from_the_defaults_is_written() -> None:
    assert estimator_code(TorchRegressor(module=MLP, tol=None)) == estimator_code(
        TorchRegressor(module=MLP)
    )


def test_what_was_left_to_the_data_is_left_to_them_again_and_a_comment_says_what_it_came_to() -> (
    None
):
    reg = TorchRegressor(max_epochs=2, random_state=0)
    reg.fit([[float(i)] for i in range(40)], [float(i) for i in range(40)])
    code = estimator_code(reg)
    assert run(code).get_params() == reg.get_params()
    comments = [line for line in code.splitlines() if line.startswith("#")]
    given = "\n".join(line.removeprefix("#") for line in comments[1:])
    assert eval(f"dict({given})") == reg.chosen_params_
    assert "n_folds='auto'," in code


def test_versions_are_those_that_are_installed() -> None:
    assert versions()["torch"] == version("torch")
    assert {"Python", "scikit-learn", "torch-regressor"} <= set(versions())
