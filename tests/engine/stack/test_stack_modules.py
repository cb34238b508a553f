"""Modules with unusual tensors, layouts or side effects train in a stack as alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests._modules_with_state import InAHelper, InNumPy
from tests._stacks import EQUAL, UNEQUAL, compare, rows
from tests._zoo import ZOO, Body


class Views(nn.Module):
    """Needs contiguous rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        # (n, 6) -> (6 n,) -> (2 n, 3) -> (n, 2, 3) -> (n, 3)
        return self.last(torch.tanh(h.view(-1).view(-1, 3)).view(-1, 2, 3).sum(1))


class Asserts(Body):
    """Raises an error that is not torch's."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        assert h.is_contiguous()
        return self.last(self.middle(h))


class ReadsLayout(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x))) * {True: 1.0}[x.is_contiguous()]


@pytest.mark.parametrize(
    "module", [Views, lambda: Asserts(nn.Tanh()), lambda: ReadsLayout(nn.Tanh())]
)
@pytest.mark.parametrize("batch_size", [None, 6], ids=["full batch", "mini-batches"])
def test_a_module_that_needs_contiguous_rows_is_stacked_in_the_other_layout(
    module: Any, batch_size: int | None
) -> None:
    _, seen = compare(module, UNEQUAL, batch_size=batch_size)
    assert seen.sizes == [3] and seen.features_first == [False]
    assert len(seen.reasons) == 1


class Averaging(nn.Module):
    """Updates a running mean in a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 1)
        self.mean = nn.Parameter(torch.zeros(3), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * h.detach().mean(0))
        return self.last(h - self.mean)


class Decaying(Body):
    """Shrinks a trainable parameter in ``forward``."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.last.weight.mul_(0.99)
        return super().forward(x)


class Odd(nn.Module):
    """Has an empty and a scalar parameter, an integer buffer, and names without a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1, bias=False)
        self.none, self.scale = nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.tensor(1.5))
        self.register_buffer("order", torch.tensor([3, 1, 0, 2]))
        self.register_buffer("nothing", None)
        self.register_parameter("absent", None)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x[:, self.order]) * self.scale


class Overwrites(Body):
    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5)
        return super().forward(x)


KINDS: dict[str, Any] = {
    "updated frozen parameter": Averaging,
    "parameter changed in forward": lambda: Decaying(nn.Tanh()),
    "odd parameters": Odd,
    "overwritten input": lambda: Overwrites(nn.Tanh()),
    "in-place activation": lambda: Body(nn.Sequential(nn.Flatten(), nn.ReLU(True))),
}


@pytest.mark.parametrize("batch_size", [None, 6], ids=["full batch", "mini-batches"])
@pytest.mark.parametrize("name", KINDS)
def test_changes_of_tensors_in_forward_are_the_same_in_a_stack(
    name: str, batch_size: int | None
) -> None:
    _, seen = compare(KINDS[name], EQUAL, batch_size=batch_size)
    assert seen.sizes == [3]


class Counts(nn.Module):
    """Counts its steps in a tensor that is neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.n = COUNT

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.n += 1
        return self.linear(x)


COUNT = torch.zeros(())


class EvaluatesInPython(Body):
    """Counts its evaluations in Python."""

    n = 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and not torch.is_grad_enabled():
            self.n += 1
        return super().forward(x)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (InAHelper, "the module or the loss changes Python state while it runs"),
        (InNumPy, "vmap cannot compute the module: The module failed on a batch"),
        (lambda: EvaluatesInPython(nn.Tanh()), "the module or the loss changes Python state"),
        (Counts, "it changes a tensor that is neither a parameter nor a buffer"),
        (ZOO["transformer"], "torch has no batching rule for _scaled_dot_product_flash_attention"),
    ],
)
def test_networks_that_cannot_be_stacked_train_one_at_a_time(module: Any, reason: str) -> None:
    tables = [rows(24, k, held_out=6) for k in range(3)]
    if module in (InAHelper, InNumPy):
        tables = [{**t, "X": t["X"][:, :3], "X_val": t["X_val"][:, :3]} for t in tables]
    _, seen = compare(module, tables, batch_size=None)
    assert seen.sizes == []
    assert len(seen.reasons) == 2 and all(reason in each for each in seen.reasons)
