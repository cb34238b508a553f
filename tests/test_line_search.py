"""A step that the line search finds meets the strong Wolfe conditions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from torchreg.optim.line_search import LinePoint, search_line


@given(
    a=st.floats(0.1, 10),
    b=st.floats(-3, 3),
    c=st.floats(-3, 3),
    first=st.floats(1e-4, 1e3),
)
def test_the_step_that_is_found_meets_the_strong_wolfe_conditions(
    a: float, b: float, c: float, first: float
) -> None:
    def at(t: float) -> LinePoint:
        x = t + b
        slope = a * x + c * math.cos(x)
        return LinePoint(t, a * x * x / 2 + c * math.sin(x), slope, np.array([slope]), np.zeros(1))

    start = at(0.0)
    if start.slope > 0:
        forward = at

        def at(t: float) -> LinePoint:
            mirrored = forward(-t)
            return mirrored._replace(t=t, slope=-mirrored.slope)

        start = at(0.0)
    if start.slope > -1e-6:
        return
    found, _ = search_line(at, start, first, min_width=1e-12, max_eval=100)
    rounding = 1e-12 * (1 + abs(start.loss))
    assert found.loss <= start.loss + 1e-4 * found.t * start.slope + rounding
    assert abs(found.slope) <= -0.9 * start.slope


def test_no_more_evaluations_are_spent_than_allowed() -> None:
    def at(t: float) -> LinePoint:
        # Falls for ever, faster and faster: no step is flat enough.
        return LinePoint(t, -math.exp(t), -math.exp(t), np.array([-math.exp(t)]), np.zeros(1))

    for at_most in (0, 1, 7):
        _, used = search_line(at, at(0.0), 1e-3, min_width=1e-12, max_eval=at_most)
        assert used <= at_most + 1


def at_a_kink(
    place: float, rises: float
) -> tuple[LinePoint, Callable[[float], LinePoint], list[float]]:
    """A roof upside down: falls with slope -1 up to a place, then rises; no step is flat."""
    tried: list[float] = []

    def at(t: float) -> LinePoint:
        tried.append(t)
        slope = -1.0 if t < place else rises
        loss = -t if t < place else -place + rises * (t - place)
        return LinePoint(t, loss, slope, np.array([slope]), np.zeros(1))

    return LinePoint(0.0, 0.0, -1.0, np.array([-1.0]), np.zeros(1)), at, tried


@given(place=st.floats(1e-3, 10), rises=st.floats(0.95, 50), first=st.floats(0.1, 100))
def test_a_search_that_stops_at_kinks_ends_within_a_tenth_of_the_first_bracket(
    place: float, rises: float, first: float
) -> None:
    assume(first > place)
    start, at, tried = at_a_kink(place, rises)
    found, used = search_line(at, start, first, min_width=1e-12, max_eval=100, stop_at_kinks=True)
    assert used == len(tried) <= 20
    assert abs(found.t - place) <= 0.1 * first or found.t == 0.0


def test_a_search_that_stops_at_kinks_tries_fewer_steps_there_than_one_that_does_not() -> None:
    counts = []
    for stops in (True, False):
        start, at, tried = at_a_kink(place=0.3, rises=1.5)
        search_line(at, start, 1.0, min_width=1e-9, max_eval=100, stop_at_kinks=stops)
        counts.append(len(tried))
    assert 2 * counts[0] <= counts[1]


def test_where_every_step_rises_a_search_that_stops_at_kinks_stays() -> None:
    # The slope at the start is that of a piece that ends there.
    def at(t: float) -> LinePoint:
        return LinePoint(t, 0.5 * t, 0.5, np.array([0.5]), np.zeros(1))

    start = LinePoint(0.0, 0.0, -1.0, np.array([-1.0]), np.zeros(1))
    found, used = search_line(at, start, 1.0, min_width=1e-9, max_eval=100, stop_at_kinks=True)
    assert found is start
    assert used <= 6
