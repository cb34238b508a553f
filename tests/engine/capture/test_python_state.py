"""Steps that a program could not repeat stay eager, and the fit says why."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import _modules_with_state as modules
from tests._capture import CAPTURED, assert_same_fit, eager
from tests._modules_with_state import LATE, N_EPOCHS, Mode, Net, X, fit, fit_eagerly

STATE = "the module or the loss changes Python state while it runs"
READS = "the module or the loss looks at values while it runs"
SPARSE = "a tensor is sparse"


class Decides(Net):
    def between(self, h: Tensor) -> Tensor:
        return h if h.mean() > 0.0 else 2 * h


class ReadsAMaximum(Net):
    def between(self, h: Tensor) -> Tensor:
        return h / h.detach().abs().max().item()


class SelectsByMask(Net):
    def between(self, h: Tensor) -> Tensor:
        return h + h[h > 0].mean()


class CumulativeNorm(Net):
    def begin(self) -> None:
        self.norm = nn.BatchNorm1d(5, momentum=None)

    def between(self, h: Tensor) -> Tensor:
        return self.norm(h)


CASES: dict[Any, str | None] = {
    modules.InAHelper: STATE,
    modules.DeepInADictionary: STATE,
    modules.InAnArray: STATE,
    modules.Derived: STATE,
    modules.InAFunction: STATE,
    modules.InAGeneratorOfPython: STATE,
    modules.InAGeneratorOfNumPy: STATE,
    modules.InAForwardOfItsOwn: STATE,
    modules.WithAGeneratorOfTorch: STATE,
    modules.InNumPy: READS,
    modules.InAList: READS,
    modules.InAnArrayOfTheWeights: READS,
    Decides: READS,
    ReadsAMaximum: READS,
    CumulativeNorm: READS,
    SelectsByMask: "the shape of what index returns depends on values",
    modules.WithNoiseThatIsAlwaysTheSame: "it draws random numbers in a way of its own",
    modules.ReplacesMemory: "the module replaces a parameter's memory",
    modules.Sparse: SPARSE,
    modules.SparseGradient: SPARSE,
    modules.DecaysItsWeights: None,
    modules.AveragesInATensor: None,
    modules.CountsInATensor: None,
    modules.SelectsColumns: None,
    modules.AsksWhetherTangentsFit: None,
}


# torch's own forward-mode derivatives are scripted; the warning's class depends on the version.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
@pytest.mark.parametrize("batch_size", [None, 6], ids=["full", "batches"])
@pytest.mark.parametrize("module", CASES, ids=lambda module: module.__name__)
def test_a_late_change_is_the_same_captured_and_eager(
    module: Any, batch_size: int | None, mode: Mode
) -> None:
    reg = fit(module, batch_size=batch_size)
    blocker = CASES[module]
    assert mode() == (CAPTURED if blocker is None else eager(blocker))
    assert_same_fit(reg, fit_eagerly(module, batch_size=batch_size), X)


def test_a_change_in_small_batches_alone_affects_the_large_ones() -> None:
    module = modules.InASmallBatch
    assert_same_fit(fit(module, batch_size=6), fit_eagerly(module, batch_size=6), X)


COUNT = 0


class Counts(Net):
    """Counts its steps in an attribute, in the class, in a global, a list and a dictionary."""

    in_class = 0

    def begin(self) -> None:
        self.in_attribute = 0
        self.in_list: list[torch.Size] = []
        self.in_dictionary = {"steps": 0}


def in_attribute(net: Counts, x: Tensor) -> None:
    net.in_attribute += 1


def in_class(net: Counts, x: Tensor) -> None:
    Counts.in_class += 1


def in_global(net: Counts, x: Tensor) -> None:
    global COUNT
    COUNT += 1


def in_list(net: Counts, x: Tensor) -> None:
    net.in_list.append(x.shape)


def in_dictionary(net: Counts, x: Tensor) -> None:
    net.in_dictionary["steps"] += 1


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("count", [in_attribute, in_class, in_global, in_list, in_dictionary])
def test_python_code_of_a_module_runs_in_every_step(
    count: Callable[[Counts, Tensor], None], batch_size: int | None, mode: Mode
) -> None:
    global COUNT
    COUNT = Counts.in_class = 0

    class Counting(Counts):
        def forward(self, x: Tensor) -> Tensor:
            if self.is_step():
                count(self, x)
            return super().forward(x)

    reg = fit(Counting, batch_size=batch_size)
    assert mode() == eager(STATE)
    net = reg.module_.network
    counted = [net.in_attribute, Counts.in_class, COUNT, len(net.in_list)]
    # 23 rows in batches of 5 are 5 steps an epoch.
    expected = N_EPOCHS * (1 if batch_size is None else 5)
    assert sum(counted) + net.in_dictionary["steps"] == expected


@pytest.mark.parametrize("library", [random, np.random])
def test_a_module_that_draws_from_a_global_generator_draws_in_every_step(
    library: Any, mode: Mode
) -> None:
    class Draws(Net):
        def between(self, h: Tensor) -> Tensor:
            return h * (library.uniform(0.9, 1.1) if self.is_step() else 1.0)

    states = random.getstate(), np.random.get_state()
    try:
        library.seed(0)
        fit(Draws)
        after = library.random()
        library.seed(0)
        assert after == [library.random() for _ in range(N_EPOCHS + 1)][-1]
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    assert mode() == eager(STATE)


class LateLoss:
    """Doubles from the tenth step on."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        self.n += 1
        return (prediction - target) ** 2 * (2 if self.n > LATE else 1)

    def with_bias(self, bias: float, prediction: Tensor, target: Tensor) -> Tensor:
        return self(prediction, target) + bias


