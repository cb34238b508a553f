"""The network as it was before the fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchreg import TorchRegressor
from torchreg.engine.build import rebuild_initial_network
from torchreg.nn import MLP

X = np.linspace(0, 1, 20).reshape(10, 2)


def fitted(module: Any, **parameters: Any) -> TorchRegressor:
    """Fit without moving: what is there in the end is what was there in the beginning."""
    reg = TorchRegressor(
        module, optimizer="sgd", lr=1e-300, max_epochs=1, random_state=3, **parameters
    )
    return reg.fit(X, X[:, 0])


def rebuilt(reg: TorchRegressor, seed: int | None = 3, **options: Any) -> nn.Module | None:
    network = reg.module_.network
    return rebuild_initial_network(
        reg.module, options, network, in_features=2, out_features=1, seed=seed
    )


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (MLP, {"hidden_sizes": [4, 3]}),
        (MLP, {"activation": "tanh", "dropout": 0.2}),
        (lambda: nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(1)), {}),
        (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)), {}),
    ],
)
def test_it_is_the_network_that_the_fit_began_with(module: Any, options: dict[str, Any]) -> None:
    reg = fitted(module, **{f"module__{key}": value for key, value in options.items()})
    start = rebuilt(reg, **options)
    assert start is not None
    for (name, before), after in zip(
        start.named_parameters(), reg.module_.network.parameters(), strict=True
    ):
        # A scale of 0 moves by 1e-300, where a weight of order 1 stays as it is.
        assert torch.allclose(before, after, rtol=0, atol=1e-200), name
        assert before.dtype == reg.dtype_


def test_without_a_seed_only_an_instance_is_known() -> None:
    assert rebuilt(fitted(MLP), seed=None) is None
    assert rebuilt(fitted(nn.Linear(2, 1)), seed=None) is not None


def test_what_has_another_shape_is_not_the_start() -> None:
    assert rebuilt(fitted(MLP), hidden_sizes=[7]) is None


def test_the_callers_random_numbers_are_left_alone() -> None:
    reg = fitted(MLP)
    before = torch.get_rng_state()
    rebuilt(reg)
    assert torch.equal(torch.get_rng_state(), before)
