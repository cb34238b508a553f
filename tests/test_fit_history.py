"""A fit has one history, the mean of its networks, which callbacks receive while it runs."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from types import SimpleNamespace
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from skorch import callbacks as sk

from tests._interrupts import InterruptingModule
from torchreg import InterruptWarning, TorchEnsembleRegressor, TorchRegressor
from torchreg._utils import spawn_seeds
from torchreg.nn import MLP

Data = tuple[np.ndarray, np.ndarray]
#: Networks that train as one stack, networks that train one by one, and a single network.
KINDS: dict[str, dict[str, Any]] = {
    "a stack": {"n_folds": 3},
    "one by one": {"n_folds": 3, "optimizer": "adamax"},
    "batches": {"n_folds": 3, "batch_size": 32},
    "dropout": {"n_folds": 3, "module__dropout": 0.2},
    "early stopping": {"n_folds": 3, "early_stopping": True, "n_iter_no_change": 3, "lr": 0.5},
    "single": {"early_stopping": True},
}


def quick(**options: Any) -> TorchRegressor:
    settings = {"max_epochs": 20, "lr": 0.02, "module__hidden_sizes": [4], "random_state": 0}
    return TorchRegressor(**{"module": MLP, **settings, **options})


class Log(sk.Callback):
    """Records the events that it receives, and may raise an exception in an epoch."""

    def __init__(self, fail_at: int = 0) -> None:
        self.fail_at = fail_at
        self.events: list[str] = []
        self.losses: list[float] = []
        self.validation_losses: list[float] = []

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self.events.append("begin")

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        self.events.append("epoch")
        self.losses.append(net.history[-1, "train_loss"])
        self.validation_losses.append(net.history[-1, "valid_loss"])
        if len(net.history) == self.fail_at:
            raise RuntimeError("this trial is pruned")

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        self.events.append("end")


@pytest.mark.parametrize("kind", KINDS)
def test_a_callback_receives_the_mean_of_the_networks_once_an_epoch(kind: str, kink: Data) -> None:
    log = Log()
    reg = quick(**KINDS[kind], callbacks=[log]).fit(*kink)
    assert log.events == ["begin", *["epoch"] * reg.n_iter_, "end"]
    np.testing.assert_allclose(log.losses, reg.loss_curve_, rtol=1e-12)
    np.testing.assert_allclose(log.validation_losses, reg.validation_loss_curve_, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_callback_that_listens_to_epochs_changes_no_bit(kind: str, kink: Data) -> None:
    plain, observed = quick(**KINDS[kind]), quick(**KINDS[kind], callbacks=[Log()])
    np.testing.assert_array_equal(
        plain.fit(*kink).predict(kink[0]), observed.fit(*kink).predict(kink[0])
    )
    assert plain.loss_curve_ == observed.loss_curve_


def test_a_callback_that_listens_to_epochs_leaves_steps_captured_and_stacked(
    kink: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, end in (("a stack", ", for a stack of 3 networks."), ("single", ".")):
        quick(**KINDS[kind], callbacks=[Log(), sk.EarlyStopping()], verbose=1).fit(*kink)
        mode = "The steps were captured once and repeated" + end
        assert capsys.readouterr().out.splitlines()[-1] == mode


@pytest.mark.parametrize("kind", ["a stack", "one by one", "single"])
def test_an_exception_of_a_callback_ends_the_fit_in_that_epoch(kind: str, kink: Data) -> None:
    log = Log(fail_at=4)
    with pytest.raises(RuntimeError, match="this trial is pruned"):
        quick(**KINDS[kind], callbacks=[log]).fit(*kink)
    assert log.events == ["begin", *["epoch"] * 4]


def test_early_stopping_of_skorch_stops_all_networks_by_their_mean(kink: Data) -> None:
    stop = sk.EarlyStopping(patience=3, threshold=0)
    reg = quick(n_folds=3, lr=0.5, max_epochs=100, callbacks=[stop]).fit(*kink)
    curve = reg.validation_loss_curve_
    assert reg.n_iter_ == len(curve) == int(np.argmin(curve)) + 4 < 100


def test_restored_weights_are_those_of_the_epoch_with_the_lowest_mean(kink: Data) -> None:
    stop = sk.EarlyStopping("train_loss", patience=5, threshold=0, load_best=True)
    options: dict[str, Any] = {"optimizer": "sgd", "lr": 1.5, "max_epochs": 100}
    reg = quick(**options, n_init=3, callbacks=[stop]).fit(*kink)
    assert stop.best_epoch_ < reg.n_iter_ < 100
    options["max_epochs"] = stop.best_epoch_
    alone = [quick(**{**options, "random_state": seed}).fit(*kink) for seed in spawn_seeds(0, 3)]
    distances = [np.abs(one.predict(kink[0]) - reg.predict(kink[0])).max() for one in alone]
    assert min(distances) < 1e-9 * np.ptp(kink[1]) < max(distances)


@pytest.mark.parametrize("verbose", [1, 2])
@pytest.mark.parametrize("kind", ["a stack", "one by one", "single"])
def test_verbose_prints_rows_of_means_while_the_fit_runs(
    kind: str, verbose: int, kink: Data
) -> None:
    lengths: list[int] = []
    out = io.StringIO()

    class Watch(sk.Callback):
        def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
            lengths.append(len(out.getvalue().splitlines()))

    with redirect_stdout(out):
        reg = quick(**KINDS[kind], verbose=verbose, callbacks=[Watch()], max_epochs=40).fit(*kink)
    every = 1 if verbose == 2 else 2
    printed = [e for e in range(1, 41) if e % every == 0 or e in (1, 40)]
    # Two lines of header, and the rows of the epochs before.
    assert lengths == [2 + sum(p <= e for p in printed) for e in range(40)]
    rows = [line.split()[:3] for line in out.getvalue().splitlines()[2 : 2 + len(printed)]]
    validation = reg.validation_loss_curve_
    assert rows == [
        [f"{e}", f"{reg.loss_curve_[e - 1]:.6g}", f"{validation[e - 1]:.6g}"] for e in printed
    ]


def lower_lr(net: Any) -> None:
    net.optimizer_.param_groups[0]["lr"] *= 0.5


def test_a_change_of_the_optimizer_that_steps_would_ignore_is_an_error(kink: Data) -> None:
    class Hidden(sk.Callback):
        def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
            lower_lr(net)

    class Open(sk.Callback):
        def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
            net.optimizer_.param_groups[0]["lr"] *= 0.5

    with pytest.raises(ValueError, match=r"changed the optimizer .*net\.optimizer_ .*LRScheduler"):
        quick(callbacks=[Hidden()]).fit(*kink)
    halved = quick(callbacks=[Open()]).fit(*kink)
    schedule = sk.LRScheduler("ExponentialLR", gamma=0.5)
    expected = quick(callbacks=[schedule]).fit(*kink)
    np.testing.assert_array_equal(halved.predict(kink[0]), expected.predict(kink[0]))


@pytest.mark.parametrize("backend", ["sequential", "torchreg"])
def test_a_fit_inside_a_search_prints_one_line(
    backend: str, kink: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    search = GridSearchCV(quick(verbose=2), {"lr": [0.01, 0.1]}, cv=2, refit=False)
    with joblib.parallel_config(backend=backend):
        search.fit(*kink)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("fit: 20 epochs, loss 0.") for line in lines)


@pytest.mark.parametrize("optimizer", ["adam", "adamax"])
def test_the_callbacks_of_an_ensemble_receive_the_mean_of_its_members(
    optimizer: str, kink: Data
) -> None:
    log = Log()
    template = quick(optimizer=optimizer, early_stopping=True, callbacks=[log])
    members = TorchEnsembleRegressor(template, 3, random_state=0).fit(*kink).estimators_
    n_epochs = max(member.n_iter_ for member in members)
    assert log.events == ["begin", *["epoch"] * n_epochs, "end"]
    assert all(member.callbacks == [log] for member in members)
    mean = np.mean([member.loss_curve_[0] for member in members])
    np.testing.assert_allclose(log.losses[0], mean, rtol=1e-12)
    log.events.clear()
    log.fail_at = 2
    with pytest.raises(RuntimeError, match="this trial is pruned"):
        TorchEnsembleRegressor(template, 3, random_state=0).fit(*kink)
    assert log.events == ["begin", "epoch", "epoch"]


def test_a_logger_logs_each_epoch_once_and_leaves_the_steps_captured(
    kink: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    logged: list[tuple[str, int, float]] = []

    class Client:
        def log_metric(self, run: str, key: str, value: float, step: int) -> None:
            logged.append((key, step, value))

        def log_artifact(self, run: str, path: str, folder: Any = None) -> None: ...

    run = SimpleNamespace(info=SimpleNamespace(run_id="run"))
    logger = sk.MlflowLogger(run, Client(), terminate_after_train=False)
    reg = quick(n_folds=3, callbacks=[logger], verbose=1).fit(*kink)
    assert "captured once and repeated" in capsys.readouterr().out
    points = [(step, value) for key, step, value in logged if key == "valid_loss"]
    assert [step for step, _ in points] == [*range(1, 21)]
    curve = reg.validation_loss_curve_
    np.testing.assert_allclose([value for _, value in points], curve, rtol=1e-12)


@pytest.mark.parametrize("at", [10, 11, 12])
def test_ctrl_c_keeps_the_last_complete_epoch_of_every_network_of_an_observed_fit(
    at: int, kink: Data
) -> None:
    log = Log()
    options: dict[str, Any] = {"module": InterruptingModule, "optimizer": "adamax", "n_folds": 3}
    options |= {"max_epochs": 20, "lr": 0.02, "random_state": 0}
    InterruptingModule.set_alarm(at)
    with pytest.warns(InterruptWarning):
        reg = TorchRegressor(**options, callbacks=[log]).fit(*kink)
    # Three epochs of three networks are complete before the tenth step.
    n_epochs = [3 + (at - 10 > k) for k in range(3)]
    InterruptingModule.set_alarm(0)
    for n, network in zip(n_epochs, reg.module_.network.members, strict=True):
        expected = TorchRegressor(**{**options, "max_epochs": n}).fit(*kink).module_.network
        weights = [dict(one.named_parameters())["linear.weight"] for one in expected.members]
        assert any(bool((network.linear.weight == weight).all()) for weight in weights)
    assert log.events == ["begin", *["epoch"] * 3, "end"]


@pytest.mark.parametrize("kind", ["a stack", "one by one", "single"])
def test_a_callback_that_predicts_leaves_dropout_on(kind: str, kink: Data) -> None:
    class Predict(sk.Callback):
        def on_epoch_end(self, net: Any, dataset_train: Any = None, **kwargs: Any) -> None:
            net.predict(dataset_train.X)

    options = {**KINDS[kind], "module__dropout": 0.2, "batch_size": 32}
    plain, observed = quick(**options), quick(**options, callbacks=[Predict()])
    np.testing.assert_array_equal(
        plain.fit(*kink).predict(kink[0]), observed.fit(*kink).predict(kink[0])
    )


def test_early_stopping_of_skorch_monitors_the_mean_of_scores_of_each_network(kink: Data) -> None:
    score = sk.EpochScoring("neg_mean_squared_error", name="mse", lower_is_better=False)
    stop = sk.EarlyStopping("mse", patience=3, threshold=0, lower_is_better=False)
    options: dict[str, Any] = {"n_folds": 3, "lr": 0.5, "max_epochs": 100}
    reg = quick(**options, callbacks=[score, stop]).fit(*kink)
    scores = [row["mse"] for row in reg.history_]
    np.testing.assert_allclose(
        -np.array(scores), np.array(reg.validation_loss_curve_) * kink[1].var(), rtol=1e-6
    )
    assert reg.n_iter_ == int(np.argmax(scores)) + 4 < 100
