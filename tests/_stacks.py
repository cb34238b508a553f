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
from torchreg.engine.build import FitCache, FitResult
from torchreg.engine.run import fit_networks, prepare_fit, unwrap_result
from torchreg.engine.spec import FitJob, TrainTask
from torchreg.engine.stack import NotStackableError, Stack

Array = np.ndarray
Rows = dict[str, Any]
Options = Callable[[int], dict[str, Any]]
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

    with patch.object(torchreg.regressor, "fit_networks", catch):
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


def rows(n: int, seed: int, *, weighted: bool = False, held_out: int = 0) -> Rows:
    """Return a table of four columns, the last of small integers."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n + held_out, 4))
    X[:, 3] = rng.integers(0, 5, size=n + held_out)
    y = np.sin(X[:, 0]) + X[:, 1] + 0.1 * X[:, 3]
    given: Rows = {"X": X[:n], "y": y[:n]}
    if weighted:
        given["sample_weight"] = rng.uniform(0.5, 2.0, size=n)
    if held_out:
        given |= {"X_val": X[n:], "y_val": y[n:]}
    return given


def fits(
    module: Any, tables: Sequence[Rows], each: Options = lambda _: {}, **options: Any
) -> list[tuple[TorchRegressor, Rows]]:
    """Return one fit per table; ``each`` gives the parameters of its own."""
    settings: dict[str, Any] = {"optimizer": "sgd", "lr": 0.02, "dtype": "float64"}
    settings |= {"max_epochs": 20, "batch_size": None, **options}
    return [
        (TorchRegressor(module, **{**settings, "random_state": k, **each(k)}), table)
        for k, table in enumerate(tables)
    ]


def compare(
    module: Any, tables: Sequence[Rows], each: Options = lambda _: {}, **options: Any
) -> tuple[list[Any], Seen]:
    """Require that fits give the same as a stack and alone."""
    near = 2e-4 if options.get("dtype") == "float32" else 1e-9
    together, alone, seen = both_ways(lambda: fits(module, tables, each, **options))
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other, near=near)
    return together, seen


#: Three tables of equal, and of unequal numbers of rows.
EQUAL = [rows(23, seed) for seed in range(3)]
UNEQUAL = [rows(23 + n, n, weighted=n == 1) for n in range(3)]
