"""Fits as the engine is asked for them: together, as stacks, or one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import torchreg.engine.stack.train_many
import torchreg.regressor
from torchreg import TorchRegressor
from torchreg.engine.build import FitResult
from torchreg.engine.run import fit_networks, unwrap_result
from torchreg.engine.spec import FitJob
from torchreg.engine.stack.stack import Stack
from torchreg.engine.stack.verify import NotStackableError

Array = np.ndarray
Rows = dict[str, Any]
#: Sums in another order: a few units in the last place, amplified over some tens of steps.
NEAR = 1e-9


class _CaughtError(Exception):
    pass


def job_of(reg: TorchRegressor, rows: Rows) -> FitJob:
    """Let a regressor fit as ever, and catch what it asks the engine for."""
    caught: list[FitJob] = []

    def catch(job: FitJob) -> FitResult:
        caught.append(job)
        raise _CaughtError

    with patch.object(torchreg.regressor, "run_fit", catch):
        try:
            reg.fit(**rows)
        except _CaughtError:
            return caught[0]
    raise AssertionError("the engine was not asked")


@dataclass
class Seen:
    """Which stacks were built, with how many networks, and why others were not."""

    sizes: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    stacks: list[Stack] = field(default_factory=list)
    features_first: list[bool] = field(default_factory=list)


@contextmanager
def watched() -> Iterator[Seen]:
    """See which stacks are built inside the block."""
    seen = Seen()

    class Spy(Stack):
        def __init__(self, problems: Any, *, features_first: bool, **how: Any) -> None:
            try:
                super().__init__(problems, features_first=features_first, **how)
            except NotStackableError as error:
                seen.reasons.append(str(error))
                raise
            seen.sizes.append(len(problems))
            seen.stacks.append(self)
            seen.features_first.append(features_first)

    with patch.object(torchreg.engine.stack.train_many, "Stack", Spy):
        yield seen


def answer_alone(job: FitJob) -> FitResult | Exception:
    try:
        return unwrap_result(*fit_networks([job]))
    except Exception as error:
        return error


Builder = Callable[[], Sequence[tuple[TorchRegressor, Rows]]]


def both_ways(fits: Builder) -> tuple[list[Any], list[Any], Seen]:
    """Fit the same twice: together, and one after another."""
    alone = [answer_alone(job) for job in [job_of(*fit) for fit in fits()]]
    jobs = [job_of(*fit) for fit in fits()]
    with watched() as seen:
        together = fit_networks(jobs)
    return together, alone, seen


def assert_same(one: FitResult, other: FitResult, *, near: float = NEAR) -> None:
    """Require of two fits the same weights, losses and ends."""
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
