"""A labelled collection of fits: healthy ones, and one or more of each disease.

Each label follows from how the case was made, not from what a diagnosis said about it. Where the
making leaves something open (whether ReLUs on raw millimetres die or are always on is a matter of
the sign of their first weight), the code stands under ``may``, and counts neither way. The cases
fall into two halves with different data sets, seeds and architectures: on the first one the
thresholds were chosen, the second one checks them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_diabetes, make_friedman1
from torch import nn

from torchreg import TorchRegressor
from torchreg.nn import MLP, AddConstant, MultiplyByConstant

Data = tuple[Any, Any]


@dataclass(frozen=True)
class Case:
    """A fit with what must, and what may, be found in it."""

    name: str
    half: int
    data: Callable[[], Data]
    options: dict[str, Any]
    must: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()
    fit: Callable[[], dict[str, Any]] = field(default=dict)
    look_at: Callable[[], tuple[Any, ...]] = field(default=tuple)

    def diagnose(self) -> tuple[str, ...]:
        """Fit, and give the codes that are found."""
        X, y = self.data()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reg = TorchRegressor(**{"random_state": 0, **self.options}).fit(X, y, **self.fit())
        return reg.diagnose(*self.look_at()).codes


# %% Data sets
@cache
def penguins(*columns: str) -> Data:
    file = Path(__file__).parent.parent / "data" / "penguins.csv"
    table = pd.read_csv(file).dropna()
    return table[list(columns)], table["body_mass_g"]


def flippers() -> Data:
    return penguins("flipper_length_mm")


def birds() -> Data:
    return penguins("bill_length_mm", "bill_depth_mm", "flipper_length_mm")


def sine(n: int = 200, noise: float = 0.1, seed: int = 0, factor: float = 1.0) -> Data:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-3, 3, size=(n, 1))
    return factor * x, np.sin(x[:, 0]) + noise * rng.normal(size=n)


def kink(seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    x = rng.uniform(170, 230, size=(150, 1))
    return x, 4000 + 30 * np.abs(x[:, 0] - 195) + 40 * rng.normal(size=150)


def friedman(n: int = 400, seed: int = 0) -> Data:
    return make_friedman1(n, n_features=7, noise=0.5, random_state=seed)


def ripples(n: int = 400, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, size=(n, 2))
    return x, np.abs(x[:, 0]) + x[:, 1] ** 2 + 0.1 * rng.normal(size=n)


def linear(n: int = 200, width: int = 1, noise: float = 0.3, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
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
    """A layer whose units all start with the same bias: on, or off, for every row."""

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
    """A layer whose units start with huge weights, so that they sit at floor or ceiling."""

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
    """A layer whose units all start with the same weights, and so stay the same."""

    def __init__(self, in_features: int, weight: float = 0.5, width: int = 6) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(in_features, width), nn.Linear(width, 1)
        for parameter in self.parameters():
            nn.init.constant_(parameter, weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.hidden(x)))


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
    """The lesson's network, with these four constants inside."""
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


# %% What may follow from a disease, beside the disease itself
#: Raw units: what happens to the units, and how far the way is, depends on the initial signs.
RAW = only(
    "dead-units",
    "always-on-units",
    "saturated-units",
    "far-travelled",
    "stalled",
    "still-falling",
    "learning-rate-too-low",
    "learning-rate-too-high",
    "oscillating",
    "duplicate-units",
)
#: A network that cannot learn ends as a constant or a line, and stops getting better.
CRIPPLED = only("effectively-linear", "stalled", "still-falling", "learning-rate-too-low")
#: Huge steps: where the weights end is anyone's guess.
WILD = only(
    "dead-units",
    "always-on-units",
    "saturated-units",
    "duplicate-units",
    "effectively-linear",
    "far-travelled",
    "oscillating",
    "stalled",
    "diverged",
)
LESSON = {"module": MLP, "module__hidden_sizes": [5], "optimizer": "rprop", "max_epochs": 1000}
SLOW = only("still-falling", "learning-rate-too-low", "effectively-linear")


