"""skorch's callbacks and scikit-learn's own follow a fit without changing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
import torch
from sklearn.model_selection import GridSearchCV
from skorch import callbacks as sk
from torch import nn

import torchreg._estimator.sklearn_compat
from torchreg import CallbackWarning, TorchRegressor
from torchreg.engine.run import is_training
from torchreg.nn import MLP

Array = np.ndarray
HAS_NATIVE = hasattr(torchreg._estimator.sklearn_compat.CallbackSupportMixin, "set_callbacks")


@pytest.fixture(scope="module")
def table() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    X = 200 + 10 * rng.normal(size=(90, 3))
    return X, 4000 + 20 * (X[:, 0] - 200) ** 2 + 30 * X[:, 1] + rng.normal(size=90)


def quick(**options: Any) -> TorchRegressor:
    settings: dict[str, Any] = {"max_epochs": 12, "lr": 0.02, "batch_size": 32, "random_state": 0}
    return TorchRegressor(**{"module": MLP, **settings, **options})


# skorch


def test_a_callback_that_only_listens_changes_no_bit(table: tuple[Array, Array]) -> None:
    X, y = table
    plain = quick(optimizer="adam").fit(X, y).predict(X)
    listened = quick(optimizer=torch.optim.Adam, callbacks=[sk.EpochTimer()]).fit(X, y)
    np.testing.assert_allclose(listened.predict(X), plain, rtol=1e-9)
    assert all(row["dur"] > 0 for row in listened.history_)


def test_epoch_scoring_sees_raw_units_and_its_score_is_in_the_history(
    table: tuple[Array, Array],
) -> None:
    X, y = table
    for use_caching in (True, False):
        score = sk.EpochScoring(
            "neg_mean_absolute_error", name="mae", lower_is_better=False, use_caching=use_caching
        )
        reg = quick(callbacks=[score]).fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
        by_hand = -np.abs(reg.predict(X[60:]) - y[60:]).mean()
        np.testing.assert_allclose(reg.history_[-1]["mae"], by_hand, rtol=1e-6)
        assert len(reg.history_) == 12


def test_after_a_fit_inside_a_callback_the_outer_fit_still_counts_as_training(
    table: tuple[Array, Array],
) -> None:
    seen = []

    class FitsAgain(sk.Callback):
        def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
            quick(max_epochs=1).fit(*table)
            seen.append(is_training())

    quick(callbacks=[FitsAgain()], max_epochs=2).fit(*table)
    assert seen == [True, True] and not is_training()


class Shown(sk.Callback):
    """Notes which rows it is shown, in a list that all copies share; it listens to batches."""

    def __init__(self, seen: list[tuple[Array, Array]]) -> None:
        self.seen = seen

    def __deepcopy__(self, memo: Any) -> Shown:
        return Shown(self.seen)

    def on_epoch_end(
        self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        if len(net.history) == 1:
            rows = [dataset.X[:, 0].numpy() for dataset in (dataset_train, dataset_valid)]
            self.seen.append((rows[0], rows[1]))

    def on_batch_begin(self, net: Any, **kwargs: Any) -> None: ...


def test_callbacks_of_each_network_see_its_rows_and_its_fold(table: tuple[Array, Array]) -> None:
    X, y = table
    seen: list[tuple[Array, Array]] = []
    quick(n_folds=3, max_epochs=2, callbacks=[Shown(seen)]).fit(X, y)
    assert len(seen) == 3
    for training, held in seen:
        np.testing.assert_array_equal(np.sort(np.concatenate([training, held])), np.sort(X[:, 0]))
    seen_by_one = []
    quick(early_stopping=True, validation_fraction=0.29, callbacks=[Shown(seen_by_one)]).fit(X, y)
    ((training, held),) = seen_by_one
    assert len(held) == 27  # 26.1, rounded up
    np.testing.assert_array_equal(np.sort(np.concatenate([training, held])), np.sort(X[:, 0]))
    every_fold = np.concatenate([held for _, held in seen])
    np.testing.assert_array_equal(np.sort(every_fold), np.sort(X[:, 0]))


@pytest.mark.parametrize("use_caching", [True, False])
def test_scores_of_folds_are_of_rows_held_out_and_the_history_has_their_mean(
    use_caching: bool, table: tuple[Array, Array]
) -> None:
    X, y = table
    score = sk.EpochScoring("neg_mean_squared_error", name="mse", use_caching=use_caching)
    reg = quick(n_folds=3, callbacks=[score]).fit(X, y)
    noted = [-row["mse"] for row in reg.history_]
    np.testing.assert_allclose(noted, np.array(reg.validation_loss_curve_) * y.var(), rtol=1e-6)


def test_early_stopping_of_skorch_ends_the_fit_and_restores_the_best(
    table: tuple[Array, Array],
) -> None:
    X, y = table
    stop = sk.EarlyStopping(patience=4, load_best=True, threshold=0)
    reg = quick(callbacks=[stop], max_epochs=400, lr=0.05)
    reg.fit(X[:30], y[:30], X_val=X[60:], y_val=y[60:])
    curve = reg.validation_loss_curve_
    assert reg.n_iter_ == len(curve) == int(np.argmin(curve)) + 1 + 4 < 400
    by_hand = np.mean(((reg.predict(X[60:]) - y[60:]) / y[:30].std()) ** 2)
    np.testing.assert_allclose(by_hand, min(curve), rtol=1e-6)


def test_early_stopping_of_skorch_without_validation_rows_is_an_error_with_the_remedies(
    table: tuple[Array, Array],
) -> None:
    message = r"no validation rows: .*'valid_loss'.*early_stopping=True.*X_val.*'train_loss'"
    with pytest.raises(ValueError, match=message):
        quick(callbacks=[sk.EarlyStopping()]).fit(*table)
    quick(callbacks=[sk.EarlyStopping(monitor="train_loss")]).fit(*table)
    quick(callbacks=[sk.EarlyStopping()], early_stopping=True).fit(*table)


@pytest.mark.parametrize("step_every", ["epoch", "batch"])
def test_a_schedule_acts_as_in_a_loop_written_by_hand(
    step_every: str, table: tuple[Array, Array]
) -> None:
    X, y = table
    schedule = sk.LRScheduler("StepLR", step_size=3, gamma=0.5, step_every=step_every)
    reg = quick(optimizer="sgd", lr=0.05, callbacks=[schedule], module=nn.Linear).fit(X, y)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Linear(3, 1).double()
    x = torch.from_numpy((X - X.mean(axis=0)) / X.std(axis=0))
    t = torch.from_numpy((y - y.mean()) / y.std())[:, None]
    sgd = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    halving = torch.optim.lr_scheduler.StepLR(sgd, step_size=3, gamma=0.5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        for index in torch.randperm(90, generator=generator).split(32):
            sgd.zero_grad()
            ((network(x[index]) - t[index]) ** 2).mean().backward()
            sgd.step()
            if step_every == "batch":
                halving.step()
        if step_every == "epoch":
            halving.step()
    by_hand = [p.detach().numpy() for p in network.parameters()]
    for fitted, expected in zip(reg.module_.network.parameters(), by_hand, strict=True):
        np.testing.assert_allclose(fitted.detach().numpy(), expected, rtol=1e-9)


def test_clipped_gradients_take_smaller_steps(table: tuple[Array, Array]) -> None:
    X, y = table
    clip = sk.GradientNormClipping(gradient_clip_value=1e-6)
    options = {"optimizer": "sgd", "lr": 0.1, "max_epochs": 1, "module": nn.Linear}
    start = quick(**{**options, "lr": 1e-30}).fit(X, y).predict(X)
    free = np.abs(quick(**options).fit(X, y).predict(X) - start).max()
    clipped = np.abs(quick(**options, callbacks=[clip]).fit(X, y).predict(X) - start).max()
    assert 0 < clipped < 1e-4 * free


def test_a_checkpoint_writes_the_best_weights(tmp_path: Path, table: tuple[Array, Array]) -> None:
    X, y = table
    checkpoint = sk.Checkpoint(dirname=str(tmp_path), monitor="valid_loss_best", f_pickle=None)
    reg = quick(callbacks=[checkpoint]).fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
    best = int(np.argmin(reg.validation_loss_curve_)) + 1
    saved = torch.load(tmp_path / "params.pt", weights_only=True)
    twin = quick(max_epochs=best).fit(X[:60], y[:60])
    for name, value in twin.module_.state_dict().items():
        torch.testing.assert_close(saved[name], value, rtol=1e-9, atol=1e-12)


def test_a_progress_bar_of_skorch_counts_the_batches_of_an_epoch(
    table: tuple[Array, Array], capsys: pytest.CaptureFixture[str]
) -> None:
    quick(callbacks=[sk.ProgressBar(detect_notebook=False)], max_epochs=2).fit(*table)
    assert "0/3" in capsys.readouterr().err


def test_parameters_of_a_named_callback_are_nested_parameters(table: tuple[Array, Array]) -> None:
    X, y = table
    named = [("stop", sk.EarlyStopping(monitor="train_loss", patience=1, threshold=2))]
    assert quick(callbacks=named).fit(X, y).n_iter_ == 2
    assert quick(callbacks=named, callbacks__stop__patience=5).fit(X, y).n_iter_ == 6
    with pytest.raises(ValueError, match=r"callbacks__halt__patience names no callback.*'stop'"):
        quick(callbacks=named, callbacks__halt__patience=5).fit(X, y)


def test_batches_and_gradients_are_heard_once_each(table: tuple[Array, Array]) -> None:
    heard: list[str] = []

    class Ear(sk.Callback):
        def on_train_begin(self, net: Any, **kwargs: Any) -> None:
            heard.append("begin")

        def on_batch_end(self, net: Any, batch: Any, training: bool, **kwargs: Any) -> None:
            heard.append(f"{'train' if training else 'valid'} {len(batch[1])}")
            np.testing.assert_array_less(1000, batch[1])

        def on_grad_computed(self, net: Any, named_parameters: Any, **kwargs: Any) -> None:
            assert all(p.grad is not None for _, p in named_parameters)
            heard.append("gradient")

        def on_train_end(self, net: Any, **kwargs: Any) -> None:
            heard.append("end")

    X, y = table
    quick(callbacks=Ear(), max_epochs=1).fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
    steps = ["gradient", "train 32", "gradient", "train 28"]
    assert heard == ["begin", *steps, "valid 30", "end"]


class TwoLayers(nn.Module):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(in_features, 4), nn.Linear(4, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.b(torch.tanh(self.a(x)))
        return output


@pytest.mark.parametrize("n_folds", [None, 3])
def test_freezer_names_parameters_as_the_module_of_the_user(
    n_folds: int | None, table: tuple[Array, Array]
) -> None:
    X, y = table
    reg = quick(module=TwoLayers, n_folds=n_folds, callbacks=[sk.Freezer("a.*")]).fit(X, y)
    start = quick(module=TwoLayers, optimizer="sgd", lr=1e-30, n_folds=n_folds).fit(X, y)
    for name, value in reg.module_.state_dict().items():
        if name.startswith("network."):
            same = torch.equal(value, start.module_.state_dict()[name])
            assert same == (".a." in name)


@pytest.mark.parametrize("n_folds", [None, 3])
def test_a_pattern_that_matches_no_parameter_is_a_warning(
    n_folds: int | None, table: tuple[Array, Array]
) -> None:
    reg = quick(module=TwoLayers, n_folds=n_folds, callbacks=[sk.Freezer(["c.*", "a.*"])])
    with pytest.warns(
        CallbackWarning, match=r"Freezer\('c\.\*'\) .* has a\.weight, a\.bias, b"
    ) as caught:
        reg.fit(*table)
    assert len(caught) == 1


def test_a_search_over_regressors_with_callbacks_clones_them(table: tuple[Array, Array]) -> None:
    reg = quick(callbacks=[("lr", sk.LRScheduler("ExponentialLR", gamma=0.9))], max_epochs=3)
    search = GridSearchCV(reg, {"callbacks__lr__gamma": [0.5, 1.0]}, cv=2, error_score="raise")
    assert np.isfinite(search.fit(*table).best_score_)


# scikit-learn


class Recorder:
    """A callback in scikit-learn's own protocol that writes down what it hears."""

    max_propagation_depth = None

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.heard: list[str] = []
        self.scores: list[float] = []

    def setup(self, estimator: Any, context: Any) -> None:
        self.heard.append(f"setup {type(estimator).__name__}")

    def teardown(self, estimator: Any, context: Any) -> None:
        self.heard.append("teardown")

    def on_fit_task_begin(self, estimator: Any, context: Any, *, X: Any = None) -> None:
        self.heard.append(f"begin {context.estimator_name} {context.task_name}")

    def on_fit_task_end(
        self,
        estimator: Any,
        context: Any,
        *,
        X: Any = None,
        y: Any = None,
        fitted_estimator: Any = None,
    ) -> bool:
        self.heard.append(f"end {context.estimator_name} {context.task_name}")
        if isinstance(fitted_estimator, TorchRegressor):
            self.scores.append(fitted_estimator.score(X, y))
        return context.task_name == "epoch" and context.task_id + 1 == self.stop_after


