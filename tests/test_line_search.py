"""A step that the line search finds meets the strong Wolfe conditions."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from torchreg.line_search import Trial, search_line


@given(
    a=st.floats(0.1, 10),
    b=st.floats(-3, 3),
    c=st.floats(-3, 3),
    first=st.floats(1e-4, 1e3),
)
def test_the_step_that_is_found_meets_the_strong_wolfe_conditions(
    a: float, b: float, c: float, first: float
) -> None:
    def at(t: float) -> Trial:
        x = t + b
        slope = a * x + c * math.cos(x)
        return Trial(t, a * x * x / 2 + c * math.sin(x), slope, np.array([slope]))

    start = at(0.0)
    if start.slope > 0:
        forward = at

        def at(t: float) -> Trial:
            mirrored = forward(-t)
            return mirrored._replace(t=t, slope=-mirrored.slope)

        start = at(0.0)
    if start.slope > -1e-6:
        return
    found, _ = search_line(at, start, first, longest=1.0, tolerance=1e-12, at_most=100)
    rounding = 1e-12 * (1 + abs(start.loss))
    assert found.loss <= start.loss + 1e-4 * found.t * start.slope + rounding
    assert abs(found.slope) <= -0.9 * start.slope


def test_no_more_evaluations_are_spent_than_allowed() -> None:
    def at(t: float) -> Trial:
        # Falls for ever, faster and faster: no step is flat enough.
        return Trial(t, -math.exp(t), -math.exp(t), np.array([-math.exp(t)]))

    for at_most in (0, 1, 7):
        _, used = search_line(at, at(0.0), 1e-3, longest=1.0, tolerance=1e-12, at_most=at_most)
        assert used <= at_most + 1
