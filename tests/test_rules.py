"""Each rule on one vector is torch's optimizer, step for step; and so on many vectors at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from torchreg.optim import FLAT_OPTIMIZERS, FlatOptimizer, optimizer_signature, stack_optimizers
from torchreg.optim.adam import Adam, AdamW
from torchreg.optim.flat_optimizers import SGD, RMSprop, Rprop

THEIRS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "rprop": torch.optim.Rprop,
    "sgd": torch.optim.SGD,
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("adam", {"lr": 0.01}),
    ("adam", {"lr": 0.5, "betas": (0.5, 0.7)}),
    ("adam", {"lr": 0.01, "betas": (0.0, 0.0)}),
    ("adam", {"lr": 0.01, "eps": 0.1}),
    ("adam", {"lr": 0.01, "weight_decay": 0.3}),
    ("adamw", {"lr": 0.01}),
    ("adamw", {"lr": 0.01, "weight_decay": 0.5}),
    ("adamw", {"lr": 0.01, "weight_decay": 0.0, "betas": (0.8, 0.9), "eps": 1e-4}),
    ("sgd", {"lr": 0.01}),
    ("sgd", {"lr": 0.01, "momentum": 0.9}),
    ("sgd", {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    ("sgd", {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.3}),
    ("sgd", {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.3, "nesterov": True}),
    ("sgd", {"lr": 0.01, "weight_decay": 0.3}),
    ("rmsprop", {"lr": 0.01}),
    ("rmsprop", {"lr": 0.01, "alpha": 0.5, "eps": 1e-3}),
    ("rmsprop", {"lr": 0.01, "momentum": 0.9}),
    ("rmsprop", {"lr": 0.01, "centered": True, "eps": 1e-4}),
    ("rmsprop", {"lr": 0.01, "weight_decay": 0.3, "momentum": 0.5}),
    ("rprop", {"lr": 0.01}),
    ("rprop", {"lr": 0.1, "etas": (0.2, 3.0)}),
    ("rprop", {"lr": 0.1, "step_sizes": (0.05, 0.2)}),
    ("rprop", {"lr": 100.0}),
]


def gradients(n_steps: int, *, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Random gradients of 12 parameters, many sizes and some zeros, one row a step."""
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.uniform(-6, 3, size=12)
    values = sizes * rng.normal(size=(n_steps, 12)) * (rng.uniform(size=(n_steps, 12)) > 0.1)
    return torch.from_numpy(values).to(dtype)


def paths(
    name: str, options: dict[str, Any], *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Follow 50 steps of our rule on a vector, and of torch's class on a matrix and a vector."""
    start = torch.linspace(-2, 2, 12, dtype=dtype)
    params, rule = start.clone(), FLAT_OPTIMIZERS[name](**options)
    theirs = [start[:6].reshape(2, 3).clone(), start[6:].clone()]
    for p in theirs:
        p.requires_grad_()
    optimizer = THEIRS[name](theirs, **options)
    ours_path, their_path = [], []
    for gradient in gradients(50, dtype=dtype, seed=seed):
        kept = gradient.clone()
        rule.step(params, gradient)
        assert torch.equal(gradient, kept)
        theirs[0].grad, theirs[1].grad = gradient[:6].reshape(2, 3).clone(), gradient[6:].clone()
        optimizer.step()
        ours_path.append(params.clone())
        their_path.append(torch.cat([p.detach().reshape(-1) for p in theirs]))
    return torch.stack(ours_path), torch.stack(their_path)


def test_every_rule_is_compared_with_a_class_of_torch() -> None:
    assert set(FLAT_OPTIMIZERS) == set(THEIRS) == {name for name, _ in CASES}


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value))
def test_a_rule_is_the_class_of_torch_step_for_step(name: str, options: dict[str, Any]) -> None:
    ours, theirs = paths(name, options)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    assert (ours[0] != ours[-1]).any()


