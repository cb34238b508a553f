"""A stack applies the declared prefix layers of its networks to their rows once."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests._stacks import Rows, Seen, assert_same, both_ways
from torchreg import TorchRegressor
from torchreg.nn import RobustStandardize, TabularMLP


class Scaled(nn.Module):
    """Scales its rows by their quartiles before two linear layers."""

    frozen_prefix: ClassVar[tuple[str, ...]] = ("scale", "squash")

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.scale = RobustStandardize(torch.zeros(in_features), torch.ones(in_features))
        self.squash = nn.Hardtanh(-2, 2)
        self.first, self.last = nn.Linear(in_features, 5), nn.Linear(5, out_features)

    def initialize_from(self, x: Tensor, t: Tensor, weight: Tensor | None) -> None:
        self.scale.initialize_from(x, t, weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(self.squash(self.scale(x)))))


class UsesInputTwice(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x[:, :1]


class Trained(Scaled):
    frozen_prefix = ("first",)


class Unknown(Scaled):
    frozen_prefix = ("scaling",)


class WithDropout(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.1, self.training)


def rows(seed: int) -> Rows:
    X = np.random.default_rng(seed).standard_cauchy(size=(41 + seed, 3))
    return {"X": X, "y": np.sin(X[:, 0])}


def compare(module: Any, **options: Any) -> Seen:
    """Require that four fits give the same in a stack as alone."""

    def fits() -> list[tuple[TorchRegressor, Rows]]:
        settings: dict[str, Any] = {"early_stopping": True, "dtype": "float64", **options}
        return [
            (TorchRegressor(module, max_epochs=20 + 10 * k, random_state=k, **settings), rows(k))
            for k in range(4)
        ]

    together, alone, seen = both_ways(fits)
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)
    return seen


@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize("module", [Scaled, TabularMLP])
def test_a_stack_of_scaled_rows_gives_what_each_network_gives_alone(
    module: Any, batch_size: int | None
) -> None:
    seen = compare(module, batch_size=batch_size)
    assert sum(seen.sizes) == 4
    assert all(stack.prefix == module.frozen_prefix for stack in seen.stacks)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (UsesInputTwice, "its loss or gradient differs"),
        (Trained, "expects names of children without trainable parameters, got 'first'"),
        (Unknown, "expects names of children without trainable parameters, got 'scaling'"),
    ],
)
def test_networks_with_a_wrong_declaration_train_one_at_a_time(module: Any, reason: str) -> None:
    seen = compare(module)
    assert seen.sizes == []
    assert all(reason in each for each in seen.reasons) and seen.reasons


def test_networks_that_draw_random_numbers_keep_their_prefix() -> None:
    def fits() -> list[tuple[TorchRegressor, Rows]]:
        return [
            (TorchRegressor(WithDropout, max_epochs=20, random_state=k), rows(0)) for k in (0, 1)
        ]

    _, _, seen = both_ways(fits)
    assert [stack.prefix for stack in seen.stacks] == [()]
