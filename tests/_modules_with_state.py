"""Modules that count, draw, look at values or overwrite memory, and fits of them."""

from __future__ import annotations

import random
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests._capture import eager_steps
from torchreg import TorchRegressor

#: Steps after which something changes: more than are compared with a program.
LATE = 10
STEPS = [0]
N_EPOCHS = 24
RNG = np.random.default_rng(1)
X = RNG.normal(size=(23, 3))
Y = np.sin(X[:, 0]) + X[:, 1]
#: Returns the line in which the last fit says how its steps ran.
Mode = Callable[[], str]


def fit(module: Any, **options: Any) -> TorchRegressor:
    settings: dict[str, Any] = {"optimizer": "sgd", "lr": 0.02, "dtype": "float64"}
    settings |= {"max_epochs": N_EPOCHS, "batch_size": None, "random_state": 0, "verbose": 1}
    return TorchRegressor(module, **{**settings, **options}).fit(X, Y)


def fit_eagerly(module: Any, **options: Any) -> TorchRegressor:
    with eager_steps():
        return fit(module, **options)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 1)
        self.begin()

    def begin(self) -> None:
        """Set up the state."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(torch.tanh(self.first(x))))

    def between(self, h: Tensor) -> Tensor:
        return h

    def is_step(self) -> bool:
        return self.training and torch.is_grad_enabled()


class Changes(Net):
    """Doubles its hidden values from a late step on."""

    def between(self, h: Tensor) -> Tensor:
        return h * 2 if self.is_step() and self.count() > LATE else h

    def count(self) -> int:
        raise NotImplementedError


class InAHelper(Changes):
    def begin(self) -> None:
        self.state = types.SimpleNamespace(n=0)

    def count(self) -> int:
        self.state.n += 1
        return int(self.state.n)


class DeepInADictionary(Changes):
    def begin(self) -> None:
        self.state = {"a": [{"n": 0}]}

    def count(self) -> int:
        self.state["a"][0]["n"] += 1
        return self.state["a"][0]["n"]


class InAnArray(Changes):
    def begin(self) -> None:
        self.state = np.zeros(2)

    def count(self) -> int:
        self.state[1] += 1
        return int(self.state[1])


class InABaseClass(Changes):
    n = 0

    def begin(self) -> None:
        InABaseClass.n = 0

    def count(self) -> int:
        InABaseClass.n += 1
        return InABaseClass.n


class Derived(InABaseClass):
    pass


def helper() -> int:
    STEPS[0] += 1
    return STEPS[0]


class InAFunction(Changes):
    def begin(self) -> None:
        STEPS[0] = 0

    def count(self) -> int:
        return helper()


class InAGeneratorOfPython(Changes):
    def begin(self) -> None:
        self.generator = random.Random(3)

    def count(self) -> int:
        return LATE + (self.generator.random() < 0.1)


class InAGeneratorOfNumPy(Changes):
    def begin(self) -> None:
        self.generator = np.random.default_rng(5)

    def count(self) -> int:
        return LATE + (self.generator.random() < 0.1)


class InAForwardOfItsOwn(Net):
    def begin(self) -> None:
        n = [0]

        def forward(x: Tensor) -> Tensor:
            n[0] += self.is_step()
            h = torch.tanh(self.first(x))
            return self.last(h * 2 if n[0] > LATE else h)

        self.forward = forward


class InNumPy(Net):
    def between(self, h: Tensor) -> Tensor:
        return h * 2 if h.detach().numpy().std() > 0.62 else h


class InAList(Net):
    def between(self, h: Tensor) -> Tensor:
        return h * 2 if max(self.first.weight.tolist()[0]) > 0.35 else h


class InAnArrayOfTheWeights(Net):
    def between(self, h: Tensor) -> Tensor:
        return h * 2 if np.asarray(self.first.weight.detach()).max() > 0.45 else h


class InASmallBatch(Changes):
    n = 0

    def between(self, h: Tensor) -> Tensor:
        self.n += self.is_step() and len(h) == 5
        return h * (2 if self.n > 3 else 1)


class WithNoiseThatIsAlwaysTheSame(Net):
    def between(self, h: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return h + 0.1 * torch.randn_like(h)


class WithAGeneratorOfTorch(Net):
    def begin(self) -> None:
        self.generator = torch.Generator().manual_seed(3)

    def between(self, h: Tensor) -> Tensor:
        if not self.is_step():
            return h
        return h * torch.rand(h.shape, generator=self.generator, dtype=h.dtype)


class ReplacesMemory(Net):
    def between(self, h: Tensor) -> Tensor:
        if self.is_step():
            self.last.weight.data = self.last.weight.data.clamp(-0.3, 0.3)
        return h


class Sparse(Net):
    def between(self, h: Tensor) -> Tensor:
        return torch.sparse.mm(torch.eye(len(h), dtype=h.dtype).to_sparse(), h)


class SparseGradient(Net):
    def begin(self) -> None:
        self.embedding = nn.Embedding(10, 5, sparse=True)

    def between(self, h: Tensor) -> Tensor:
        return h + self.embedding(torch.arange(len(h)) % 10)


# Steps that a program can repeat, although they change tensors.


class DecaysItsWeights(Net):
    def between(self, h: Tensor) -> Tensor:
        if self.is_step():
            self.last.weight.data.mul_(0.99)
        return h


class AveragesInATensor(Net):
    def begin(self) -> None:
        self.mean = torch.zeros((), dtype=torch.float64)

    def between(self, h: Tensor) -> Tensor:
        if self.is_step():
            self.mean.mul_(0.9).add_(h.detach().mean(), alpha=0.1)
        return h - self.mean


class CountsInATensor(Net):
    def begin(self) -> None:
        self.n = torch.zeros(())

    def between(self, h: Tensor) -> Tensor:
        if self.is_step():
            self.n += 1
        return h * torch.where(self.n > LATE, 2.0, 1.0)


class SelectsColumns(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, [2, 1, 0]]) + x[:, torch.tensor([1])]


class AsksWhetherTangentsFit(Net):
    def between(self, h: Tensor) -> Tensor:
        return h + torch.func.jvp(torch.sin, (h,), (h,))[1]
