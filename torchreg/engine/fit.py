"""Fits, from raw rows to fitted modules."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import torch

from torchreg._device import threads
from torchreg.engine.plan import Fitted, Plan, is_small
from torchreg.engine.problem import Answer, NeverBegunError, reraise_interrupt
from torchreg.engine.request import Job
from torchreg.engine.shared import Shared
from torchreg.engine.together import train_together

P = ParamSpec("P")
R = TypeVar("R")


def given_or_raised(answer: Fitted | Exception) -> Fitted:
    """Give what a fit gave, or raise what was wrong with it.

    Raises
    ------
    KeyboardInterrupt
        If an interrupt came before it had begun.
    """
    if isinstance(answer, NeverBegunError):
        raise KeyboardInterrupt
    if not isinstance(answer, Exception):
        return answer
    try:
        raise answer
    finally:
        # An error holds this frame, which is not to hold the error.
        del answer


@torch.enable_grad()  # Whoever calls may have turned gradients off.
def fit_networks(
    jobs: Sequence[Job], halt: threading.Event | None = None
) -> list[Fitted | Exception]:
    """Fit many networks, together where they can be trained together.

    Parameters
    ----------
    jobs : sequence of Job
        Of whatever kind.
    halt : Event or None
        Once it is set, from another thread, all fits end as if they were interrupted.

    Returns
    -------
    list of Fitted or Exception
        One for each job, in their order; what is wrong with one is not the others' trouble.
    """
    available = torch.get_num_threads()
    few = 1 if all(is_small(job) for job in jobs) else available
    # 1. Networks between their scaling layers, and the rows in their units.
    with threads(few, others=available):
        shared = Shared(several=len(jobs) > 1)
        plans = [_attempt(Plan, job, shared) for job in jobs]
    # 2. Train them, those of one architecture as one stack.
    problems = [p for plan in plans if isinstance(plan, Plan) for p in plan.problems]
    answers = train_together(problems, halt)[::-1]
    # 3. Keep the best of each job, and what a diagnosis needs.
    try:
        with threads(few, others=available):
            return [
                _conclude(plan, [answers.pop() for _ in plan.problems])
                if isinstance(plan, Plan)
                else plan
                for plan in plans
            ]
    finally:
        # An error holds this frame, which is not to hold the error.
        plans.clear()


def _conclude(plan: Plan, answers: list[Answer]) -> Fitted | Exception:
    errors = [answer for answer in answers if isinstance(answer, Exception)]
    if len(errors) == len(answers):
        return errors[0]
    return _attempt(plan.conclude, answers)


def _attempt(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | Exception:
    try:
        return work(*args, **kwargs)
    except Exception as error:
        reraise_interrupt(error)
        return error
