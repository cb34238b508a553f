"""Fits, predictions, copies and searches leak no memory, files, threads or objects."""

from __future__ import annotations

import copy
import gc
import linecache
import pickle
import weakref
from abc import ABCMeta
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from tests._resources import resources
from tests._trials import KINDS, name_of_kind
from torchreg import TorchRegressor
from torchreg.nn import MLP

Array = np.ndarray
RNG = np.random.default_rng(0)
#: Rows of 400 kB: a leak of them is visible after a few fits.
X = 200 + 10 * RNG.normal(size=(100, 500))
Y = X[:, 0] + RNG.normal(size=100)
SMALL = X[:40, :3].copy()

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def use(number: int) -> None:
    """Fit, predict and copy; now and then fail, or run a search."""
    options = {"max_epochs": 17, "random_state": number, **KINDS[number % len(KINDS)]}
    if "module" not in options:
        options |= {"module": MLP, "module__hidden_sizes": (3,)}
    table = X if number % 10 == 0 else SMALL
    reg = TorchRegressor(**options).fit(table, Y[: len(table)])
    reg.predict(table)
    pickle.loads(pickle.dumps(copy.deepcopy(reg))).predict(table[:3])
    if number % 7 == 0:
        with pytest.raises(ValueError, match="contains NaN"):
            reg.fit(table * np.nan, Y[: len(table)])
    if number % 100 == 0:
        GridSearchCV(clone(reg), {"lr": [0.001, 0.01]}, cv=2).fit(SMALL, Y[:40])


def kinds_of_objects() -> Counter[str]:
    # Abstract base classes cache the types of isinstance checks.
    for thing in gc.get_objects():
        if issubclass(type(thing), ABCMeta):
            thing._abc_caches_clear()
    gc.collect()
    return Counter(type(thing).__qualname__ for thing in gc.get_objects())


@pytest.mark.parametrize("n_fits", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_fits_leak_no_memory_files_threads_or_objects(n_fits: int) -> None:
    # All kinds, and a second search.
    for number in (*range(33), 0):
        use(number)
    objects, used = kinds_of_objects(), [resources()]
    for number in range(n_fits):
        use(number)
        if number % (n_fits // 10) == 0:
            gc.collect()
            used.append(resources())
    # The cache of at most 64 compiled steps is not a leak.
    more = kinds_of_objects() - objects
    assert sum(more.values()) < 100, more.most_common(5)
    first, last = used[0], used[-1]
    assert (last.files, last.threads) == (first.files, first.threads)
    # Every tenth fit has 400 kB of rows; leaking them would add an eighth to the memory.
    memory = np.array([now.memory for now in used])
    slope = np.polyfit(np.arange(len(memory)), memory, 1)[0] * (len(memory) - 1)
    assert slope < 0.02 * first.memory, memory


@pytest.mark.parametrize("options", KINDS, ids=name_of_kind)
def test_a_fit_and_its_regressor_have_no_reference_cycles(
    options: dict[str, Any],
) -> None:
    def fit() -> weakref.ref[Any]:
        reg = TorchRegressor(**{"module": MLP, "max_epochs": 17, "random_state": 0, **options}).fit(
            SMALL, Y[:40]
        )
        reg.predict(SMALL)
        return weakref.ref(reg.module_)

    fit()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        module = fit()
        gc.collect()
        tensors = [thing for thing in gc.garbage if isinstance(thing, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert module() is None
    assert not tensors, "a reference cycle refers to them"


def test_compiled_steps_leave_no_source_in_the_line_cache() -> None:
    lines = len(linecache.cache)
    for width in range(1, 80):
        TorchRegressor(module=MLP, module__hidden_sizes=(width,), max_epochs=17).fit(SMALL, Y[:40])
    assert len(linecache.cache) == lines
