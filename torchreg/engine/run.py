"""Fits, from raw rows to fitted modules."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch

from torchreg._utils import num_threads
from torchreg.engine.build import (
    FitCache,
    FitResult,
    PreparedFit,
    is_small,
    prepare_fit,
    select_model,
)
from torchreg.engine.spec import FitJob, NotStartedError, capture_exception, reraise_interrupt
from torchreg.engine.stack import train_tasks


def unwrap_result(result: FitResult | Exception) -> FitResult:
    """Return the result of a fit, or raise its error.

    Raises
    ------
    KeyboardInterrupt
        If an interrupt came before the fit started.
    """
    if isinstance(result, NotStartedError):
        raise KeyboardInterrupt
    if not isinstance(result, Exception):
        return result
    try:
        raise result
    finally:
        # The error refers to this frame: break the reference cycle.
        del result


@torch.enable_grad()  # The caller may have disabled gradients.
def fit_networks(
    jobs: Sequence[FitJob], cancel_event: threading.Event | None = None
) -> list[FitResult | Exception]:
    """Fit networks, in stacks where they can be trained together.

    Parameters
    ----------
    jobs : sequence of FitJob
        Fits of any kind.
    cancel_event : Event or None, default=None
        Setting it from another thread ends all fits as an interrupt does.

    Returns
    -------
    list of FitResult or Exception
        One for each job, in order; an error affects no other job.
    """
    available = torch.get_num_threads()
    n_threads = 1 if all(is_small(job) for job in jobs) else available
    cache = FitCache(finds_equal=len(jobs) > 1)
    fits: list[PreparedFit | Exception] = []
    # 1. Build networks between scaling layers, and scale the rows.
    with num_threads(n_threads, others=available):
        for job in jobs:
            try:
                fits.append(prepare_fit(job, cache))
            except Exception as error:
                reraise_interrupt(error)
                fits.append(error)
    # 2. Train them, those of one architecture as one stack.
    tasks = [task for fit in fits if not isinstance(fit, Exception) for task in fit.tasks]
    results = train_tasks(tasks, cancel_event)[::-1]
    # 3. Select and summarize the best network of each fit.
    try:
        with num_threads(n_threads, others=available):
            return [
                fit
                if isinstance(fit, Exception)
                else capture_exception(select_model, fit, [results.pop() for _ in fit.tasks], cache)
                for fit in fits
            ]
    finally:
        # Errors refer to this frame: break the reference cycle.
        fits.clear()