def tanh(width: int = 10, **options: Any) -> dict[str, Any]:
    """A small fit that succeeds, unless the options prevent it."""
    return {
        "module__hidden_sizes": [width],
        "module__activation": "tanh",
        "optimizer": "rprop",
        "max_epochs": 200,
        **options,
    }


def _healthy() -> list[Case]:
    def case(name: str, half: int, data: Callable[[], Data], **options: Any) -> Case:
        # What a rule of thumb says about the number of rows is no disease of the fit.
        return Case(f"healthy: {name}", half, data, options, may=only("underdetermined"))

    cases = [
        case(f"the lesson, scaled, seed {seed}", seed % 2, flippers, **LESSON, random_state=seed)
        for seed in range(4)
    ]
    small = {"module__hidden_sizes": [16]}
    return [
        *cases,
        case("sine, tanh, rprop", 0, sine, **tanh()),
        case("sine, tanh, lbfgs", 1, sine, **tanh(optimizer="lbfgs", max_epochs=60)),
        case("sine, gelu, adam", 0, sine, module__activation="gelu", lr=1e-2, max_epochs=500),
        case("sine without noise", 1, lambda: sine(noise=0.0), **tanh(max_epochs=400)),
        case("sine, minibatches", 1, lambda: sine(1000), **small, lr=1e-2, max_epochs=80),
        case("kink, relu, adam", 0, kink, lr=1e-2, max_epochs=400),
        case("kink, the defaults for longer", 1, lambda: kink(1), max_epochs=1000),
        case("kink, silu, rprop", 0, kink, **tanh(module__activation="silu")),
        case(
            "friedman, gelu, minibatches",
            0,
            friedman,
            **small,
            module__activation="gelu",
            lr=1e-2,
            max_epochs=60,
        ),
        case(
            "friedman, relu, rprop",
            1,
            lambda: friedman(seed=1),
            **small,
            optimizer="rprop",
            max_epochs=150,
        ),
        case(
            "friedman, two layers",
            0,
            lambda: friedman(500, seed=2),
            module__hidden_sizes=[16, 16],
            lr=5e-3,
            max_epochs=60,
        ),
        case(
            "ripples, elu", 1, ripples, **small, module__activation="elu", lr=2e-2, max_epochs=120
        ),
        case("ripples, functional module", 0, ripples, module=Functional, lr=1e-2, max_epochs=100),
        case(
            "ripples, functional module",
            1,
            lambda: ripples(seed=5),
            module=Functional,
            lr=1e-2,
            max_epochs=100,
        ),
        case("friedman, batch normalization", 1, friedman, module=normed, lr=1e-2, max_epochs=80),
        case(
            "ripples, batch normalization",
            0,
            lambda: ripples(seed=1),
            module=normed,
            lr=1e-2,
            max_epochs=80,
        ),
        case(
            "ripples, dropout",
            0,
            ripples,
            module__hidden_sizes=[50],
            module__dropout=0.1,
            lr=1e-2,
            max_epochs=100,
        ),
        case(
            "sine, dropout",
            1,
            lambda: sine(400),
            module__hidden_sizes=[50],
            module__dropout=0.1,
            lr=1e-2,
            max_epochs=150,
        ),
        case(
            "ripples, early stopping",
            0,
            lambda: ripples(500),
            **small,
            lr=1e-2,
            max_epochs=150,
            early_stopping=True,
        ),
        case(
            "friedman, early stopping",
            1,
            lambda: friedman(600),
            **small,
            lr=1e-2,
            max_epochs=150,
            early_stopping=True,
        ),
        case("sine, huber", 1, sine, **tanh(loss="huber")),
        case("sine, absolute error", 0, lambda: sine(seed=4), **tanh(loss="absolute_error")),
        case("sine, sgd", 0, sine, **tanh(optimizer="sgd", lr=0.1, max_epochs=600)),
        case(
            "ripples, sgd, minibatches",
            1,
            ripples,
            **tanh(16, optimizer="sgd", lr=0.03, max_epochs=200),
        ),
        case("sine at order 1, as it is", 0, sine, **tanh(standardize=False)),
        case(
            "ripples at order 1, as they are",
            1,
            ripples,
            **tanh(16, standardize=False, optimizer="lbfgs", max_epochs=60),
        ),
        case(
            "two outputs",
            1,
            lambda: (ripples()[0], np.column_stack([ripples()[1], -ripples()[1]])),
            **tanh(16),
        ),
        Case(
            "healthy: good constants by hand",
            0,
            flippers,
            {
                "module": by_hand(-200, 1 / 10, 800, 4200),
                "optimizer": "rprop",
                "max_epochs": 500,
                "standardize": False,
            },
        ),
        Case(
            "healthy: new rows of the same kind",
            0,
            lambda: ripples(seed=2),
            tanh(16),
            look_at=lambda: ripples(300, seed=3),
        ),
        Case(
            "healthy: new rows of the same kind",
            1,
            lambda: sine(300),
            tanh(),
            look_at=lambda: sine(300, seed=8),
        ),
        # Nearly a plane: whether it bends is a matter of taste.
        Case("healthy: birds", 0, birds, tanh(6, max_epochs=150), may=only("linear-data")),
        Case("healthy: diabetes", 1, diabetes, tanh(4, max_epochs=100), may=only("linear-data")),
    ]


