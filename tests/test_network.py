"""Parameters and buffers have the names that torch gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from torch import Tensor, nn

from tests._zoo import ZOO
from torchreg.engine.spec import named_tensors


class Twice(nn.Module):
    """One layer in two places, one tensor in two, and one that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.second, self.third = self.first[0], nn.Linear(2, 2, bias=False)
        self.third.weight = self.first[0].weight
        self.register_buffer("none", None)
        self.register_buffer("mean", self.first[1].running_mean)
        self.missing = None


class Hiding(nn.Linear):
    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        yield "only", self.weight


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return [*ours] == [*theirs] and all(ours[name] is theirs[name] for name in ours)


@pytest.mark.parametrize("name", [*ZOO, "twice", "hiding"])
def test_tensors_have_the_names_that_torch_gives_them(name: str) -> None:
    network = {"twice": Twice, "hiding": lambda: Hiding(2, 1), **ZOO}[name]()
    parameters, buffers = named_tensors(network)
    assert same(parameters, dict(network.named_parameters()))
    assert same(buffers, dict(network.named_buffers()))
