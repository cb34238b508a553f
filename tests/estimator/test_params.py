"""How an estimator is printed: what differs from the defaults, and rows that are held out."""

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


def test_folds_that_are_left_to_the_data_are_printed() -> None:
    assert repr(TorchRegressor()) == "TorchRegressor(n_folds='auto')"
    assert repr(clone(TorchRegressor(lr=0.1))) == "TorchRegressor(lr=0.1, n_folds='auto')"


@pytest.mark.parametrize("n_folds", [None, 3])
def test_folds_that_are_given_are_printed_as_they_are(n_folds: int | None) -> None:
    assert repr(TorchRegressor(n_folds=n_folds)) == f"TorchRegressor(n_folds={n_folds})"


def test_a_given_module_is_printed_without_the_folds_that_it_has_not() -> None:
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
def test_the_folds_are_printed_inside_others_too(around: Any) -> None:
    assert "TorchRegressor(n_folds='auto')" in repr(around(TorchRegressor()))


def test_a_long_line_is_broken_as_it_is_for_any_estimator() -> None:
    lines = repr(TorchRegressor(module__hidden_sizes=[5] * 5, optimizer="rprop", max_epochs=100))
    assert all(len(line) <= 80 for line in lines.splitlines())


def test_all_parameters_are_printed_once_where_all_are_asked_for() -> None:
    with sklearn.config_context(print_changed_only=False):
        assert repr(TorchRegressor()).count("n_folds='auto'") == 1


def test_the_class_has_a_default_for_every_parameter() -> None:
    for asked in (TorchRegressor, TorchRegressor.__init__):
        assert inspect.signature(asked).parameters["n_folds"].default == "auto"


def test_inspect_may_bind_the_init_to_the_class_as_to_an_estimator() -> None:
    bound = vars(TorchRegressor)["__init__"].__get__(TorchRegressor, type)
    (_, *parameters) = inspect.signature(TorchRegressor.__init__).parameters.values()
    assert [*inspect.signature(bound).parameters.values()] == parameters


def test_a_subclass_with_an_init_of_its_own_is_built_and_copied() -> None:
    class Named(TorchRegressor):
        def __init__(self, module: Any = None, *, name: str = "", n_folds: Any = "auto") -> None:
            super().__init__(module, n_folds=n_folds)
            self.name = name

    assert repr(clone(Named(name="a", n_folds=3))) == "Named(n_folds=3, name='a')"