def _linear() -> list[Case]:
    def case(name: str, half: int, data: Callable[[], Data], **options: Any) -> Case:
        return Case(
            f"linear data: {name}",
            half,
            data,
            options,
            must=only("linear-data"),
            may=only("underdetermined"),
        )

    five = {"module__hidden_sizes": [5]}
    return [
        case("one feature, relu", 0, linear, **five, optimizer="rprop", max_epochs=300),
        case("one feature, tanh", 1, lambda: linear(seed=1), **tanh(5)),
        case("five features, relu", 0, lambda: linear(300, 5), **five, lr=1e-2, max_epochs=200),
        case(
            "five features, gelu",
            1,
            lambda: linear(300, 5, seed=1),
            **five,
            module__activation="gelu",
            lr=1e-2,
            max_epochs=200,
        ),
        case("exactly, lbfgs", 0, lambda: linear(noise=0.0), **tanh(5, optimizer="lbfgs")),
        case("exactly, two features", 1, lambda: linear(width=2, noise=0.0), **tanh(5)),
        case("much noise", 0, lambda: linear(400, 2, noise=1.0), **tanh(3)),
        case(
            "a plain linear model",
            1,
            linear,
            module__hidden_sizes=(),
            optimizer="lbfgs",
            max_epochs=20,
        ),
        case("the default network", 1, lambda: linear(250, seed=3), max_epochs=300),
    ]


def _degenerated() -> list[Case]:
    lesson = {**LESSON, "standardize": False}
    scale = only("effectively-linear", "unscaled-inputs", "unscaled-target")
    cases = [
        Case(
            f"lesson, raw units, seed {seed}",
            seed % 2,
            flippers,
            {**lesson, "random_state": seed},
            scale,
            RAW,
        )
        for seed in range(6)
    ]
    return [
        *cases,
        Case("lesson, raw units, float32", 1, flippers, {**lesson, "dtype": "float32"}, scale, RAW),
        Case("lesson, raw units, adam", 0, flippers, {**lesson, "optimizer": "adam"}, scale, RAW),
        Case("kink, raw units", 1, kink, lesson, scale, RAW),
        Case("sine far off, raw units", 0, lambda: raw(sine(), 1000, 20, 500), lesson, scale, RAW),
        Case(
            "ripples far off, raw units",
            1,
            lambda: raw(ripples(), 500, 3, 1000),
            {**lesson, "max_epochs": 300},
            scale,
            RAW,
        ),
        Case(
            "no activation",
            0,
            sine,
            tanh(module__activation="identity"),
            only("effectively-linear"),
            only("stalled", "always-on-units"),
        ),
        Case(
            "no activation, three layers",
            1,
            ripples,
            tanh(module__hidden_sizes=[8, 8], module__activation="identity"),
            only("effectively-linear"),
            only("stalled", "always-on-units"),
        ),
        Case(
            "all units on",
            0,
            sine,
            {"module": Biased, "module__bias": 20.0, "lr": 1e-3},
            only("always-on-units", "effectively-linear"),
            CRIPPLED,
        ),
        Case(
            "all units on",
            1,
            ripples,
            {"module": Biased, "module__bias": 20.0, "lr": 1e-3, "batch_size": None},
            only("always-on-units", "effectively-linear"),
            CRIPPLED,
        ),
        Case(
            "all softplus units on",
            0,
            sine,
            {"module": Biased, "module__bias": 30.0, "module__activation": nn.Softplus},
            only("always-on-units", "effectively-linear"),
            CRIPPLED,
        ),
        Case(
            "all gelu units on",
            1,
            kink,
            {"module": Biased, "module__bias": 20.0, "module__activation": nn.GELU},
            only("always-on-units", "effectively-linear"),
            CRIPPLED,
        ),
    ]


