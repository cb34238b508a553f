"""Each network keeps its own learning rates: alone, in a stack and after an interrupt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from skorch.callbacks import Callback, LRScheduler

from tests._stacks import Rows, assert_same, both_ways
from torchreg import TorchRegressor
from torchreg.nn import MLP

Array = np.ndarray
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {},
    "cosine": {"schedule__eta_min": 1e-4},
    "one_cycle": {"schedule__pct_start": 0.2},
    "reduce_on_plateau": {"schedule__patience": 0, "schedule__threshold": 0.1},
}


@pytest.fixture(scope="module")
def table() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3)) * [1, 30, 400] + 200
    return X, np.sin(X[:, 0]) + X[:, 1] / 30 + rng.normal(size=60)


def small(schedule: Any = "cosine", **params: Any) -> TorchRegressor:
    settings: dict[str, Any] = {"max_epochs": 10, "random_state": 0, "lr": 0.02}
    settings |= {"module__hidden_sizes": [5]} | SCHEDULES.get(str(schedule), {})
    return TorchRegressor(**{"module": MLP, "schedule": schedule, **settings, **params})


def rates_of(reg: TorchRegressor) -> list[float]:
    return [row["lr"] for row in reg.history_]


# Many networks


@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
def test_networks_of_all_schedules_train_as_one_stack_and_as_they_do_alone(
    optimizer: str, batch_size: int | None, table: tuple[Array, Array]
) -> None:
    X, y = table

    def fits() -> Sequence[tuple[TorchRegressor, Rows]]:
        return [
            (
                small(
                    schedule,
                    optimizer=optimizer,
                    batch_size=batch_size,
                    lr=0.01 * (1 + k),
                    # Networks leave the stack at different times.
                    max_epochs=30 - 10 * k,
                    random_state=k,
                ),
                {"X": X[: 60 - k], "y": y[: 60 - k], "X_val": X[:10], "y_val": y[:10]},
            )
            for k in range(3)
            for schedule in SCHEDULES
        ]

    together, alone, seen = both_ways(fits)
    assert seen.sizes == [12], seen.reasons
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)
        ours, theirs = one.train_result.rates, other.train_result.rates
        np.testing.assert_allclose(ours, theirs or ours)
    changes = [len(set(one.train_result.rates)) > 1 for one in together]
    assert changes == [name != "constant" for name in SCHEDULES] * 3


def test_networks_keep_their_schedules_when_others_stop_early(table: tuple[Array, Array]) -> None:
    X, y = table

    def fits() -> Sequence[tuple[TorchRegressor, Rows]]:
        params = {"early_stopping": True, "n_iter_no_change": 3, "max_epochs": 30, "lr": 0.1}
        return [
            (small(schedule, random_state=k, **params), {"X": X, "y": y})
            for k in range(4)
            for schedule in ("cosine", "reduce_on_plateau")
        ]

    together, alone, seen = both_ways(fits)
    assert seen.sizes == [8], seen.reasons
    assert len({len(one.train_result.losses) for one in together}) > 2
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)
        np.testing.assert_allclose(one.train_result.rates, other.train_result.rates, rtol=1e-12)


# Callbacks


class RecordRates(Callback):
    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_batch_end(self, net: Any, training: bool = False, **_: Any) -> None:
        if training:
            self.rates.append(net.optimizer_.param_groups[0]["lr"])


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "reduce_on_plateau"])
def test_a_fit_with_a_callback_has_the_same_learning_rates(
    schedule: str, table: tuple[Array, Array]
) -> None:
    record = RecordRates()
    observed = small(schedule, batch_size=20, callbacks=[record]).fit(*table)
    plain = small(schedule, batch_size=20).fit(*table)
    np.testing.assert_allclose(observed.predict(table[0]), plain.predict(table[0]), rtol=1e-8)
    np.testing.assert_allclose(rates_of(observed), rates_of(plain), rtol=1e-12)
    np.testing.assert_allclose(record.rates[2::3], rates_of(plain), rtol=1e-12)


def test_a_schedule_and_a_callback_cannot_both_set_the_learning_rate(
    table: tuple[Array, Array],
) -> None:
    callbacks = [LRScheduler("StepLR", step_size=2)]
    with pytest.raises(ValueError, match=r"LRScheduler .*schedule='cosine'"):
        small(callbacks=callbacks).fit(*table)
    small("constant", callbacks=callbacks).fit(*table)


def test_an_interrupted_fit_has_a_learning_rate_for_each_complete_epoch(
    table: tuple[Array, Array],
) -> None:
    class Stop(Callback):
        def on_batch_end(self, net: Any, training: bool = False, **_: Any) -> None:
            if len(net.history) == 4 and training:
                raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="epoch 4"):
        reg = small("cosine", batch_size=20, callbacks=[Stop()]).fit(*table)
    assert reg.n_iter_ == 3
    assert rates_of(reg) == rates_of(small("cosine", batch_size=20).fit(*table))[:3]


SCRIPT = """
import sys, warnings
warnings.simplefilter("error")
import numpy as np, torchreg
X = np.arange(40.0).reshape(20, 2)
for schedule in ("cosine", "one_cycle", "reduce_on_plateau"):
    for optimizer in ("adam", "adamw", "sgd", "rmsprop"):
        reg = torchreg.TorchRegressor(schedule=schedule, optimizer=optimizer, max_epochs=2)
        reg.fit(X, X[:, 0])
print("torch._dynamo" in sys.modules)
"""
