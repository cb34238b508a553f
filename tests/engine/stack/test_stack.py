"""Networks that train as one stack become what each of them becomes alone."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from tests._modules_with_state import InAHelper, InNumPy, WithAGeneratorOfTorch
from tests._stacks import Rows, Seen, assert_same, both_ways, job_of, watched
from tests._zoo import ACTIVATIONS, ARGUMENTS, ZOO, Body, center_target
from torchreg import TorchRegressor
from torchreg.engine.run import fit_networks
from torchreg.losses import LOSSES
from torchreg.nn import MLP

#: Modules that draw random numbers while they train.
DRAWING = [name for name in ZOO if "dropout" in name]
#: Modules of which torch cannot compute many at once, or only in slow pieces.
LONE = ["GRU", "plain RNN", "weight norm", "spectral norm", "transformer"]
Options = Callable[[int], dict[str, Any]]


def rows(n: int, seed: int, *, weighted: bool = False, held_out: int = 0) -> Rows:
    """A table of four columns, the last of small integers."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n + held_out, 4))
    X[:, 3] = rng.integers(0, 5, size=n + held_out)
    y = np.sin(X[:, 0]) + X[:, 1] + 0.1 * X[:, 3]
    given: Rows = {"X": X[:n], "y": y[:n]}
    if weighted:
        given["sample_weight"] = rng.uniform(0.5, 2.0, size=n)
    if held_out:
        given |= {"X_val": X[n:], "y_val": y[n:]}
    return given


def fits(
    module: Any,
    tables: Sequence[Rows],
    each: Options = lambda _: {},
    **options: Any,
) -> list[tuple[TorchRegressor, Rows]]:
    """One fit for each table, of its own seed; ``each`` gives what else is its own."""
    settings: dict[str, Any] = {"optimizer": "sgd", "lr": 0.02, "dtype": "float64"}
    settings |= {"max_epochs": 20, "batch_size": None, **options}
    return [
        (TorchRegressor(module, **{**settings, "random_state": k, **each(k)}), table)
        for k, table in enumerate(tables)
    ]


def compare(
    module: Any, tables: Sequence[Rows], each: Options = lambda _: {}, **options: Any
) -> tuple[list[Any], Seen]:
    """Require that the fits end together as they end alone."""
    near = 2e-4 if options.get("dtype") == "float32" else 1e-9
    together, alone, seen = both_ways(lambda: fits(module, tables, each, **options))
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other, near=near)
    return together, seen


EQUAL = [rows(23, seed) for seed in range(3)]
UNEQUAL = [rows(23 + n, n, weighted=n == 1) for n in range(3)]


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
    [(EQUAL, 6), (UNEQUAL, None), (UNEQUAL, 6)],
    ids=["equal-batches", "unequal-whole", "unequal-batches"],
)
@pytest.mark.parametrize("name", [name for name in ZOO if name not in DRAWING])
def test_every_module_of_the_zoo_trains_together_as_alone(
    name: str, tables: list[Rows], batch_size: int | None
) -> None:
    # Only standardizing y leaves the integer column as it is. Where a layer normalizes two
    # units, a large step would amplify the last bit.
    options: dict[str, Any] = {"standardize": "y" if name == "embedding" else True}
    options |= {"lr": 1e-4} if name == "transformer" else {}
    _, seen = compare(ZOO[name], tables, batch_size=batch_size, **options)
    if name in LONE:
        assert seen.sizes == []
    elif "batch norm" in name and tables is UNEQUAL:
        assert max(seen.sizes, default=1) <= 2
    else:
        assert seen.sizes == [3]


def mean_over_all(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).abs().mean() ** 2


class Learned(nn.Module):
    """A loss with a number of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return torch.log1p(((prediction - target) / self.scale) ** 2)


@pytest.mark.parametrize("batch_size", [None, 6], ids=["whole", "batches"])
@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "unweighted"])
@pytest.mark.parametrize("loss", [*LOSSES, nn.SmoothL1Loss, mean_over_all, Learned])
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
    "adam of one decay of averages": lambda k: {"optimizer__weight_decay": 0.1 * k},
    "adamw": lambda k: {
        "optimizer__betas": (0.9 - 0.2 * k, 0.999 - 0.01 * k),
        "optimizer__weight_decay": 0.1 * k,
    },
    "sgd": lambda k: {"optimizer__momentum": 0.4 * k, "optimizer__weight_decay": 0.1 * k},
    "sgd of nesterov": lambda k: {
        "optimizer__momentum": 0.1 + 0.4 * k,
        "optimizer__nesterov": True,
    },
    "rmsprop": lambda k: {
        "optimizer__alpha": 0.99 - 0.1 * k,
        "optimizer__eps": 10.0 ** (k - 8),
        "optimizer__momentum": 0.4 * k,
        "optimizer__weight_decay": 0.1 * k,
    },
    "rmsprop centered": lambda k: {
        "optimizer__alpha": 0.99 - 0.1 * k,
        "optimizer__centered": True,
    },
    "rprop": lambda _: {},
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("batch_size", [None, 8], ids=["whole", "batches"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_network_moves_by_the_numbers_of_its_own_optimizer(
    name: str, batch_size: int | None, dtype: str
) -> None:
    def each(k: int) -> dict[str, Any]:
        return {"lr": 1e-3 * (1 + k), **OPTIMIZERS[name](k)}

    options = {"optimizer": name.split()[0], "batch_size": batch_size, "dtype": dtype}
    _, seen = compare(lambda: Body(nn.Tanh()), UNEQUAL, each, **options)
    assert seen.sizes == [3]


class Views(nn.Module):
    """Needs rows that lie one after another in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        # (n, 6) -> (6 n,) -> (2 n, 3) -> (n, 2, 3) -> (n, 3)
        return self.last(torch.tanh(h.view(-1).view(-1, 3)).view(-1, 2, 3).sum(1))