def _units() -> list[Case]:
    dead, full = only("dead-units"), only("saturated-units")
    off = {"module": Biased, "module__bias": -20.0}
    return [
        Case("dead relu", 0, sine, off, dead, CRIPPLED),
        Case("dead relu", 1, kink, {**off, "optimizer": "rprop"}, dead, CRIPPLED),
        Case("dead relu, minibatches", 0, friedman, {**off, "max_epochs": 30}, dead, CRIPPLED),
        Case("dead gelu", 1, sine, {**off, "module__activation": nn.GELU}, dead, CRIPPLED),
        Case("dead elu", 0, kink, {**off, "module__activation": nn.ELU}, dead, CRIPPLED),
        Case(
            "dead silu",
            1,
            ripples,
            {**off, "module__activation": nn.SiLU, "max_epochs": 40},
            dead,
            CRIPPLED,
        ),
        Case(
            "saturated tanh", 0, kink, {"module": Steep, "module__weight": 1000.0}, full, CRIPPLED
        ),
        Case(
            "saturated tanh", 1, sine, {"module": Steep, "module__weight": 2000.0}, full, CRIPPLED
        ),
        Case(
            "saturated sigmoid",
            0,
            sine,
            {"module": Steep, "module__weight": 3000.0, "module__activation": nn.Sigmoid},
            full,
            CRIPPLED,
        ),
        Case(
            "saturated hardtanh",
            1,
            kink,
            {"module": Steep, "module__weight": 1000.0, "module__activation": nn.Hardtanh},
            full,
            CRIPPLED,
        ),
        Case(
            "saturated by its bias",
            1,
            sine,
            {"module": Biased, "module__bias": 20.0, "module__activation": nn.Tanh},
            full,
            CRIPPLED,
        ),
        Case(
            "saturated by its bias",
            0,
            ripples,
            {
                "module": Biased,
                "module__bias": -25.0,
                "module__activation": nn.Sigmoid,
                "max_epochs": 40,
            },
            full,
            CRIPPLED,
        ),
        Case(
            "twins",
            0,
            sine,
            {"module": Twins, "batch_size": None},
            only("duplicate-units"),
            CRIPPLED,
        ),
        Case(
            "twins",
            1,
            kink,
            {"module": Twins, "optimizer": "rprop"},
            only("duplicate-units"),
            CRIPPLED,
        ),
        Case(
            "twins in minibatches",
            0,
            ripples,
            {"module": Twins, "module__weight": 0.3, "max_epochs": 40},
            only("duplicate-units"),
            CRIPPLED,
        ),
        Case(
            "many twins",
            1,
            lambda: friedman(seed=4),
            {"module": Twins, "module__width": 40, "module__weight": 0.2, "max_epochs": 40},
            only("duplicate-units"),
            CRIPPLED,
        ),
    ]


