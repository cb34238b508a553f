"""Which networks train as one stack, and which one after another."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from itertools import pairwise

import torch

from torchreg._device import seeded, threads
from torchreg.engine.alike import UnlikeError, kind_of
from torchreg.engine.alone import Alone
from torchreg.engine.loop import train
from torchreg.engine.problem import (
    ONE_THREAD,
    Answer,
    NeverBegunError,
    Outcome,
    Problem,
    is_interrupted,
)
from torchreg.engine.rows import width_of
from torchreg.engine.stack import NotStackableError, Stack

#: Numbers in the widest layer of a stack, rows of a batch and networks together, at most: two
#: or three such tensors stay in a processor's cache. More networks make another stack.
_AT_ONCE = 2**18
#: From so many on, a second thread repays what it takes to wake it.
_MANY = 2**16
#: The most rows that networks of one stack may have, for each of the fewest: what is padded is
#: computed, too.
_UNEQUAL = 1.25


def train_together(problems: Sequence[Problem]) -> list[Answer]:
    """Train networks in place, those of one kind together.

    Parameters
    ----------
    problems : sequence of Problem

    Returns
    -------
    list of Outcome or Exception
        One for each problem, in their order. An interrupt ends them all.
    """
    if len(problems) == 1:
        return [_train_alone(problems[0])]
    return _in_turn(problems, _groups(problems), _train_group)


def _in_turn(
    problems: Sequence[Problem],
    groups: list[list[int]],
    train_group: Callable[[list[Problem]], list[Answer]],
) -> list[Answer]:
    """Train one group after another; an interrupt ends the one that it meets, and the rest."""
    answers: dict[int, Answer] = {}
    try:
        for group in groups:
            own = [problems[index] for index in group]
            answers |= zip(group, train_group(own), strict=True)
            if any(map(is_interrupted, answers.values())):
                break
    except KeyboardInterrupt:
        # What was learned before shall not be lost.
        if not any(isinstance(answer, Outcome) for answer in answers.values()):
            raise
    return [answers.get(index) or NeverBegunError() for index in range(len(problems))]


def _groups(problems: Sequence[Problem]) -> list[list[int]]:
    """List the problems that can train as one stack; those that cannot are alone."""
    kinds: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index, problem in enumerate(problems):
        try:
            kinds[kind_of(problem)].append(index)
        except UnlikeError:
            kinds[("alone", index)].append(index)
    groups = []
    for alike in kinds.values():
        # Those with the same number of rows together, so that little is padded.
        alike.sort(key=lambda index: len(problems[index].training.t))
        begin = 0
        for end in range(1, len(alike) + 1):
            fewest = len(problems[alike[begin]].training.t)
            if end < len(alike) and len(problems[alike[end]].training.t) <= _UNEQUAL * fewest:
                continue
            groups += _pieces(problems, alike[begin:end])
            begin = end
    return groups


def _pieces(problems: Sequence[Problem], alike: list[int]) -> list[list[int]]:
    """Cut a group into stacks of about equal size that are kind to memory."""
    most = max(1, _AT_ONCE // max(_numbers(problems[index]) for index in alike))
    n_pieces = math.ceil(len(alike) / most)
    bounds = [len(alike) * piece // n_pieces for piece in range(n_pieces + 1)]
    return [alike[a:b] for a, b in pairwise(bounds)]


def _numbers(problem: Problem) -> int:
    """Count the numbers in the widest layer: rows of a batch times units."""
    widths = [p.shape[0] for p in problem.network.parameters() if p.ndim]
    rows = min(problem.batch_size, len(problem.training.t))
    return rows * max([width_of(problem.training.x), *widths])


def _train_group(problems: list[Problem]) -> list[Answer]:
    """Train networks of one kind as one stack, or else one after another."""
    if len(problems) > 1:
        available = torch.get_num_threads()
        numbers = sum(map(_numbers, problems))
        with threads(available if numbers >= _MANY else 1, others=available):
            for features_first in (True, False):
                try:
                    return _train_stack(problems, features_first=features_first)
                except NotStackableError:
                    continue
    alone = [[index] for index in range(len(problems))]
    return _in_turn(problems, alone, lambda own: [_train_alone(own[0])])


def _train_stack(problems: list[Problem], *, features_first: bool) -> list[Answer]:
    first = problems[0]

    def work() -> list[Answer]:
        stack = Stack(problems, features_first=features_first)
        try:
            return train(problems, stack)
        except Exception:
            stack.undo()
            raise

    device = first.training.t.device
    return seeded(first.generators, device, work) if first.draws else work()


def _train_alone(problem: Problem) -> Answer:
    """Train, with random numbers of our own if the network draws; other threads wait then."""
    available = torch.get_num_threads()
    with threads(1 if problem.work <= ONE_THREAD else available, others=available):
        work = partial(_begin_alone, problem)
        device = problem.training.t.device
        try:
            (answer,) = seeded(problem.generators, device, work) if problem.draws else work()
        except Exception as error:
            return error
        return answer


def _begin_alone(problem: Problem) -> list[Answer]:
    if problem.batch_observer is not None:
        problem.batch_observer.begin()
    return train([problem], Alone(problem))
