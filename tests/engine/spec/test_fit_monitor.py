"""Observers see each epoch once, even if a stack fails and its networks start again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests._stacks import assert_same, fit_alone, job_of
from torchreg import TorchRegressor
from torchreg.engine.run import fit_networks
from torchreg.engine.spec import EpochRecord
from torchreg.engine.stack import Stack
from torchreg.nn import MLP

X = np.random.default_rng(0).normal(size=(30, 3))
ROWS = {"X": X, "y": X[:, 0]}


class Log:
    """Observer that records its calls, adds an entry to each record, and may stop the fit."""

    def __init__(self, stop_at: int = 0) -> None:
        self.calls: list[Any] = []
        self.stop_at = stop_at

    def on_fit_begin(self) -> None:
        self.calls.append("fit")

    def on_epoch_begin(self) -> None:
        self.calls.append("begin")

    def on_epoch_end(self, record: EpochRecord) -> bool:
        self.calls.append(record.epoch)
        record.extra["n_calls"] = len(self.calls)
        return record.epoch == self.stop_at

    def on_fit_end(self) -> None:
        self.calls.append("end")


class Observed(TorchRegressor):
    log: Log

    def _observers(self, *args: Any) -> list[Any]:
        return [self.log]


def fits() -> list[Observed]:
    regs = [Observed(MLP, max_epochs=20, random_state=k) for k in range(3)]
    for k, reg in enumerate(regs):
        reg.log = Log(stop_at=4 if k == 1 else 0)
    return regs


@pytest.mark.parametrize("failing", [[7], [3, 10]], ids=["one layout", "both layouts"])
def test_observers_see_each_epoch_once_although_a_stack_fails(
    failing: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, n_steps = Stack.step, [0]

    def fail(self: Any, *args: Any) -> None:
        n_steps[0] += 1
        if n_steps[0] in failing:
            raise RuntimeError("the matrix is singular")
        step(self, *args)

    regs, references = fits(), fits()
    expected: list[Any] = [fit_alone(job_of(reg, ROWS)) for reg in references]
    monkeypatch.setattr(Stack, "step", fail)
    results: list[Any] = fit_networks([job_of(reg, ROWS) for reg in regs])
    assert n_steps[0] >= failing[-1]
    for one, other, reg, reference in zip(results, expected, regs, references, strict=True):
        assert reg.log.calls == reference.log.calls
        assert_same(one, other)
        assert one.train_result.extra == other.train_result.extra
