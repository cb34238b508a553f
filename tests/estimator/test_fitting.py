"""A warm start continues where the last fit ended: with its module, on its device."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests._stacks import job_of
from torchreg import TorchRegressor
from torchreg.nn import MLP

X = np.random.default_rng(0).normal(size=(30, 2))
ROWS = {"X": X, "y": X[:, 0]}


def fitted(**options: Any) -> TorchRegressor:
    settings = {"max_epochs": 4, "random_state": 0, "warm_start": True}
    return TorchRegressor(MLP, **settings, **options).fit(**ROWS)


def test_a_warm_start_continues_on_the_device_of_the_last_fit() -> None:
    reg = fitted(standardize=False)
    network = nn.Linear(2, 1)
    with FakeTensorMode():
        network.weight = nn.Parameter(torch.empty(1, 2, device="cuda"))
        network.bias = nn.Parameter(torch.empty(1, device="cuda"))
    reg.module_ = nn.Sequential(OrderedDict(network=network))
    module = job_of(reg, ROWS).config.initial_module
    assert module is not None
    assert {parameter.device.type for parameter in module.parameters()} == {"cuda"}


def test_fit_does_not_pickle_the_estimator() -> None:
    class Unpicklable(TorchRegressor):
        def __getstate__(self) -> dict[str, Any]:
            raise AssertionError("fit copied the estimator")

    reg = Unpicklable(MLP, max_epochs=2, warm_start=True).fit(**ROWS)
    reg.fit(**ROWS, X_val=X[:5], y_val=X[:5, 0])
    assert reg.n_iter_ == 4 and reg.diagnose(**ROWS).findings is not None
    reg.set_params(early_stopping=True).fit(**ROWS)
    assert reg.n_iter_ == 6


def test_a_warm_start_trains_a_copy_of_the_module() -> None:
    reg = fitted()
    module, before = reg.module_, copy.deepcopy(reg.module_.state_dict())
    reg.fit(**ROWS)
    assert reg.module_ is not module
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("n_init", [1, 3])
def test_two_fits_with_a_warm_start_have_the_history_of_both(n_init: int) -> None:
    reg = fitted(n_init=n_init, schedule="cosine")
    first = [*reg.history_]
    reg.fit(**ROWS, X_val=X[:5], y_val=X[:5, 0])
    assert reg.history_[:4] == first
    assert [row["epoch"] for row in reg.history_] == [*range(1, 9)]
    assert [row["loss"] for row in reg.history_] == reg.loss_curve_
    assert np.isnan(reg.validation_loss_curve_[:4]).all()
    assert [r["validation_loss"] for r in reg.history_[4:]] == reg.validation_loss_curve_[4:]
    assert all("lr" in row for row in reg.history_)