def _scale() -> list[Case]:
    # What a bad scale does to the fit is open; that it is bad is not.
    any_end = RAW | only("effectively-linear", "linear-data")
    x, y = only("unscaled-inputs"), only("unscaled-target")
    big = {"standardize": "X", "module__hidden_sizes": [5], "optimizer": "rprop"}
    hand = {"optimizer": "rprop", "max_epochs": 300, "standardize": False}
    return [
        Case(
            "raw X alone",
            0,
            flippers,
            {**LESSON, "standardize": "y", "max_epochs": 300},
            x,
            any_end,
        ),
        Case(
            "raw X alone",
            1,
            birds,
            {"standardize": "y", "max_epochs": 100},
            x,
            any_end | only("underdetermined"),
        ),
        Case("tiny X", 0, lambda: sine(factor=1e-4), tanh(standardize="y"), x, any_end),
        Case("tiny X", 1, lambda: raw(ripples(), 0, 1e-3, 1), tanh(standardize=False), x, any_end),
        Case(
            "raw y alone",
            1,
            flippers,
            {**LESSON, "standardize": "X", "max_epochs": 300},
            y,
            any_end,
        ),
        Case("raw y alone", 0, kink, {**big, "max_epochs": 200}, y, any_end),
        Case("tiny y", 0, lambda: raw(sine(), 0, 1, 1e-4), tanh(standardize=False), y, any_end),
        Case("tiny y", 1, lambda: raw(friedman(), 0, 1, 1e-5), tanh(standardize="X"), y, any_end),
        Case(
            "constants for X forgotten",
            0,
            flippers,
            {**hand, "module": by_hand(0, 1, 800, 4200)},
            x,
            any_end,
        ),
        Case(
            "constants for y forgotten",
            1,
            flippers,
            {**hand, "module": by_hand(-200, 0.1, 1, 0)},
            y,
            any_end,
        ),
        Case(
            "constants the wrong way",
            1,
            flippers,
            {**hand, "module": by_hand(200, 10, 800, 4200)},
            x,
            any_end,
        ),
        Case(
            "digits lost before fit",
            0,
            lambda: ((1.7e9 + 100 * sine()[0]).astype(np.float32), sine()[1]),
            tanh(),
            only("precision-loss"),
            any_end,
        ),
        Case(
            "digits of y lost before fit",
            1,
            lambda: (sine()[0], (1e8 + 20 * sine()[1]).astype(np.float32)),
            tanh(),
            only("precision-loss"),
            any_end,
        ),
        Case(
            "digits lost in the core",
            1,
            lambda: raw(sine(), 1.7e9, 100, 1),
            tanh(standardize="y", dtype="float32"),
            only("precision-loss", "unscaled-inputs"),
            any_end,
        ),
        Case(
            "digits of y lost in the core",
            0,
            lambda: (sine()[0], 1e8 + 20 * sine()[1]),
            tanh(standardize="X", dtype="float32"),
            only("precision-loss", "unscaled-target"),
            any_end,
        ),
        Case(
            "a long way",
            0,
            lambda: raw(sine(), 0, 1, 1e4),
            {**big, "max_epochs": 1000},
            only("far-travelled", "unscaled-target"),
            any_end,
        ),
        Case(
            "a long way",
            1,
            lambda: raw(kink(), 0, 1, 1e3),
            {**big, "max_epochs": 1000},
            only("far-travelled", "unscaled-target"),
            any_end,
        ),
        Case(
            "a long way",
            1,
            lambda: raw(friedman(), 0, 1, 1e4),
            {**big, "max_epochs": 600},
            only("far-travelled", "unscaled-target"),
            any_end,
        ),
    ]


