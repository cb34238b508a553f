"""Networks train in a stack to the same weights as alone."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from tests._modules_with_state import WithAGeneratorOfTorch
from tests._stacks import (
    EQUAL,
    UNEQUAL,
    Options,
    Rows,
    both_ways,
    compare,
    fits,
    job_of,
    rows,
    watched,
)
from tests._zoo import ACTIVATIONS, ARGUMENTS, ZOO, Body, center_target
from torchreg.engine.run import fit_networks
from torchreg.losses import LOSSES
from torchreg.nn import MLP

#: Modules that draw random numbers in training.
DRAWING = [name for name in ZOO if "dropout" in name]
#: Modules that torch.func.vmap cannot compute, or only in a slow loop.
UNSTACKABLE = ["GRU", "plain RNN", "weight norm", "spectral norm", "transformer"]


@pytest.mark.parametrize(
    "kind", [kind for kind in ACTIVATIONS if kind is not nn.RReLU], ids=lambda kind: kind.__name__
)
def test_every_activation_trains_in_a_stack_as_alone(kind: type[nn.Module]) -> None:
    def build() -> nn.Module:
        return Body(kind(**ARGUMENTS.get(kind, {})))

    _, seen = compare(build, UNEQUAL, batch_size=6)
    assert seen.sizes == [3] and seen.features_first == [True]


@pytest.mark.parametrize(
    ("tables", "batch_size"),
    [(EQUAL, 6), (UNEQUAL, None)],
    ids=["mini-batches", "padded full batch"],
)
@pytest.mark.parametrize("name", [name for name in ZOO if name not in DRAWING])
def test_every_module_of_the_zoo_trains_in_a_stack_as_alone(
    name: str, tables: list[Rows], batch_size: int | None
) -> None:
    # Only standardizing y leaves the integer column as it is. Where a layer normalizes two
    # units, a large step would amplify the last bit.
    options: dict[str, Any] = {"standardize": "y" if name == "embedding" else True}
    options |= {"lr": 1e-4} if name == "transformer" else {}
    _, seen = compare(ZOO[name], tables, batch_size=batch_size, **options)
    if name in UNSTACKABLE:
        assert seen.sizes == []
    elif "batch norm" in name and tables is UNEQUAL:
        assert max(seen.sizes, default=1) <= 2
    else:
        assert seen.sizes == [3]


def mean_over_all(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).abs().mean() ** 2


class Scaled(nn.Module):
    """A loss with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return torch.log1p(((prediction - target) / self.scale) ** 2)


@pytest.mark.parametrize(
    ("weighted", "batch_size"), [(True, None), (False, 6)], ids=["weighted", "mini-batches"]
)
@pytest.mark.parametrize("loss", [*LOSSES, nn.SmoothL1Loss, mean_over_all, Scaled])
def test_every_loss_trains_in_a_stack_as_alone(
    loss: Any, weighted: bool, batch_size: int | None
) -> None:
    tables = [rows(23, k, weighted=weighted, held_out=7) for k in range(3)]
    if not center_target(loss):
        tables = [{k: np.exp(v) if k[0] == "y" else v for k, v in t.items()} for t in tables]
    module = partial(Body, nn.Tanh())
    _, seen = compare(module, tables, loss=loss, batch_size=batch_size)
    assert seen.sizes == [3]


OPTIMIZERS: dict[str, Options] = {
    "adam": lambda k: {
        "optimizer__betas": (0.9 - 0.2 * k, 0.999 - 0.01 * k),
        "optimizer__eps": 10.0 ** (k - 8),
        "optimizer__weight_decay": 0.1 * k,
    },
    "adam with equal betas": lambda k: {"optimizer__weight_decay": 0.1 * k},
    "adamw": lambda k: {
        "optimizer__betas": (0.9 - 0.2 * k, 0.999 - 0.01 * k),
        "optimizer__weight_decay": 0.1 * k,
    },
    "sgd": lambda k: {"optimizer__momentum": 0.4 * k, "optimizer__weight_decay": 0.1 * k},
    "sgd with nesterov momentum": lambda k: {
        "optimizer__momentum": 0.1 + 0.4 * k,
        "optimizer__nesterov": True,
    },
    "rmsprop": lambda k: {
        "optimizer__alpha": 0.99 - 0.1 * k,
        "optimizer__eps": 10.0 ** (k - 8),
        "optimizer__momentum": 0.4 * k,
        "optimizer__weight_decay": 0.1 * k,
    },
    "rmsprop centered": lambda k: {"optimizer__alpha": 0.99 - 0.1 * k, "optimizer__centered": True},
    "rprop": lambda _: {},
}


