"""What keeps steps from being captured is named, and every step is then an ordinary one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchreg import TorchRegressor
from torchreg.engine.capture import gradient

Array = np.ndarray
N_EPOCHS = 20
CAPTURED = "The steps were captured once and repeated."
STATE = "the module or the loss changes Python state while it runs"
LOOKS = "the module or the loss looks at values while it runs"
RNG = np.random.default_rng(1)
X = RNG.normal(size=(22, 3))
Y = np.sin(X[:, 0]) + X[:, 1]


def fit(module: Any, *, capsys: Any = None, **options: Any) -> tuple[TorchRegressor, str]:
    """Fit, and say in which lane."""
    settings: dict[str, Any] = {"batch_size": None, "lr": 0.02, "dtype": "float64"}
    settings |= {"optimizer": "sgd", "max_epochs": N_EPOCHS, "random_state": 0, **options}
    reg = TorchRegressor(module, verbose=1, **settings).fit(X, Y)
    return reg, capsys.readouterr().out.splitlines()[-1]


def is_step(module: nn.Module) -> bool:
    """Whether a pass belongs to a step, and is no probe before the fit."""
    return module.training and torch.is_grad_enabled()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(torch.tanh(self.first(x))))

    def between(self, h: Tensor) -> Tensor:
        return h


COUNT = 0


class CountsInAnAttribute(Net):
    count = 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += is_step(self)
        return super().forward(x)

    def counted(self) -> int:
        return self.count


class CountsInItsClass(Net):
    count = 0

    def forward(self, x: Tensor) -> Tensor:
        CountsInItsClass.count += is_step(self)
        return super().forward(x)

    def counted(self) -> int:
        return CountsInItsClass.count


class CountsInAGlobal(Net):
    def forward(self, x: Tensor) -> Tensor:
        global COUNT
        COUNT += is_step(self)
        return super().forward(x)

    def counted(self) -> int:
        return COUNT


class CountsInAList(Net):
    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[torch.Size] = []

    def forward(self, x: Tensor) -> Tensor:
        if is_step(self):
            self.shapes.append(x.shape)
        return super().forward(x)

    def counted(self) -> int:
        return len(self.shapes)


class CountsInADictionary(Net):
    def __init__(self) -> None:
        super().__init__()
        self.seen = {"steps": 0}

    def forward(self, x: Tensor) -> Tensor:
        self.seen["steps"] += is_step(self)
        return super().forward(x)

    def counted(self) -> int:
        return self.seen["steps"]


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize(
    "module",
    [
        CountsInAnAttribute,
        CountsInItsClass,
        CountsInAGlobal,
        CountsInAList,
        CountsInADictionary,
    ],
)
def test_what_a_module_counts_in_Python_it_counts_in_every_step(
    module: Any, batch_size: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    global COUNT
    COUNT = CountsInItsClass.count = 0
    reg, lane = fit(module, batch_size=batch_size, capsys=capsys)
    # 22 rows in batches of 5: the last one has 2.
    assert reg.module_.network.counted() == N_EPOCHS * (1 if batch_size is None else 5)
    assert lane == f"The steps ran eagerly, because {STATE}."


def test_what_a_loss_counts_in_a_closure_it_counts_in_every_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[int] = []

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        seen.append(len(target))
        return (prediction - target) ** 2

    _, lane = fit(Net, loss=loss, capsys=capsys)
    assert seen.count(len(X)) == N_EPOCHS
    assert lane == f"The steps ran eagerly, because {STATE}."


class DrawsFromPython(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (random.uniform(0.9, 1.1) if is_step(self) else 1.0)


class DrawsFromNumPy(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (np.random.uniform(0.9, 1.1) if is_step(self) else 1.0)


@pytest.mark.parametrize("module", [DrawsFromPython, DrawsFromNumPy])
def test_a_module_that_draws_from_another_generator_draws_in_every_step(
    module: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    states = random.getstate(), np.random.get_state()
    try:
        random.seed(0)
        np.random.seed(0)
        _, lane = fit(module, capsys=capsys)
        after = random.random(), np.random.random()
        random.seed(0)
        np.random.seed(0)
        for _ in range(N_EPOCHS):
            _ = random.random() if module is DrawsFromPython else np.random.random()
        assert after == (random.random(), np.random.random())
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    assert lane == f"The steps ran eagerly, because {STATE}."


class Prints(Net):
    def forward(self, x: Tensor) -> Tensor:
        if is_step(self):
            print("a step")
        return super().forward(x)


def test_a_module_that_prints_prints_in_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    TorchRegressor(Prints, max_epochs=N_EPOCHS, verbose=1, random_state=0).fit(X, Y)
    out = capsys.readouterr().out
    assert out.count("a step\n") == N_EPOCHS
    assert "The steps ran eagerly, because" in out and "prints" in out.splitlines()[-1]


class Hooked(Net):
    """With a hook that counts."""

    calls = 0

    def count(self, *_: Any) -> None:
        Hooked.calls += self.training


def with_hook(register: Callable[[Hooked], Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        module = Hooked()
        register(module)
        return module

    return build


HOOKS: dict[str, tuple[Callable[[Hooked], Any], str]] = {
    "forward": (lambda m: m.first.register_forward_hook(m.count), "Linear has hooks"),
    "pre-forward": (lambda m: m.first.register_forward_pre_hook(m.count), "Linear has hooks"),
    "backward": (lambda m: m.last.register_full_backward_hook(m.count), "Linear has hooks"),
    "pre-backward": (
        lambda m: m.last.register_full_backward_pre_hook(m.count),
        "Linear has hooks",
    ),
    "own": (lambda m: m.register_forward_hook(m.count), "Hooked has hooks"),
    "parameter": (lambda m: m.first.weight.register_hook(m.count), "a parameter has a hook"),
}


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_called_in_every_step(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    register, because = HOOKS[name]
    Hooked.calls = 0
    _, lane = fit(with_hook(register), capsys=capsys)
    # A forward pass in training mode comes before the fit, to find out what the module does.
    assert Hooked.calls - N_EPOCHS in (0, 1)
    assert lane == f"The steps ran eagerly, because {because}."


class LooksAtANumber(Net):
    def between(self, h: Tensor) -> Tensor:
        return h / h.detach().abs().max().item()


class Decides(Net):
    def between(self, h: Tensor) -> Tensor:
        return h if h.mean() > 0.0 else 2 * h


class Selects(Net):
    def between(self, h: Tensor) -> Tensor:
        return h + h[h > 0].mean()


class Cumulative(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, momentum=None)

    def between(self, h: Tensor) -> Tensor:
        return self.norm(h)


class Scripted(Net):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Tanh()))

    def between(self, h: Tensor) -> Tensor:
        return self.inner(h)


@pytest.mark.parametrize(
    ("module", "because"),
    [
        (LooksAtANumber, LOOKS),
        (Decides, LOOKS),
        (Cumulative, LOOKS),
        (Selects, "the shape of what index returns depends on values"),
    ],
)
@pytest.mark.parametrize("batch_size", [None, 5])
def test_control_flow_on_values_is_followed_in_every_step(
    module: Any,
    because: str,
    batch_size: int | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reg, lane = fit(module, batch_size=batch_size, capsys=capsys)
    assert lane == f"The steps ran eagerly, because {because}."
    monkeypatch.setattr(gradient, "find_capture_blocker", lambda *_: "this test asks for it")
    plain, lane = fit(module, batch_size=batch_size, capsys=capsys)
    assert lane == "The steps ran eagerly, because this test asks for it."
    assert reg.loss_curve_ == plain.loss_curve_
    np.testing.assert_array_equal(reg.predict(X), plain.predict(X))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
def test_a_compiled_part_runs_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    _, lane = fit(Scripted, capsys=capsys)
    assert lane == "The steps ran eagerly, because a part of the module is compiled."


def test_too_few_steps_are_not_captured(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(Net, max_epochs=15, capsys=capsys)[1] == (
        "The steps ran eagerly, because 15 steps are too few."
    )
    assert fit(Net, max_epochs=16, capsys=capsys)[1] == CAPTURED
    # 22 rows in batches of 5 are 5 steps an epoch.
    assert fit(Net, max_epochs=3, batch_size=5, capsys=capsys)[1] == (
        "The steps ran eagerly, because 15 steps are too few."
    )


def test_an_optimizer_that_only_torch_has_runs_eagerly(capsys: pytest.CaptureFixture[str]) -> None:
    _, lane = fit(Net, optimizer=torch.optim.Adadelta, lr=None, capsys=capsys)
    assert lane == "The steps ran eagerly, because 'adadelta' has no flat implementation."


def test_a_callback_that_listens_to_batches_hears_each_of_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from skorch.callbacks import Callback

    heard: list[float] = []

    class Listens(Callback):
        def on_batch_end(self, net: Any, batch: Any, training: bool, **_: Any) -> None:
            if training:
                heard.append(len(batch[0]))

    _, lane = fit(Net, batch_size=5, callbacks=[Listens()], capsys=capsys)
    assert heard == [5, 5, 5, 5, 2] * N_EPOCHS
    assert lane == "The steps ran eagerly, because a callback observes batches."
