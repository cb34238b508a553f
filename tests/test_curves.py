"""What epochs saw is the same, written down at once or in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from torchreg.engine.train.curves import Curves
from torchreg.engine.train.run_state import RunState


@dataclass
class Network:
    place: int
    losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


def networks(n: int) -> list[RunState]:
    return cast(Any, [Network(place) for place in range(n)])


def seen(member: RunState) -> tuple[list[float], ...]:
    return member.losses, member.validation_losses, member.rates


@pytest.mark.parametrize("asked", [True, False])
def test_each_network_has_its_own_numbers_in_their_order(asked: bool) -> None:
    members = networks(3)
    curves, rates = Curves(members, asked=asked), [0.1, 0.2, 0.3]
    for epoch in range(4):
        row = [10.0 * epoch + place for place in range(3)]
        curves.note(members, row, [-loss for loss in row], rates)
        rates[1] = epoch
    for member in members:
        curves.write(member)
        curves.write(member)
    assert members[1].losses == [1, 11, 21, 31]
    assert members[2].validation_losses == [-2, -12, -22, -32]
    assert members[1].rates == [0.2, 0, 1, 2]
    assert [len(numbers) for member in members for numbers in seen(member)] == [4] * 9


@pytest.mark.parametrize("asked", [True, False])
def test_what_is_not_there_is_not_written(asked: bool) -> None:
    members = networks(2)
    curves = Curves(members, asked=asked)
    curves.note(members, [1.0, 2.0], None, None)
    curves.write(members[1])
    assert seen(members[1]) == ([2.0], [], [])


def test_those_that_go_on_in_other_places_go_on_where_they_were() -> None:
    members = networks(2)
    first = Curves(members, asked=False)
    first.note(members, [1.0, 2.0], None, None)
    first.write(members[1])
    members[1].place = 0
    then = Curves(members[1:], asked=False)
    then.note(members[1:], [3.0], None, None)
    then.write(members[1])
    assert members[1].losses == [2, 3]
    then.note(members[1:], [4.0], None, None)
    then.forget_after(2)
    then.write(members[1])
    assert members[1].losses == [2, 3]
