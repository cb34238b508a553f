"""Every optimizer of torch that can train a dense network does, by name and by class."""

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
REFUSED = {"Muon": "refuses the biases", "SparseAdam": "sparse gradients only"}
CLASSES = [
    value
    for value in vars(torch.optim).values()
    if isinstance(value, type)
    and issubclass(value, torch.optim.Optimizer)
    and value is not torch.optim.Optimizer
]
USABLE = [cls for cls in CLASSES if cls.__name__ not in REFUSED]


@pytest.fixture(scope="module")
def table() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    X = 200 + 10 * rng.normal(size=(60, 2))
    return X, 4000 + 30 * X[:, 0] - 5 * X[:, 1] + 100 * rng.normal(size=60)


def quick(optimizer: Any, **options: Any) -> TorchRegressor:
    settings: dict[str, Any] = {"max_epochs": 20, "random_state": 0, "module__hidden_sizes": [5]}
    return TorchRegressor(**{"module": MLP, "optimizer": optimizer, **settings, **options})


def first_move(**options: Any) -> tuple[Array, Array]:
    """Weights of a linear network before and after one full-batch step; standardized data."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 2)), rng.normal(size=30)
    reg = TorchRegressor(nn.Linear, max_epochs=1, random_state=0, standardize=False, **options)
    reg.fit(X, y)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = nn.Linear(2, 1).double()
    before.zero_grad()
    ((before(torch.from_numpy(X)) - torch.from_numpy(y)[:, None]) ** 2).mean().backward()
    moved = (reg.module_.network.weight - before.weight).detach().numpy()
    return moved, before.weight.grad.numpy()


# All of torch.optim


def test_at_least_13_classes_of_torch_are_there_to_be_tried() -> None:
    assert len(USABLE) >= 13


@pytest.mark.parametrize("cls", USABLE)
@pytest.mark.parametrize("by_name", [True, False], ids=["name", "class"])
def test_every_class_of_torch_that_takes_dense_gradients_brings_the_loss_down(
    cls: type[torch.optim.Optimizer], by_name: bool, table: tuple[Array, Array]
) -> None:
    X, y = table
    # LBFGS compares gradients between steps, which must be of the same rows.
    for batch_size in (None,) if cls is torch.optim.LBFGS else (None, 25):
        options = {"batch_size": batch_size, "module__activation": "tanh"}
        reg = quick(cls.__name__.lower() if by_name else cls, **options).fit(X, y)
        assert reg.loss_curve_[-1] < reg.loss_curve_[0]
        assert np.isfinite(reg.predict(X)).all()


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("by_name", [True, False], ids=["name", "class"])
def test_a_class_that_cannot_train_a_dense_network_is_refused_with_the_reason(
    name: str, by_name: bool, table: tuple[Array, Array]
) -> None:
    cls = {cls.__name__: cls for cls in CLASSES}.get(name)
    # An older torch has no Muon, and says what there is.
    refused = rf"'{name.lower()}' cannot train this network: .*{REFUSED[name]}.* Use .*'adamw'"
    reason = refused if cls else rf"Unknown optimizer '{name}'.*'adamw'"
    with pytest.raises(ValueError, match=reason):
        quick(name.lower() if by_name or cls is None else cls).fit(*table)


def test_the_case_of_a_name_does_not_matter(table: tuple[Array, Array]) -> None:
    X, y = table
    plain = quick("adamw").fit(X, y).predict(X)
    np.testing.assert_array_equal(quick("AdamW").fit(X, y).predict(X), plain)


# Options


@pytest.mark.parametrize(
    ("name", "options", "build"),
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
def test_options_reach_the_optimizer_as_in_a_loop_written_by_hand(
    name: str, options: dict[str, Any], build: Callable[..., torch.optim.Optimizer]
) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 2)), rng.normal(size=30)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Linear(2, 1).double()
    hand = build(network.parameters(), lr=0.02, **options)
    for _ in range(15):
        hand.zero_grad()
        ((network(torch.from_numpy(X)) - torch.from_numpy(y)[:, None]) ** 2).mean().backward()
        hand.step()
    expected = network(torch.from_numpy(X)).detach().numpy()[:, 0]
    for optimizer in (name, build):
        reg = TorchRegressor(
            nn.Linear,
            optimizer=optimizer,
            lr=0.02,
            max_epochs=15,
            random_state=0,
            standardize=False,
            **{f"optimizer__{key}": value for key, value in options.items()},
        )
        np.testing.assert_allclose(reg.fit(X, y).predict(X), expected, rtol=1e-9)


@pytest.mark.parametrize("cls", USABLE)
@pytest.mark.parametrize("by_name", [True, False], ids=["name", "class"])
def test_a_misspelt_option_is_refused_with_the_near_names(
    cls: type[torch.optim.Optimizer], by_name: bool, table: tuple[Array, Array]
) -> None:
    name = cls.__name__.lower()
    parameters = [p for p in inspect.signature(cls).parameters if p not in ("params", "lr")]
    longest = max(parameters, key=len)
    misspelt = longest[:-2] + longest[-1] + longest[-2] + "x"
    message = (
        rf"optimizer '{name}' takes no '{misspelt}' \(optimizer__{misspelt}\)\."
        rf" Did you mean .*'{longest}'"
    )
    with pytest.raises(ValueError, match=message):
        quick(name if by_name else cls, **{f"optimizer__{misspelt}": 1}).fit(*table)


@pytest.mark.parametrize(
    ("came", "near"),
    [("adma", "adam"), ("rpop", "rprop"), ("l-bfgs", "lbfgs"), ("SDG", "sgd"), ("adamx", "adamax")],
)
def test_a_misspelt_name_is_refused_with_the_near_names_and_all_that_can_be_used(
    came: str, near: str, table: tuple[Array, Array]
) -> None:
    with pytest.raises(
        ValueError, match=f"Unknown optimizer '{came}'. Did you mean .*'{near}'"
    ) as e:
        quick(came).fit(*table)
    known = str(e.value).partition("Known: ")[2]
    assert all(f"'{cls.__name__.lower()}'" in known for cls in USABLE)
    assert "sparseadam" not in known


@pytest.mark.parametrize(
    ("optimizer", "options", "message"),
    [
        ("adam", {"betas": (0.9, 1.5)}, r"two betas in \[0, 1\), got \(0\.9, 1\.5\)"),
        ("adam", {"eps": -1.0}, "eps >= 0, got -1"),
        ("adamw", {"weight_decay": -1.0}, "weight_decay >= 0, got -1"),
        ("sgd", {"momentum": -0.5}, "momentum >= 0, got -0.5"),
        ("sgd", {"nesterov": True, "momentum": 0.0}, "momentum > 0 with nesterov"),
        ("rprop", {"etas": (1.2, 0.5)}, r"etas around 1, such as \(0\.5, 1\.2\), got"),
        ("rprop", {"step_sizes": (1.0, 0.1)}, "two increasing step_sizes > 0, got"),
        ("rmsprop", {"alpha": -1.0}, "options for optimizer 'rmsprop', .*alpha.*-1"),
        ("adam", {"betas": np.float64(0.5)}, "options for optimizer 'adam', .*betas.*0.5"),
        (torch.optim.Adam, {"betas": (0.9, 1.5)}, "betas?.*1.5"),
        # Of the wrong shape rather than size.
        ("adam", {"betas": 0.9}, "betas.*0.9"),
        ("adam", {"betas": (0.9,)}, "betas.*0.9"),
        ("rprop", {"etas": (0.5,)}, "etas.*0.5"),
        ("rprop", {"step_sizes": 1e-3}, "step_sizes.*0.001"),
        ("adam", {"eps": "small"}, "adam.*eps.*'small'"),
    ],
)
def test_an_option_that_will_not_do_is_refused_by_name_and_value(
    optimizer: Any, options: dict[str, Any], message: str, table: tuple[Array, Array]
) -> None:
    nested = {f"optimizer__{key}": value for key, value in options.items()}
    with pytest.raises((ValueError, TypeError), match=message):
        quick(optimizer, **nested).fit(*table)


def test_what_is_no_optimizer_is_refused(table: tuple[Array, Array]) -> None:
    with pytest.raises(TypeError, match=r"optimizer must be a name such as 'adam' or a torch\.op"):
        quick(nn.Linear).fit(*table)
    with pytest.raises(ValueError, match=r"'optimizer' parameter.*must be an instance of 'str' or"):
        quick(torch.optim.Adam([torch.zeros(1, requires_grad=True)])).fit(*table)


# lr


@pytest.mark.parametrize("optimizer", ["sgd", torch.optim.SGD])
@pytest.mark.parametrize("lr", [1e-3, 0.5])
def test_lr_is_the_factor_of_the_gradient_in_the_first_step(optimizer: Any, lr: float) -> None:
    moved, gradient = first_move(optimizer=optimizer, lr=lr)
    np.testing.assert_allclose(moved, -lr * gradient, rtol=1e-12)


def test_lr_is_the_first_step_of_adam_and_rprop() -> None:
    for optimizer in ("adam", "rprop"):
        moved, gradient = first_move(optimizer=optimizer, lr=0.03)
        np.testing.assert_allclose(moved, -0.03 * np.sign(gradient), rtol=1e-6)


@pytest.mark.parametrize("cls", USABLE)
def test_without_lr_a_class_keeps_the_default_of_torch(
    cls: type[torch.optim.Optimizer], table: tuple[Array, Array]
) -> None:
    X, y = table
    default = inspect.signature(cls).parameters["lr"].default
    explicit = quick(cls, lr=float(default), max_epochs=5).fit(X, y)
    np.testing.assert_array_equal(
        quick(cls, max_epochs=5).fit(X, y).predict(X), explicit.predict(X)
    )


def test_lr_may_be_given_as_an_option_too(table: tuple[Array, Array]) -> None:
    X, y = table
    plain = quick("adam", lr=0.05).fit(X, y).predict(X)
    np.testing.assert_array_equal(quick("adam", optimizer__lr=0.05).fit(X, y).predict(X), plain)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rprop", "rmsprop", torch.optim.Adam])
def test_a_negative_lr_is_refused_wherever_it_is_given(
    optimizer: Any, table: tuple[Array, Array]
) -> None:
    with pytest.raises(ValueError, match=r"'lr' parameter .* in the range \(0.0, inf\). Got -0.1"):
        quick(optimizer, lr=-0.1).fit(*table)
    with pytest.raises(ValueError, match=r"-0\.1"):
        quick(optimizer, optimizer__lr=-0.1).fit(*table)


# Of one's own


class SignDescent(torch.optim.Optimizer):
    """Steps of one size, against the sign of the gradient."""

    def __init__(self, params: Any, lr: float = 0.01, shrink: float = 1.0) -> None:
        super().__init__(params, {"lr": lr, "shrink": shrink})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        with torch.enable_grad():
            loss = None if closure is None else closure()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.add_(p.grad.sign(), alpha=-group["lr"] * group["shrink"])
        return loss


def test_an_optimizer_of_ones_own_moves_the_weights_by_its_own_rule() -> None:
    moved, gradient = first_move(optimizer=SignDescent, lr=0.1, optimizer__shrink=0.5)
    np.testing.assert_allclose(moved, -0.05 * np.sign(gradient), rtol=1e-9)


def test_an_optimizer_of_ones_own_named_like_one_of_torch_is_used(
    table: tuple[Array, Array],
) -> None:
    class Adam(SignDescent):
        pass

    moved, gradient = first_move(optimizer=Adam, lr=0.1)
    np.testing.assert_allclose(moved, -0.1 * np.sign(gradient), rtol=1e-9)

    class Muon(SignDescent):
        pass

    reg = quick(Muon).fit(*table)
    assert reg.loss_ < reg.loss_curve_[0]


def test_lbfgs_solves_least_squares_in_one_epoch_where_adam_needs_many(
    table: tuple[Array, Array],
) -> None:
    X, y = table
    A = np.column_stack([X, np.ones(len(X))])
    residual: Any = np.linalg.lstsq(A, y, rcond=None)[1]
    least = residual[0] / len(y) / y.var()
    lbfgs = TorchRegressor(nn.Linear, optimizer="lbfgs", max_epochs=2, random_state=0).fit(X, y)
    adam = TorchRegressor(nn.Linear, optimizer="adam", max_epochs=2, random_state=0).fit(X, y)
    assert lbfgs.loss_ == pytest.approx(least, rel=1e-6)
    assert adam.loss_ > 1.1 * least


def test_a_learning_rate_under_two_names_is_refused(table: tuple[Array, Array]) -> None:
    with pytest.raises(ValueError, match=r"lr=0\.1 and optimizer__lr=0\.2 set the same parameter"):
        quick("adam", lr=0.1, optimizer__lr=0.2).fit(*table)


def test_torch_s_class_searches_on_at_kinks_and_has_no_such_option() -> None:
    by_name = build_optimizer("lbfgs", None, {"stop_at_kinks": False})
    assert by_name.options["stop_at_kinks"] is False
    rule = build_optimizer("lbfgs", None, {}).build_flat(torch.device("cpu"))
    assert isinstance(rule, LBFGS)
    assert rule.stop_at_kinks
    searching = {"line_search_fn": "strong_wolfe"}
    rule = build_optimizer(torch.optim.LBFGS, None, searching).build_flat(torch.device("cpu"))
    assert isinstance(rule, LBFGS)
    assert not rule.stop_at_kinks
    with pytest.raises(ValueError, match="optimizer 'lbfgs' takes no 'stop_at_kinks'"):
        build_optimizer(torch.optim.LBFGS, None, {"stop_at_kinks": False})


def test_an_option_of_our_own_is_not_handed_to_torch_s_class() -> None:
    parameters = [nn.Parameter(torch.ones(2))]
    optimizer = build_optimizer("lbfgs", None, {}).build_torch(parameters)
    assert optimizer.defaults["history_size"] == 20
    assert "stop_at_kinks" not in optimizer.defaults
