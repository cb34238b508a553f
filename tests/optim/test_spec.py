"""The parameters optimizer, lr and optimizer__*: names, classes, options and their errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchreg import TorchRegressor
from torchreg.nn import MLP
from torchreg.optim import LBFGS, build_optimizer

Array = np.ndarray
UNUSABLE = {"Muon": "matrices only", "SparseAdam": "sparse gradients only"}
CLASSES = [
    value
    for value in vars(torch.optim).values()
    if isinstance(value, type)
    and issubclass(value, torch.optim.Optimizer)
    and value is not torch.optim.Optimizer
]
USABLE = [cls for cls in CLASSES if cls.__name__ not in UNUSABLE]
by_name_and_class = pytest.mark.parametrize("by_name", [True, False], ids=["name", "class"])


@pytest.fixture(scope="module")
def table() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    X = 200 + 10 * rng.normal(size=(60, 2))
    return X, 4000 + 30 * X[:, 0] - 5 * X[:, 1] + 100 * rng.normal(size=60)


def quick(optimizer: Any, **options: Any) -> TorchRegressor:
    settings: dict[str, Any] = {"max_epochs": 20, "random_state": 0, "module__hidden_sizes": [5]}
    return TorchRegressor(**{"module": MLP, "optimizer": optimizer, **settings, **options})


def nested(options: dict[str, Any]) -> dict[str, Any]:
    return {f"optimizer__{name}": value for name, value in options.items()}


def standardized_rows() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(30, 2)), rng.normal(size=30)


def linear(**options: Any) -> TorchRegressor:
    return TorchRegressor(nn.Linear, random_state=0, standardize=False, **options)


def first_step(**options: Any) -> tuple[Array, Array]:
    """Return the change of a linear network's weights in one full-batch step, and the gradient."""
    X, y = standardized_rows()
    reg = linear(max_epochs=1, **options).fit(X, y)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = nn.Linear(2, 1).double()
    ((before(torch.from_numpy(X)) - torch.from_numpy(y)[:, None]) ** 2).mean().backward()
    change = (reg.module_.network.weight - before.weight).detach().numpy()
    return change, before.weight.grad.numpy()


# All classes of torch.optim


def test_torch_has_at_least_13_usable_classes() -> None:
    assert len(USABLE) >= 13


@pytest.mark.parametrize("cls", USABLE)
@by_name_and_class
def test_every_class_for_dense_gradients_reduces_the_loss(
    cls: type[torch.optim.Optimizer], by_name: bool, table: tuple[Array, Array]
) -> None:
    X, y = table
    # LBFGS compares gradients between steps, which must be of the same rows.
    for batch_size in (None,) if cls is torch.optim.LBFGS else (None, 25):
        options = {"batch_size": batch_size, "module__activation": "tanh"}
        reg = quick(cls.__name__.lower() if by_name else cls, **options).fit(X, y)
        assert reg.loss_curve_[-1] < reg.loss_curve_[0]
        assert np.isfinite(reg.predict(X)).all()


@pytest.mark.parametrize("name", UNUSABLE)
@by_name_and_class
def test_a_class_that_cannot_train_a_dense_network_raises_with_the_reason(
    name: str, by_name: bool, table: tuple[Array, Array]
) -> None:
    cls = {cls.__name__: cls for cls in CLASSES}.get(name)
    # Older versions of torch have no Muon.
    message = rf"'{name.lower()}' .*{UNUSABLE[name]}.* 'adamw'"
    message = message if cls else rf"Unknown optimizer '{name}'.*'adamw'"
    with pytest.raises(ValueError, match=message):
        quick(name.lower() if by_name or cls is None else cls).fit(*table)


def test_the_case_of_a_name_does_not_matter(table: tuple[Array, Array]) -> None:
    X, y = table
    plain = quick("adamw").fit(X, y).predict(X)
    np.testing.assert_array_equal(quick("AdamW").fit(X, y).predict(X), plain)


# Options