@pytest.mark.parametrize(("dtype", "batch_size"), [("float64", 8), ("float32", None)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_network_has_the_hyperparameters_of_its_own_optimizer(
    name: str, batch_size: int | None, dtype: str
) -> None:
    def each(k: int) -> dict[str, Any]:
        return {"lr": 1e-3 * (1 + k), **OPTIMIZERS[name](k)}

    options = {"optimizer": name.split()[0], "batch_size": batch_size, "dtype": dtype}
    _, seen = compare(lambda: Body(nn.Tanh()), UNEQUAL, each, **options)
    assert seen.sizes == [3]


@pytest.mark.parametrize("batch_size", [None, 6], ids=["full batch", "mini-batches"])
def test_networks_with_several_outputs_train_in_a_stack_as_alone(batch_size: int | None) -> None:
    tables = [
        {**table, "y": np.column_stack([table["y"], np.cos(table["X"][:, 0])])} for table in UNEQUAL
    ]
    _, seen = compare(MLP, tables, module__hidden_sizes=(5,), batch_size=batch_size)
    assert seen.sizes == [3]


def test_unequal_numbers_of_rows_and_some_weights_change_nothing() -> None:
    tables = [rows(40 + k, k, weighted=k % 2 == 0, held_out=5 + 3 * k) for k in range(6)]
    for options in ({"batch_size": None}, {"batch_size": 16}):
        _, seen = compare(MLP, tables, module__hidden_sizes=(4,), **options)
        assert seen.sizes == [6]


class Centered(nn.Module):
    """Its output for a row depends on the other rows of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(torch.tanh(h - h.mean(0)))


@pytest.mark.parametrize("batch_size", [None, 8], ids=["full batch", "mini-batches"])
def test_a_module_that_mixes_rows_is_not_padded(batch_size: int | None) -> None:
    # Only the last batches are unequal, or only the validation rows.
    tables = [rows(21 + k, k) for k in range(3)]
    _, seen = compare(Centered, tables, batch_size=batch_size)
    assert seen.sizes == []
    assert set(seen.reasons) == {"in a stack its loss or gradient differs"}
    tables = [rows(24, k, held_out=5 + k) for k in range(3)]
    _, seen = compare(Centered, tables, batch_size=batch_size)
    assert seen.sizes == []
    assert set(seen.reasons) == {"in a stack its validation loss differs"}
    _, seen = compare(Centered, [rows(24, k, held_out=5) for k in range(3)], batch_size=batch_size)
    assert seen.sizes == [3]


def test_a_single_shuffled_batch_is_the_same_in_a_stack() -> None:
    tables = [rows(17, k) for k in range(3)]
    _, seen = compare(MLP, tables, batch_size=16, module__hidden_sizes=(3,))
    assert seen.sizes == [3]


def test_networks_with_a_generator_train_one_at_a_time() -> None:
    tables = [{**table, "X": table["X"][:, :3]} for table in EQUAL]
    _, seen = compare(WithAGeneratorOfTorch, tables, batch_size=None)
    assert seen.sizes == [] and seen.reasons == []


def test_fits_to_sparse_rows_train_one_at_a_time() -> None:
    tables = [
        {**t, "X": sp.csr_array(t["X"]), "X_val": sp.csr_array(t["X_val"])}
        for t in (rows(24, k, held_out=6) for k in range(3))
    ]
    for batch_size in (None, 8):
        _, seen = compare(MLP, tables, batch_size=batch_size, module__hidden_sizes=(3,))
        assert seen.sizes == []


# Random numbers


@pytest.mark.parametrize("name", DRAWING)
def test_random_networks_reach_the_same_mean_loss_in_a_stack(name: str) -> None:
    together, alone, seen = both_ways(
        lambda: fits(ZOO[name], [rows(40, 1)] * 24, batch_size=None, max_epochs=30)
    )
    assert seen.sizes == [24]
    ours, theirs = (
        np.array([fitted.train_result.losses[-10:] for fitted in way]).mean(axis=1)
        for way in (together, alone)
    )
    error = np.hypot(ours.std(), theirs.std()) / np.sqrt(len(ours))
    assert abs(ours.mean() - theirs.mean()) < 4 * error
    assert len(set(ours)) == len(ours)


class Fading(nn.Module):
    """A loss with a buffer that each call changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        self.scale.mul_(0.9)
        return (prediction - target) ** 2 * (1 + self.scale)


def test_a_buffer_of_a_loss_changes_as_it_does_alone() -> None:
    compare(lambda: Body(nn.Tanh()), EQUAL, loss=Fading)


@pytest.mark.parametrize("inplace", [False, True])
def test_each_network_has_its_own_dropout_rate(inplace: bool) -> None:
    rates = [0.1, 0.5, 0.9]

    class Drops(nn.Module):
        """Returns the share of units that dropout keeps, if their mean is that of all."""

        def __init__(self, rate: float) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1))
            # One layer under two names.
            drop = nn.Dropout(rate, inplace)
            self.layers = nn.ModuleList([drop, nn.Identity(), drop])

        def forward(self, x: Tensor) -> Tensor:
            kept = [layer(x.new_ones(len(x), 400)) for layer in self.layers]
            units = torch.stack(kept)[::2]
            share = units.gt(0).to(x.dtype).mean((0, 2)) + units.mean((0, 2)) - 1
            return self.bias * 0 + share[:, None]

    table = {**rows(30, 0), "y": np.ones(30) - 1e-3 * (np.arange(30) == 3)}
    jobs = [
        job_of(*fit)
        for fit in fits(Drops, [table] * 3, lambda k: {"module__rate": rates[k]}, standardize=False)
    ]
    with watched() as seen:
        answers: list[Any] = fit_networks(jobs)
    assert seen.sizes == [3]
    for fitted, rate in zip(answers, rates, strict=True):
        # The loss is (1 - share kept)^2, nearly the square of the rate.
        assert np.sqrt(np.mean(fitted.train_result.losses)) == pytest.approx(rate, abs=0.02)
        assert fitted.module.network.layers[0] is fitted.module.network.layers[2]
        assert fitted.module.network.layers[0].p == rate
        assert type(fitted.module.network.layers[0]) is nn.Dropout


