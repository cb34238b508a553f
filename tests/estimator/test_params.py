"""The repr of estimators: parameters that differ from the defaults, and ``n_folds``."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import sklearn
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchreg import TorchEnsembleRegressor, TorchRegressor
from torchreg.nn import MLP


def test_auto_folds_are_printed() -> None:
    assert repr(TorchRegressor()) == "TorchRegressor(n_folds='auto')"
    assert repr(clone(TorchRegressor(lr=0.1))) == "TorchRegressor(lr=0.1, n_folds='auto')"


@pytest.mark.parametrize("n_folds", [None, 3])
def test_given_folds_are_printed(n_folds: int | None) -> None:
    assert repr(TorchRegressor(n_folds=n_folds)) == f"TorchRegressor(n_folds={n_folds})"


def test_folds_are_not_printed_where_one_network_is_trained() -> None:
    assert repr(TorchRegressor(early_stopping=True)) == "TorchRegressor(early_stopping=True)"
    assert repr(TorchRegressor(MLP)) == "TorchRegressor(module=<class 'torchreg.nn.mlp.MLP'>)"


@pytest.mark.parametrize(
    "around",
    [
        lambda reg: make_pipeline(StandardScaler(), reg),
        lambda reg: GridSearchCV(reg, {"lr": [0.1]}),
        TorchEnsembleRegressor,
    ],
    ids=["pipeline", "search", "ensemble"],
)
def test_folds_are_printed_inside_other_estimators(around: Any) -> None:
    assert "TorchRegressor(n_folds='auto')" in repr(around(TorchRegressor()))


def test_long_lines_are_wrapped() -> None:
    lines = repr(TorchRegressor(module__hidden_sizes=[5] * 5, optimizer="rprop", max_epochs=100))
    assert all(len(line) <= 80 for line in lines.splitlines())


def test_print_changed_only_false_prints_every_parameter_once() -> None:
    with sklearn.config_context(print_changed_only=False):
        assert repr(TorchRegressor()).count("n_folds='auto'") == 1


def test_the_class_has_a_default_for_every_parameter() -> None:
    for called in (TorchRegressor, TorchRegressor.__init__):
        assert inspect.signature(called).parameters["n_folds"].default == "auto"


def test_the_init_can_be_bound_to_the_class() -> None:
    bound = vars(TorchRegressor)["__init__"].__get__(TorchRegressor, type)
    (_, *parameters) = inspect.signature(TorchRegressor.__init__).parameters.values()
    assert [*inspect.signature(bound).parameters.values()] == parameters


def test_a_subclass_with_its_own_init_can_be_cloned() -> None:
    class Named(TorchRegressor):
        def __init__(self, module: Any = None, *, name: str = "", n_folds: Any = "auto") -> None:
            super().__init__(module, n_folds=n_folds)
            self.name = name

    assert repr(clone(Named(name="a", n_folds=3))) == "Named(n_folds=3, name='a')"
