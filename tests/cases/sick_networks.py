"""Cases: healthy fits, linear data, networks that became lines, units that do nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from recipes import (
    CRIPPLED,
    LESSON,
    RAW,
    Biased,
    Case,
    Data,
    Functional,
    Steep,
    Twins,
    birds,
    by_hand,
    diabetes,
    flippers,
    friedman,
    kink,
    linear,
    normed,
    only,
    raw,
    ripples,
    sine,
    tanh,
)
from torch import nn


# Tables of cases are easier to compare with more than one argument to a line.
# fmt: off
def healthy() -> list[Case]:
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
        case("sine, minibatches", 1, lambda: sine(1000), lr=1e-2, max_epochs=60),
        case("kink, relu, adam", 0, kink, lr=1e-2, max_epochs=400),
        case("kink, the defaults for longer", 1, lambda: kink(1), max_epochs=1000),
        case("kink, silu, rprop", 0, kink, **tanh(module__activation="silu")),
        case("friedman, gelu, minibatches", 0, friedman, **small, module__activation="gelu",
             lr=1e-2, max_epochs=60),
        case("friedman, relu, rprop", 1, lambda: friedman(seed=1), **small, optimizer="rprop",
             max_epochs=150),
        case("friedman, two layers", 0, lambda: friedman(500, seed=2),
             module__hidden_sizes=[16, 16], lr=5e-3, max_epochs=60),
        case("ripples, elu", 1, ripples, **small, module__activation="elu", lr=2e-2,
             max_epochs=120),
        case("ripples, functional module", 0, ripples, module=Functional, lr=1e-2, max_epochs=100),
        case("ripples, functional module", 1, lambda: ripples(seed=5), module=Functional, lr=1e-2,
             max_epochs=100),
        case("friedman, batch normalization", 1, friedman, module=normed, lr=1e-2, max_epochs=80),
        case("ripples, batch normalization", 0, lambda: ripples(seed=1), module=normed, lr=1e-2,
             max_epochs=80),
        case("ripples, dropout", 0, ripples, module__hidden_sizes=[50], module__dropout=0.1,
             lr=1e-2, max_epochs=100),
        case("sine, dropout", 1, lambda: sine(400), module__hidden_sizes=[50], module__dropout=0.1,
             lr=1e-2, max_epochs=150),
        case("ripples, early stopping", 0, lambda: ripples(500), **small, lr=1e-2, max_epochs=150,
             early_stopping=True),
        case("friedman, early stopping", 1, lambda: friedman(600), **small, lr=1e-2, max_epochs=150,
             early_stopping=True),
        case("sine, huber", 1, sine, **tanh(loss="huber")),
        case("sine, absolute error", 0, lambda: sine(seed=4), **tanh(loss="absolute_error")),
        case("sine, sgd", 0, sine, **tanh(optimizer="sgd", lr=0.1, max_epochs=600)),
        case("ripples, sgd, minibatches", 1, ripples, **tanh(16, optimizer="sgd", lr=0.03,
             max_epochs=200)),
        case("sine at order 1, as it is", 0, sine, **tanh(standardize=False)),
        case("ripples at order 1, as they are", 1, ripples,
             **tanh(16, standardize=False, optimizer="lbfgs", max_epochs=60)),
        case("two outputs", 1, lambda: (ripples()[0], np.stack([ripples()[1], -ripples()[1]], 1)),
             **tanh(16)),
        Case("healthy: good constants by hand", 0, flippers, {
            "module": by_hand(-200, 1 / 10, 800, 4200), "optimizer": "rprop", "max_epochs": 500,
            "standardize": False}),
        Case("healthy: new rows of the same kind", 0, lambda: ripples(seed=2), tanh(16),
             look_at=lambda: ripples(300, seed=3)),
        Case("healthy: new rows of the same kind", 1, lambda: sine(300), tanh(),
             look_at=lambda: sine(300, seed=8)),
        # Nearly a plane: whether it bends is a matter of taste.
        Case("healthy: birds", 0, birds, tanh(6, max_epochs=150), may=only("linear-data")),
        Case("healthy: diabetes", 1, diabetes, tanh(4, max_epochs=100), may=only("linear-data")),
    ]


def linear_data() -> list[Case]:
    def case(name: str, half: int, data: Callable[[], Data], **options: Any) -> Case:
        return Case(f"linear data: {name}", half, data, options, must=only("linear-data"),
                    may=only("underdetermined"))

    five = {"module__hidden_sizes": [5]}
    return [
        case("one feature, relu", 0, linear, **five, optimizer="rprop", max_epochs=300),
        case("one feature, tanh", 1, lambda: linear(seed=1), **tanh(5)),
        case("five features, relu", 0, lambda: linear(300, 5), **five, lr=1e-2, max_epochs=200),
        case("five features, gelu", 1, lambda: linear(300, 5, seed=1), **five,
             module__activation="gelu", lr=1e-2, max_epochs=200),
        case("exactly, lbfgs", 0, lambda: linear(noise=0.0), **tanh(5, optimizer="lbfgs")),
        case("exactly, two features", 1, lambda: linear(width=2, noise=0.0), **tanh(5)),
        case("much noise", 0, lambda: linear(400, 2, noise=1.0), **tanh(3)),
        case("a plain linear model", 1, linear, module__hidden_sizes=(), optimizer="lbfgs",
             max_epochs=20),
        case("the default network", 1, lambda: linear(250, seed=3), max_epochs=300),
    ]


def degenerated() -> list[Case]:
    lesson = {**LESSON, "standardize": False}
    scale = only("effectively-linear", "unscaled-inputs", "unscaled-target")
    cases = [
        Case(f"lesson, raw units, seed {seed}", seed % 2, flippers,
             {**lesson, "random_state": seed}, scale, RAW)
        for seed in range(6)
    ]
    return [
        *cases,
        Case("lesson, raw units, float32", 1, flippers, {**lesson, "dtype": "float32"}, scale, RAW),
        Case("lesson, raw units, adam", 0, flippers, {**lesson, "optimizer": "adam"}, scale, RAW),
        Case("kink, raw units", 1, kink, lesson, scale, RAW),
        Case("sine far off, raw units", 0, lambda: raw(sine(), 10_000, 20, 500), lesson,
             scale - only("effectively-linear"), RAW | only("effectively-linear")),
        Case("ripples far off, raw units", 1, lambda: raw(ripples(), 500, 3, 1000),
             {**lesson, "max_epochs": 300}, scale, RAW),
        Case("no activation", 0, sine, tanh(module__activation="identity"),
             only("effectively-linear"), only("stalled", "always-on-units")),
        Case("no activation, three layers", 1, ripples,
             tanh(module__hidden_sizes=[8, 8], module__activation="identity"),
             only("effectively-linear"), only("stalled", "always-on-units")),
        Case("all units on", 0, sine, {"module": Biased, "module__bias": 20.0, "lr": 1e-3},
             only("always-on-units", "effectively-linear"), CRIPPLED),
        Case("all units on", 1, ripples, {"module": Biased, "module__bias": 20.0, "lr": 1e-3,
             "batch_size": None}, only("always-on-units", "effectively-linear"), CRIPPLED),
        Case("all softplus units on", 0, sine, {"module": Biased, "module__bias": 30.0,
             "module__activation": nn.Softplus}, only("always-on-units", "effectively-linear"),
             CRIPPLED),
        Case("all gelu units on", 1, kink, {"module": Biased, "module__bias": 20.0,
             "module__activation": nn.GELU}, only("always-on-units", "effectively-linear"),
             CRIPPLED),
    ]


def units() -> list[Case]:
    dead, full = only("dead-units"), only("saturated-units")
    off = {"module": Biased, "module__bias": -20.0}
    return [
        Case("dead relu", 0, sine, off, dead, CRIPPLED),
        Case("dead relu", 1, kink, {**off, "optimizer": "rprop"}, dead, CRIPPLED),
        Case("dead relu, minibatches", 0, friedman, {**off, "max_epochs": 30}, dead, CRIPPLED),
        Case("dead gelu", 1, sine, {**off, "module__activation": nn.GELU}, dead, CRIPPLED),
        Case("dead elu", 0, kink, {**off, "module__activation": nn.ELU}, dead, CRIPPLED),
        Case("dead silu", 1, ripples, {**off, "module__activation": nn.SiLU, "max_epochs": 40},
             dead, CRIPPLED),
        Case("saturated tanh", 0, kink, {"module": Steep, "module__weight": 1000.0}, full,
             CRIPPLED),
        Case("saturated tanh", 1, sine, {"module": Steep, "module__weight": 2000.0}, full,
             CRIPPLED),
        Case("saturated sigmoid", 0, sine, {"module": Steep, "module__weight": 3000.0,
             "module__activation": nn.Sigmoid}, full, CRIPPLED),
        Case("saturated hardtanh", 1, kink, {"module": Steep, "module__weight": 1000.0,
             "module__activation": nn.Hardtanh}, full, CRIPPLED),
        Case("saturated by its bias", 1, sine, {"module": Biased, "module__bias": 20.0,
             "module__activation": nn.Tanh}, full, CRIPPLED),
        Case("saturated by its bias", 0, ripples, {"module": Biased, "module__bias": -25.0,
             "module__activation": nn.Sigmoid, "max_epochs": 40}, full, CRIPPLED),
        Case("twins", 0, sine, {"module": Twins, "batch_size": None}, only("duplicate-units"),
             CRIPPLED),
        Case("twins", 1, kink, {"module": Twins, "optimizer": "rprop"}, only("duplicate-units"),
             CRIPPLED),
        Case("twins in minibatches", 0, ripples, {"module": Twins, "module__weight": 0.3,
             "max_epochs": 40}, only("duplicate-units"), CRIPPLED),
        Case("many twins", 1, lambda: friedman(seed=4), {"module": Twins, "module__width": 40,
             "module__weight": 0.2, "max_epochs": 40}, only("duplicate-units"), CRIPPLED),
    ]
# fmt: on
