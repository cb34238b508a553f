"""Which networks train as one stack, and which one after another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from torchreg._device import seeded, threads
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


def train_together(problems: Sequence[Problem]) -> list[Answer]:
    """Train networks in place, those of one architecture together.

    Parameters
    ----------
    problems : sequence of Problem

    Returns
    -------
    list of Outcome or Exception
        One for each problem, in their order. An interrupt ends them all.
    """
    answers: list[Answer] = []
    try:
        for problem in problems:
            answers.append(_train_alone(problem))
            if is_interrupted(answers[-1]):
                break
    except KeyboardInterrupt:
        # Those before have learned something, which shall not be lost.
        if not any(isinstance(answer, Outcome) for answer in answers):
            raise
    return answers + [NeverBegunError() for _ in problems[len(answers) :]]


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
