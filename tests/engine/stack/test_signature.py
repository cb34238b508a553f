"""Tasks with equal signatures train as one stack; every other difference keeps them apart."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from skorch.callbacks import GradientNormClipping
from torch import Tensor, nn
from torch.nn import functional

from tests._stacks import task_of
from tests._zoo import Body
from torchreg import TorchRegressor
from torchreg.engine.stack import UnstackableError, stack_signature
from torchreg.nn import MLP

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 4)), RNG.normal(size=(60, 2))


def signature(
    n: int = 40, held_out: int = 0, rows: dict[str, Any] | None = None, **options: Any
) -> Any:
    """Return the signature of a fit to the first n rows."""
    settings: dict[str, Any] = {"max_epochs": 20, "random_state": 0, "dtype": "float64"}
    settings |= {} if "module" in options else {"module__hidden_sizes": (3,)}
    given: dict[str, Any] = {"X": X[:n], "y": Y[:n, 0]}
    if held_out:
        given |= {"X_val": X[:held_out], "y_val": Y[:held_out, 0]}
    reg = TorchRegressor(**{"module": MLP, **settings, **options})
    return stack_signature(task_of(reg, {**given, **(rows or {})}))


class Set(nn.Module):
    """A linear layer with one more attribute."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.linear, self.value = nn.Linear(4, 1), value

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Tied(nn.Module):
    """A third layer shares the weights of the first or the second."""

    def __init__(self, owner: str) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
        self.c.weight = getattr(self, owner).weight
        self.last = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.c(self.b(self.a(x))))


class Bent(nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.body = Body(copy.deepcopy(layer))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def weighted(n: int = 40) -> dict[str, Any]:
    return {"sample_weight": np.linspace(1, 2, n)}


def half(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).abs() ** 0.5


def mean_of_all(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).abs().mean()


class Scaled(nn.Module):
    """A loss with a buffer."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs() / self.scale


def either(module: Any, key: str, one: Any, other: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return options with one and with another argument of a module."""
    name = f"module__{key}"
    return {"module": module, name: one}, {"module": module, name: other}


SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": ({}, {}),
    "seed": ({}, {"random_state": 1}),
    "rows": ({}, {"rows": {"X": X[:40] * 3, "y": Y[:40, 1]}}),
    "number of rows": ({"n": 40}, {"n": 50}),
    "weights": ({}, {"rows": weighted()}),
    "budget": ({}, {"max_epochs": 90}),
    "lr": ({}, {"lr": 0.5}),
    "betas": ({}, {"optimizer__betas": (0.5, 0.6)}),
    "decay": ({}, {"optimizer__weight_decay": 0.1}),
    "tolerance": ({}, {"tol": 0.1, "n_iter_no_change": 3}),
    "validation rows": ({"held_out": 5}, {"held_out": 9}),
    "standardization": ({}, {"standardize": False}),
    "rate": ({"module__dropout": 0.2}, {"module__dropout": 0.4}),
    "the same loss function": ({"loss": half}, {"loss": half}),
    "a loss with an equal buffer": 2 * ({"loss": Scaled, "loss__scale": 2.0},),
    "full batch": ({"batch_size": None}, {"batch_size": 40}),
    "last batch": ({"batch_size": 16, "n": 40}, {"batch_size": 16, "n": 45}),
    "equal settings": either(
        Set, "value", *({"a": [1, 2.5, None, torch.ones(2)]} for _ in range(2))
    ),
    "the same function": either(
        Set, "value", *(partial(functional.elu, alpha=2.0) for _ in range(2))
    ),
}

