"""A loss that will not do is refused with what was expected and what came."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from torchreg import TorchRegressor
from torchreg.nn import MLP


def per_row(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).pow(4).mean(dim=1)


X_ROWS, Y_ROWS = np.arange(12.0).reshape(6, 2), np.arange(6.0)


@pytest.mark.parametrize(
    ("loss", "options", "error", "message"),
    [
        ("squared", {}, ValueError, r"Unknown loss 'squared'\. Did you mean 'squared_error'\?"),
        ("hubber", {}, ValueError, r"Did you mean 'huber'\? Known: 'absolute_error', 'gamma'"),
        ("mse", {}, ValueError, r"Unknown loss 'mse'.*torch loss class or any callable works too"),
        (
            "huber",
            {"loss__dleta": 1},
            ValueError,
            r"loss 'huber' takes no 'dleta' \(loss__dleta\)\. Did you mean 'delta'\?",
        ),
        ("squared_error", {"loss__delta": 1}, ValueError, "takes no 'delta'.* It takes none"),
        ("huber", {"loss__delta": 0}, ValueError, "huber expects a delta above 0, got 0"),
        (
            nn.SmoothL1Loss,
            {"loss__bta": 1},
            ValueError,
            r"loss SmoothL1Loss takes no 'bta' \(loss__bta\)\. Did you mean 'beta'",
        ),
        (
            nn.SmoothL1Loss(),
            {"loss__beta": 1},
            ValueError,
            r"loss instance SmoothL1Loss; give the class instead: takes no 'beta'",
        ),
        (per_row, {"loss__power": 3}, ValueError, r"per_row.* could not compare .*'power'"),
        (int, {}, TypeError, r"loss expects a name \('absolute_error', .* callable .*got <class"),
        (
            nn.GaussianNLLLoss,
            {},
            ValueError,
            r"The loss 'GaussianNLLLoss' could not compare predictions of shape \(3, 1\)",
        ),
        (
            lambda p, t: ((p - t) ** 2).mean().item(),
            {},
            ValueError,
            "must return a torch tensor, got float",
        ),
        (
            lambda p, t: ((p - t) ** 2).detach(),
            {},
            ValueError,
            "does not depend on the predictions in a way that torch can differentiate",
        ),
        (
            lambda p, t: ((p - t) ** 2).mean(dim=0),
            {},
            ValueError,
            r"must return one number, one per row or one per element; .* returned shape \(1,\)",
        ),
        (
            lambda p, t: (p - t.new_zeros(7, 3)).mean(dim=1),
            {},
            ValueError,
            r"could not compare predictions of shape \(3, 1\) with targets of that shape",
        ),
    ],
)
def test_a_loss_that_will_not_do_is_refused_with_what_was_expected_and_what_came(
    loss: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        TorchRegressor(module=MLP, loss=loss, max_epochs=2, **options).fit(X_ROWS, Y_ROWS)


def test_a_loss_that_is_nothing_of_the_kind_is_refused_with_its_limits() -> None:
    with pytest.raises(ValueError, match=r"'loss' parameter.*must be an instance of 'str' or a c"):
        TorchRegressor(module=MLP, loss=3).fit(X_ROWS, Y_ROWS)