def _optimization() -> list[Case]:
    high, low = only("learning-rate-too-high"), only("learning-rate-too-low")
    falling, still = only("still-falling"), only("stalled")
    sgd = {"optimizer": "sgd", "optimizer__momentum": 0.0}
    return [
        Case(
            "diverged, sgd",
            0,
            sine,
            {**sgd, "lr": 50.0, "module__hidden_sizes": [20]},
            only("diverged") | high,
            WILD | only("still-falling"),
        ),
        Case(
            "diverged, sgd",
            1,
            friedman,
            {**sgd, "lr": 20.0},
            only("diverged") | high,
            WILD | only("still-falling", "underdetermined"),
        ),
        Case(
            "diverged, momentum",
            0,
            ripples,
            {"optimizer": "sgd", "lr": 5.0},
            only("diverged") | high,
            WILD | only("still-falling", "underdetermined"),
        ),
        Case(
            "diverged, linear model",
            1,
            lambda: linear(width=4),
            {**sgd, "lr": 10.0, "module__hidden_sizes": ()},
            only("diverged") | high,
            WILD | only("linear-data", "still-falling"),
        ),
        Case("too fast, adam", 0, sine, tanh(optimizer="adam", lr=2.0, max_epochs=100), high, WILD),
        Case(
            "too fast, adam",
            1,
            friedman,
            tanh(16, optimizer="adam", lr=3.0, max_epochs=60),
            high,
            WILD,
        ),
        Case(
            "too fast, adam, minibatches",
            0,
            ripples,
            tanh(20, optimizer="adam", lr=1.5, max_epochs=60),
            high,
            WILD,
        ),
        Case(
            "too fast, adam, minibatches",
            1,
            lambda: sine(400),
            tanh(20, optimizer="adam", lr=1.5, max_epochs=60),
            high,
            WILD,
        ),
        Case("too fast, sgd", 0, kink, tanh(20, **sgd, lr=1.0), high, WILD),
        Case(
            "bouncing, sgd",
            0,
            ripples,
            tanh(30, **sgd, lr=0.3, batch_size=None),
            only("oscillating"),
            WILD | high,
        ),
        Case(
            "ups and downs, rmsprop",
            0,
            lambda: friedman(seed=6),
            tanh(20, optimizer="rmsprop", lr=0.3, max_epochs=60),
            only("oscillating"),
            WILD | high,
        ),
        Case(
            "ups and downs, rmsprop",
            1,
            lambda: ripples(seed=5),
            tanh(20, optimizer="rmsprop", lr=0.1, max_epochs=100),
            only("oscillating"),
            WILD | high,
        ),
        Case(
            "ups and downs, rmsprop, two layers",
            1,
            friedman,
            {"module__hidden_sizes": [20, 20], "optimizer": "rmsprop", "lr": 0.1, "max_epochs": 80},
            only("oscillating"),
            WILD | high,
        ),
        Case("too slow, sgd", 0, kink, tanh(optimizer="sgd", lr=1e-5), low, CRIPPLED),
        Case("too slow, sgd", 1, sine, tanh(optimizer="sgd", lr=3e-5), low, CRIPPLED),
        Case(
            "too slow, adam",
            0,
            friedman,
            tanh(optimizer="adam", lr=1e-6, max_epochs=60),
            low,
            CRIPPLED,
        ),
        Case(
            "too slow, adam",
            1,
            ripples,
            tanh(optimizer="adam", lr=2e-6, max_epochs=60),
            low,
            CRIPPLED,
        ),
        Case("too slow, adamw", 1, sine, tanh(optimizer="adamw", lr=1e-5), low, CRIPPLED),
        Case(
            "too few epochs, adam",
            0,
            sine,
            tanh(30, optimizer="adam", lr=3e-3, max_epochs=80),
            falling,
            only("effectively-linear"),
        ),
        Case(
            "too few epochs, adam",
            1,
            kink,
            tanh(30, optimizer="adam", lr=3e-3, max_epochs=80),
            falling,
            only("effectively-linear"),
        ),
        Case(
            "too few epochs, relu",
            0,
            lambda: kink(3),
            {"max_epochs": 40},
            falling,
            only("effectively-linear", "underdetermined"),
        ),
        Case(
            "too few epochs, relu",
            1,
            lambda: sine(150),
            {"max_epochs": 60},
            falling,
            only("effectively-linear", "underdetermined"),
        ),
        Case(
            "too few epochs, friedman",
            1,
            friedman,
            {"max_epochs": 12, "lr": 1e-3},
            falling,
            only("underdetermined", "effectively-linear"),
        ),
        Case(
            "too few epochs, sgd",
            0,
            ripples,
            tanh(optimizer="sgd", lr=3e-3, max_epochs=30, batch_size=64),
            falling,
            CRIPPLED,
        ),
        Case(
            "zeros cannot learn",
            0,
            sine,
            {"module": Twins, "module__weight": 0.0},
            still,
            CRIPPLED | only("duplicate-units", "dead-units"),
        ),
        Case(
            "zeros cannot learn",
            1,
            kink,
            {"module": Twins, "module__weight": 0.0, "optimizer": "rprop"},
            still,
            CRIPPLED | only("duplicate-units", "dead-units"),
        ),
        Case(
            "dead units cannot learn",
            0,
            kink,
            {"module": Biased, "module__bias": -50.0, "optimizer": "rprop", "max_epochs": 300},
            still | only("dead-units"),
            CRIPPLED,
        ),
        Case(
            "dead units cannot learn",
            1,
            friedman,
            {"module": Biased, "module__bias": -50.0, "lr": 1e-2, "max_epochs": 60},
            still | only("dead-units"),
            CRIPPLED,
        ),
    ]


