"""The best weights are those of the lowest loss, however late somebody looks for them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import torchreg.engine.train.best_weights as progress
from torchreg.engine.train.best_weights import BestWeights, Trail

LOSSES = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.inf, math.nan])


def epochs_of(n_networks: int) -> st.SearchStrategy[list[list[float]]]:
    """Draw tables of losses; once one is not finite, the network's next are not."""
    row = st.lists(LOSSES, min_size=n_networks, max_size=n_networks)
    return st.lists(row, min_size=1, max_size=9).map(ended)


def ended(table: list[list[float]]) -> list[list[float]]:
    dead = np.logical_or.accumulate(~np.isfinite(table), axis=0)
    found: list[list[float]] = np.where(dead, math.nan, table).tolist()
    return found


def walk(keep: type[BestWeights], table: list[list[float]], looks: set[int]) -> BestWeights:
    """Note all epochs; the weights of one are its number, beside the place of the network."""
    n = len(table[0])
    weights, buffer = torch.zeros(n, 2), torch.zeros(n)
    snapshot = keep([weights, buffer], n)
    for epoch, losses in enumerate(table):
        weights.copy_(torch.stack([torch.full((n,), float(epoch)), torch.arange(n)], dim=1))
        buffer.fill_(epoch)
        snapshot.take_lower(torch.tensor(losses) if epoch % 2 else losses, epoch)
        if epoch in looks:
            [snapshot.epoch_of(place) for place in range(n)]
    return snapshot


@given(data=st.data(), length=st.integers(1, 4), n=st.integers(2, 3))
def test_a_trail_keeps_what_is_kept_at_once(data: st.DataObject, length: int, n: int) -> None:
    table = data.draw(epochs_of(n))
    looks = data.draw(st.sets(st.integers(0, len(table))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "_LONGEST", length)
        kept, trail = walk(BestWeights, table, set()), walk(Trail, table, looks)
    finite = [place for place in range(n) if any(row[place] < math.inf for row in table)]
    assert [trail.epoch_of(place) for place in finite] == [kept.epoch_of(p) for p in finite]
    np.testing.assert_array_equal(trail.loss, kept.loss)
    for place in finite:
        kept.restore(place)
        trail.restore(place)
        for ours, theirs in zip(trail.tensors, kept.tensors, strict=True):
            assert torch.equal(ours[place], theirs[place])
            assert ours[place].flatten()[0] == kept.epoch_of(place)


@given(table=epochs_of(2), length=st.integers(1, 4), most=st.integers(1, 5))
def test_epochs_that_are_noted_together_are_kept_as_if_noted_one_by_one(
    table: list[list[float]], length: int, most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "_LONGEST", length)
        one_by_one = walk(Trail, table, set())
        together = Trail([torch.zeros(2, 2), torch.zeros(2)], 2)
    begin = 0
    while begin < len(table):
        weights, buffers = together.room(min(most, len(table) - begin))
        for i in range(len(weights)):
            weights[i] = torch.tensor([[begin + i, 0], [begin + i, 1]])
            buffers[i] = begin + i
        together.note(torch.tensor(table[begin : begin + len(weights)]), begin)
        begin += len(weights)
    finite = [place for place in (0, 1) if any(row[place] < math.inf for row in table)]
    for place in finite:
        assert together.epoch_of(place) == one_by_one.epoch_of(place)
        for trail in (together, one_by_one):
            trail.restore(place)
        for ours, theirs in zip(together.tensors, one_by_one.tensors, strict=True):
            assert torch.equal(ours[place], theirs[place])


@pytest.mark.parametrize("keep", [BestWeights, Trail])
def test_some_networks_go_on_with_what_was_kept_of_them(keep: type[BestWeights]) -> None:
    before = walk(keep, [[3.0, 1.0, 2.0], [1.0, 2.0, 1.0]], set())
    after = before.of([1, 2], [torch.full((2, 2), 7.0), torch.full((2,), 7.0)])
    assert type(after) is keep
    after.take_lower([2.0, 0.0], 5)
    assert [after.epoch_of(place) for place in (0, 1)] == [0, 5]
    after.restore(0)
    assert after.tensors[0].tolist() == [[0, 1], [7, 7]]


def test_the_longer_the_trail_the_fewer_the_numbers_of_an_epoch() -> None:
    lengths = [
        Trail([torch.zeros(2, n)], 2)._length
        for n in (1, progress._ON_TRAIL // 8, progress._ON_TRAIL)
    ]
    assert lengths == [progress._LONGEST, 4, 1]


def test_one_network_keeps_lower_losses_only() -> None:
    weights = torch.zeros(1)
    snapshot = BestWeights([weights], 1)
    for epoch, loss in enumerate([2.0, 1.0, math.nan, 1.0, 3.0]):
        weights.fill_(epoch)
        snapshot.take_lower([loss], epoch)
    assert snapshot.epoch_of(0) == 1
    snapshot.restore(0)
    assert weights.item() == 1
