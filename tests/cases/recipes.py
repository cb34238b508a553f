"""A labelled collection of fits: successful ones, and at least one for each finding.

The labels follow from how a case is constructed, not from what a diagnosis reports. Where the
construction does not decide (whether ReLUs on raw millimetres are dead or always on depends on
the sign of their initial weight), the code is listed under ``may`` and is not counted. The cases
form two halves with different data sets, seeds and architectures; the thresholds were chosen on
the first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_diabetes, make_friedman1
from torch import Tensor, nn

from torchreg import TorchRegressor
from torchreg.nn import MLP, AddConstant, MultiplyByConstant

Data = tuple[Any, Any]

#: Added to every seed, so that the collection can be repeated with other random numbers.
SHIFT: ContextVar[int] = ContextVar("SHIFT", default=0)


@dataclass(frozen=True)
class Case:
    """A fit with the findings that it must have, and those that it may have."""

    name: str
    half: int
    data: Callable[[], Data]
    options: dict[str, Any]
    must: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()
    fit: Callable[[], dict[str, Any]] = field(default=dict)
    look_at: Callable[[], tuple[Any, ...]] = field(default=tuple)

    def diagnose(self, shift: int = 0) -> tuple[str, ...]:
        """Fit, and return the codes of the findings; ``shift`` is added to every seed."""
        token = SHIFT.set(shift)
        try:
            X, y = self.data()
            seed = self.options.get("random_state", 0) + shift
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reg = TorchRegressor(**{"module": MLP, **self.options, "random_state": seed})
                reg.fit(X, y, **self.fit())
            return reg.diagnose(*self.look_at()).codes
        finally:
            SHIFT.reset(token)


# %% Data sets
@cache
def penguins(*columns: str) -> Data:
    file = Path(__file__).parents[2] / "data" / "penguins.csv"
    table = pd.read_csv(file).dropna()
    return table[list(columns)], table["body_mass_g"]


def flippers() -> Data:
    return penguins("flipper_length_mm")


def birds() -> Data:
    return penguins("bill_length_mm", "bill_depth_mm", "flipper_length_mm")


def sine(n: int = 200, noise: float = 0.1, seed: int = 0, factor: float = 1.0) -> Data:
    rng = np.random.default_rng(seed + SHIFT.get())
    x = rng.uniform(-3, 3, size=(n, 1))
    return factor * x, np.sin(x[:, 0]) + noise * rng.normal(size=n)


def kink(seed: int = 0) -> Data:
    rng = np.random.default_rng(seed + SHIFT.get())
    x = rng.uniform(170, 230, size=(150, 1))
    return x, 4000 + 30 * np.abs(x[:, 0] - 195) + 40 * rng.normal(size=150)


def friedman(n: int = 400, seed: int = 0) -> Data:
    return make_friedman1(n, n_features=7, noise=0.5, random_state=seed + SHIFT.get())


def ripples(n: int = 400, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed + SHIFT.get())
    x = rng.uniform(-2, 2, size=(n, 2))
    return x, np.abs(x[:, 0]) + x[:, 1] ** 2 + 0.1 * rng.normal(size=n)


def linear(n: int = 200, width: int = 1, noise: float = 0.3, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed + SHIFT.get())
    x = 50 + 10 * rng.normal(size=(n, width))
    slopes = np.linspace(1, 2, width)
    return x, 300 + x @ slopes + 10 * noise * rng.normal(size=n)


def diabetes() -> Data:
    return load_diabetes(return_X_y=True, scaled=False)


def raw(data: Data, offset: float, factor: float, y_factor: float) -> Data:
    X, y = data
    return offset + factor * np.asarray(X), y_factor * np.asarray(y)


# %% Modules
class Biased(nn.Module):
    """A layer whose units start with the same bias, so that they are on or off for every row."""

    def __init__(
        self,
        in_features: int,
        bias: float,
        hidden: int = 10,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.hidden, self.act = nn.Linear(in_features, hidden), activation()
        self.out = nn.Linear(hidden, 1)
        nn.init.constant_(self.hidden.bias, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.act(self.hidden(x)))


class Steep(nn.Module):
    """A layer whose units start with huge weights, so that they are saturated."""

    def __init__(
        self, in_features: int, weight: float, activation: Callable[[], nn.Module] = nn.Tanh
    ) -> None:
        super().__init__()
        self.hidden, self.act = nn.Linear(in_features, 8), activation()
        self.out = nn.Linear(8, 1)
        with torch.no_grad():
            self.hidden.weight.sign_().mul_(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.act(self.hidden(x)))


class Twins(nn.Module):
    """A layer whose units start with the same weights, and so remain duplicates."""

    def __init__(self, in_features: int, weight: float = 0.5, width: int = 6) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(in_features, width), nn.Linear(width, 1)
        for parameter in self.parameters():
            nn.init.constant_(parameter, weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.hidden(x)))


class Bounded(nn.Module):
    """A perceptron whose output a function bounds."""

    def __init__(self, in_features: int, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.mlp, self.end = MLP(in_features, hidden_sizes=[10]), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.mlp(x))


class Functional(nn.Module):
    """Activations as functions, not as modules."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(in_features, 12), nn.Linear(12, 12)
        self.c = nn.Linear(12, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(nn.functional.silu(self.b(torch.tanh(self.a(x)))))


def normed(in_features: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(in_features, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 1)
    )


def by_hand(a: float, b: float, c: float, d: float) -> nn.Module:
    """A network with four constants for the scales of X and y."""
    torch.manual_seed(0)
    return nn.Sequential(
        AddConstant(a),
        MultiplyByConstant(b),
        MLP(1, hidden_sizes=[5], activation="tanh"),
        MultiplyByConstant(c),
        AddConstant(d),
    )


def only(*codes: str) -> frozenset[str]:
    return frozenset(codes)


# %% Findings that may follow from another one
#: Raw units: the state of the units and the distance to a minimum depend on the initial signs.
RAW = only(
    "worse-than-constant",
    "dead-units",
    "always-on-units",
    "saturated-units",
    "parameter-drift",
    "stalled",
    "still-falling",
    "learning-rate-too-low",
    "learning-rate-too-high",
    "oscillating",
    "duplicate-units",
)
#: A network that cannot learn ends as a constant or a line, and its loss stalls.
CRIPPLED = only(
    "effectively-linear",
    "stalled",
    "still-falling",
    "learning-rate-too-low",
    "worse-than-constant",
)
#: Huge steps: the final weights are arbitrary.
WILD = only(
    "worse-than-constant",
    "dead-units",
    "always-on-units",
    "saturated-units",
    "duplicate-units",
    "effectively-linear",
    "parameter-drift",
    "oscillating",
    "stalled",
    "diverged",
)


def poisson_nll(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A loss of counts and of the logarithm of their mean, far from y where that is negative."""
    return prediction.exp() - target * prediction


LESSON = {"module": MLP, "module__hidden_sizes": [5], "optimizer": "rprop", "max_epochs": 1000}


class FailingMLP(MLP):
    """An MLP that raises an error in training, in the third of every four networks."""

    n_built = 0

    def __init__(self, in_features: int, out_features: int, **options: Any) -> None:
        super().__init__(in_features, out_features, **options)
        FailingMLP.n_built += 1
        self.fails = FailingMLP.n_built % 4 == 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fails and self.training and torch.is_grad_enabled():
            raise MemoryError("no memory for the third network")
        return super().forward(x)


def tanh(width: int = 10, **options: Any) -> dict[str, Any]:
    """A small fit that succeeds, unless the options prevent it."""
    return {
        "module__hidden_sizes": [width],
        "module__activation": "tanh",
        "optimizer": "rprop",
        "max_epochs": 200,
        **options,
    }
