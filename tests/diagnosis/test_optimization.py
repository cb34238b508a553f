"""A fit that a constant beats is severe, and findings are in the order of causes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from recipes import friedman, kink, poisson_nll
from torch import nn

from torchreg import TorchRegressor, WorseThanConstantWarning
from torchreg.losses import LOSSES
from torchreg.nn import MLP

WORSE = "worse-than-constant"
X = np.linspace(0, 1, 60)[:, None]
Y = 3 + np.sin(4 * X[:, 0])
#: Fits that stay as they begin.
FROZEN: dict[str, Any] = {"optimizer": "sgd", "lr": 1e-30, "max_epochs": 20, "random_state": 0}


class Constant(nn.Module):
    """Predict a constant for all rows, near it or at a distance."""

    def __init__(self, in_features: int, out_features: int, distance: float) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        for parameter in self.linear.parameters():
            nn.init.zeros_(parameter)
        self.distance = distance

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.distance


@pytest.mark.parametrize("loss", [*sorted(LOSSES), nn.SmoothL1Loss, lambda p, t: (p - t) ** 4])
def test_a_network_far_from_y_is_worse_than_a_constant_by_any_loss(loss: Any) -> None:
    reg = TorchRegressor(Constant, module__distance=9.0, loss=loss, **FROZEN)
    with pytest.warns(WorseThanConstantWarning, match=r"the loss of the network is .*R2 = -"):
        reg.fit(X, Y)
    finding = reg.diagnose()[WORSE]
    assert finding.severity == "severe"
    assert finding.numbers["loss"] > finding.numbers["constant_loss"]


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "gamma", "gaussian_nll"])
def test_a_network_that_predicts_the_mean_is_not_worse_than_a_constant(loss: str) -> None:
    reg = TorchRegressor(Constant, module__distance=0.0, loss=loss, **FROZEN).fit(X, Y)
    assert WORSE not in reg.diagnose()


def test_the_losses_are_those_of_all_rows_by_hand() -> None:
    both = np.column_stack([Y, Y**3])
    reg = TorchRegressor(MLP, max_epochs=5, random_state=0).fit(X, both)
    network = reg.fit_summary_["network"]
    error = (reg.predict(X) - both) / both.std(axis=0)
    assert network["loss"] == pytest.approx(np.square(error).mean(), rel=1e-9)
    assert network["constant_loss"] == pytest.approx(1, rel=1e-9)


def test_a_loss_that_is_low_far_from_y_is_worse_than_a_constant() -> None:
    reg = TorchRegressor(MLP, loss=poisson_nll, lr=0.01, max_epochs=60, random_state=0)
    with pytest.warns(WorseThanConstantWarning, match="farther from y than any of its values"):
        reg.fit(*friedman())
    assert "'squared_error'" in reg.diagnose()[WORSE].advice


def test_causes_stand_before_their_consequences() -> None:
    # Far too large steps on standardized rows leave dead units and a useless network.
    reg = TorchRegressor(MLP, lr=10.0, max_epochs=40, random_state=0)
    with pytest.warns(WorseThanConstantWarning):
        reg.fit(*kink())
    codes = reg.diagnose().codes
    assert codes[:2] == ("learning-rate-too-high", WORSE)
    raw = TorchRegressor(MLP, lr=10.0, max_epochs=40, standardize=False, random_state=0)
    with pytest.warns(match="because of scale"):
        raw.fit(*kink())
    assert raw.diagnose().codes[:3] == (
        "unscaled-inputs",
        "unscaled-target",
        "learning-rate-too-high",
    )
