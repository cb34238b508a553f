"""Cases: too few rows, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from recipes import SHIFT, WILD, Case, Data, birds, friedman, kink, only, ripples, sine, tanh


# Tables of cases are easier to compare with more than one argument to a line.
# fmt: off
def generalization() -> list[Case]:
    def noise(n: int, seed: int, width: int = 10) -> Data:
        rng = np.random.default_rng(seed + SHIFT.get())
        X = rng.normal(size=(n, width))
        return X, X[:, 0] + np.abs(X[:, 1]) + rng.normal(size=n)

    def held_out(n: int, seed: int, width: int = 10) -> Callable[[], dict[str, Any]]:
        def rows() -> dict[str, Any]:
            X, y = noise(n, seed, width)
            return {"X_val": X, "y_val": y}

        return rows

    def other_rows(data: Data, offset: float = 0.0, factor: float = 1.0, y_factor: float = 1.0
                   ) -> dict[str, Any]:
        X, y = data
        return {"X_val": offset + factor * np.asarray(X), "y_val": y_factor * np.asarray(y)}

    # Whether so few rows show the bend is open.
    bend = only("linear-data", "still-falling", "underdetermined")
    over, distant = only("overfitting"), only("distant-validation-rows")
    return [
        Case("X_val before its scaler", 0, ripples, tanh(16), distant, only("parameter-drift"),
             fit=lambda: other_rows(ripples(seed=1), 200, 14)),
        Case("y_val in other units", 0, kink, tanh(), distant,
             fit=lambda: other_rows(kink(1), y_factor=1e-3)),
        Case("X_val after a scaler", 1, birds, tanh(6, max_epochs=100), distant,
             only("linear-data"), fit=lambda: other_rows(birds(), -20, 0.1)),
        Case("X_val in other units around 0", 1, lambda: ripples(300, seed=7), tanh(16), distant,
             fit=lambda: other_rows(ripples(100, seed=8), factor=0.01)),
        Case("validation rows of a later period", 1, lambda: (kink()[0] - 10, kink()[1]), tanh(),
             may=over, fit=lambda: other_rows((kink(1)[0] + 50, kink(1)[1]))),
        Case("memorizes, adam", 0, lambda: noise(80, 0), {"lr": 1e-2, "max_epochs": 300},
             over | only("underdetermined"), bend, fit=held_out(200, 1)),
        Case("memorizes, rprop", 1, lambda: noise(100, 2), tanh(30), over | only("underdetermined"),
             bend, fit=held_out(150, 3)),
        Case("memorizes, lbfgs", 0, lambda: noise(120, 4, 5), tanh(20, optimizer="lbfgs",
             max_epochs=100), over, bend, fit=held_out(100, 5, 5)),
        Case("memorizes, minibatches", 1, lambda: noise(300, 6), {"lr": 1e-2, "max_epochs": 100},
             over | only("underdetermined"), bend, fit=held_out(200, 7)),
        Case("memorized, seen on new rows", 0, lambda: noise(80, 0), tanh(30),
             over | only("underdetermined"), bend, look_at=lambda: noise(300, 9)),
        Case("memorized, seen on new rows", 1, lambda: noise(100, 8), tanh(30),
             over | only("underdetermined"), bend, look_at=lambda: noise(300, 11)),
        Case("more parameters than rows", 0, lambda: sine(40), tanh(50, max_epochs=60),
             only("underdetermined"), only("still-falling")),
        Case("more parameters than rows", 1, lambda: kink(2), tanh(80, max_epochs=60),
             only("underdetermined"), only("still-falling")),
        Case("few validation rows", 0, lambda: sine(200), tanh(early_stopping=True),
             only("small-validation"), only("overfitting")),
        Case("few validation rows", 1, kink, tanh(early_stopping=True),
             only("small-validation"), only("overfitting")),
        Case("few validation rows of one's own", 1, lambda: ripples(300), tanh(),
             only("small-validation"), only("overfitting"),
             fit=lambda: dict(zip(("X_val", "y_val"), ripples(12, seed=9), strict=True))),
        Case("few validation rows of one's own", 0, lambda: friedman(300), tanh(16),
             only("small-validation"), only("overfitting"),
             fit=lambda: dict(zip(("X_val", "y_val"), friedman(20, seed=9), strict=True))),
    ]


def data() -> list[Case]:
    def beside(data: Data, *columns: Any) -> Data:
        X, y = data
        return np.column_stack([np.asarray(X), *columns]), y

    def with_row(data: Data, value: float) -> Data:
        X, y = data
        X = np.array(X)
        X[7, 0] = value
        return X, y

    def with_gaps(data: Data, value: float, share: float, *, of_y: bool = False) -> Data:
        X, y = np.array(data[0], dtype=float), np.array(data[1], dtype=float)
        missing = np.random.default_rng(SHIFT.get()).random(len(y)) < share
        (y if of_y else X[:, 0])[missing] = value
        return X, y

    def rare(n: int, ones: int) -> np.ndarray:
        return (np.arange(n) < ones).astype(float)

    constant, copy = only("constant-column"), only("duplicate-column")
    # All other values of that column are pressed together, and what they tell is hard to learn.
    pressed = only("linear-data", "always-on-units", "stalled", "still-falling")
    heavy, far = only("heavy-tailed-target"), only("outlying-rows")
    place = only("placeholder-values")

    def tails(n: int) -> Any:
        return np.random.default_rng(SHIFT.get()).standard_t(1.5, size=n)

    return [
        Case("a constant", 0, lambda: beside(sine(), np.full(200, 7.0)), tanh(), constant),
        Case("a constant", 1, lambda: beside(ripples(), np.full(400, -2023.0)), tanh(16), constant),
        Case("nearly a constant", 0, lambda: beside(ripples(), rare(400, 1)), tanh(16), constant),
        Case("nearly a constant", 1, lambda: beside(friedman(800), 3 + 5 * rare(800, 3)),
             tanh(16, max_epochs=100), constant),
        Case("a rare kind is no constant", 0, lambda: beside(ripples(), rare(400, 3)), tanh(16)),
        Case("mm and inches", 0, lambda: beside(kink(), kink()[0] / 25.4), tanh(max_epochs=150),
             copy),
        Case("Celsius and Fahrenheit", 1, lambda: beside(ripples(), 32 + 1.8 * ripples()[0][:, 1]),
             tanh(16), copy),
        Case("mirrored", 0, lambda: beside(friedman(), 1 - friedman()[0][:, 3]),
             tanh(16, max_epochs=100), copy),
        Case("the same column three times", 1, lambda: beside(sine(), sine()[0], sine()[0]),
             tanh(), copy),
        Case("nearly the same column is none", 1, lambda: beside(sine(), sine()[0]
             + 0.02 * np.random.default_rng(3).normal(size=(200, 1))), tanh()),
        Case("-9999 in a tenth", 0, lambda: with_gaps(ripples(), -9999, 0.1), tanh(16), place,
             pressed),
        Case("999 in some rows", 1, lambda: with_gaps(friedman(), 999, 0.03), tanh(16), place,
             pressed | far),
        Case("-9999 in y", 1, lambda: with_gaps(ripples(), -9999, 0.05, of_y=True), tanh(16), place,
             pressed | heavy | WILD),
        Case("a fill value in a cell", 0, lambda: with_row(ripples(), 1e20), tanh(16), place | far,
             pressed | WILD | only("learning-rate-too-high", "overfitting")),
        Case("a fill value in a cell", 1, lambda: with_row(birds(), -3.4e38), tanh(6), place | far,
             pressed | WILD | only("learning-rate-too-high", "overfitting")),
        Case("zero or large is no placeholder", 1, lambda: beside(ripples(), 1000 * (rare(400, 200))
             + rare(400, 100)), tanh(16), may=only("parameter-drift")),
        Case("one wild row", 0, lambda: with_row(ripples(), 1e4), tanh(16), far, pressed),
        Case("one wild number among seven", 0, lambda: with_row(friedman(seed=8), 900.0),
             tanh(16, max_epochs=100), far, pressed),
        Case("one wild row", 1, lambda: with_row(friedman(), -500.0), tanh(16, max_epochs=100),
             far, pressed),
        Case("one wild bird", 1, lambda: with_row(birds(), 40_000.0), tanh(6, max_epochs=100),
             far, pressed),
        Case("log-normal y", 0, lambda: (ripples()[0], np.exp(2.5 * ripples()[1])), tanh(16), heavy,
             only("linear-data", "still-falling")),
        Case("Student's y", 1, lambda: (ripples(300)[0], ripples(300)[1] + tails(300)), tanh(5),
             heavy,
             only("linear-data", "overfitting", "still-falling")),
        Case("one huge y", 0, lambda: (friedman()[0], np.append(friedman()[1][:-1], 5e3)),
             tanh(8, max_epochs=100), heavy, only("linear-data", "still-falling")),
        Case("exp y", 1, lambda: (sine()[0], np.exp(4 * sine(noise=0.3)[1]) ** 2), tanh(), heavy,
             only("linear-data")),
        Case("new rows further out", 0, sine, tanh(), only("extrapolation"),
             look_at=lambda: (np.linspace(-5, 5, 200)[:, None],)),
        Case("new rows further out", 1, lambda: friedman(seed=3), tanh(16, max_epochs=100),
             only("extrapolation"), look_at=lambda: (friedman(200, seed=4)[0] * 1.5,)),
        Case("new rows in other units", 1, birds, tanh(6, max_epochs=150), only("extrapolation"),
             only("linear-data", "saturated-units", "effectively-linear"),
             look_at=lambda: (birds()[0] / 10,)),
        Case("one new row far away", 0, kink, tanh(), only("extrapolation"),
             look_at=lambda: (np.append(kink()[0][:99], [[400.0]], axis=0),)),
    ]
# fmt: on