@pytest.mark.parametrize(
    ("name", "options", "cls"),
    [
        ("adam", {"betas": (0.5, 0.9), "eps": 1e-3}, torch.optim.Adam),
        ("adam", {"amsgrad": True}, torch.optim.Adam),
        ("adamw", {"weight_decay": 0.5}, torch.optim.AdamW),
        ("sgd", {"momentum": 0.5, "nesterov": True}, torch.optim.SGD),
        ("sgd", {"momentum": 0.5, "dampening": 0.3}, torch.optim.SGD),
        ("rprop", {"etas": (0.3, 1.5), "step_sizes": (1e-4, 0.1)}, torch.optim.Rprop),
        ("rmsprop", {"alpha": 0.5, "centered": True}, torch.optim.RMSprop),
        ("adagrad", {"lr_decay": 0.1}, torch.optim.Adagrad),
        ("nadam", {"momentum_decay": 0.1}, torch.optim.NAdam),
    ],
)
def test_options_have_the_effect_that_they_have_in_a_loop_written_by_hand(
    name: str, options: dict[str, Any], cls: Callable[..., torch.optim.Optimizer]
) -> None:
    X, y = standardized_rows()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Linear(2, 1).double()
    by_hand = cls(network.parameters(), lr=0.02, **options)
    for _ in range(15):
        by_hand.zero_grad()
        ((network(torch.from_numpy(X)) - torch.from_numpy(y)[:, None]) ** 2).mean().backward()
        by_hand.step()
    expected = network(torch.from_numpy(X)).detach().numpy()[:, 0]
    for optimizer in (name, cls):
        reg = linear(optimizer=optimizer, lr=0.02, max_epochs=15, **nested(options))
        np.testing.assert_allclose(reg.fit(X, y).predict(X), expected, rtol=1e-9)


@pytest.mark.parametrize("cls", USABLE)
@by_name_and_class
def test_a_misspelt_option_raises_with_similar_names(
    cls: type[torch.optim.Optimizer], by_name: bool, table: tuple[Array, Array]
) -> None:
    name = cls.__name__.lower()
    parameters = [p for p in inspect.signature(cls).parameters if p not in ("params", "lr")]
    longest = max(parameters, key=len)
    misspelt = longest[:-2] + longest[-1] + longest[-2] + "x"
    message = rf"optimizer '{name}' .*\(optimizer__{misspelt}\)\. Did you mean .*'{longest}'"
    with pytest.raises(ValueError, match=message):
        quick(name if by_name else cls, **{f"optimizer__{misspelt}": 1}).fit(*table)


@pytest.mark.parametrize(
    ("misspelt", "similar"),
    [("adma", "adam"), ("rpop", "rprop"), ("l-bfgs", "lbfgs"), ("SDG", "sgd"), ("adamx", "adamax")],
)
def test_a_misspelt_name_raises_with_similar_and_all_usable_names(
    misspelt: str, similar: str, table: tuple[Array, Array]
) -> None:
    with pytest.raises(ValueError, match=f"'{misspelt}'. Did you mean .*'{similar}'") as e:
        quick(misspelt).fit(*table)
    known = str(e.value).partition("Known: ")[2]
    assert all(f"'{cls.__name__.lower()}'" in known for cls in USABLE)
    assert "sparseadam" not in known


@pytest.mark.parametrize(
    ("optimizer", "options", "message"),
    [
        ("adam", {"betas": (0.9, 1.5)}, r"'adam', .*betas in \[0, 1\), got \(0\.9, 1\.5\)"),
        ("rmsprop", {"alpha": -1.0}, "'rmsprop', .*alpha.*-1"),
        (torch.optim.Adam, {"betas": (0.9, 1.5)}, "betas?.*1.5"),
        # The flat optimizer takes no NumPy numbers: the message is that of torch.
        ("adam", {"betas": np.float64(0.5)}, "'adam', .*betas.*0.5"),
        ("adam", {"betas": 0.9}, "betas.*0.9"),
        ("rprop", {"etas": (0.5,)}, "etas.*0.5"),
        ("rprop", {"step_sizes": 1e-3}, "step_sizes.*0.001"),
        ("adam", {"eps": "small"}, "'adam', .*eps.*'small'"),
    ],
)
def test_an_invalid_option_raises_with_its_name_and_value(
    optimizer: Any, options: dict[str, Any], message: str, table: tuple[Array, Array]
) -> None:
    with pytest.raises(ValueError, match=message):
        quick(optimizer, **nested(options)).fit(*table)