def _generalization() -> list[Case]:
    def noise(n: int, seed: int, width: int = 10) -> Data:
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(n, width))
        return X, X[:, 0] + np.abs(X[:, 1]) + rng.normal(size=n)

    def held_out(n: int, seed: int, width: int = 10) -> Callable[[], dict[str, Any]]:
        def rows() -> dict[str, Any]:
            X, y = noise(n, seed, width)
            return {"X_val": X, "y_val": y}

        return rows

    # Whether so few rows show the bend is open.
    bend = only("linear-data", "still-falling", "underdetermined")
    over = only("overfitting")
    return [
        Case(
            "memorizes, adam",
            0,
            lambda: noise(80, 0),
            {"lr": 1e-2, "max_epochs": 300},
            over | only("underdetermined"),
            bend,
            fit=held_out(200, 1),
        ),
        Case(
            "memorizes, rprop",
            1,
            lambda: noise(100, 2),
            tanh(30),
            over | only("underdetermined"),
            bend,
            fit=held_out(150, 3),
        ),
        Case(
            "memorizes, lbfgs",
            0,
            lambda: noise(120, 4, 5),
            tanh(20, optimizer="lbfgs", max_epochs=100),
            over,
            bend,
            fit=held_out(100, 5, 5),
        ),
        Case(
            "memorizes, minibatches",
            1,
            lambda: noise(300, 6),
            {"lr": 1e-2, "max_epochs": 100},
            over | only("underdetermined"),
            bend,
            fit=held_out(200, 7),
        ),
        Case(
            "memorized, seen on new rows",
            0,
            lambda: noise(80, 0),
            tanh(30),
            over | only("underdetermined"),
            bend,
            look_at=lambda: noise(300, 9),
        ),
        Case(
            "memorized, seen on new rows",
            1,
            lambda: noise(100, 8),
            tanh(30),
            over | only("underdetermined"),
            bend,
            look_at=lambda: noise(300, 11),
        ),
        Case(
            "more parameters than rows",
            0,
            lambda: sine(40),
            tanh(50, max_epochs=60),
            only("underdetermined"),
            only("still-falling"),
        ),
        Case(
            "more parameters than rows",
            1,
            lambda: kink(2),
            tanh(80, max_epochs=60),
            only("underdetermined"),
            only("still-falling"),
        ),
        Case(
            "few validation rows",
            0,
            lambda: sine(200),
            tanh(early_stopping=True),
            only("small-validation"),
            only("overfitting"),
        ),
        Case(
            "few validation rows",
            1,
            kink,
            tanh(early_stopping=True),
            only("small-validation"),
            only("overfitting"),
        ),
        Case(
            "few validation rows of one's own",
            1,
            lambda: ripples(300),
            tanh(),
            only("small-validation"),
            only("overfitting"),
            fit=lambda: dict(zip(("X_val", "y_val"), ripples(12, seed=9), strict=True)),
        ),
        Case(
            "few validation rows of one's own",
            0,
            lambda: friedman(300),
            tanh(16),
            only("small-validation"),
            only("overfitting"),
            fit=lambda: dict(zip(("X_val", "y_val"), friedman(20, seed=9), strict=True)),
        ),
    ]