@pytest.mark.parametrize("name", FLAT_OPTIMIZERS)
def test_in_float32_a_rule_is_the_class_of_torch_to_its_rounding(name: str) -> None:
    ours, theirs = paths(name, {"lr": 0.01}, dtype=torch.float32)
    assert ours.dtype == torch.float32
    # Rprop multiplies by constants alone, the others sum 50 rounded steps.
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@given(
    name=st.sampled_from(["adam", "adamw"]),
    lr=st.floats(1e-6, 1.0),
    betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.999)),
    eps=st.floats(1e-12, 1.0),
    weight_decay=st.floats(0, 0.9),
    seed=st.integers(0, 100),
)
def test_whatever_its_options_adam_is_that_of_torch(
    name: str,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    seed: int,
) -> None:
    options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    ours, theirs = paths(name, options, seed=seed)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@given(
    lr=st.floats(1e-6, 0.01),
    momentum=st.floats(0, 0.99),
    weight_decay=st.floats(0, 1.0),
    nesterov=st.booleans(),
    seed=st.integers(0, 100),
)
def test_whatever_its_options_sgd_is_that_of_torch(
    lr: float, momentum: float, weight_decay: float, nesterov: bool, seed: int
) -> None:
    options = {
        "lr": lr,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "nesterov": nesterov and momentum > 0,
    }
    ours, theirs = paths("sgd", options, seed=seed)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@given(
    lr=st.floats(1e-6, 10.0),
    etas=st.tuples(st.floats(0.01, 0.99), st.floats(1.01, 3.0)),
    step_sizes=st.tuples(st.floats(1e-8, 1e-3), st.floats(1e-3, 10.0)),
    seed=st.integers(0, 100),
)
def test_whatever_its_options_rprop_is_that_of_torch(
    lr: float, etas: tuple[float, float], step_sizes: tuple[float, float], seed: int
) -> None:
    options = {"lr": lr, "etas": etas, "step_sizes": step_sizes}
    ours, theirs = paths("rprop", options, seed=seed)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FLAT_OPTIMIZERS)
def test_a_rule_moves_each_parameter_by_its_own_gradient_alone(name: str) -> None:
    together, steps = torch.zeros(12, dtype=torch.float64), gradients(20, dtype=torch.float64)
    rule = FLAT_OPTIMIZERS[name](lr=0.01)
    for gradient in steps:
        rule.step(together, gradient)
    for i in range(12):
        alone, rule = torch.zeros(1, dtype=torch.float64), FLAT_OPTIMIZERS[name](lr=0.01)
        for gradient in steps:
            rule.step(alone, gradient[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", ["adam", "rprop"])
@pytest.mark.parametrize("exponent", [-30, 30])
def test_the_size_of_all_gradients_does_not_matter_to_adam_and_rprop(
    name: str, exponent: int
) -> None:
    ends = []
    for factor in (1.0, 2.0**exponent):
        params = torch.zeros(12, dtype=torch.float64)
        rule: Any = Adam(lr=0.01, eps=0.0) if name == "adam" else Rprop(lr=0.01)
        for gradient in gradients(20, dtype=torch.float64) + 1e-3:
            rule.step(params, factor * gradient)
        ends.append(params)
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        (Adam, {"betas": (1.0, 0.9)}, r"two betas in \[0, 1\), got \(1\.0, 0\.9\)"),
        (Adam, {"betas": (0.9, -0.1)}, r"two betas in \[0, 1\), got \(0\.9, -0\.1\)"),
        (Adam, {"eps": -1e-8}, "eps >= 0, got -1e-08"),
        (Adam, {"eps": float("nan")}, "eps >= 0, got nan"),
        (Adam, {"weight_decay": -1}, "weight_decay >= 0, got -1"),
        (AdamW, {"weight_decay": -1}, "weight_decay >= 0, got -1"),
        (SGD, {"momentum": -0.1}, r"momentum >= 0, got -0\.1"),
        (SGD, {"weight_decay": -0.1}, r"weight_decay >= 0, got -0\.1"),
        (SGD, {"nesterov": True}, r"momentum > 0 with nesterov, got 0\.0"),
        (RMSprop, {"alpha": -0.1}, r"alpha >= 0, got -0\.1"),
        (RMSprop, {"eps": -0.1}, r"eps >= 0, got -0\.1"),
        (RMSprop, {"momentum": -0.1}, r"momentum >= 0, got -0\.1"),
        (RMSprop, {"weight_decay": -0.1}, r"weight_decay >= 0, got -0\.1"),
        (Rprop, {"etas": (1.2, 0.5)}, r"etas around 1, such as \(0\.5, 1\.2\), got \(1\.2, 0\.5\)"),
        (Rprop, {"etas": (0.0, 1.2)}, "etas around 1"),
        (Rprop, {"step_sizes": (1, 0.1)}, r"two increasing step_sizes > 0, got \(1, 0\.1\)"),
        (Rprop, {"step_sizes": (0, 1)}, "two increasing step_sizes > 0"),
    ],
)
def test_an_option_out_of_its_range_is_refused_with_the_range_and_the_value(
    rule: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"The optimizer expects .*{message}"):
        rule(lr=0.01, **options)


@pytest.mark.parametrize("name", FLAT_OPTIMIZERS)
def test_a_negative_lr_is_refused_by_a_rule_as_by_torch(name: str) -> None:
    with pytest.raises(ValueError, match=r"-0\.1"):
        THEIRS[name]([torch.zeros(1, requires_grad=True)], lr=-0.1)
    with pytest.raises(ValueError, match=r"-0\.1"):
        FLAT_OPTIMIZERS[name](lr=-0.1)


# One rule for many networks

