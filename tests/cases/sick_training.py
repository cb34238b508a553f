"""Cases: scale, and the way the loss went."""

from __future__ import annotations

import numpy as np
import torch
from recipes import (
    CRIPPLED,
    LESSON,
    RAW,
    WILD,
    Biased,
    Bounded,
    Case,
    FailingMLP,
    Twins,
    birds,
    by_hand,
    flippers,
    friedman,
    kink,
    linear,
    only,
    poisson_nll,
    raw,
    ripples,
    sine,
    tanh,
)


# Tables of cases are easier to compare with more than one argument to a line.
# fmt: off
def scale() -> list[Case]:
    # What a bad scale does to the fit is open; that it is bad is not.
    any_end = RAW | only("effectively-linear", "linear-data")
    x, y = only("unscaled-inputs"), only("unscaled-target")
    big = {"standardize": "X", "module__hidden_sizes": [5], "optimizer": "rprop"}
    hand = {"optimizer": "rprop", "max_epochs": 300, "standardize": False}
    return [
        Case("raw X alone", 0, flippers, {**LESSON, "standardize": "y", "max_epochs": 300}, x,
             any_end),
        Case("raw X alone", 1, birds, {"standardize": "y", "max_epochs": 100}, x,
             any_end | only("underdetermined")),
        Case("tiny X", 0, lambda: sine(factor=1e-4), tanh(standardize="y"), x, any_end),
        Case("tiny X", 1, lambda: raw(ripples(), 0, 1e-3, 1), tanh(standardize=False), x, any_end),
        Case("raw y alone", 1, flippers, {**LESSON, "standardize": "X", "max_epochs": 300}, y,
             any_end),
        Case("raw y alone", 0, kink, {**big, "max_epochs": 200}, y, any_end),
        Case("tiny y", 0, lambda: raw(sine(), 0, 1, 1e-4), tanh(standardize=False), y, any_end),
        Case("tiny y", 1, lambda: raw(friedman(), 0, 1, 1e-5), tanh(standardize="X"), y, any_end),
        Case("constants for X forgotten", 0, flippers, {**hand, "module": by_hand(0, 1, 800, 4200)},
             x, any_end),
        Case("constants for y forgotten", 1, flippers, {**hand, "module": by_hand(-200, 0.1, 1, 0)},
             y, any_end),
        Case("constants the wrong way", 1, flippers, {**hand,
             "module": by_hand(200, 10, 800, 4200)}, x, any_end),
        *(Case(f"bounded by {end.__name__}", place % 2, data, {"module": Bounded,
               "module__end": end, "lr": 1e-2, "max_epochs": 150}, only("bounded-output"),
               any_end | only("linear-data", "saturated-units", "always-on-units"))
          for place, (end, data) in enumerate([(torch.sigmoid, sine), (torch.exp, friedman),
                                               (torch.tanh, friedman), (torch.square, ripples)])),
        Case("healthy: bounded in y's own units", 1, lambda: (sine()[0], (1 + sine()[1]) / 2),
             {"module": Bounded, "module__end": torch.sigmoid, "standardize": "X", "lr": 1e-2,
              "max_epochs": 300}, may=only("still-falling")),
        Case("digits lost before fit", 0, lambda: ((1.7e9 + 100 * sine()[0]).astype(np.float32),
             sine()[1]), tanh(), only("precision-loss"), any_end),
        Case("digits of y lost before fit", 1, lambda: (sine()[0],
             (1e8 + 20 * sine()[1]).astype(np.float32)), tanh(), only("precision-loss"), any_end),
        Case("digits lost in the core", 1, lambda: raw(sine(), 1.7e9, 100, 1),
             tanh(standardize="y", dtype="float32"), only("precision-loss", "unscaled-inputs"),
             any_end),
        Case("digits of y lost in the core", 0, lambda: (sine()[0], 1e8 + 20 * sine()[1]),
             tanh(standardize="X", dtype="float32"), only("precision-loss", "unscaled-target"),
             any_end),
        Case("a long way", 0, lambda: raw(sine(), 0, 1, 1e4), {**big, "max_epochs": 1000},
             only("parameter-drift", "unscaled-target"), any_end),
        Case("a long way", 0, lambda: raw(ripples(), 0, 1, 1e4), {**big, "max_epochs": 600},
             only("parameter-drift", "unscaled-target"), any_end),
        Case("a long way", 1, lambda: raw(kink(), 0, 1, 1e3), {**big, "max_epochs": 1000},
             only("parameter-drift", "unscaled-target"), any_end),
        Case("a long way", 1, lambda: raw(friedman(), 0, 1, 1e4), {**big, "max_epochs": 600},
             only("parameter-drift", "unscaled-target"), any_end),
    ]


