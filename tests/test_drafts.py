"""Fits that begin with the same network begin with copies of one, which is as good as their own."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from skorch.callbacks import EpochTimer
from torch import nn

from tests._stacks import job_of
from torchreg import TorchRegressor
from torchreg._parallel import run_fits
from torchreg.engine.build.drafts import Mould, draft_of, give_containers
from torchreg.engine.build.fit_job import PreparedFit
from torchreg.engine.build.fit_result import FitResult
from torchreg.engine.build.memo import FitCache
from torchreg.engine.inspect.fit_summary import DriftTracker
from torchreg.nn import MLP, Standardize, TabularMLP

RNG = np.random.default_rng(0)
X, Y = RNG.normal(200, 10, size=(40, 3)), RNG.normal(4000, 800, size=40)


def jobs(*changes: dict[str, Any]) -> list[Any]:
    settings = {"module": MLP, "max_epochs": 2, "random_state": 0}
    return [
        job_of(TorchRegressor(**{**settings, **change}), {"X": X, "y": Y}) for change in changes
    ]


def begun(asked: list[Any]) -> list[nn.Module]:
    """Give all networks of some jobs, planned together, before their first step."""
    shared = FitCache(several=len(asked) > 1)
    return [p.network for job in asked for p in PreparedFit(job, shared).tasks]


def same(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"module__hidden_sizes": (3, 2), "module__activation": "tanh"},
        {"module__hidden_sizes": [np.int64(4)], "module__dropout": 0.5},
        {"dtype": "float32", "standardize": "y"},
        {"n_init": 3},
        {"early_stopping": True, "n_folds": 2},
    ],
)
def test_a_copy_is_the_network_that_the_fit_would_draw_alone(settings: dict[str, Any]) -> None:
    asked = jobs(*({**settings, "lr": lr} for lr in (0.1, 0.2, 0.3)))
    together, alone = begun(asked), [network for job in asked for network in begun([job])]
    assert len(together) == len(alone)
    assert all(map(same, together, alone))
    assert [n.training for n in together] == [n.training for n in alone]
    parameters = [p for network in together for p in network.parameters()]
    assert len({p.data_ptr() for p in parameters}) == len(parameters)


@pytest.mark.parametrize(
    "change",
    [
        {"module__hidden_sizes": (3,)},
        {"module__activation": "tanh"},
        {"module__dropout": 0.1},
        {"random_state": 1},
        {"dtype": "float32"},
    ],
)
def test_what_draws_another_network_is_no_copy(change: dict[str, Any]) -> None:
    shared = FitCache(several=True)
    asked = jobs({}, {"lr": 0.1}, change)
    first, second, other = (PreparedFit(job, shared).tasks[0] for job in asked)
    assert first.draft is second.draft
    assert first.draft is not other.draft
    assert repr(other.network) == repr(begun(asked[2:])[0])
    assert same(other.network, begun(asked[2:])[0])


def test_a_class_of_the_users_is_built_for_each_fit() -> None:
    built = []

    class Own(MLP):
        def __init__(self, in_features: int) -> None:
            super().__init__(in_features)
            built.append(self)

    begun(jobs({"module": Own}, {"module": Own}))
    assert len(built) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"module": TabularMLP},
        {"module": MLP(3)},
        {"module__activation": nn.Tanh},
        {"module__hidden_sizes": np.array([3])},
        {"loss": "gaussian_nll"},
    ],
)
def test_what_only_the_module_knows_is_not_foretold(settings: dict[str, Any]) -> None:
    (job,) = jobs(settings)
    assert draft_of(job.config) is None


def test_options_that_read_alike_and_differ_in_type_are_not_the_same() -> None:
    found = [draft_of(j.config) for j in jobs(*({"module__dropout": d} for d in (0, 0.0, False)))]
    assert len(set(found)) == 3


def test_a_copy_is_what_deepcopy_makes() -> None:
    module = nn.Sequential(
        Standardize([1.0, 2.0], [3.0, 0.0]), MLP(2, hidden_sizes=(3,), dropout=0.1), nn.Linear(1, 1)
    ).eval()
    module[2].bias.requires_grad_(requires_grad=False)
    twin, model = Mould(module).cast(), copy.deepcopy(module)
    assert repr(twin) == repr(model)
    assert same(twin, model)
    for ours, theirs in zip(twin.modules(), model.modules(), strict=True):
        assert vars(ours).keys() == vars(theirs).keys()
        assert [type(v) for v in vars(ours).values()] == [type(v) for v in vars(theirs).values()]
        assert ours.training == theirs.training
    asked = [[p.requires_grad for p in network.parameters()] for network in (twin, model)]
    assert asked[0] == asked[1]
    assert len(pickle.dumps(twin)) == len(pickle.dumps(model))


def test_what_becomes_of_a_copy_leaves_the_others_alone() -> None:
    module = nn.Sequential(nn.Linear(2, 1))
    before, twin = copy.deepcopy(module), Mould(module).cast()
    give_containers(twin)
    with torch.no_grad():
        twin[0].weight.fill_(7)
    twin.register_forward_hook(lambda *_: None)
    twin.append(nn.Linear(1, 1))
    twin[0].register_buffer("more", torch.zeros(1))
    assert repr(module) == repr(before)
    assert same(module, before)
    assert not module._forward_hooks


def containers_of(module: nn.Module) -> list[int]:
    kinds = dict, OrderedDict, set
    return [id(v) for m in module.modules() for v in vars(m).values() if type(v) in kinds]


@pytest.mark.parametrize("options", [{}, {"n_init": 3}, {"early_stopping": True, "n_folds": 2}])
def test_fits_that_are_handed_out_have_nothing_in_common(options: dict[str, Any]) -> None:
    answers = run_fits(jobs(*({"lr": lr, **options} for lr in (0.1, 0.2, 0.3))))
    modules = [answer.module for answer in answers if isinstance(answer, FitResult)]
    assert len(modules) == 3
    found = [own for module in modules for own in containers_of(module)]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("options", [{"callbacks": [EpochTimer()]}, {"verbose": 1}])
def test_who_listens_to_a_copy_has_it_for_himself(options: dict[str, Any]) -> None:
    networks = begun(jobs(*({"lr": lr, **options} for lr in (0.1, 0.2))))
    found = [own for network in networks for own in containers_of(network)]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("sizes", [(3,), (100, 100)])
def test_a_copy_goes_as_far_from_its_start_as_a_network_of_its_own(sizes: tuple[int, ...]) -> None:
    shared = FitCache(several=True)
    asked = jobs(*({"module__hidden_sizes": sizes, **change} for change in ({}, {"n_init": 2})))
    for plan in [PreparedFit(job, shared) for job in asked]:
        for task, travel in zip(plan.tasks, plan.travels, strict=True):
            assert task.draft is not None
            own = DriftTracker(task.network)
            with torch.no_grad():
                for number, parameter in enumerate(task.network.parameters()):
                    parameter += number + 1
            assert travel.finish() == own.finish()