class Asserts(Body):
    """Says no in a way that is no torch error."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        assert h.is_contiguous()
        return self.last(self.middle(h))


class Looks(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x))) * {True: 1.0}[x.is_contiguous()]


@pytest.mark.parametrize("module", [Views, lambda: Asserts(nn.Tanh()), lambda: Looks(nn.Tanh())])
@pytest.mark.parametrize("batch_size", [None, 6], ids=["whole", "batches"])
def test_a_module_that_needs_rows_first_in_memory_has_them(
    module: Any, batch_size: int | None
) -> None:
    _, seen = compare(module, UNEQUAL, batch_size=batch_size)
    assert seen.sizes == [3] and seen.features_first == [False]
    assert len(seen.reasons) == 1


class Averaging(nn.Module):
    """Keeps a running mean in a parameter that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 1)
        self.mean = nn.Parameter(torch.zeros(3), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * h.detach().mean(0))
        return self.last(h - self.mean)


class Decaying(Body):
    """Shrinks a trained parameter by itself."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.last.weight.mul_(0.99)
        return super().forward(x)


class Odd(nn.Module):
    """With parameters without elements and without dimensions, integers, and an empty slot."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1, bias=False)
        self.none, self.scale = nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.tensor(1.5))
        self.register_buffer("order", torch.tensor([3, 1, 0, 2]))
        self.register_buffer("nothing", None)
        self.register_parameter("nobody", None)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x[:, self.order]) * self.scale


class Overwrites(Body):
    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5)
        return super().forward(x)


KINDS: dict[str, Any] = {
    "a fixed parameter that changes": Averaging,
    "a parameter that shrinks by itself": lambda: Decaying(nn.Tanh()),
    "odd parameters": Odd,
    "an input that is overwritten": lambda: Overwrites(nn.Tanh()),
    "in place behind a view": lambda: Body(nn.Sequential(nn.Flatten(), nn.ReLU(True))),
}


@pytest.mark.parametrize("batch_size", [None, 6], ids=["whole", "batches"])
@pytest.mark.parametrize("name", KINDS)
def test_what_a_module_does_to_its_tensors_it_does_in_a_stack(
    name: str, batch_size: int | None
) -> None:
    _, seen = compare(KINDS[name], EQUAL, batch_size=batch_size)
    assert seen.sizes == [3]


@pytest.mark.parametrize("batch_size", [None, 6], ids=["whole", "batches"])
def test_several_outputs_are_each_compared_with_their_own_column(batch_size: int | None) -> None:
    tables = [
        {**table, "y": np.column_stack([table["y"], np.cos(table["X"][:, 0])])} for table in UNEQUAL
    ]
    _, seen = compare(MLP, tables, module__hidden_sizes=(5,), batch_size=batch_size)
    assert seen.sizes == [3]


def test_hidden_units_weights_and_validation_rows_of_unequal_length_leave_the_rest_alone() -> None:
    tables = [rows(40 + k, k, weighted=k % 2 == 0, held_out=5 + 3 * k) for k in range(6)]
    for options in ({"batch_size": None}, {"batch_size": 16}):
        _, seen = compare(MLP, tables, module__hidden_sizes=(4,), **options)
        assert seen.sizes == [6]


