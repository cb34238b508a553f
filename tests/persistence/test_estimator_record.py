"""An invalid record is refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchreg import FileError, TorchRegressor, UntrustedError
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
    """Return an edit that sets a value in the record."""

    def edit(record: Record, tensors: Tensors) -> None:
        target: Any = record
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return edit


def put_tensor(value: torch.Tensor, key: str) -> Callable[[Record, Tensors], None]:
    return lambda record, tensors: tensors.update({key: value})


def drop(*path: Any) -> Callable[[Record, Tensors], None]:
    def edit(record: Record, tensors: Tensors) -> None:
        target: Any = record
        for key in path[:-1]:
            target = target[key]
        del target[path[-1]]

    return edit


LAYERS = ("module", "layers", "children")
FIRST = (*LAYERS, 1, 1, "children", 0, 1, "children", 0, 1)
TANH = {"layer": "torch.nn.Tanh", "arguments": {}}

BAD: dict[str, tuple[Callable[[Record, Tensors], None], str]] = {
    "no parameters": (drop("params"), "parameters are invalid: 'params'"),
    "an unknown parameter": (put(3, "params", "momentum"), "has no parameter 'momentum'"),
    "a parameter with a path": (put(3, "params", "__class__"), "has no parameter '__class__'"),
    "parameters in a list": (put([1], "params"), "parameters are invalid"),
    "a parameter of unknown kind": (put({"eval": "1"}, "params", "lr"), "Parameter lr: .*'eval'"),
    "another kind of regressor": (
        put("torch.nn.Linear", "estimator"),
        "names 'torch.nn.Linear' as the class of the regressor",
    ),
    "no attributes": (drop("attributes"), "does not hold a fitted regressor: 'attributes'"),
    "a missing attribute": (drop("attributes", "n_iter_"), "invalid value of n_iter_: None"),
    "a count that is text": (put("3", "attributes", "n_iter_"), "n_iter_: '3'"),
    "a count that is true": (put(True, "attributes", "n_outputs_"), "n_outputs_: True"),
    "no features": (put(0, "attributes", "n_features_in_"), "n_features_in_: 0"),
    "other features": (put(4, "attributes", "n_features_in_"), "standardize is not for 4 columns"),
    "too many features": (
        put(10**12, "attributes", "n_features_in_"),
        "1000000000000 features, but fewer parameters",
    ),
    "other outputs": (
        lambda r, t: r["attributes"].update(n_outputs_=2, _y_is_vector=False),
        "unstandardize is not for 2 columns",
    ),
    "a vector of two outputs": (
        put(2, "attributes", "n_outputs_"),
        "one-dimensional y, but 2 outputs",
    ),
    "another dtype": (
        put({"dtype": "float32"}, "attributes", "dtype_"),
        r"network has dtype torch\.float64; expected torch\.float32",
    ),
    "a dtype in a string": (put("float64", "attributes", "dtype_"), "dtype_: 'float64'"),
    "predictions of integers": (
        put({"dtype": "int32"}, "attributes", "_prediction_dtype"),
        r"_prediction_dtype: torch\.int32",
    ),
    "a history of text": (put("long", "attributes", "history_"), "history_: 'long'"),
    "a curve of text": (put(["a"], "attributes", "loss_curve_"), r"loss_curve_: \['a'\]"),
    "a validation curve of text": (
        put([1], "attributes", "validation_loss_curve_"),
        r"validation_loss_curve_: \[1\]",
    ),
    "a method as an attribute": (
        put(3, "attributes", "predict"),
        "an attribute 'predict', which fit does not set",
    ),
    "a parameter as an attribute": (put(3, "attributes", "lr"), "an attribute 'lr', which"),
    "a private attribute": (
        put({"dict": []}, "attributes", "_nested"),
        "an attribute '_nested', which",
    ),
    "a class as an attribute": (put(3, "attributes", "__class__"), "an attribute '__class__'"),
    "names of too few features": (
        put({"texts": ["O", ["a"]]}, "attributes", "feature_names_in_"),
        "feature names are not an array of 3 names",
    ),
    "names that are a list": (
        put(["a", "b", "c"], "attributes", "feature_names_in_"),
        "not an array of 3 names",
    ),
    "a format of two": (put(["numpy", "cpu"], "form"), "does not hold a fitted regressor"),
    "a format of numbers": (put([1, 2, 3], "form"), "array namespace and device of X"),
    "a format without a dtype": (put(["numpy", "cpu", "x"], "form"), "dtype of X"),
    "unknown requests": (
        put({"fit": {"flipper": True}, "score": {}}, "requests"),
        "parameters are invalid",
    ),
    "no module": (drop("module"), "does not hold a fitted regressor: 'module'"),
    "a module without layers": (put({}, "module"), "does not hold a fitted regressor: 'prefix'"),
    "no layers": (put([], *LAYERS), "tensors that the module does not have"),
    "an additional layer": (
        lambda record, tensors: record["module"]["layers"]["children"].append(["after", TANH]),
        r"module has \['standardize', 'network', 'unstandardize', 'after'\], which are not the la",
    ),
    "layers in another order": (
        lambda record, tensors: record["module"]["layers"]["children"].reverse(),
        r"module has \['unstandardize', 'network', 'standardize'\], which are not the layers",
    ),
    "layers in another container": (
        put("torchreg.nn.MLP", "module", "layers", "layer"),
        "which are not the layers of a fit",
    ),
    "a scaling to another dtype": (
        put({"dtype": "float32"}, *LAYERS, 0, 1, "arguments", "dtype"),
        "which fit does not build",
    ),
    "a scaling to no dtype": (put(0, *LAYERS, 0, 1, "arguments", "dtype"), "fitted regressor"),
    "a layer of another class": (put("torch.nn.GRU", *FIRST, "layer"), "layer 'torch.nn.GRU'"),
    "a layer by a path": (put("os:system", *FIRST, "layer"), "describes a layer 'os:system'"),
    "a layer of another type": (put(3, *FIRST), "does not hold a fitted regressor"),
    "a wider layer": (put(10**12, *FIRST, "arguments", "out_features"), "has shape|overflow"),
    "a width that overflows": (put(10**30, *FIRST, "arguments", "in_features"), "fitted"),
    "a layer of negative width": (put(-1, *FIRST, "arguments", "in_features"), "fitted"),
    "a layer of a fractional width": (put(2.5, *FIRST, "arguments", "in_features"), "fitted"),
    "a layer with more arguments": (
        put("cuda", *FIRST, "arguments", "device"),
        r"Linear has no arguments \['device'\]",
    ),
    "an invalid name": (put("a.b", *LAYERS, 0, 0), "fitted regressor"),
    "a name of a method": (put("forward", *LAYERS, 0, 0), "fitted regressor"),
    "a reference to nothing": (put({"same": "x"}, *FIRST), "fitted regressor: 'x'"),
    "ties to nothing": (put({"a": "b"}, "module", "ties"), "fitted regressor: 'b'"),
    "ties of other shapes": (
        put({"network.layers.2.weight": "network.layers.0.weight"}, "module", "ties"),
        "network.layers.2.weight' has shape",
    ),
    "another prefix": (put(":x.", "module", "prefix"), "fitted regressor"),
    "unexpected extra state": (put({"network": 3}, "module", "extra"), "fitted regressor"),
    "an additional tensor": (put_tensor(torch.zeros(1), "more"), r"does not have: \['more'\]"),
    "an unused tensor": (put_tensor(torch.zeros(1), ":more"), r"unused tensors: \[':more'\]"),
    "a missing tensor": (
        lambda r, t: drop("network.layers.0.bias")(t, t),
        "no tensor 'network.layers.0.bias', which the module needs",
    ),
    "a missing curve": (
        lambda record, tensors: drop(":loss_curve_")(tensors, tensors),
        "no tensor ':loss_curve_'",
    ),
    "a transposed matrix": (
        put_tensor(torch.zeros(3, 4, dtype=torch.float64), "network.layers.0.weight"),
        r"has shape \(3, 4\)",
    ),
    "weights of integers": (
        put_tensor(torch.zeros(4, 3, dtype=torch.int64), "network.layers.0.weight"),
        r"torch\.int64, the module's",
    ),
    "weights in float32": (
        put_tensor(torch.zeros(4, 3), "network.layers.0.weight"),
        r"network has dtype torch\.float32; expected torch\.float64",
    ),
    "a negative scale": (
        put_tensor(-torch.ones(3, dtype=torch.float64), "standardize.scale"),
        "expects scales of 0 or more",
    ),
    "a mean of NaN": (
        put_tensor(torch.full((3,), torch.nan), "standardize.mean"),
        "expects finite numbers",
    ),
    "layers whose sizes do not match": (
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
def test_an_invalid_record_is_refused_with_the_reason(
    edit: Callable[[Record, Tensors], None], message: str, load_edited: Callable[..., Any]
) -> None:
    with pytest.raises(FileError, match=rf"edited: .*({message})"):
        load_edited(edit)


def test_an_unchanged_record_loads(load_edited: Callable[..., Any]) -> None:
    assert load_edited(lambda record, tensors: None).predict(X).shape == (20,)


def test_a_file_without_the_dtype_of_predictions_predicts_in_the_dtype_of_x(
    load_edited: Callable[..., Any],
) -> None:
    reg = load_edited(drop("attributes", "_prediction_dtype"))
    assert reg.predict(X.astype(np.float32)).dtype == np.float32


def test_an_unknown_parameter_of_the_caller_is_not_a_file_error(
    load_edited: Callable[..., Any],
) -> None:
    with pytest.raises(ValueError, match="no parameter 'momentum'") as caught:
        load_edited(lambda record, tensors: None, momentum=3)
    assert not isinstance(caught.value, FileError)


def test_a_passed_parameter_replaces_that_of_the_file(load_edited: Callable[..., Any]) -> None:
    reg = load_edited(put({"name": "os:system"}, "params", "loss"), loss="huber", lr=0.5)
    assert (reg.loss, reg.lr) == ("huber", 0.5)
    array = put({"array": ":lr"}, "params", "lr")
    reg = load_edited(lambda r, t: (array(r, t), t.update({":lr": torch.zeros(1)})), lr=0.5)
    assert reg.lr == 0.5


def test_an_untrusted_file_is_also_a_file_error() -> None:
    assert issubclass(UntrustedError, FileError) and issubclass(FileError, ValueError)
