"""``n_init``: several networks are trained, and the best one is kept."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import cross_val_score
from skorch import callbacks as sk
from torch import Tensor, nn

import torchreg
from tests._interrupts import InterruptingModule
from torchreg import InterruptWarning, NetworkFailedWarning, TorchRegressor
from torchreg._utils import spawn_seeds
from torchreg.engine.build import rebuild_initial_network
from torchreg.nn import MLP

Array = np.ndarray
Data = tuple[Array, Array]


def quick(**options: Any) -> TorchRegressor:
    settings = {"max_epochs": 20, "lr": 0.02, "module__hidden_sizes": [4], "random_state": 0}
    return TorchRegressor(**{"module": MLP, **settings, **options})


def same_bits(a: TorchRegressor, b: TorchRegressor) -> bool:
    return all(map(torch.equal, a.module_.state_dict().values(), b.module_.state_dict().values()))


#: Fits, each with and without validation rows.
KINDS: dict[str, dict[str, Any]] = {
    "full batch": {},
    "batches": {"batch_size": 32},
    "rprop": {"optimizer": "rprop"},
    "lbfgs": {"optimizer": "lbfgs", "max_epochs": 3},
    "settled": {"tol": 0.05, "n_iter_no_change": 2, "max_epochs": 100},
}


@pytest.mark.parametrize("validated", [False, True], ids=["training", "validation"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_best_of_three_networks_equals_the_best_of_three_fits(
    kind: str, validated: bool, kink: Data
) -> None:
    X, y = kink
    extra: dict[str, Any] = {"X_val": X[::4] + 1, "y_val": y[::4]} if validated else {}
    three = quick(**KINDS[kind], early_stopping=validated, n_init=3, random_state=7)
    three.fit(X, y, **extra)
    alone = [
        quick(**KINDS[kind], early_stopping=validated, random_state=seed).fit(X, y, **extra)
        for seed in spawn_seeds(7, 3)
    ]
    losses = [one.init_losses_[0] for one in alone]
    np.testing.assert_allclose(three.init_losses_, losses, rtol=1e-9)
    best = alone[int(np.argmin(losses))]
    np.testing.assert_allclose(three.predict(X), best.predict(X), rtol=1e-9)
    assert three.n_iter_ == best.n_iter_ and three.best_epoch_ == best.best_epoch_
    np.testing.assert_allclose(three.loss_curve_, best.loss_curve_, rtol=1e-9)
    chosen_by = three.validation_loss_curve_ if validated else three.loss_curve_
    assert min(three.init_losses_) == chosen_by[three.best_epoch_ - 1]
    assert len(set(losses)) == 3


def test_the_first_network_is_that_of_a_single_fit(kink: Data) -> None:
    one, four = quick(n_init=1).fit(*kink), quick(n_init=4).fit(*kink)
    np.testing.assert_allclose(four.init_losses_[0], one.init_losses_[0], rtol=1e-9)
    assert four.loss_ == min(four.init_losses_) <= four.init_losses_[0]


def test_all_networks_have_the_same_validation_rows(kink: Data) -> None:
    X, y = kink
    three = quick(n_init=3, early_stopping=True, max_epochs=100).fit(X, y)
    one = quick(early_stopping=True, max_epochs=100).fit(X, y)
    mean, scale = one.module_.standardize.mean, one.module_.standardize.scale
    assert torch.equal(three.module_.standardize.mean, mean)
    assert torch.equal(three.module_.standardize.scale, scale)
    assert min(three.init_losses_) == min(three.validation_loss_curve_)
    np.testing.assert_allclose(three.init_losses_[0], min(one.validation_loss_curve_), rtol=1e-9)


def test_networks_with_dropout_are_reproducible(kink: Data) -> None:
    X, y = kink
    options = {"module__dropout": 0.2, "batch_size": 50}
    one, again = (quick(n_init=3, **options).fit(X, y) for _ in range(2))
    assert same_bits(one, again) and one.init_losses_ == again.init_losses_
    assert one.loss_ == min(one.init_losses_) and len(set(one.init_losses_)) == 3


class _Explosive(nn.Module):
    """Has a loss that is not finite from the first step, if its draw says so."""

    def __init__(self, in_features: int, share: float) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, 1)
        self.explodes = bool(torch.rand(()) < share)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(x)
        return output * float("inf") if self.explodes and self.training else output


def explosive(share: float) -> TorchRegressor:
    options = {"max_epochs": 3, "n_init": 6, "random_state": 0}
    return TorchRegressor(_Explosive, module__share=share, **options)


def test_a_network_without_a_finite_first_loss_is_dropped(kink: Data) -> None:
    with pytest.warns(NetworkFailedWarning, match="of 6: ValueError: The loss .* is inf"):
        reg = explosive(0.4).fit(*kink)
    dropped = [loss for loss in reg.init_losses_ if loss == float("inf")]
    assert 0 < len(dropped) < 6 == len(reg.init_losses_)
    assert reg.loss_ == min(reg.init_losses_)
    assert np.isfinite(reg.predict(kink[0])).all()


def test_if_no_network_can_be_trained_the_first_error_is_raised(kink: Data) -> None:
    with pytest.raises(ValueError, match="at the first step, before anything was learned"):
        explosive(1.1).fit(*kink)


def test_a_network_that_diverges_is_not_kept(kink: Data) -> None:
    class Steep(_Explosive):
        """Has gradients for which a learning rate is right, or far too large."""

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.linear(x)
            return output * (1e3 if self.explodes else 1.0)

    options = {"optimizer": "sgd", "lr": 0.1, "max_epochs": 60, "random_state": 0}
    reg = TorchRegressor(Steep, module__share=0.4, n_init=6, **options).fit(*kink)
    assert not reg.module_.network.explodes and reg.loss_ == min(reg.init_losses_) < 1.1
    assert max(reg.init_losses_) > 1e3


def test_pickles_and_files_store_all_final_losses(kink: Data, tmp_path: Path) -> None:
    reg = quick(n_init=3).fit(*kink)
    reg.save(tmp_path / "reg")
    for other in (pickle.loads(pickle.dumps(reg)), torchreg.load(tmp_path / "reg")):
        assert other.init_losses_ == reg.init_losses_ and other.n_init == 3
        assert same_bits(other, reg)


# Warm starts, checkpoints and output


def test_a_warm_start_continues_the_network_that_was_kept(kink: Data) -> None:
    reg = quick(n_init=3, warm_start=True).fit(*kink)
    losses = reg.init_losses_
    kept = spawn_seeds(0, 3)[int(np.argmin(losses))]
    other = quick(random_state=kept).fit(*kink).set_params(warm_start=True, random_state=0)
    on, other_on = reg.fit(*kink), other.fit(*kink)
    assert on.n_iter_ == 40 and on.init_losses_ == losses
    np.testing.assert_allclose(on.predict(kink[0]), other_on.predict(kink[0]), rtol=1e-9)
    assert on._origin["start_seed"] == kept


def test_the_initial_weights_of_the_kept_network_can_be_rebuilt(kink: Data) -> None:
    reg = quick(n_init=4, optimizer="sgd", lr=1e-30, max_epochs=1, random_state=5).fit(*kink)
    assert np.argmin(reg.init_losses_) > 0
    options = {"hidden_sizes": [4]}
    start = rebuild_initial_network(
        MLP,
        options,
        reg.module_.network,
        in_features=1,
        out_features=1,
        seed=reg._origin["start_seed"],
    )
    assert start is not None
    weights = zip(start.parameters(), reg.module_.network.parameters(), strict=True)
    assert all(torch.equal(began, ended) for began, ended in weights)


@pytest.mark.filterwarnings("ignore::torchreg.WorseThanConstantWarning")
def test_verbose_prints_one_row_for_each_network(
    kink: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    reg = quick(n_init=3, verbose=1).fit(*kink)
    lines = capsys.readouterr().out.splitlines()
    begin = lines.index("training losses of the standardized target")
    best = int(np.argmin(reg.init_losses_))
    for number, loss in enumerate(reg.init_losses_):
        kept = ", kept" if number == best else ""
        assert lines[begin + 1 + number] == f"start {number + 1} of 3: loss {loss:.6g}{kept}"
    assert len(lines) == begin + 5
    X, y = kink
    quick(n_init=2, verbose=2, standardize="X").fit(X, y / 1e3, X_val=X[:5], y_val=y[:5] / 1e3)
    assert "\nvalidation losses in units of y\nstart 1 of 2:" in capsys.readouterr().out
    with pytest.warns(NetworkFailedWarning):
        explosive(0.4).set_params(verbose=1).fit(*kink)
    assert "of 6: not trained" in capsys.readouterr().out


# Callbacks


def test_each_network_has_copies_of_callbacks_that_act_on_it(kink: Data) -> None:
    X, y = kink
    slower = sk.LRScheduler("StepLR", step_size=4, gamma=0.5)
    options = {"callbacks": [("lr", slower)], "callbacks__lr__gamma": 0.25}
    three = quick(n_init=3, random_state=7, **options).fit(X, y)
    alone = [quick(random_state=seed, **options).fit(X, y) for seed in spawn_seeds(7, 3)]
    np.testing.assert_allclose(three.init_losses_, [one.loss_ for one in alone], rtol=1e-9)
    assert [row["event_lr"] for row in three.history_] == [
        row["event_lr"] for row in alone[0].history_
    ]


def test_callbacks_that_write_files_are_rejected_for_several_networks(
    kink: Data, tmp_path: Path
) -> None:
    options = {"callbacks": [sk.Checkpoint(dirname=str(tmp_path), monitor="train_loss_best")]}
    with pytest.raises(ValueError, match=r"Checkpoint writes .* 3 networks .*n_init=1"):
        quick(n_init=3, **options).fit(*kink)
    quick(n_init=1, **options).fit(*kink)
    assert list(tmp_path.iterdir())


def test_a_callback_that_cannot_be_copied_is_rejected_for_several_networks(kink: Data) -> None:
    class Unique(sk.GradientNormClipping):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("there can be only one")

    with pytest.raises(ValueError, match=r"cannot be copied.*Set n_init=1 and n_folds=None"):
        quick(n_init=2, callbacks=[Unique()]).fit(*kink)


if hasattr(TorchRegressor, "set_callbacks"):  # scikit-learn 1.9

    class Recorder:
        """Records the events of scikit-learn's callback protocol, with the task of each."""

        def __init__(self, stop_after: int) -> None:
            self.stop_after = stop_after
            self.events: list[str] = []
            self.scores: dict[str, float] = {}

        def setup(self, estimator: Any, context: Any) -> None:
            self.events.append("setup")

        def teardown(self, estimator: Any, context: Any) -> None:
            self.events.append("teardown")

        def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
            self.events.append(f"begin {self.name_of(context)}")

        def on_fit_task_end(
            self, estimator: Any, context: Any, *, X: Any, y: Any, fitted_estimator: Any
        ) -> bool:
            name = self.name_of(context)
            self.events.append(f"end {name}")
            self.scores[name] = fitted_estimator.score(X, y)
            return context.task_name == "epoch" and context.task_id + 1 == self.stop_after

        def name_of(self, context: Any) -> str:
            own = f"{context.task_name} {context.task_id}"
            return own if context.parent is None else f"{self.name_of(context.parent)}/{own}"

    def test_callbacks_of_sklearn_observe_the_mean_of_the_networks(kink: Data) -> None:
        X, y = kink
        recorder = Recorder(stop_after=4)
        reg = quick(n_init=3).set_callbacks(recorder).fit(X, y)
        epochs = [f"{end} fit 0/epoch {e}" for e in range(4) for end in ("begin", "end")]
        events = ["setup", "begin fit 0", *epochs, "end fit 0", "teardown"]
        assert recorder.events == events
        alone = [
            quick(random_state=seed, max_epochs=4).fit(X, y).predict(X)
            for seed in spawn_seeds(0, 3)
        ]
        mean = r2_score(y, np.mean(alone, axis=0))
        np.testing.assert_allclose(recorder.scores["fit 0/epoch 3"], mean, rtol=1e-9)
        assert recorder.scores["fit 0"] == reg.score(X, y)
        assert reg.n_iter_ == 4

    def test_ctrl_c_keeps_the_last_complete_epoch_of_a_stack(
        kink: Data,
    ) -> None:
        class Impatient(Recorder):
            def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
                if self.name_of(context) == "fit 0/epoch 5":
                    os.kill(os.getpid(), signal.SIGINT)

        with pytest.warns(InterruptWarning, match="interrupted in epoch 6 of 20"):
            reg = quick(n_init=3).set_callbacks(Impatient(stop_after=20)).fit(*kink)
        five = quick(n_init=3, max_epochs=5).fit(*kink)
        np.testing.assert_allclose(reg.init_losses_, five.init_losses_, rtol=1e-9)
        np.testing.assert_allclose(reg.predict(kink[0]), five.predict(kink[0]), rtol=1e-9)

    def test_the_progress_bar_of_scikit_learn_shows_one_bar(
        kink: Data, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from sklearn.callback import ProgressBar

        quick(max_epochs=2, n_init=2).set_callbacks(ProgressBar()).fit(*kink)
        assert capsys.readouterr().out.count("TorchRegressor") == 1


# Interrupts


#: Networks whose optimizer has no stacked form train one after another: here 20 epochs each.
ONE_BY_ONE = {
    "module": InterruptingModule,
    "max_epochs": 20,
    "lr": 0.02,
    "optimizer": "adamax",
}


@pytest.mark.parametrize("at", [21, 22, 35, 45], ids=str)
def test_ctrl_c_keeps_the_best_network_until_then(at: int, kink: Data) -> None:
    X, y = kink
    InterruptingModule.set_alarm(at)
    options = {**ONE_BY_ONE, "random_state": 0}
    with pytest.warns(InterruptWarning, match="weights of epoch"):
        reg = TorchRegressor(n_init=3, **options).fit(X, y)
    assert InterruptingModule.calls == at
    InterruptingModule.at = 0
    trained = []
    for number, seed in enumerate(spawn_seeds(0, 3)):
        if n_epochs := min(20, max(0, at - 1 - 20 * number)):
            trained.append(
                TorchRegressor(**{**options, "random_state": seed, "max_epochs": n_epochs})
            )
            trained[-1].fit(X, y)
    losses = [one.loss_ for one in trained]
    untrained = 3 - len(losses)
    np.testing.assert_allclose(reg.init_losses_, losses + [np.inf] * untrained, rtol=1e-9)
    best = trained[int(np.argmin(losses))]
    np.testing.assert_allclose(reg.predict(X), best.predict(X), rtol=1e-9)


def test_a_warning_describes_the_interrupt(kink: Data) -> None:
    X, y = kink
    InterruptingModule.set_alarm(25)
    reg = TorchRegressor(**ONE_BY_ONE, n_init=3, random_state=0)
    with pytest.warns(InterruptWarning, match="interrupted before all of n_init=3 networks"):
        reg.fit(X, y)
    assert reg.n_iter_ == 20
    InterruptingModule.set_alarm(1)
    with pytest.raises(KeyboardInterrupt):
        clone(reg).fit(X, y)


def test_ctrl_c_in_any_network_ends_a_search(kink: Data) -> None:
    InterruptingModule.set_alarm(25)
    reg = TorchRegressor(**ONE_BY_ONE, n_init=3, random_state=0)
    with pytest.raises(KeyboardInterrupt):
        cross_val_score(reg, *kink, cv=2)


def test_a_warm_start_that_diverges_at_once_keeps_the_previous_weights(kink: Data) -> None:
    X, y = kink
    reg = quick(warm_start=True, optimizer="sgd").fit(X, y)
    before = reg.predict(X)
    with pytest.warns(torchreg.DivergenceWarning, match="weights of epoch 20"):
        reg.set_params(lr=1e200).fit(X, y)
    np.testing.assert_array_equal(reg.predict(X), before)