def test_below_scikit_learn_1_9_there_is_nothing_to_set_and_from_it_on_there_is() -> None:
    version = tuple(int(part) for part in sklearn.__version__.split(".")[:2])
    assert hasattr(TorchRegressor(module=MLP), "set_callbacks") == (version >= (1, 9))


if HAS_NATIVE:

    def test_native_callbacks_hear_every_epoch_and_are_torn_down(
        table: tuple[Array, Array],
    ) -> None:
        recorder = Recorder()
        reg = quick(max_epochs=2)
        plain = quick(max_epochs=2).fit(*table).predict(table[0])
        reg.set_callbacks(recorder).fit(*table)
        name = "TorchRegressor"
        epoch = [f"begin {name} epoch", f"end {name} epoch"]
        assert recorder.heard == [
            f"setup {name}",
            f"begin {name} fit",
            *epoch,
            *epoch,
            f"end {name} fit",
            "teardown",
        ]
        assert recorder.scores[-1] == recorder.scores[-2] == reg.score(*table)
        np.testing.assert_array_equal(reg.predict(table[0]), plain)

    def test_a_native_callback_may_stop_the_fit(table: tuple[Array, Array]) -> None:
        reg = quick().set_callbacks(Recorder(stop_after=4)).fit(*table)
        assert reg.n_iter_ == 4

    def test_native_callbacks_are_handed_down_by_a_search(table: tuple[Array, Array]) -> None:
        recorder = Recorder()
        search = GridSearchCV(quick(max_epochs=2), {"lr": [0.01, 0.1]}, cv=2)
        search.set_callbacks(recorder).fit(*table)
        # 2 candidates x 2 folds x 2 epochs, and 2 epochs of the refit.
        assert recorder.heard.count("end TorchRegressor epoch") == 10

    def test_the_progress_bar_of_scikit_learn_shows_epochs(
        table: tuple[Array, Array], capsys: pytest.CaptureFixture[str]
    ) -> None:
        from sklearn.callback import ProgressBar

        quick(max_epochs=2).set_callbacks(ProgressBar()).fit(*table)
        assert "TorchRegressor" in capsys.readouterr().out

    def test_a_failed_fit_tears_native_callbacks_down(table: tuple[Array, Array]) -> None:
        recorder = Recorder()
        reg = quick(loss=lambda p, t: (p - t).mean() * float("nan")).set_callbacks(recorder)
        with pytest.raises(ValueError, match="before anything was learned"):
            reg.fit(*table)
        assert recorder.heard[-1] == "teardown"
