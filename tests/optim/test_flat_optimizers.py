"""Each flat optimizer takes the steps of torch's, for one network and for a stack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from torchreg.optim import FLAT_OPTIMIZERS, FlatOptimizer, optimizer_signature, stack_optimizers

TORCH: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "rprop": torch.optim.Rprop,
    "sgd": torch.optim.SGD,
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("adam", {"lr": 0.01}),
    ("adam", {"lr": 0.01, "betas": (0.0, 0.0)}),
    ("adam", {"lr": 0.01, "weight_decay": 0.3}),
    ("adamw", {"lr": 0.01}),
    ("adamw", {"lr": 0.01, "weight_decay": 0.0, "betas": (0.8, 0.9), "eps": 1e-4}),
    ("sgd", {"lr": 0.01}),
    ("sgd", {"lr": 0.01, "momentum": 0.9}),
    ("sgd", {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.3, "nesterov": True}),
    ("rmsprop", {"lr": 0.01}),
    ("rmsprop", {"lr": 0.01, "momentum": 0.9}),
    ("rmsprop", {"lr": 0.01, "centered": True, "eps": 1e-4}),
    ("rmsprop", {"lr": 0.01, "weight_decay": 0.3, "momentum": 0.5}),
    ("rprop", {"lr": 0.01}),
    ("rprop", {"lr": 0.1, "step_sizes": (0.05, 0.2)}),
    ("rprop", {"lr": 100.0}),
]


def gradients(n_steps: int, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Random gradients of 12 parameters, of many scales and with some zeros, one row per step."""
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(-6, 3, size=12)
    values = scales * rng.normal(size=(n_steps, 12)) * (rng.uniform(size=(n_steps, 12)) > 0.1)
    return torch.from_numpy(values).to(dtype)