class Centered(nn.Module):
    """What a row becomes depends on the rows beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(torch.tanh(h - h.mean(0)))


@pytest.mark.parametrize("batch_size", [None, 8], ids=["whole", "batches"])
def test_rows_that_are_padded_change_nothing_for_a_module_that_mixes_rows(
    batch_size: int | None,
) -> None:
    # Only the last batches are unequal, or only the validation rows.
    tables = [rows(21 + k, k) for k in range(3)]
    _, seen = compare(Centered, tables, batch_size=batch_size)
    assert seen.sizes == []
    assert set(seen.reasons) == {"in a stack it does not compute what it computes alone"}
    tables = [rows(24, k, held_out=5 + k) for k in range(3)]
    _, seen = compare(Centered, tables, batch_size=batch_size)
    assert seen.sizes == []
    assert set(seen.reasons) == {"in a stack it is not evaluated as it is alone"}
    _, seen = compare(Centered, [rows(24, k, held_out=5) for k in range(3)], batch_size=batch_size)
    assert seen.sizes == [3]


def test_a_lone_batch_that_is_not_full_by_name_is_treated_as_alone() -> None:
    tables = [rows(17, k) for k in range(3)]
    together, seen = compare(MLP, tables, batch_size=16, module__hidden_sizes=(3,))
    assert seen.sizes == [3]
    assert all(fitted.train_result.reason == "budget" for fitted in together)


class Counts(nn.Module):
    """Counts its steps in a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.n = COUNT

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.n += 1
        return self.linear(x)


COUNT = torch.zeros(())


class EvaluatesInPython(Body):
    """Counts its evaluations in Python."""

    n = 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and not torch.is_grad_enabled():
            self.n += 1
        return super().forward(x)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (InAHelper, "the module or the loss changes Python state while it runs"),
        (InNumPy, "the module cannot be computed for many: The module failed on a batch"),
        (lambda: EvaluatesInPython(nn.Tanh()), "the module or the loss changes Python state"),
        (Counts, "it changes a tensor that is no parameter and no buffer"),
        (ZOO["transformer"], "torch has no _scaled_dot_product_flash_attention"),
    ],
)
def test_what_cannot_be_stacked_trains_in_turn_as_alone(module: Any, reason: str) -> None:
    tables = [rows(24, k, held_out=6) for k in range(3)]
    if module in (InAHelper, InNumPy):
        tables = [{**t, "X": t["X"][:, :3], "X_val": t["X_val"][:, :3]} for t in tables]
    _, seen = compare(module, tables, batch_size=None)
    assert seen.sizes == []
    assert len(seen.reasons) == 2 and all(reason in each for each in seen.reasons)


def test_who_draws_from_a_generator_of_its_own_trains_in_turn() -> None:
    tables = [{**table, "X": table["X"][:, :3]} for table in EQUAL]
    _, seen = compare(WithAGeneratorOfTorch, tables, batch_size=None)
    assert seen.sizes == [] and seen.reasons == []


def test_sparse_rows_train_in_turn() -> None:
    tables = [
        {**t, "X": sp.csr_array(t["X"]), "X_val": sp.csr_array(t["X_val"])}
        for t in (rows(24, k, held_out=6) for k in range(3))
    ]
    for batch_size in (None, 8):
        _, seen = compare(MLP, tables, batch_size=batch_size, module__hidden_sizes=(3,))
        assert seen.sizes == []


# Networks that draw


@pytest.mark.parametrize("name", DRAWING)
def test_networks_that_draw_train_in_a_stack_to_losses_of_the_same_size(name: str) -> None:
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


@pytest.mark.parametrize("inplace", [False, True])
def test_each_network_drops_units_at_its_own_rate(inplace: bool) -> None:
    rates = [0.1, 0.5, 0.9]

    class Drops(nn.Module):
        """Its output is a constant times the share of units that are kept, twice over."""

        def __init__(self, rate: float) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1))
            # One layer in two places.
            drop = nn.Dropout(rate, inplace)
            self.layers = nn.ModuleList([drop, nn.Identity(), drop])

        def forward(self, x: Tensor) -> Tensor:
            kept = [layer(x.new_ones(len(x), 400)) for layer in self.layers]
            share = torch.stack(kept)[::2].gt(0).to(x.dtype).mean((0, 2))
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


# What is left when they are done


@pytest.mark.parametrize("early", [False, True], ids=["budget", "early"])
def test_a_network_that_leaves_the_stack_owns_its_memory(early: bool) -> None:
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


def test_a_template_is_not_touched() -> None:
    template = Body(nn.Tanh())
    template(torch.zeros(2, 4))
    before = {name: tensor.clone() for name, tensor in template.state_dict().items()}
    _, seen = compare(template, UNEQUAL)
    assert seen.sizes == [3]
    assert all(torch.equal(before[name], t) for name, t in template.state_dict().items())


def test_a_stack_that_is_undone_leaves_networks_as_they_were() -> None:
    jobs = [job_of(*fit) for fit in fits(Averaging, EQUAL)]
    with watched() as seen:
        fit_networks(jobs)
    (stack,) = seen.stacks
    _, theta, fixed = stack.initial
    stack.undo()
    for place, task in enumerate(stack.tasks):
        network = task.network
        alone = job_of(*fits(Averaging, EQUAL)[place])
        assert alone.config.seed == place
        trained = [p for p in network.parameters() if p.requires_grad]
        assert torch.equal(torch.cat([p.detach().reshape(-1) for p in trained]), theta[place])
        assert torch.equal(network.get_parameter("mean"), fixed["mean"][place])
        assert all(p.untyped_storage().nbytes() == p.nbytes for p in network.parameters())
