"""Fits, from raw rows to fitted modules."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch

from torchreg._utils import num_threads
from torchreg.engine.build.fit_job import PreparedFit, is_small
from torchreg.engine.build.fit_result import FitResult, SelectedModel
from torchreg.engine.build.memo import FitCache
from torchreg.engine.inspect.probe import Looks
from torchreg.engine.spec.fit_config import FitJob
from torchreg.engine.spec.train_task import NotStartedError, TaskResult, capture_exception
from torchreg.engine.stack.train_many import train_together


def given_or_raised(result: FitResult | Exception) -> FitResult:
    """Give what a fit gave, or raise what was wrong with it.

    Raises
    ------
    KeyboardInterrupt
        If an interrupt came before it had begun.
    """
    if isinstance(result, NotStartedError):
        raise KeyboardInterrupt
    if not isinstance(result, Exception):
        return result
    try:
        raise result
    finally:
        # An error holds this frame, which is not to hold the error.
        del result


@torch.enable_grad()  # Whoever calls may have turned gradients off.
def fit_networks(
    jobs: Sequence[FitJob], cancel_event: threading.Event | None = None
) -> list[FitResult | Exception]:
    """Fit many networks, together where they can be trained together.

    Parameters
    ----------
    jobs : sequence of FitJob
        Of whatever kind.
    cancel_event : Event or None
        Once it is set, from another thread, all fits end as if they were interrupted.

    Returns
    -------
    list of Fitted or Exception
        One for each job, in their order; what is wrong with one is not the others' trouble.
    """
    available = torch.get_num_threads()
    few = 1 if all(is_small(job) for job in jobs) else available
    # 1. Networks between their scaling layers, and the rows in their units.
    with num_threads(few, others=available):
        shared = FitCache(several=len(jobs) > 1)
        plans = [capture_exception(PreparedFit, job, shared) for job in jobs]
    # 2. Train them, those of one architecture as one stack.
    tasks = [p for plan in plans if isinstance(plan, PreparedFit) for p in plan.tasks]
    results = train_together(tasks, cancel_event)[::-1]
    # 3. Keep the best of each job, and what a diagnosis needs.
    kept: list[SelectedModel | Exception] = []
    try:
        with num_threads(few, others=available):
            kept += (
                _keep(plan, [results.pop() for _ in plan.tasks])
                if isinstance(plan, PreparedFit)
                else plan
                for plan in plans
            )
            looks = Looks([each.view for each in kept if isinstance(each, SelectedModel)])
            return [
                capture_exception(each.conclude, looks) if isinstance(each, SelectedModel) else each
                for each in kept
            ]
    finally:
        # An error holds this frame, which is not to hold the error.
        plans.clear()
        kept.clear()


def _keep(plan: PreparedFit, results: list[TaskResult]) -> SelectedModel | Exception:
    errors = [result for result in results if isinstance(result, Exception)]
    if len(errors) == len(results):
        return errors[0]
    return capture_exception(plan.keep, results)
