"""No state of torch changes a fit, and it is restored, even if the fit is interrupted."""

from __future__ import annotations

import copy
import gc
import threading
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import torchreg
from torchreg import InterruptWarning, TorchEnsembleRegressor, TorchRegressor
from torchreg._utils import restore_torch_state
from torchreg.engine.capture import Recorder
from torchreg.nn import MLP
from torchreg.plotting import ActivationDisplay, FitDisplay, ParameterDisplay

Array = np.ndarray
RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 2))
Y = X[:, 0] - X[:, 1] ** 2


def settings() -> tuple[Any, ...]:
    """Return the thread-local state of torch and the state of the random generator."""
    return (
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch._C._len_torch_dispatch_stack(),
        torch.overrides._get_current_function_mode_stack(),
        torch.get_rng_state().numpy().tobytes(),
    )


@pytest.fixture(params=[True, False], ids=["gradients on", "gradients off, on another device"])
def before(request: pytest.FixtureRequest) -> Any:
    """Set three threads, and a state that differs from what a fit sets."""
    kept = torch.get_num_threads(), torch.is_grad_enabled()
    torch.set_num_threads(3)
    torch.set_grad_enabled(request.param)
    torch.set_default_device(None if request.param else "meta")
    yield settings()
    torch.set_default_device(None)
    torch.set_num_threads(kept[0])
    torch.set_grad_enabled(kept[1])


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "draws": {"module__dropout": 0.2, "batch_size": 8, "early_stopping": True},
    "full batch": {"batch_size": None, "optimizer": "rprop"},
    "torch's optimizer": {"optimizer": "adagrad"},
    "line search": {"optimizer": "lbfgs"},
}


def small(**options: Any) -> TorchRegressor:
    given = {"module__hidden_sizes": (3,), "max_epochs": 20, "random_state": 0}
    return TorchRegressor(**{"module": MLP, **given, **options})