def closure_loss() -> Callable[[Tensor, Tensor], Tensor]:
    seen: list[int] = []

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        seen.append(len(target))
        return (prediction - target) ** 2 * (2 if len(seen) > LATE else 1)

    return loss


@pytest.mark.parametrize(
    "build",
    [
        LateLoss,
        lambda: LateLoss().__call__,
        lambda: partial(LateLoss().with_bias, 1.0),
        closure_loss,
    ],
)
def test_the_state_of_a_loss_is_detected(build: Callable[[], Any], mode: Mode) -> None:
    reg = fit(Net, loss=build())
    assert mode() == eager(STATE)
    assert_same_fit(reg, fit_eagerly(Net, loss=build()), X)


def test_a_buffer_of_a_loss_changes_once_in_every_step(mode: Mode) -> None:
    class Fading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(()))

        def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
            self.scale.mul_(0.9)
            return (prediction - target) ** 2 * (1 + self.scale)

    reg = fit(Net, loss=Fading)
    assert mode() == CAPTURED
    assert_same_fit(reg, fit_eagerly(Net, loss=Fading), X)


def test_a_parameter_with_replaced_memory_is_trained_as_torch_trains_it() -> None:
    class Torchs(torch.optim.SGD):
        """A name without a flat implementation."""

    ours = fit(modules.ReplacesMemory, optimizer="sgd", optimizer__momentum=0.0)
    torchs = fit(modules.ReplacesMemory, optimizer=Torchs, optimizer__momentum=0.0)
    assert_same_fit(ours, torchs, X)


@pytest.mark.parametrize("run", [fit, fit_eagerly])
def test_a_factorization_that_fails_late_raises_the_error_of_torch(run: Any) -> None:
    class Factors(Net):
        def begin(self) -> None:
            self.register_buffer("room", torch.tensor(20.0))

        def between(self, h: Tensor) -> Tensor:
            if self.is_step():
                self.room.sub_(1.0)
            return h @ torch.linalg.cholesky(self.room * torch.eye(5, dtype=h.dtype))

    with pytest.raises(ValueError, match=r"The module failed on a batch of 23 rows.*cholesky"):
        run(Factors)


def test_gradients_that_are_turned_off_outside_are_on_inside_a_fit() -> None:
    expected = fit(Net).loss_curve_
    with torch.no_grad():
        assert fit(Net).loss_curve_ == expected