def _data() -> list[Case]:
    def beside(data: Data, *columns: Any) -> Data:
        X, y = data
        return np.column_stack([np.asarray(X), *columns]), y

    def with_row(data: Data, value: float) -> Data:
        X, y = data
        X = np.array(X)
        X[7, 0] = value
        return X, y

    def rare(n: int, ones: int) -> np.ndarray:
        return (np.arange(n) < ones).astype(float)

    constant, copy = only("constant-column"), only("duplicate-column")
    heavy, far = only("heavy-tailed-target"), only("outlying-rows")
    rng = np.random.default_rng(0)
    tails = rng.standard_t(1.5, size=300)
    return [
        Case("a constant", 0, lambda: beside(sine(), np.full(200, 7.0)), tanh(), constant),
        Case("a constant", 1, lambda: beside(ripples(), np.full(400, -2023.0)), tanh(16), constant),
        Case("nearly a constant", 0, lambda: beside(ripples(), rare(400, 1)), tanh(16), constant),
        Case(
            "nearly a constant",
            1,
            lambda: beside(friedman(800), 3 + 5 * rare(800, 3)),
            tanh(16, max_epochs=100),
            constant,
        ),
        Case("a rare kind is no constant", 0, lambda: beside(ripples(), rare(400, 3)), tanh(16)),
        Case(
            "mm and inches", 0, lambda: beside(kink(), kink()[0] / 25.4), tanh(max_epochs=150), copy
        ),
        Case(
            "Celsius and Fahrenheit",
            1,
            lambda: beside(ripples(), 32 + 1.8 * ripples()[0][:, 1]),
            tanh(16),
            copy,
        ),
        Case(
            "mirrored",
            0,
            lambda: beside(friedman(), 1 - friedman()[0][:, 3]),
            tanh(16, max_epochs=100),
            copy,
        ),
        Case(
            "the same column three times",
            1,
            lambda: beside(sine(), sine()[0], sine()[0]),
            tanh(),
            copy,
        ),
        Case(
            "nearly the same column is none",
            1,
            lambda: beside(
                sine(), sine()[0] + 0.02 * np.random.default_rng(3).normal(size=(200, 1))
            ),
            tanh(),
        ),
        Case(
            "one wild row",
            0,
            lambda: with_row(ripples(), 1e4),
            tanh(16),
            far,
            only("linear-data", "always-on-units"),
        ),
        Case(
            "one wild row",
            1,
            lambda: with_row(friedman(), -500.0),
            tanh(16, max_epochs=100),
            far,
            only("linear-data", "always-on-units", "dead-units"),
        ),
        Case(
            "one wild bird",
            1,
            lambda: with_row(birds(), 40_000.0),
            tanh(6, max_epochs=100),
            far,
            only("linear-data", "always-on-units"),
        ),
        Case(
            "log-normal y",
            0,
            lambda: (ripples()[0], np.exp(2.5 * ripples()[1])),
            tanh(16),
            heavy,
            only("linear-data", "still-falling"),
        ),
        Case(
            "Student's y",
            1,
            lambda: (ripples(300)[0], ripples(300)[1] + tails),
            tanh(5),
            heavy,
            only("linear-data", "overfitting", "still-falling"),
        ),
        Case(
            "one huge y",
            0,
            lambda: (friedman()[0], np.append(friedman()[1][:-1], 5e3)),
            tanh(8, max_epochs=100),
            heavy,
            only("linear-data", "still-falling"),
        ),
        Case(
            "exp y",
            1,
            lambda: (sine()[0], np.exp(4 * sine(noise=0.3)[1]) ** 2),
            tanh(),
            heavy,
            only("linear-data"),
        ),
        Case(
            "new rows further out",
            0,
            sine,
            tanh(),
            only("extrapolation"),
            look_at=lambda: (np.linspace(-5, 5, 200)[:, None],),
        ),
        Case(
            "new rows further out",
            1,
            lambda: friedman(seed=3),
            tanh(16, max_epochs=100),
            only("extrapolation"),
            look_at=lambda: (friedman(200, seed=4)[0] * 1.5,),
        ),
        Case(
            "new rows in other units",
            1,
            birds,
            tanh(6, max_epochs=150),
            only("extrapolation"),
            only("linear-data", "saturated-units", "effectively-linear"),
            look_at=lambda: (birds()[0] / 10,),
        ),
        Case(
            "one new row far away",
            0,
            kink,
            tanh(),
            only("extrapolation"),
            look_at=lambda: (np.append(kink()[0][:99], [[400.0]], axis=0),),
        ),
    ]


CASES: list[Case] = [
    *_healthy(),
    *_linear(),
    *_degenerated(),
    *_units(),
    *_scale(),
    *_optimization(),
    *_generalization(),
    *_data(),
]