#: Numbers of three networks: what differs has a list.
MANY: list[tuple[str, dict[str, Any]]] = [
    ("adam", {"lr": [0.01, 0.1, 0.5]}),
    ("adam", {"lr": 0.1}),
    ("adam", {"lr": 0.1, "weight_decay": [0.0, 0.1, 0.3]}),
    ("adam", {"lr": [0.01, 0.1, 0.5], "betas": [(0.9, 0.99), (0.5, 0.7), (0.0, 0.0)]}),
    ("adam", {"lr": 0.1, "eps": [1e-8, 1e-3, 0.1], "weight_decay": 0.1}),
    ("adamw", {"lr": [0.01, 0.1, 0.5], "weight_decay": [0.0, 0.1, 0.3]}),
    ("adamw", {"lr": 0.1, "weight_decay": [0.0, 0.1, 0.3]}),
    ("adamw", {"lr": 0.1, "betas": [(0.9, 0.99), (0.5, 0.7), (0.0, 0.0)]}),
    ("sgd", {"lr": [0.01, 0.1, 0.5], "momentum": [0.0, 0.5, 0.9]}),
    ("sgd", {"lr": 0.01, "momentum": [0.1, 0.5, 0.9], "nesterov": True}),
    ("sgd", {"lr": 0.01, "weight_decay": [0.0, 0.5, 0.9]}),
    ("rmsprop", {"lr": [0.01, 0.1, 0.5], "alpha": [0.9, 0.5, 0.99], "eps": [1e-8, 1e-3, 0.1]}),
    ("rmsprop", {"lr": 0.01, "momentum": [0.0, 0.5, 0.9], "centered": True, "eps": 1e-4}),
    ("rmsprop", {"lr": 0.01, "weight_decay": [0.0, 0.5, 0.9]}),
    ("rprop", {"lr": [0.01, 0.1, 10.0]}),
]


def own_rules(name: str, options: dict[str, Any]) -> list[FlatOptimizer]:
    """Build the rules of three networks."""
    each = [
        {key: value[k] if isinstance(value, list) else value for key, value in options.items()}
        for k in range(3)
    ]
    return [FLAT_OPTIMIZERS[name](**own) for own in each]


@pytest.mark.parametrize(("name", "options"), MANY, ids=lambda value: str(value))
def test_the_rule_of_a_stack_moves_each_network_by_its_own(
    name: str, options: dict[str, Any]
) -> None:
    start = torch.linspace(-2, 2, 12, dtype=torch.float64)
    params = torch.stack([start] * 3)
    stacked = stack_optimizers(own_rules(name, options), params)
    paths = [gradients(50, dtype=torch.float64, seed=k) for k in range(3)]
    alone = [start.clone() for _ in range(3)]
    rules = own_rules(name, options)
    left = [0, 1, 2]
    for step in range(50):
        if step == 20:
            # The one in the middle leaves; the stack that it leaves stays what it was.
            before = params.clone()
            stacked, params, left = stacked.subset([0, 2]), params[[0, 2]], [0, 2]
            assert torch.equal(before[[0, 2]], params)
        if step == 40:
            stacked, params, left = stacked.subset([1]), params[[1]], [2]
        gradient = torch.stack([paths[k][step] for k in left])
        kept = gradient.clone()
        stacked.step(params, gradient)
        assert torch.equal(gradient, kept)
        for k in left:
            rules[k].step(alone[k], paths[k][step])
        expected = torch.stack([alone[k] for k in left])
        torch.testing.assert_close(params, expected, rtol=1e-11, atol=1e-12)


def test_rules_that_are_stacked_are_left_as_they_were() -> None:
    rules = own_rules("adam", {"lr": [0.01, 0.1, 0.5]})
    before = [dict(vars(rule)) for rule in rules]
    params = torch.zeros(3, 4)
    stacked = stack_optimizers(rules, params)
    stacked.step(params, torch.ones(3, 4))
    assert [vars(rule) for rule in rules] == before
    smaller = stacked.subset([0])
    assert smaller.state[0][0].shape == (1, 4) and stacked.state[0][0].shape == (3, 4)
    assert isinstance(stacked.lr, torch.Tensor) and stacked.beta1 == 0.9


def test_rules_are_of_one_kind_if_only_their_numbers_differ() -> None:
    same = [Adam(lr=0.1), Adam(lr=0.2, betas=(0.1, 0.2), eps=1.0, weight_decay=0.5)]
    assert len({optimizer_signature(rule) for rule in same}) == 1
    others = [
        AdamW(lr=0.1),
        SGD(lr=0.1, momentum=0.5),
        SGD(lr=0.1, momentum=0.5, nesterov=True),
        RMSprop(lr=0.1),
        RMSprop(lr=0.1, centered=True),
        Rprop(lr=0.1),
        Rprop(lr=0.1, etas=(0.4, 1.3)),
        Rprop(lr=0.1, step_sizes=(1e-3, 1)),
    ]
    assert len({optimizer_signature(rule) for rule in [*same, *others]}) == 9