def assert_same_path(
    name: str,
    options: dict[str, Any],
    *,
    near: float,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> None:
    """Compare 50 steps on a vector with those of torch on a matrix and a vector."""
    start = torch.linspace(-2, 2, 12, dtype=dtype)
    params, optimizer = start.clone(), FLAT_OPTIMIZERS[name](**options)
    theirs = [start[:6].reshape(2, 3).clone(), start[6:].clone()]
    torch_optimizer = TORCH[name]([p.requires_grad_() for p in theirs], **options)
    for grad in gradients(50, dtype=dtype, seed=seed):
        unchanged = grad.clone()
        optimizer.step(params, grad)
        assert torch.equal(grad, unchanged)
        theirs[0].grad, theirs[1].grad = grad[:6].reshape(2, 3).clone(), grad[6:].clone()
        torch_optimizer.step()
        expected = torch.cat([p.detach().reshape(-1) for p in theirs])
        torch.testing.assert_close(params, expected, rtol=near, atol=near)
    assert (params != start).any()


def test_every_flat_optimizer_is_compared_with_a_class_of_torch() -> None:
    assert set(FLAT_OPTIMIZERS) == set(TORCH) == {name for name, _ in CASES}


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_a_flat_optimizer_takes_the_steps_of_torch(name: str, options: dict[str, Any]) -> None:
    assert_same_path(name, options, near=1e-12)


@pytest.mark.parametrize("name", FLAT_OPTIMIZERS)
def test_in_float32_the_steps_agree_to_rounding(name: str) -> None:
    assert_same_path(name, {"lr": 0.01}, near=1e-5, dtype=torch.float32)


_adam = st.fixed_dictionaries(
    {
        "lr": st.floats(1e-6, 1.0),
        "betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.999)),
        "eps": st.floats(1e-12, 1.0),
        "weight_decay": st.floats(0, 0.9),
    }
)
ANY_OPTIONS = st.one_of(
    st.tuples(st.sampled_from(["adam", "adamw"]), _adam),
    st.tuples(
        st.just("sgd"),
        st.fixed_dictionaries(
            {
                "lr": st.floats(1e-6, 0.01),
                "momentum": st.floats(0.01, 0.99),
                "weight_decay": st.floats(0, 1.0),
                "nesterov": st.booleans(),
            }
        ),
    ),
    st.tuples(
        st.just("rprop"),
        st.fixed_dictionaries(
            {
                "lr": st.floats(1e-6, 10.0),
                "etas": st.tuples(st.floats(0.01, 0.99), st.floats(1.01, 3.0)),
                "step_sizes": st.tuples(st.floats(1e-8, 1e-3), st.floats(1e-3, 10.0)),
            }
        ),
    ),
)


@given(case=ANY_OPTIONS, seed=st.integers(0, 100))
def test_the_steps_of_torch_are_taken_with_any_valid_options(
    case: tuple[str, dict[str, Any]], seed: int
) -> None:
    name, options = case
    assert_same_path(name, options, near=1e-12 if name == "rprop" else 1e-9, seed=seed)


@pytest.mark.parametrize(("name", "options"), [("adam", {"eps": 0.0}), ("rprop", {})])
@pytest.mark.parametrize("exponent", [-30, 30])
def test_adam_and_rprop_do_not_depend_on_the_scale_of_the_gradients(
    name: str, options: dict[str, Any], exponent: int
) -> None:
    ends = []
    for factor in (1.0, 2.0**exponent):
        params, optimizer = (
            torch.zeros(12, dtype=torch.float64),
            FLAT_OPTIMIZERS[name](lr=0.01, **options),
        )
        for grad in gradients(20) + 1e-3:
            optimizer.step(params, factor * grad)
        ends.append(params)
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adam", {"betas": (1.0, 0.9)}, r"betas in \[0, 1\), got \(1\.0, 0\.9\)"),
        ("adam", {"betas": (0.9, -0.1)}, r"betas in \[0, 1\), got \(0\.9, -0\.1\)"),
        ("adam", {"betas": (0.9,)}, r"betas in \[0, 1\), got \(0\.9,\)"),
        ("adam", {"eps": float("nan")}, "eps >= 0, got nan"),
        ("adamw", {"weight_decay": -1}, "weight_decay >= 0, got -1"),
        ("sgd", {"momentum": -0.1}, r"momentum >= 0, got -0\.1"),
        ("sgd", {"weight_decay": -0.1}, r"weight_decay >= 0, got -0\.1"),
        ("sgd", {"nesterov": True}, r"momentum > 0 with nesterov, got 0\.0"),
        ("rmsprop", {"alpha": -0.1}, r"alpha >= 0, got -0\.1"),
        ("rmsprop", {"eps": -0.1}, r"eps >= 0, got -0\.1"),
        ("rprop", {"etas": (1.2, 0.5)}, r"such as \(0\.5, 1\.2\), got \(1\.2, 0\.5\)"),
        ("rprop", {"etas": (0.0, 1.2)}, r"etas .* got \(0\.0, 1\.2\)"),
        ("rprop", {"step_sizes": (1, 0.1)}, r"step_sizes > 0, got \(1, 0\.1\)"),
        ("rprop", {"step_sizes": (0, 1)}, r"step_sizes > 0, got \(0, 1\)"),
        *[(name, {"lr": -0.1}, r"lr >= 0, got -0\.1") for name in TORCH],
    ],
)
def test_an_invalid_option_raises_with_the_valid_range_and_the_value(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FLAT_OPTIMIZERS[name](**{"lr": 0.01, **options})


# Stacks of networks

#: Hyperparameters of three networks; those that differ are lists.
STACKS: list[tuple[str, dict[str, Any]]] = [
    ("adam", {"lr": [0.01, 0.1, 0.5]}),
    ("adam", {"lr": 0.1}),
    ("adam", {"lr": 0.1, "weight_decay": [0.0, 0.1, 0.3]}),
    ("adam", {"lr": [0.01, 0.1, 0.5], "betas": [(0.9, 0.99), (0.5, 0.7), (0.0, 0.0)]}),
    ("adam", {"lr": 0.1, "eps": [1e-8, 1e-3, 0.1], "weight_decay": 0.1}),
    ("adamw", {"lr": [0.01, 0.1, 0.5], "weight_decay": [0.0, 0.1, 0.3]}),
    ("adamw", {"lr": 0.1, "betas": [(0.9, 0.99), (0.5, 0.7), (0.0, 0.0)]}),
    ("sgd", {"lr": [0.01, 0.1, 0.5], "momentum": [0.0, 0.5, 0.9]}),
    ("sgd", {"lr": 0.01, "momentum": [0.1, 0.5, 0.9], "nesterov": True}),
    ("sgd", {"lr": 0.01, "weight_decay": [0.0, 0.5, 0.9]}),
    ("rmsprop", {"lr": [0.01, 0.1, 0.5], "alpha": [0.9, 0.5, 0.99], "eps": [1e-8, 1e-3, 0.1]}),
    ("rmsprop", {"lr": 0.01, "momentum": [0.0, 0.5, 0.9], "centered": True, "eps": 1e-4}),
    ("rmsprop", {"lr": 0.01, "weight_decay": [0.0, 0.5, 0.9]}),
    ("rprop", {"lr": [0.01, 0.1, 10.0]}),
]


def build_three(name: str, options: dict[str, Any]) -> list[FlatOptimizer]:
    each = [
        {key: value[k] if isinstance(value, list) else value for key, value in options.items()}
        for k in range(3)
    ]
    return [FLAT_OPTIMIZERS[name](**own) for own in each]


@pytest.mark.parametrize(("name", "options"), STACKS, ids=str)
def test_a_stacked_optimizer_updates_each_network_as_its_own_does(
    name: str, options: dict[str, Any]
) -> None:
    start = torch.linspace(-2, 2, 12, dtype=torch.float64)
    params, alone = torch.stack([start] * 3), [start.clone() for _ in range(3)]
    grads = [gradients(50, seed=k) for k in range(3)]
    stacked, optimizers = (
        stack_optimizers(build_three(name, options), params),
        build_three(name, options),
    )
    remaining = [0, 1, 2]
    for step in range(50):
        # Networks leave the stack one after another.
        if step == 20:
            stacked, params, remaining = stacked.subset([0, 2]), params[[0, 2]], [0, 2]
        if step == 40:
            stacked, params, remaining = stacked.subset([1]), params[[1]], [2]
        grad = torch.stack([grads[k][step] for k in remaining])
        unchanged = grad.clone()
        stacked.step(params, grad)
        assert torch.equal(grad, unchanged)
        for k in remaining:
            optimizers[k].step(alone[k], grads[k][step])
        expected = torch.stack([alone[k] for k in remaining])
        torch.testing.assert_close(params, expected, rtol=1e-11, atol=1e-12)


def test_stacking_and_taking_a_subset_leave_the_optimizers_unchanged() -> None:
    optimizers = build_three("adam", {"lr": [0.01, 0.1, 0.5]})
    params = torch.zeros(3, 4)
    stacked = stack_optimizers(optimizers, params)
    stacked.step(params, torch.ones(3, 4))
    before = params.clone()
    stacked.subset([0]).step(params[[0]], torch.ones(1, 4))
    assert torch.equal(params, before)
    for k, optimizer in enumerate(optimizers):
        alone = torch.zeros(4)
        optimizer.step(alone, torch.ones(4))
        torch.testing.assert_close(alone, params[k])


def test_optimizers_have_one_signature_if_only_hyperparameters_differ() -> None:
    def signature(name: str, **options: Any) -> Any:
        return optimizer_signature(FLAT_OPTIMIZERS[name](**options))

    adam = signature("adam", lr=0.1)
    assert adam == signature("adam", lr=0.2, betas=(0.1, 0.2), eps=1.0, weight_decay=0.5)
    others = [
        signature("adamw", lr=0.1),
        signature("sgd", lr=0.1, momentum=0.5),
        signature("sgd", lr=0.1, momentum=0.5, nesterov=True),
        signature("rmsprop", lr=0.1),
        signature("rmsprop", lr=0.1, centered=True),
        signature("rprop", lr=0.1),
        signature("rprop", lr=0.1, etas=(0.4, 1.3)),
        signature("rprop", lr=0.1, step_sizes=(1e-3, 1)),
    ]
    assert len({adam, *others}) == 9