DIFFERENT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "activation": ({}, {"module__activation": "tanh"}),
    "hidden size": ({}, {"module__hidden_sizes": (4,)}),
    "number of layers": ({}, {"module__hidden_sizes": (3, 3)}),
    "dropout or none": ({}, {"module__dropout": 0.4}),
    "loss": ({}, {"loss": "huber"}),
    "loss option": ({"loss": "huber"}, {"loss": "huber", "loss__delta": 0.5}),
    "loss that is another function": ({"loss": half}, {"loss": lambda p, t: (p - t).abs()}),
    "buffer of a loss": (
        {"loss": Scaled, "loss__scale": 2.0},
        {"loss": Scaled, "loss__scale": 3.0},
    ),
    "optimizer": ({}, {"optimizer": "adamw"}),
    "momentum of another kind": (
        {"optimizer": "sgd", "optimizer__momentum": 0.9},
        {"optimizer": "sgd", "optimizer__momentum": 0.9, "optimizer__nesterov": True},
    ),
    "etas": ({"optimizer": "rprop"}, {"optimizer": "rprop", "optimizer__etas": (0.4, 1.3)}),
    "dtype": ({}, {"dtype": "float32"}),
    "batch size": ({"batch_size": 10}, {"batch_size": 20}),
    "number of batches": ({"batch_size": 10, "n": 40}, {"batch_size": 10, "n": 50}),
    "full batch or mini-batch": ({"batch_size": None}, {"batch_size": 39}),
    "outputs": ({}, {"rows": {"y": Y[:40]}}),
    "columns": ({}, {"rows": {"X": X[:40, :3]}}),
    "validation or none": ({}, {"held_out": 5}),
    "monitored loss": ({"held_out": 5}, {"held_out": 5, "early_stopping": True}),
    "attribute": either(Set, "value", 1.0, 2.0),
    "type of an attribute": either(Set, "value", 1, True),
    "tensor as attribute": either(Set, "value", torch.ones(2), torch.zeros(2)),
    "array as attribute": either(Set, "value", np.ones(2), np.zeros(2)),
    "function as attribute": either(Set, "value", torch.tanh, torch.sin),
    "lambda as attribute": either(Set, "value", lambda: 1, lambda: 1),
    "shared weights": either(Tied, "owner", "a", "b"),
    "alpha": either(Bent, "layer", nn.ELU(1.0), nn.ELU(2.0)),
    "rate of alpha dropout": either(Bent, "layer", nn.AlphaDropout(0.1), nn.AlphaDropout(0.2)),
    "dropout in place": either(Bent, "layer", nn.Dropout(0.1), nn.Dropout(0.1, inplace=True)),
    "frozen parameters": either(
        Bent, "layer", nn.Linear(6, 6), nn.Linear(6, 6).requires_grad_(False)
    ),
    "rows with batch normalization": (
        {"module": Bent, "module__layer": nn.BatchNorm1d(6), "n": 40},
        {"module": Bent, "module__layer": nn.BatchNorm1d(6), "n": 41},
    ),
    "rows with dropout": ({"module__dropout": 0.1, "n": 40}, {"module__dropout": 0.1, "n": 41}),
    "rows with a loss that is no mean over rows": (
        {"loss": mean_of_all, "n": 40},
        {"loss": mean_of_all, "n": 41},
    ),
    "weights with a loss that is no mean over rows": (
        {"loss": mean_of_all},
        {"loss": mean_of_all, "rows": weighted()},
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_tasks_that_may_differ_have_equal_signatures(name: str) -> None:
    one, other = SAME[name]
    assert signature(**one) == signature(**other)
    assert hash(signature(**one)) == hash(signature(**other))


@pytest.mark.parametrize("name", DIFFERENT)
def test_other_differences_change_the_signature(name: str) -> None:
    one, other = DIFFERENT[name]
    assert signature(**one) != signature(**other)
    # The signature itself is reproducible.
    if name != "lambda as attribute":
        assert signature(**one) == signature(**one) and signature(**other) == signature(**other)


class Prints(Body):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 10**6:
            print(len(x))
        return super().forward(x)


def hooked() -> nn.Module:
    body = Body(nn.Tanh())
    body.first.register_forward_hook(lambda *_: None)
    return body


LONE: dict[str, tuple[dict[str, Any], str]] = {
    "callback": ({"callbacks": [GradientNormClipping()]}, "a callback observes batches"),
    "sparse": (
        {"rows": {"X": sp.csr_array(X[:40])}, "batch_size": 8},
        "its rows are standardized in each epoch",
    ),
    "sparse validation": (
        {"rows": {"X": sp.csr_array(X[:40]), "X_val": sp.csr_array(X[:5]), "y_val": Y[:5, 0]}},
        "its rows are standardized in each epoch",
    ),
    "hook": ({"module": hooked}, "Linear has hooks"),
    "print": ({"module": lambda: Prints(nn.Tanh())}, "the module or the loss prints"),
    "lbfgs": ({"optimizer": "lbfgs"}, "optimizer 'lbfgs' trains one network at a time"),
    "torch optimizer": (
        {"optimizer": "adagrad"},
        "optimizer 'adagrad' trains one network at a time",
    ),
}


@pytest.mark.parametrize("name", LONE)
def test_a_task_that_can_only_train_alone_raises_the_reason(name: str) -> None:
    options, because = LONE[name]
    with pytest.raises(UnstackableError, match=because):
        signature(**options)


def test_parameters_of_several_dtypes_cannot_be_stacked() -> None:
    class Mixed(nn.Module):
        """Keeps one parameter in float32."""

        def __init__(self) -> None:
            super().__init__()
            self.linear, self.scale = nn.Linear(4, 1), nn.Parameter(torch.ones(1))

        def _apply(self, fn: Any, recurse: bool = True) -> Any:
            super()._apply(fn, recurse)
            self.scale.data = self.scale.data.to(torch.float32)
            return self

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) * self.scale

    with pytest.raises(UnstackableError, match="its parameters have several dtypes"):
        signature(module=Mixed)


def test_a_fit_with_checkpoints_cannot_be_stacked() -> None:
    task = task_of(TorchRegressor(MLP, max_epochs=20), {"X": X, "y": Y[:, 0]})
    with pytest.raises(UnstackableError, match="it saves checkpoints"):
        stack_signature(replace(task, checkpoint_store=cast(Any, object())))
