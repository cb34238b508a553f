"""Fits through the engine: several in one call, which may train as stacks, or one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import torchreg.regressor
from torchreg import TorchRegressor
from torchreg.engine.build import FitCache, FitResult, prepare_fit
from torchreg.engine.run import fit_networks, unwrap_result
from torchreg.engine.spec import FitJob, TrainTask
from torchreg.engine.stack import NotStackableError, Stack

Array = np.ndarray
Rows = dict[str, Any]
#: Tolerance for sums in another order, whose rounding grows over some tens of steps.
NEAR = 1e-9


class _CaughtError(Exception):
    pass


def job_of(reg: TorchRegressor, rows: Rows) -> FitJob:
    """Return the job that ``fit`` passes to the engine."""
    caught: list[FitJob] = []

    def catch(jobs: Sequence[FitJob]) -> list[FitResult | Exception]:
        caught.extend(jobs)
        raise _CaughtError

    with patch.object(torchreg.regressor, "run_fits", catch):
        try:
            reg.fit(**rows)
        except _CaughtError:
            return caught[0]
    raise AssertionError("fit did not call the engine")


def with_config(job: FitJob, **changes: Any) -> FitJob:
    """Return a job with other ``observers`` or another ``checkpoint_store``, for example."""
    return replace(job, config=replace(job.config, **changes))


def task_of(reg: TorchRegressor, rows: Rows) -> TrainTask:
    """Return the first training task of a fit."""
    return prepare_fit(job_of(reg, rows), FitCache(finds_equal=False)).tasks[0]


@dataclass
class Seen:
    """Stacks that were built, their sizes, and the reasons why others were not."""

    sizes: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    stacks: list[Stack] = field(default_factory=list)
    features_first: list[bool] = field(default_factory=list)


@contextmanager
def watched() -> Iterator[Seen]:
    """Record the stacks that are built inside the block."""
    seen, build = Seen(), Stack.__init__

    def spy(stack: Stack, tasks: Any, *, features_first: bool) -> None:
        try:
            build(stack, tasks, features_first=features_first)
        except NotStackableError as error:
            seen.reasons.append(str(error))
            raise
        seen.sizes.append(len(tasks))
        seen.stacks.append(stack)
        seen.features_first.append(features_first)

    with patch.object(Stack, "__init__", spy):
        yield seen


def fit_alone(job: FitJob) -> FitResult | Exception:
    try:
        return unwrap_result(*fit_networks([job]))
    except Exception as error:
        return error


Builder = Callable[[], Sequence[tuple[TorchRegressor, Rows]]]


def both_ways(fits: Builder) -> tuple[list[Any], list[Any], Seen]:
    """Run the same fits twice: all in one call of the engine, and one at a time."""
    alone = [fit_alone(job) for job in [job_of(*fit) for fit in fits()]]
    jobs = [job_of(*fit) for fit in fits()]
    with watched() as seen:
        together = fit_networks(jobs)
    return together, alone, seen


def assert_same(one: FitResult, other: FitResult, *, near: float = NEAR) -> None:
    """Require the same weights, losses and end of two fits."""
    first, second = one.module.state_dict(), other.module.state_dict()
    assert list(first) == list(second)
    for name, tensor in first.items():
        scale = float(second[name].double().abs().max()) if tensor.numel() else 0.0
        torch.testing.assert_close(
            tensor,
            second[name],
            rtol=near,
            atol=near * max(1.0, scale),
            equal_nan=True,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    ends = [
        (o.reason, o.best_epoch, o.first_epoch, len(o.losses), o.still_falling, [*o.extra])
        for o in (one.train_result, other.train_result)
    ]
    assert ends[0] == ends[1]
    np.testing.assert_allclose(
        one.train_result.losses, other.train_result.losses, rtol=near, atol=near
    )
    ours, theirs = one.train_result.validation_losses, other.train_result.validation_losses
    assert (ours is None) == (theirs is None)
    if ours is not None:
        np.testing.assert_allclose(ours, theirs, rtol=near, atol=near)
    assert one.seed == other.seed and one.dtype == other.dtype
    np.testing.assert_allclose(one.init_losses, other.init_losses, rtol=near, atol=near)
