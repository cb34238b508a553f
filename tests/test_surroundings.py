"""What a module does beside tensor operations is noticed, wherever its state is kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests._modules_with_state import (
    LATE,
    AsksWhetherTangentsFit,
    AveragesInATensor,
    CountsInATensor,
    DecaysItsWeights,
    DeepInADictionary,
    Derived,
    InAForwardOfItsOwn,
    InAFunction,
    InAGeneratorOfNumPy,
    InAGeneratorOfPython,
    InAHelper,
    InAList,
    InAnArray,
    InAnArrayOfTheWeights,
    InASmallBatch,
    InNumPy,
    Net,
    ReplacesMemory,
    SelectsColumns,
    Sparse,
    SparseGradient,
    WithAGeneratorOfTorch,
    WithNoiseThatIsAlwaysTheSame,
)
from torchreg import TorchRegressor
from torchreg.engine.capture import find_capture_blocker, gradient, snapshot_python_state

CAPTURED = "The steps were captured once and repeated."
STATE = "the module or the loss changes Python state while it runs"
LOOKS = "the module or the loss looks at values while it runs"
RNG = np.random.default_rng(1)
X = RNG.normal(size=(23, 3))
Y = np.sin(X[:, 0]) + X[:, 1]


OWN = "it draws from a random generator of its own"
CASES: dict[Any, str | None] = {
    **{InAHelper: STATE, DeepInADictionary: STATE, InAnArray: STATE, Derived: STATE},
    **{InAFunction: STATE, InAGeneratorOfPython: STATE, InAGeneratorOfNumPy: STATE},
    **{InAForwardOfItsOwn: STATE, InNumPy: LOOKS, InAList: LOOKS, InAnArrayOfTheWeights: LOOKS},
    WithNoiseThatIsAlwaysTheSame: "it draws random numbers in a way of its own",
    WithAGeneratorOfTorch: STATE,
    ReplacesMemory: "the module replaces a parameter's memory",
    Sparse: "a tensor is sparse",
    SparseGradient: "a tensor is sparse",
    **{DecaysItsWeights: None, AveragesInATensor: None, CountsInATensor: None},
    **{SelectsColumns: None, AsksWhetherTangentsFit: None},
}


def fit(module: Any, **options: Any) -> TorchRegressor:
    settings: dict[str, Any] = {"optimizer": "sgd", "lr": 0.02, "dtype": "float64"}
    settings |= {"max_epochs": 24, "batch_size": None, "random_state": 0, "verbose": 1}
    return TorchRegressor(module, **{**settings, **options}).fit(X, Y)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Callable[..., TorchRegressor]:
    def run(module: Any, **options: Any) -> TorchRegressor:
        with monkeypatch.context() as patch:
            patch.setattr(gradient, "find_capture_blocker", lambda *_: "this test asks for it")
            return fit(module, **options)

    return run


def assert_same(one: TorchRegressor, other: TorchRegressor) -> None:
    np.testing.assert_allclose(one.loss_curve_, other.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(one.predict(X), other.predict(X), rtol=1e-9, atol=1e-9)


# torch's own rules for tangents are scripts.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("batch_size", [None, 6], ids=["whole", "batches"])
@pytest.mark.parametrize("module", CASES, ids=lambda module: module.__name__)
def test_a_change_that_comes_late_comes_in_both_lanes(
    module: Any, batch_size: int | None, eager: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    reg = fit(module, batch_size=batch_size)
    because = CASES[module]
    lane = CAPTURED if because is None else f"The steps ran eagerly, because {because}."
    assert capsys.readouterr().out.splitlines()[-1] == lane
    assert_same(reg, eager(module, batch_size=batch_size))


def test_what_only_small_batches_change_is_seen_by_the_large_ones(eager: Any) -> None:
    assert_same(fit(InASmallBatch, batch_size=6), eager(InASmallBatch, batch_size=6))


class LateLoss:
    """Weighs twice what comes after the tenth step."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        self.n += 1
        return (prediction - target) ** 2 * (2 if self.n > LATE else 1)

    def with_bias(self, bias: float, prediction: Tensor, target: Tensor) -> Tensor:
        return self(prediction, target) + bias


@pytest.mark.parametrize(
    "build", [LateLoss, lambda: LateLoss().__call__, lambda: partial(LateLoss().with_bias, 1.0)]
)
def test_the_state_of_a_loss_is_noticed_as_well(
    build: Callable[[], Any], eager: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    reg = fit(Net, loss=build())
    assert capsys.readouterr().out.splitlines()[-1] == f"The steps ran eagerly, because {STATE}."
    assert_same(reg, eager(Net, loss=build()))


class Fading(nn.Module):
    """A loss with a buffer that each call changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        self.scale.mul_(0.9)
        return (prediction - target) ** 2 * (1 + self.scale)


def test_a_buffer_of_a_loss_changes_once_in_every_step(
    eager: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    reg = fit(Net, loss=Fading)
    assert capsys.readouterr().out.splitlines()[-1] == CAPTURED
    assert_same(reg, eager(Net, loss=Fading))


def test_a_parameter_that_is_given_other_memory_is_trained_as_torch_trains_it() -> None:
    class Torchs(torch.optim.SGD):
        """Of a name that no rule of our own has."""

    ours = fit(ReplacesMemory, optimizer="sgd", optimizer__momentum=0.0)
    assert_same(ours, fit(ReplacesMemory, optimizer=Torchs, optimizer__momentum=0.0))


def test_a_factorization_that_fails_late_fails_in_both_lanes(eager: Any) -> None:
    class Factors(Net):
        def begin(self) -> None:
            self.register_buffer("room", torch.tensor(20.0))

        def between(self, h: Tensor) -> Tensor:
            if self.is_step():
                self.room.sub_(1.0)
            return h @ torch.linalg.cholesky(self.room * torch.eye(5, dtype=h.dtype))

    for run in (fit, eager):
        with pytest.raises(ValueError, match=r"The module failed on a batch of 23 rows.*cholesky"):
            run(Factors)


def test_a_state_is_equal_to_itself_until_something_changes() -> None:
    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target) ** 2

    for build in (InAHelper, DeepInADictionary, InAnArray, InAGeneratorOfNumPy, InAFunction):
        module = build()
        before = snapshot_python_state(module, loss)
        assert before == snapshot_python_state(module, loss)
        module.count()
        assert before != snapshot_python_state(module, loss)


def test_names_are_followed_through_methods_functions_and_closures() -> None:
    def speak(h: Tensor) -> Tensor:
        print(h.shape)
        return h

    class Speaks(Net):
        def between(self, h: Tensor) -> Tensor:
            return speak(h)

    class Silent(Net):
        def between(self, h: Tensor) -> Tensor:
            return h

        def unused(self) -> None:
            speak(torch.zeros(1))

    blocker = "the module or the loss prints"
    assert find_capture_blocker(Speaks(), lambda p, t: p - t) == blocker
    assert find_capture_blocker(Silent(), lambda p, t: p - t) is None


def test_gradients_that_were_turned_off_outside_are_on_inside_a_fit() -> None:
    expected = fit(Net).loss_curve_
    with torch.no_grad():
        assert fit(Net).loss_curve_ == expected


def test_a_fitted_module_is_in_evaluation_mode() -> None:
    assert not any(module.training for module in fit(Net).module_.modules())
