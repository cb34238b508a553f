"""What a file says is checked where it is read: what cannot be is refused, and does no harm."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import torchreg
from torchreg import FileError, TorchRegressor, UntrustedError
from torchreg._serialization import read_file
from torchreg.nn import MLP

X = np.linspace(-1, 1, 60).reshape(20, 3)
Record = dict[str, Any]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("saved") / "reg"
    reg = TorchRegressor(module=MLP, max_epochs=20, module__hidden_sizes=[4], random_state=0)
    reg.fit(X, X[:, 0]).save(file)
    return file


def put(value: Any, *path: Any) -> Callable[[Record, Tensors], None]:
    """Make an edit: put a value at a place of the record."""

    def edit(record: Record, tensors: Tensors) -> None:
        place: Any = record
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return edit


def put_tensor(value: torch.Tensor, key: str) -> Callable[[Record, Tensors], None]:
    return lambda record, tensors: tensors.update({key: value})


def drop(*path: Any) -> Callable[[Record, Tensors], None]:
    def edit(record: Record, tensors: Tensors) -> None:
        place: Any = record
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return edit


LAYERS = ("module", "layers", "children")
FIRST = (*LAYERS, 1, 1, "children", 0, 1, "children", 0, 1)
TANH = {"layer": "torch.nn.Tanh", "arguments": {}}

BAD: dict[str, tuple[Callable[[Record, Tensors], None], str]] = {
    "no parameters": (drop("params"), "parameters make no regressor: 'params'"),
    "an unknown parameter": (put(3, "params", "momentum"), "has no parameter 'momentum'"),
    "a parameter with a path": (put(3, "params", "__class__"), "has no parameter '__class__'"),
    "parameters that are none": (put([1], "params"), "parameters make no regressor"),
    "a parameter of a strange kind": (put({"eval": "1"}, "params", "lr"), "Parameter lr: .*'eval'"),
    "another kind of regressor": (
        put("torch.nn.Linear", "estimator"),
        "names 'torch.nn.Linear' as the kind of regressor",
    ),
    "no attributes": (drop("attributes"), "does not hold a fitted regressor: 'attributes'"),
    "a missing attribute": (drop("attributes", "n_iter_"), "n_iter_ is None, which it cannot be"),
    "a count that is text": (put("3", "attributes", "n_iter_"), "n_iter_ is '3', which it cannot"),
    "a count that is true": (put(True, "attributes", "n_outputs_"), "n_outputs_ is True"),
    "no features": (put(0, "attributes", "n_features_in_"), "n_features_in_ is 0"),
    "other features": (put(4, "attributes", "n_features_in_"), "standardize is not for 4 columns"),
    "too many features": (
        put(10**12, "attributes", "n_features_in_"),
        "1000000000000 features, and fewer numbers",
    ),
    "other outputs": (
        lambda r, t: r["attributes"].update(n_outputs_=2, _y_is_vector=False),
        "unstandardize is not for 2 columns",
    ),
    "a vector of two outputs": (
        put(2, "attributes", "n_outputs_"),
        "y as a vector with 2 outputs",
    ),
    "another dtype": (
        put({"dtype": "float32"}, "attributes", "dtype_"),
        r"network computes in torch\.float64, and not in torch\.float32",
    ),
    "a dtype that is none": (put("float64", "attributes", "dtype_"), "dtype_ is 'float64'"),
    "a history of text": (put("long", "attributes", "history_"), "history_ is 'long'"),
    "a curve of text": (put(["a"], "attributes", "loss_curve_"), r"loss_curve_ is \['a'\]"),
    "a validation curve of text": (
        put([1], "attributes", "validation_loss_curve_"),
        r"validation_loss_curve_ is \[1\]",
    ),
    "a method as an attribute": (
        put(3, "attributes", "predict"),
        "an attribute 'predict', which a fit does not set",
    ),
    "a parameter as an attribute": (put(3, "attributes", "lr"), "an attribute 'lr', which"),
    "a private place as an attribute": (
        put({"dict": []}, "attributes", "_nested"),
        "an attribute '_nested', which",
    ),
    "a class as an attribute": (put(3, "attributes", "__class__"), "an attribute '__class__'"),
    "names of too few features": (
        put({"texts": ["O", ["a"]]}, "attributes", "feature_names_in_"),
        "feature names are not 3, one per feature",
    ),
    "names that are a list": (
        put(["a", "b", "c"], "attributes", "feature_names_in_"),
        "feature names are not 3",
    ),
    "a form of two": (put(["numpy", "cpu"], "form"), "does not hold a fitted regressor"),
    "a form of numbers": (put([1, 2, 3], "form"), "does not say what X was"),
    "a form without a dtype": (put(["numpy", "cpu", "x"], "form"), "which dtype X had"),
    "requests of others": (
        put({"fit": {"flipper": True}, "score": {}}, "requests"),
        "parameters make no regressor",
    ),
    "no module": (drop("module"), "does not hold a fitted regressor: 'module'"),
    "a module without layers": (put({}, "module"), "does not hold a fitted regressor: 'prefix'"),
    "no layers": (put([], *LAYERS), "tensors that the module does not have"),
    "layers of no fit": (
        lambda record, tensors: record["module"]["layers"]["children"].append(["after", TANH]),
        r"module has \['standardize', 'network', 'unstandardize', 'after'\], which are not the la",
    ),
    "layers of no order": (
        lambda record, tensors: record["module"]["layers"]["children"].reverse(),
        r"module has \['unstandardize', 'network', 'standardize'\], which are not the layers",
    ),
    "layers in another container": (
        put("torchreg.nn.MLP", "module", "layers", "layer"),
        "which are not the layers of a fit",
    ),
    "a scaling to another dtype": (
        put({"dtype": "float32"}, *LAYERS, 0, 1, "arguments", "dtype"),
        "which is not that of a fit",
    ),
    "a scaling to nothing": (put(0, *LAYERS, 0, 1, "arguments", "dtype"), "fitted regressor"),
    "a layer of another kind": (put("torch.nn.GRU", *FIRST, "layer"), "layer 'torch.nn.GRU'"),
    "a layer by a path": (put("os:system", *FIRST, "layer"), "describes a layer 'os:system'"),
    "a layer like none": (put(3, *FIRST), "does not hold a fitted regressor"),
    "a wider layer": (put(10**12, *FIRST, "arguments", "out_features"), "has shape|overflow"),
    "a layer too wide for a number": (put(10**30, *FIRST, "arguments", "in_features"), "fitted"),
    "a layer of negative width": (put(-1, *FIRST, "arguments", "in_features"), "fitted"),
    "a layer of a broken width": (put(2.5, *FIRST, "arguments", "in_features"), "fitted"),
    "a layer with more arguments": (
        put("cuda", *FIRST, "arguments", "device"),
        r"Linear has no arguments \['device'\]",
    ),
    "a name that is no name": (put("a.b", *LAYERS, 0, 0), "fitted regressor"),
    "a name of a method": (put("forward", *LAYERS, 0, 0), "fitted regressor"),
    "a reference to nothing": (put({"same": "x"}, *FIRST), "fitted regressor: 'x'"),
    "ties to nothing": (put({"a": "b"}, "module", "ties"), "fitted regressor: 'b'"),
    "ties of other shapes": (
        put(
            {"network.layers.2.weight": "network.layers.0.weight"},
            "module",
            "ties",
        ),
        "network.layers.2.weight' has shape",
    ),
    "another prefix": (put(":x.", "module", "prefix"), "fitted regressor"),
    "extra state for nobody": (put({"network": 3}, "module", "extra"), "fitted regressor"),
    "a tensor too many": (put_tensor(torch.zeros(1), "more"), r"module does not have: \['more'\]"),
    "a setting too many": (put_tensor(torch.zeros(1), ":more"), r"tensors too many: \[':more'\]"),
    "a tensor too few": (
        lambda r, t: drop("network.layers.0.bias")(t, t),
        "no tensor 'network.layers.0.bias', which the module needs",
    ),
    "a curve too few": (
        lambda record, tensors: drop(":loss_curve_")(tensors, tensors),
        "no tensor ':loss_curve_'",
    ),
    "a matrix turned over": (
        put_tensor(torch.zeros(3, 4, dtype=torch.float64), "network.layers.0.weight"),
        r"has shape \(3, 4\)",
    ),
    "weights of integers": (
        put_tensor(torch.zeros(4, 3, dtype=torch.int64), "network.layers.0.weight"),
        r"torch\.int64, the module's",
    ),
    "weights in float32": (
        put_tensor(torch.zeros(4, 3), "network.layers.0.weight"),
        r"network computes in torch\.float32, and not in torch\.float64",
    ),
    "a negative scale": (
        put_tensor(-torch.ones(3, dtype=torch.float64), "standardize.scale"),
        "expects scales of 0 or more",
    ),
    "a mean that is no number": (
        put_tensor(torch.full((3,), torch.nan), "standardize.mean"),
        "expects finite numbers",
    ),
    "layers that do not follow each other": (
        put({"layer": "torch.nn.GLU", "arguments": {"dim": -1}}, *FIRST[:-2], 1, 1),
        "fitted regressor",
    ),
    "a loss of the user": (
        put({"name": "my_package.losses:loss"}, "params", "loss"),
        r"Parameter loss: The file names my_package\.losses\.loss",
    ),
    "a loss of the system": (put({"name": "os:system"}, "params", "loss"), r"names os\.system"),
    "a regressor of the user": (put("my_package:Reg", "estimator"), r"names my_package\.Reg"),
    "too many layers": (
        put(
            [[str(i), {"layer": "torch.nn.Tanh", "arguments": {}}] for i in range(10_001)], *LAYERS
        ),
        "The file describes more than 10000 layers",
    ),
}


@pytest.mark.parametrize(("edit", "message"), BAD.values(), ids=BAD)
def test_a_record_that_cannot_be_is_refused_with_the_reason(
    edit: Callable[[Record, Tensors], None], message: str, load_edited: Callable[..., Any]
) -> None:
    with pytest.raises(FileError, match=rf"edited: .*({message})"):
        load_edited(edit)


def test_what_is_not_edited_loads(load_edited: Callable[..., Any]) -> None:
    assert load_edited(lambda record, tensors: None).predict(X).shape == (20,)


def test_a_parameter_that_does_not_exist_is_the_callers_mistake(
    load_edited: Callable[..., Any],
) -> None:
    with pytest.raises(ValueError, match="no parameter 'momentum'") as caught:
        load_edited(lambda record, tensors: None, momentum=3)
    assert not isinstance(caught.value, FileError)


def test_a_passed_parameter_replaces_the_files(load_edited: Callable[..., Any]) -> None:
    reg = load_edited(put({"name": "os:system"}, "params", "loss"), loss="huber", lr=0.5)
    assert (reg.loss, reg.lr) == ("huber", 0.5)
    array = put({"array": ":lr"}, "params", "lr")
    reg = load_edited(lambda r, t: (array(r, t), t.update({":lr": torch.zeros(1)})), lr=0.5)
    assert reg.lr == 0.5


def test_a_record_is_read_without_being_changed(saved: Path) -> None:
    record, _ = read_file(saved)
    before = copy.deepcopy(record)
    torchreg.load(saved)
    assert read_file(saved)[0] == before


def test_an_untrusted_file_is_also_a_file_error() -> None:
    assert issubclass(UntrustedError, FileError) and issubclass(FileError, ValueError)