def optimization() -> list[Case]:
    high, low = only("learning-rate-too-high"), only("learning-rate-too-low")
    falling, still = only("still-falling"), only("stalled")
    sgd = {"optimizer": "sgd", "optimizer__momentum": 0.0}
    bounce = {"module__hidden_sizes": (), "lr": 10.0, "loss": "absolute_error"}
    failed, worse = only("failed-networks"), only("worse-than-constant")
    failing = {"module": FailingMLP, "max_epochs": 300}
    return [
        Case("one of four folds fails", 0, sine, tanh(**failing, n_folds=4), failed),
        Case("one of four folds fails", 1, kink, tanh(**failing, n_folds=4), failed,
             only("parameter-drift")),
        Case("one of four restarts fails", 0, ripples, tanh(**failing, n_init=4), failed),
        Case("one of four restarts fails", 1, friedman, tanh(**failing, n_init=4), failed,
             only("overfitting")),
        Case("far too fast", 0, friedman, {"lr": 10.0, "max_epochs": 40}, worse | high,
             WILD | only("underdetermined", "still-falling")),
        Case("far too fast", 1, kink, {"lr": 10.0, "max_epochs": 40}, worse | high,
             WILD | only("underdetermined", "still-falling")),
        Case("a loss of another kind", 0, friedman, tanh(loss=poisson_nll), worse,
             WILD | high | only("still-falling")),
        Case("a loss of another kind", 1, ripples, tanh(loss=poisson_nll), worse,
             WILD | high | only("still-falling")),
        Case("diverged, sgd", 0, sine, {**sgd, "lr": 50.0, "module__hidden_sizes": [20]},
             only("diverged") | high, WILD | only("still-falling")),
        Case("diverged, sgd", 1, friedman, {**sgd, "lr": 20.0}, only("diverged") | high,
             WILD | only("still-falling", "underdetermined")),
        Case("diverged, momentum", 0, ripples, {"optimizer": "sgd", "lr": 5.0},
             only("diverged") | high, WILD | only("still-falling", "underdetermined")),
        Case("diverged, linear model", 1, lambda: linear(width=4), {**sgd, "lr": 10.0,
             "module__hidden_sizes": ()}, only("diverged") | high,
             WILD | only("linear-data", "still-falling")),
        Case("too fast, adam", 0, sine, tanh(optimizer="adam", lr=2.0, max_epochs=100), high, WILD),
        Case("too fast, adam", 1, friedman, tanh(16, optimizer="adam", lr=3.0, max_epochs=60), high,
             WILD),
        Case("too fast, adam, minibatches", 0, ripples, tanh(20, optimizer="adam", lr=1.5,
             max_epochs=60), high, WILD),
        Case("too fast, adam, minibatches", 1, lambda: sine(400), tanh(20, optimizer="adam", lr=1.5,
             max_epochs=60), high, WILD),
        Case("too fast, sgd", 0, kink, tanh(20, **sgd, lr=1.0), high, WILD),
        # Absolute errors have gradients of one size: such steps jump over the minimum for ever.
        Case("bouncing, sgd", 0, linear, {**sgd, **bounce}, only("oscillating", "linear-data"),
             WILD | high),
        Case("bouncing, sgd", 1, lambda: linear(width=3, seed=2), {**sgd, **bounce},
             only("oscillating", "linear-data"), WILD | high),
        Case("ups and downs, rmsprop", 0, lambda: friedman(seed=6), tanh(20, optimizer="rmsprop",
             lr=0.3, max_epochs=60), only("oscillating"), WILD | high),
        Case("ups and downs, rmsprop", 1, lambda: ripples(seed=5), tanh(20, optimizer="rmsprop",
             lr=0.1, max_epochs=100), only("oscillating"), WILD | high),
        Case("too fast, rmsprop, two layers", 1, friedman, {"module__hidden_sizes": [20, 20],
             "optimizer": "rmsprop", "lr": 0.1, "max_epochs": 80}, high,
             WILD | only("underdetermined")),
        Case("too slow, sgd", 0, kink, tanh(optimizer="sgd", lr=1e-5), low, CRIPPLED),
        Case("too slow, sgd", 1, sine, tanh(optimizer="sgd", lr=1e-5), low, CRIPPLED),
        Case("too slow, adam", 0, friedman, tanh(optimizer="adam", lr=1e-6, max_epochs=60), low,
             CRIPPLED),
        Case("too slow, adam", 1, ripples, tanh(optimizer="adam", lr=2e-6, max_epochs=60), low,
             CRIPPLED),
        Case("too slow, adamw", 1, sine, tanh(optimizer="adamw", lr=1e-5), low, CRIPPLED),
        Case("too slow for few epochs", 0, sine, {"lr": 3e-5, "max_epochs": 15}, low | falling,
             only("effectively-linear", "underdetermined", "worse-than-constant")),
        Case("too slow for few epochs", 1, friedman, {"lr": 1e-4, "max_epochs": 15}, low | falling,
             only("effectively-linear", "underdetermined", "worse-than-constant")),
        Case("too few epochs, adam", 0, sine, {"lr": 1e-2, "max_epochs": 25}, falling,
             only("effectively-linear", "underdetermined")),
        Case("too few epochs, adam", 1, kink, {"lr": 3e-3, "max_epochs": 30}, falling,
             only("effectively-linear", "underdetermined")),
        Case("too few epochs, minibatches", 0, friedman, {"max_epochs": 15}, falling,
             only("effectively-linear", "underdetermined")),
        Case("too few epochs, relu", 0, lambda: kink(3), {"max_epochs": 40}, falling,
             only("effectively-linear", "underdetermined")),
        Case("too few epochs, relu", 1, lambda: sine(150), {"max_epochs": 60}, falling,
             only("effectively-linear", "underdetermined")),
        Case("too few epochs, friedman", 1, friedman, {"max_epochs": 12, "lr": 1e-3}, falling,
             only("underdetermined", "effectively-linear")),
        Case("too few epochs, sgd", 0, ripples, tanh(optimizer="sgd", lr=3e-3, max_epochs=30,
             batch_size=64), falling, CRIPPLED),
        Case("zeros cannot learn", 0, sine, {"module": Twins, "module__weight": 0.0}, still,
             CRIPPLED | only("duplicate-units", "dead-units")),
        Case("zeros cannot learn", 1, kink, {"module": Twins, "module__weight": 0.0,
             "optimizer": "rprop"}, still, CRIPPLED | only("duplicate-units", "dead-units")),
        Case("dead units cannot learn", 0, kink, {"module": Biased, "module__bias": -50.0,
             "optimizer": "rprop", "max_epochs": 300}, still | only("dead-units"), CRIPPLED),
        Case("dead units cannot learn", 1, friedman, {"module": Biased, "module__bias": -50.0,
             "lr": 1e-2, "max_epochs": 60}, still | only("dead-units"), CRIPPLED),
    ]
# fmt: on