# After training


@pytest.mark.parametrize("early", [False, True], ids=["budget", "early"])
def test_a_network_owns_its_memory_after_training(early: bool) -> None:
    def build() -> nn.Module:
        middle = nn.Sequential(nn.BatchNorm1d(6), nn.Tanh())
        body = Body(middle)
        body.first.bias.requires_grad_(False)
        return body

    def each(k: int) -> dict[str, Any]:
        return {"n_iter_no_change": 2 + k, "max_epochs": 20 + k}

    tables = [rows(40, k, held_out=9) for k in range(5)]
    settings = {"batch_size": 10, "early_stopping": early, "lr": 0.1}
    jobs = [job_of(*fit) for fit in fits(build, tables, each, **settings)]
    with watched() as seen:
        answers: list[Any] = fit_networks(jobs)
    assert seen.sizes == [5]
    assert len({len(fitted.train_result.losses) for fitted in answers}) > 1
    alone: Any = fit_networks(jobs[:1])[0]
    memory = set()
    for fitted in answers:
        network = fitted.module.network
        assert list(network.state_dict()) == list(alone.module.network.state_dict())
        assert [p.requires_grad for p in network.parameters()] == [True, False, *[True] * 4]
        assert not any(module.training for module in fitted.module.modules())
        for tensor in [*network.parameters(), *network.buffers()]:
            assert tensor._base is None and tensor.is_leaf and tensor.grad is None
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
            assert tensor.untyped_storage().data_ptr() not in memory
            memory.add(tensor.untyped_storage().data_ptr())
        assert len(pickle.dumps(fitted.module)) < 1.02 * len(pickle.dumps(alone.module))


def test_a_module_instance_is_not_changed() -> None:
    template = Body(nn.Tanh())
    template(torch.zeros(2, 4))
    before = {name: tensor.clone() for name, tensor in template.state_dict().items()}
    _, seen = compare(template, UNEQUAL)
    assert seen.sizes == [3]
    assert all(torch.equal(before[name], t) for name, t in template.state_dict().items())