@pytest.mark.filterwarnings("ignore::torchreg.InterruptWarning")
@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_an_interrupt_at_any_call_of_a_fit_restores_torch_and_the_previous_fit(
    options: dict[str, Any], before: Any, injection: Any
) -> None:
    reg = small(**options).fit(X, Y)
    old = reg.predict(X)
    reg.set_params(random_state=1)
    with injection() as counted:
        small(**options, random_state=1).fit(X, Y)
    ended = 0
    # Every call at the end, where the state is restored.
    n = counted.calls
    places = {*range(1, n, max(1, n // 25)), *range(n - 12, n + 1)}
    for at in sorted(places):
        kept = dict(vars(reg))
        with injection(KeyboardInterrupt(), at=at):
            try:
                reg.fit(X, Y)
            except KeyboardInterrupt:
                ended += 1
        assert settings() == before, at
        if vars(reg)["module_"] is kept["module_"]:
            assert vars(reg) == kept
            np.testing.assert_array_equal(reg.predict(X), old)
        else:
            assert reg.n_iter_ == len(reg.loss_curve_) == len(reg.history_)
        vars(reg).update(kept)
    assert ended > 5
    # No lock is left: another thread can fit.
    thread = threading.Thread(target=small(max_epochs=1).fit, args=(X, Y), daemon=True)
    thread.start()
    thread.join(timeout=30)
    assert not thread.is_alive()


class Garbage:
    """A reference cycle whose finalizer is a Python function."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        pass


def litter(depth: int) -> Garbage:
    return Garbage() if depth == 0 else litter(depth - 1)


def test_an_interrupt_during_garbage_collection_is_lost_or_is_a_keyboard_interrupt(
    injection: Any,
) -> None:
    thresholds = gc.get_threshold()
    raised = []
    try:
        gc.set_threshold(3, 5, 5)
        for at in range(1, 250):
            try:
                with injection(KeyboardInterrupt(), at=at):
                    for i in range(30):
                        litter(i % 5)
            except BaseException as error:
                raised.append(type(error))
    finally:
        gc.set_threshold(*thresholds)
    assert set(raised) == {KeyboardInterrupt}


def test_an_interrupt_at_any_call_of_predict_restores_torch(before: Any, injection: Any) -> None:
    reg = small().fit(X, Y)
    expected = reg.predict(X[:, ::-1])
    with injection() as counted:
        reg.predict(X[:, ::-1])
    ended = 0
    for at in range(1, counted.calls + 1):
        with injection(KeyboardInterrupt(), at=at):
            try:
                reg.predict(X[:, ::-1])
            except KeyboardInterrupt:
                ended += 1  # It is lost if it arrives in a garbage collection.
        assert settings() == before, at
    assert ended > counted.calls // 2
    np.testing.assert_array_equal(reg.predict(X[:, ::-1]), expected)


def test_modes_that_were_not_left_are_left() -> None:
    @restore_torch_state
    def unbalanced() -> None:
        Recorder().__enter__()
        TorchFunctionMode().__enter__()
        torch.set_num_threads(2)
        raise ZeroDivisionError

    before = settings()
    with pytest.raises(ZeroDivisionError):
        unbalanced()
    assert settings() == before


class InterruptingModule(nn.Module):
    """Raises Ctrl-C in the middle of an epoch, once."""

    at = 0

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, 1)
        self.norm = nn.BatchNorm1d(in_features)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.passes += 1
            if self.passes == self.at:
                raise KeyboardInterrupt
        output: Tensor = self.linear(self.norm(x))
        return output


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "lbfgs", torch.optim.Adagrad])
def test_a_fit_interrupted_within_an_epoch_equals_the_fit_of_the_epochs_before(
    optimizer: Any, early_stopping: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"optimizer": optimizer, "batch_size": 8, "early_stopping": early_stopping}
    whole = TorchRegressor(InterruptingModule, max_epochs=4, random_state=0, **options).fit(X, Y)
    for at in range(whole.module_.network.passes - 6, whole.module_.network.passes):
        monkeypatch.setattr(InterruptingModule, "at", at)
        reg = TorchRegressor(InterruptingModule, max_epochs=9, random_state=0, **options)
        with pytest.warns(InterruptWarning, match=r"interrupted in epoch \d of 9: .* weights of"):
            reg.fit(X, Y)
        monkeypatch.setattr(InterruptingModule, "at", 0)
        quiet = TorchRegressor(
            InterruptingModule, max_epochs=reg.n_iter_, random_state=0, **options
        )
        quiet.fit(X, Y)
        np.testing.assert_array_equal(reg.predict(X), quiet.predict(X))
        assert reg.loss_curve_ == quiet.loss_curve_
        assert reg.best_epoch_ == quiet.best_epoch_


# Fits in the caller's state

FITS: dict[str, Any] = {
    "a given module": small(max_epochs=3),
    "batches and dropout": small(max_epochs=3, **CONFIGURATIONS["draws"]),
    "line search": small(max_epochs=3, optimizer="lbfgs"),
    "torch's optimizer": small(max_epochs=3, optimizer="adagrad"),
    "a link": small(max_epochs=3, loss="gaussian_nll"),
    "the default": TorchRegressor(max_epochs=2, random_state=0),
    "an ensemble": TorchEnsembleRegressor(small(max_epochs=3), 2, random_state=0),
}


@pytest.mark.parametrize("reg", FITS.values(), ids=FITS)
@pytest.mark.parametrize("state", [torch.inference_mode, lambda: torch.device("meta")])
def test_neither_inference_mode_nor_a_default_device_changes_a_result(
    state: Any, reg: Any, tmp_path: Any
) -> None:
    expected = clone(reg).fit(X, Y).predict(X)
    with state():
        modes = settings()
        x, y = torch.tensor(X, device="cpu"), torch.tensor(Y, device="cpu")
        fitted = clone(reg).fit(x, y)
        fitted.save(tmp_path / "reg")
        loaded = torchreg.load(tmp_path / "reg")
        predictions = [r.predict(X) for r in (fitted, copy.deepcopy(fitted), loaded)]
        assert fitted.score(X, Y) < 1
        if isinstance(fitted, TorchRegressor):
            assert "rows" in str(fitted.diagnose(X, Y))
            assert "Standardize" in fitted._repr_html_()
        if reg is FITS["a given module"]:
            fitted.to_exported_program()
            fitted.to_script(tmp_path / "reg.py", X, Y)
            ActivationDisplay.from_estimator(fitted, X)
            ParameterDisplay.from_estimator(fitted)
            FitDisplay.from_estimator(fitted, X, Y)
            FitDisplay.from_estimator(clone(reg).fit(X[:, :1], Y), X[:, :1])
            plt.close("all")
        assert settings() == modes
    for prediction in predictions:
        np.testing.assert_array_equal(prediction, expected)


def test_modes_of_the_caller_that_set_no_device_stay_active() -> None:
    class Listens(TorchFunctionMode):
        called: ClassVar[set[str]] = set()

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.called.add(func.__name__)
            return func(*args, **(kwargs or {}))

    reg = small(max_epochs=3)
    expected = reg.fit(X, Y).predict(X)
    with torch.device("meta"), Listens() as mode:
        np.testing.assert_array_equal(reg.fit(X, Y).predict(X), expected)
        assert "linear" in mode.called


def test_a_module_instance_of_inference_mode_can_be_fitted() -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        module = nn.Linear(2, 1)
    reg = TorchRegressor(module, max_epochs=3, random_state=0)
    torch.manual_seed(0)
    same = TorchRegressor(nn.Linear(2, 1), max_epochs=3, random_state=0)
    np.testing.assert_array_equal(reg.fit(X, Y).predict(X), same.fit(X, Y).predict(X))


def test_a_module_instance_without_data_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no data"), torch.device("meta"):
        TorchRegressor(nn.Linear(2, 1)).fit(X, Y)
