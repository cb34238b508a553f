"""Cases: the built-in network, whose settings follow from the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from recipes import (
    CRIPPLED,
    WILD,
    Case,
    Data,
    diabetes,
    flippers,
    friedman,
    kink,
    linear,
    only,
    ripples,
    sine,
)


# Tables of cases are easier to compare with more than one argument to a line.
# fmt: off
def defaults() -> list[Case]:
    def case(name: str, half: int, data: Callable[[], Data], must: frozenset[str] = only(),
             may: frozenset[str] = only(), options: dict[str, Any] | None = None,
             **rows: Any) -> Case:
        settings = {"module": None, **(options or {})}
        return Case(f"defaults: {name}", half, data, settings, must, may, **rows)

    def beside(data: Data, column: Any) -> Data:
        return np.column_stack([data[0], column]), data[1]

    def with_row(data: Data, value: float) -> Data:
        X, y = np.array(data[0]), data[1]
        X[7, 0] = value
        return X, y

    def validation(data: Callable[[], Data]) -> Callable[[], dict[str, Any]]:
        return lambda: dict(zip(("X_val", "y_val"), data(), strict=True))

    # Nearly a plane: whether it bends is a matter of taste.
    taste = only("linear-data")
    one = {"n_folds": None, "max_epochs": 200}
    high, low = only("learning-rate-too-high"), only("learning-rate-too-low")
    few = only("small-validation")
    # Sixty epochs of so few rows are sixty steps.
    short = CRIPPLED | only("linear-data", "overfitting")
    return [
        case("healthy, flippers", 0, flippers),
        case("healthy, kink", 0, kink),
        case("healthy, sine", 1, sine),
        case("healthy, ripples", 1, lambda: ripples(200)),
        case("healthy, friedman", 0, lambda: friedman(200), may=taste),
        case("healthy, diabetes", 1, diabetes, may=taste),
        case("healthy, huber", 1, lambda: ripples(150, seed=3), options={"loss": "huber"}),
        case("healthy, new rows of the same kind", 0, lambda: ripples(200, seed=2),
             look_at=lambda: ripples(300, seed=3)),
        case("linear data", 0, lambda: linear(150, 3), taste),
        case("linear data", 1, lambda: linear(200, 2, seed=1), taste),
        case("few rows", 0, lambda: sine(24), few, short),
        case("few rows", 1, lambda: ripples(28, seed=5), few, short),
        case("one network, which may memorize", 0, lambda: sine(80), only("underdetermined"),
             options=one),
        case("one network, which memorizes", 1, lambda: friedman(90),
             only("overfitting", "underdetermined"), taste, one,
             fit=validation(lambda: friedman(200, seed=7))),
        case("too fast", 0, lambda: sine(150), high, WILD | only("overfitting", "still-falling"),
             {"lr": 3.0}),
        case("too fast", 1, lambda: ripples(150), high, WILD | only("overfitting", "still-falling"),
             {"lr": 2.0}),
        case("too slow", 0, lambda: ripples(200), low, CRIPPLED, {"lr": 1e-6}),
        case("too slow", 1, lambda: sine(150), low, CRIPPLED, {"lr": 1e-6}),
        case("y in its own unit", 0, kink, only("unscaled-target"),
             CRIPPLED | WILD | only("overfitting", "learning-rate-too-high"),
             {"standardize": "X"}),
        case("a constant", 1, lambda: beside(ripples(150), np.full(150, 7.0)),
             only("constant-column")),
        case("a copy", 0, lambda: beside(ripples(150), 32 + 1.8 * ripples(150)[0][:, 1]),
             only("duplicate-column")),
        case("one wild row", 1, lambda: with_row(ripples(150), 1e4), only("outlying-rows"),
             # Held out, it is beyond what the others tell.
             taste | only("overfitting", "unscaled-inputs")),
        case("log-normal y", 0, lambda: (ripples(150)[0], np.exp(2.5 * ripples(150)[1])),
             only("heavy-tailed-target"), taste | only("overfitting", "still-falling")),
        case("new rows further out", 1, lambda: sine(150), only("extrapolation"),
             look_at=lambda: (np.linspace(-5, 5, 200)[:, None],)),
    ]
# fmt: on
