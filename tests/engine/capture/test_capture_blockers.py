"""What keeps steps eager is found before the first step, and the fit names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from skorch.callbacks import Callback
from torch import Tensor, nn

from tests._capture import CAPTURED, FORCED, eager
from tests._modules_with_state import N_EPOCHS, Mode, Net, fit, fit_eagerly
from torchreg.engine.capture import find_capture_blocker

PRINTS = "the module or the loss prints"


def test_a_module_that_prints_prints_in_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    class Prints(Net):
        def between(self, h: Tensor) -> Tensor:
            if self.is_step():
                print("a step")
            return h

    fit(Prints)
    out = capsys.readouterr().out
    assert out.count("a step\n") == N_EPOCHS
    assert out.splitlines()[-1] == eager(PRINTS)


def test_names_are_followed_through_methods_functions_and_closures() -> None:
    def speak(h: Tensor) -> Tensor:
        print(h.shape)
        return h

    class Speaks(Net):
        def between(self, h: Tensor) -> Tensor:
            return speak(h)

    class Silent(Net):
        def unused(self) -> None:
            speak(torch.zeros(1))

    assert find_capture_blocker(Speaks(), lambda p, t: p - t) == PRINTS
    assert find_capture_blocker(Silent(), lambda p, t: p - t) is None


class Hooked(Net):
    """With a hook that counts its calls in training mode."""

    calls = 0

    def count(self, *_: Any) -> None:
        Hooked.calls += self.training


HOOKS: dict[str, tuple[Callable[[Hooked], Any], str]] = {
    "forward": (lambda m: m.first.register_forward_hook(m.count), "Linear has hooks"),
    "pre-forward": (lambda m: m.first.register_forward_pre_hook(m.count), "Linear has hooks"),
    "backward": (lambda m: m.last.register_full_backward_hook(m.count), "Linear has hooks"),
    "pre-backward": (lambda m: m.last.register_full_backward_pre_hook(m.count), "Linear has hooks"),
    "own": (lambda m: m.register_forward_hook(m.count), "Hooked has hooks"),
    "parameter": (lambda m: m.first.weight.register_hook(m.count), "a parameter has a hook"),
}


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_called_in_every_step(name: str, mode: Mode) -> None:
    register, blocker = HOOKS[name]

    def build() -> nn.Module:
        module = Hooked()
        register(module)
        return module

    Hooked.calls = 0
    fit(build)
    # Up to two forward passes in training mode find out before the fit what the module does, and
    # in which dtype.
    assert Hooked.calls - N_EPOCHS in (0, 1, 2)
    assert mode() == eager(blocker)
    fit_eagerly(Net)
    assert mode() == FORCED


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
def test_a_compiled_part_stays_compiled(mode: Mode) -> None:
    class Scripted(Net):
        def begin(self) -> None:
            self.inner = torch.jit.script(nn.Sequential(nn.Linear(5, 5), nn.Tanh()))

        def between(self, h: Tensor) -> Tensor:
            return self.inner(h)

    fit(Scripted)
    assert mode() == eager("a part of the module is compiled")


@pytest.mark.parametrize(
    ("max_epochs", "batch_size", "expected"),
    [
        (15, None, eager("15 steps are too few")),
        (16, None, CAPTURED),
        (3, 5, eager("15 steps are too few")),  # 23 rows in batches of 5 are 5 steps an epoch.
    ],
)
def test_a_few_steps_are_not_captured(
    max_epochs: int, batch_size: int | None, expected: str, mode: Mode
) -> None:
    fit(Net, max_epochs=max_epochs, batch_size=batch_size)
    assert mode() == expected


def test_an_optimizer_without_flat_implementation_takes_eager_steps(mode: Mode) -> None:
    fit(Net, optimizer=torch.optim.Adadelta, lr=None)
    line = mode()
    assert line != CAPTURED and "'adadelta'" in line


def test_a_batch_callback_is_called_in_every_step(mode: Mode) -> None:
    sizes: list[int] = []

    class Batches(Callback):
        def on_batch_end(self, net: Any, batch: Any, training: bool, **_: Any) -> None:
            if training:
                sizes.append(len(batch[0]))

    fit(Net, batch_size=5, callbacks=[Batches()])
    assert sizes == [5, 5, 5, 5, 3] * N_EPOCHS
    line = mode()
    assert line != CAPTURED and "callback" in line
