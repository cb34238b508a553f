"""A fit that begins anew tells its epochs once."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pytest

import torchreg.engine.stack.train_many as together
from tests._stacks import fit_alone, assert_same, job_of
from torchreg import TorchRegressor
from torchreg.engine.run import fit_networks
from torchreg.engine.spec import EpochRecord
from torchreg.engine.stack.replay_observer import ReplayObserver
from torchreg.nn import MLP

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 3))


class Listening(TorchRegressor):
    """Writes down what it hears; stops, or notes something."""

    heard: list[Any]

    def _settled(self, *given: Any) -> Self:
        # The copy that is asked for observers shares the list.
        self.heard = []
        return super()._settled(*given)

    def _observers(self, *given: Any) -> list[Any]:
        return [self]

    def on_epoch_begin(self) -> None:
        self.heard.append("begin")

    def on_epoch_end(self, record: EpochRecord) -> bool:
        self.heard.append(record.epoch)
        record.extra["seen"] = len(self.heard)
        return bool(self.random_state == 1 and record.epoch == 4)

    def on_fit_end(self, outcome: Any) -> None:
        self.heard.append(outcome.reason)


def fits() -> list[Listening]:
    options: dict[str, Any] = {"module__hidden_sizes": (3,), "max_epochs": 20}
    return [Listening(MLP, random_state=k, **options) for k in range(3)]


@pytest.mark.parametrize("failing", [[7], [3, 30]], ids=["one layout", "both layouts"])
def test_who_listens_hears_of_each_epoch_once_though_a_stack_fails(
    failing: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = together.Stack.step, [0]

    def fail(self: Any, *args: Any) -> None:
        calls[0] += 1
        if calls[0] in failing:
            raise RuntimeError("the matrix is singular")
        step(self, *args)

    rows = {"X": X, "y": X[:, 0]}
    alone = fits()
    expected = [fit_alone(job_of(reg, rows)) for reg in alone]
    monkeypatch.setattr(together.Stack, "step", fail)
    together_ = fits()
    answers = fit_networks([job_of(reg, rows) for reg in together_])
    for one, other, ours, theirs in zip(answers, expected, together_, alone, strict=True):
        assert ours.heard == theirs.heard
        assert_same(one, other)  # type: ignore[arg-type]
        assert one.train_result.extra == other.train_result.extra  # type: ignore[union-attr]


def test_answers_and_notes_are_given_again() -> None:
    reg = Listening(random_state=1)
    reg.heard = []
    told = ReplayObserver(reg._observers()[0])
    for _ in range(2):
        answers: list[Any] = []
        for epoch in range(1, 5):
            told.on_epoch_begin()
            record = EpochRecord(epoch, 1.0)
            answers.append((told.on_epoch_end(record), record.extra))
        assert [stops for stops, _ in answers] == [False, False, False, True]
        assert answers[0][1] == {"seen": 2}
        told.reset()
    assert reg.heard == ["begin", 1, "begin", 2, "begin", 3, "begin", 4]
