"""A network without a description is built as fit builds it, if its class is trusted."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import torchreg
from torchreg import FileError, TorchRegressor
from torchreg.nn import MLP, TabularMLP

X = np.linspace(-1, 1, 60).reshape(20, 3)
Record = dict[str, Any]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("saved") / "reg"
    reg = TorchRegressor(module=MLP, max_epochs=2, module__hidden_sizes=[4], random_state=0)
    reg.fit(X, X[:, 0]).save(file)
    return file


def undescribe(record: Record, tensors: Tensors) -> None:
    """Remove the description of the network."""
    record["module"]["layers"]["children"][1][1] = {"given": True}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a class of torch": (
        {"module": {"name": "torch.nn.GRU"}, "module__num_layers": 10**9},
        "The network is built by <class 'torch.nn.modules.rnn.GRU'>",
    ),
    "a function of torch": ({"module": {"name": "torch.nn.functional.silu"}}, "built by <funct"),
    "a partial": (
        {"module": {"partial": [{"name": "torch.nn.GRU"}, {"tuple": []}, {"dict": []}]}},
        "built by <class 'torch.nn.modules.rnn.GRU'>",
    ),
    "a partial in an option": (
        {
            "module__activation": {
                "partial": [{"name": "torch.nn.functional.pad"}, {"tuple": [1]}, {"dict": []}]
            }
        },
        "built by <function pad",
    ),
    "a wide network": (
        {"module__hidden_sizes": [10**6, 10**6]},
        r"The file's tensor '.*' has shape \(4, 3\), the module's has shape \(1000000, 3\)\.",
    ),
    "a deep network": ({"module__hidden_sizes": {"integers": "deep"}}, "more layers than it has"),
    "a deep network in a partial": (
        {
            "module": {
                "partial": [
                    {"name": "torchreg.nn.MLP"},
                    {"tuple": []},
                    {"dict": [["hidden_sizes", {"integers": "deep"}]]},
                ]
            }
        },
        "more layers than it has",
    ),
    "a layer with options of another": (
        {"module": {"name": "torch.nn.Linear"}, "module__out_features": 10**7},
        "takes no 'hidden_sizes'",
    ),
    "a number as module": ({"module": 3}, "cannot be built from module=3"),
    "an unknown option": ({"module__depth": 3}, "takes no 'depth'"),
    "an unknown activation": ({"module__activation": "os.system"}, "Unknown activation"),
}


@pytest.mark.parametrize(("params", "message"), REFUSED.values(), ids=REFUSED)
def test_a_network_is_not_built_from_untrusted_classes_or_large_arguments(
    params: dict[str, Any], message: str, load_edited: Callable[..., Any]
) -> None:
    def edit(record: Record, tensors: Tensors) -> None:
        undescribe(record, tensors)
        record["params"].update(params)
        if "deep" in str(params):
            tensors["deep"] = torch.ones(10**5, dtype=torch.int64)

    with pytest.raises(FileError, match=message):
        load_edited(edit)


def test_a_rebuilt_network_gets_the_parameters_of_the_file(
    load_edited: Callable[..., Any], saved: Path
) -> None:
    expected = torchreg.load(saved).predict(X)
    assert np.array_equal(load_edited(undescribe).predict(X), expected)
    for module in (
        torchreg.nn.MLP(3, 1, [4]),
        functools.partial(torchreg.nn.MLP, hidden_sizes=[4]),
    ):
        edit = undescribe_without_options
        assert np.array_equal(load_edited(edit, module=module).predict(X), expected)
    with pytest.raises(FileError, match=r"no tensor 'network\.0\.weight', which the module needs"):
        load_edited(undescribe_without_options, module=nn.Sequential(nn.Linear(3, 1)))
    with pytest.raises(
        FileError,
        match=r"has shape \(4, 3\) and torch\.float64, the module's has shape \(5, 3\) and torch\.",
    ):
        load_edited(undescribe_without_options, module=torchreg.nn.MLP(3, 1, [5]))


def undescribe_without_options(record: Record, tensors: Tensors) -> None:
    undescribe(record, tensors)
    del record["params"]["module__hidden_sizes"]


class Sized(nn.Module):
    """A module whose constructor needs the values of a tensor."""

    def __init__(self, in_features: int, out_features: int, width: int = 2) -> None:
        super().__init__()
        self.factor = float(torch.linspace(0, 1, width)[-1])
        self.hidden = nn.Linear(in_features, width)
        self.output = nn.Linear(width, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.output(self.hidden(x).tanh()) * self.factor
        return outputs


def test_a_constructor_can_use_values_of_tensors(tmp_path: Path) -> None:
    reg = TorchRegressor(Sized, max_epochs=2, module__width=3).fit(X, X[:, 0])
    reg.save(tmp_path / "reg")
    loaded = torchreg.load(tmp_path / "reg", module=Sized)
    assert np.array_equal(loaded.predict(X), reg.predict(X))
    with pytest.raises(FileError, match="has shape"):
        torchreg.load(tmp_path / "reg", module=Sized, module__width=4)


def test_a_passed_module_with_other_parameters_is_refused(load_edited: Callable[..., Any]) -> None:
    class More(torchreg.nn.MLP):
        def __init__(self, in_features: int) -> None:
            super().__init__(in_features, 1, [4])
            self.more = nn.Parameter(torch.zeros(1))

    with pytest.raises(FileError, match="module has 'more', for which the file has no tensor"):
        load_edited(undescribe_without_options, module=More)
    with pytest.raises(FileError, match=r"cannot be built from module=.*takes 2 features but X"):
        load_edited(undescribe_without_options, module=torchreg.nn.MLP(2, 1, [4]))


class Sine(nn.Module):
    """An activation that a file cannot describe."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)


class Own(nn.Module):
    """A network that a file cannot describe."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.head = nn.Linear(in_features, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(x)
        return output


@pytest.mark.parametrize("n_folds", [None, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"module__activation": Sine},
        {"module": TabularMLP, "module__activation": Sine},
        {"module": MLP, "module__activation": Sine},
        {"module": Own},
    ],
    ids=str,
)
def test_networks_with_a_class_of_the_user_survive_their_file(
    options: dict[str, Any], n_folds: int | None, tmp_path: Path
) -> None:
    reg = TorchRegressor(**options, n_folds=n_folds, max_epochs=2, random_state=0)
    expected = reg.fit(X, X[:, 0]).predict(X)
    reg.save(tmp_path / "reg")
    loaded = torchreg.load(tmp_path / "reg", trusted=[Own, Sine])
    assert np.array_equal(loaded.predict(X), expected)
    assert np.array_equal(loaded.fit(X, X[:, 0]).predict(X), expected)


def test_an_undescribed_network_without_tensors_is_not_built(
    load_edited: Callable[..., Any],
) -> None:
    def add_networks(record: Record, tensors: Tensors) -> None:
        listed = {"layer": "torch.nn.ModuleList", "children": [["0", {"given": True}]]}
        ensemble = {"layer": "torchreg.nn.Ensemble", "children": [["members", listed]]}
        record["module"]["layers"]["children"][1][1] = ensemble

    with pytest.raises(FileError, match=r"no tensors of the network 'network\.members\.0'"):
        load_edited(add_networks)
