"""The untrained network is rebuilt from the seed of a fit."""

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
    """Fit with a learning rate of 1e-300, so that the weights keep their initial values."""
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
def test_the_rebuilt_network_has_the_initial_weights(module: Any, options: dict[str, Any]) -> None:
    reg = fitted(module, **{f"module__{key}": value for key, value in options.items()})
    start = rebuilt(reg, **options)
    assert start is not None
    for (name, before), after in zip(
        start.named_parameters(), reg.module_.network.parameters(), strict=True
    ):
        # A weight of 0 becomes 1e-300, one of order 1 stays the same.
        assert torch.allclose(before, after, rtol=0, atol=1e-200), name
        assert before.dtype == reg.dtype_


def test_without_a_seed_only_an_instance_can_be_rebuilt() -> None:
    assert rebuilt(fitted(MLP), seed=None) is None
    assert rebuilt(fitted(nn.Linear(2, 1)), seed=None) is not None


def test_a_network_of_another_shape_is_rejected() -> None:
    assert rebuilt(fitted(MLP), hidden_sizes=[7]) is None


def test_the_global_generator_is_restored() -> None:
    reg = fitted(MLP)
    before = torch.get_rng_state()
    rebuilt(reg)
    assert torch.equal(torch.get_rng_state(), before)