def test_what_is_not_an_optimizer_raises(table: tuple[Array, Array]) -> None:
    with pytest.raises(TypeError, match=r"'adam' or a torch\.optim\.Optimizer class, got .*Linear"):
        quick(nn.Linear).fit(*table)
    with pytest.raises(ValueError, match=r"'optimizer' parameter.*must be an instance of 'str' or"):
        quick(torch.optim.Adam([torch.zeros(1, requires_grad=True)])).fit(*table)


# lr


@pytest.mark.parametrize("cls", USABLE)
def test_without_lr_a_class_keeps_the_default_of_torch(
    cls: type[torch.optim.Optimizer], table: tuple[Array, Array]
) -> None:
    X, y = table
    default = float(inspect.signature(cls).parameters["lr"].default)
    predictions = [
        quick(cls, max_epochs=5, **params).fit(X, y).predict(X) for params in ({}, {"lr": default})
    ]
    np.testing.assert_array_equal(*predictions)


def test_lr_may_also_be_an_option_but_not_both(table: tuple[Array, Array]) -> None:
    X, y = table
    plain = quick("adam", lr=0.05).fit(X, y).predict(X)
    np.testing.assert_array_equal(quick("adam", optimizer__lr=0.05).fit(X, y).predict(X), plain)
    with pytest.raises(ValueError, match=r"lr=0\.1 and optimizer__lr=0\.2"):
        quick("adam", lr=0.1, optimizer__lr=0.2).fit(*table)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rprop", "rmsprop", torch.optim.Adam])
def test_a_negative_lr_raises(optimizer: Any, table: tuple[Array, Array]) -> None:
    with pytest.raises(ValueError, match=r"'lr' parameter .* in the range \(0.0, inf\). Got -0.1"):
        quick(optimizer, lr=-0.1).fit(*table)
    with pytest.raises(ValueError, match=r"-0\.1"):
        quick(optimizer, optimizer__lr=-0.1).fit(*table)


# The user's own classes


class SignDescent(torch.optim.Optimizer):
    """Steps of constant size against the sign of the gradient."""

    def __init__(self, params: Any, lr: float = 0.01, shrink: float = 1.0) -> None:
        super().__init__(params, {"lr": lr, "shrink": shrink})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        with torch.enable_grad():
            loss = None if closure is None else closure()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.add_(p.grad.sign(), alpha=-group["lr"] * group["shrink"])
        return loss


@pytest.mark.parametrize("name", ["SignDescent", "Adam", "Muon"])
def test_the_users_own_class_is_used_whatever_its_name(name: str) -> None:
    cls = type(name, (SignDescent,), {})
    change, gradient = first_step(optimizer=cls, lr=0.1, optimizer__shrink=0.5)
    np.testing.assert_allclose(change, -0.05 * np.sign(gradient), rtol=1e-9)


# L-BFGS


def test_lbfgs_solves_least_squares_in_one_epoch_and_adam_does_not(
    table: tuple[Array, Array],
) -> None:
    X, y = table
    A = np.column_stack([X, np.ones(len(X))])
    residual: Any = np.linalg.lstsq(A, y, rcond=None)[1]
    minimum = residual[0] / len(y) / y.var()
    losses = {
        name: TorchRegressor(nn.Linear, optimizer=name, max_epochs=2, random_state=0)
        .fit(X, y)
        .loss_
        for name in ("lbfgs", "adam")
    }
    assert losses["lbfgs"] == pytest.approx(minimum, rel=1e-6)
    assert losses["adam"] > 1.1 * minimum


def test_only_lbfgs_by_name_stops_at_kinks() -> None:
    cpu, parameters = torch.device("cpu"), [nn.Parameter(torch.ones(2))]
    by_name = build_optimizer("lbfgs", None, {})
    by_class = build_optimizer(torch.optim.LBFGS, None, {"line_search_fn": "strong_wolfe"})
    for spec, stops in ((by_name, True), (by_class, False)):
        flat = spec.build_flat(cpu)
        assert isinstance(flat, LBFGS) and flat.stop_at_kinks is stops
        # Torch's own class does not have the option.
        assert "stop_at_kinks" not in spec.build_torch(parameters).defaults
    assert not build_optimizer("lbfgs", None, {"stop_at_kinks": False}).options["stop_at_kinks"]
    with pytest.raises(ValueError, match="optimizer 'lbfgs' takes no 'stop_at_kinks'"):
        build_optimizer(torch.optim.LBFGS, None, {"stop_at_kinks": False})
