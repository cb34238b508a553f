"""Unknown parameters and values outside their limits are rejected."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neural_network import MLPRegressor
from skorch import NeuralNet, NeuralNetRegressor
from skorch import callbacks as sk
from torch import nn

from tests._refusals import INF, NAN, X, Y, quick, refuse
from torchreg import TorchRegressor
from torchreg._utils import devices_present
from torchreg.nn import MLP

# Misspelt


def test_a_misspelt_parameter_is_rejected_by_the_constructor_with_similar_names() -> None:
    with pytest.raises(
        TypeError, match=r"no parameter 'max_epoch'\. Did you mean 'max_epochs'"
    ) as e:
        TorchRegressor(module=MLP, max_epoch=3)
    assert "TorchRegressor has no parameter 'max_epoch'" in str(e.value)
    with pytest.raises(ValueError, match=r"no parameter 'max_epoch'\. Did you mean 'max_epochs'"):
        TorchRegressor(module=MLP).set_params(max_epoch=3)
    with pytest.raises(TypeError, match=r"'optimiser__lr'\. Did you mean 'optimizer'"):
        TorchRegressor(module=MLP, optimiser__lr=3)
    with pytest.raises(ValueError, match=r"'modul__width'\. Did you mean 'module'"):
        TorchRegressor(module=MLP).set_params(modul__width=3)


def test_a_rejected_set_params_sets_nothing() -> None:
    reg = TorchRegressor(module=MLP)
    before = reg.get_params()
    with pytest.raises(ValueError, match="no parameter 'typo'"):
        reg.set_params(lr=0.5, module__hidden_sizes=[3], typo=1)
    assert reg.get_params() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"module__hiden_sizes": [5]},
            r"module MLP takes no 'hiden_sizes' \(module__hiden_sizes\)\. "
            "Did you mean 'hidden_sizes'",
        ),
        (
            {"module": nn.Linear, "module__baias": True},
            r"module Linear takes no 'baias' \(module__baias\)\. Did you mean 'bias'",
        ),
        (
            {"module": nn.Linear(3, 1), "module__bias": True},
            "instance of Linear, which is already built: module__bias cannot reach it. "
            "Give the class instead",
        ),
        (
            {"module__activation": "rellu"},
            r"Unknown activation 'rellu'\. Did you mean 'relu'",
        ),
        (
            {"optimizer__weigth_decay": 1},
            r"optimizer 'adam' takes no 'weigth_decay' \(optimizer__weigth_decay\)\. "
            "Did you mean 'weight_decay'",
        ),
        (
            {"loss": "huber", "loss__dleta": 1},
            r"loss 'huber' takes no 'dleta' \(loss__dleta\)\. Did you mean 'delta'",
        ),
        (
            {
                "callbacks": [("stop", sk.EarlyStopping(monitor="train_loss"))],
                "callbacks__stpo__patience": 3,
            },
            r"callbacks__stpo__patience names no callback\. Did you mean 'stop'",
        ),
        (
            {
                "callbacks": [("stop", sk.EarlyStopping(monitor="train_loss"))],
                "callbacks__stop__patiense": 3,
            },
            "patiense",
        ),
        (
            {"callbacks__stop__patience": 3},
            r"callbacks__stop__patience names no callback\. It takes none\. "
            r"Give callbacks as \(name, callback\) pairs to set their parameters",
        ),
        ({"callbacks": [3]}, "callbacks expects skorch callbacks or .* pairs, got 3"),
        ({"optimizer": "adma"}, r"Unknown optimizer 'adma'\. Did you mean .*'adam'.* Known: "),
        ({"loss": "squared_eror"}, r"Unknown loss 'squared_eror'\. Did you mean 'squared_error'"),
    ],
)
def test_a_misspelt_option_is_rejected_by_fit_with_similar_names(
    options: dict[str, Any], message: str
) -> None:
    refuse(quick(**options), message)


# Names of other libraries

OURS = set(inspect.signature(TorchRegressor).parameters)
THEIRS = {
    name
    for cls in (MLPRegressor, NeuralNetRegressor, NeuralNet)
    for name, parameter in inspect.signature(cls.__init__).parameters.items()
    if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and name != "self"
}


@pytest.mark.parametrize("name", sorted(THEIRS - OURS))
def test_a_parameter_of_a_peer_is_rejected_with_parameters_that_exist(name: str) -> None:
    with pytest.raises(TypeError, match=rf"no parameter '{name}'\. Use ") as rejected:
        TorchRegressor(**{name: 1})
    advice = str(rejected.value).partition("Use ")[2]
    nested = re.findall(r"\w+__\w+", advice)
    TorchRegressor(**dict.fromkeys(nested, 1))
    named = OURS.intersection(re.findall(r"\w+", advice))
    # These four are no parameters here.
    assert nested or named or name in ("dataset", "n_jobs", "torch_load_kwargs", "use_caching")


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("hidden_layer_sizes", "module__hidden_sizes"),
        ("max_iter", "max_epochs"),
        ("alpha", "optimizer__weight_decay"),
        ("learning_rate_init", "lr"),
        ("solver", "optimizer"),
        ("criterion", "loss"),
        ("criterion__delta", "loss__delta"),
        ("iterator_train__batch_size", "batch_size"),
        ("train_split", "validation_fraction"),
    ],
)
def test_a_parameter_of_a_peer_is_rejected_with_its_name_here(name: str, here: str) -> None:
    with pytest.raises(ValueError, match=rf"no parameter '{name}'\. Use [^.]*\b{here}\b"):
        TorchRegressor().set_params(**{name: 1})


def test_n_jobs_is_not_taken_for_n_folds() -> None:
    with pytest.raises(TypeError, match=r"parallel_config\(backend='torchreg'\)") as rejected:
        TorchRegressor(n_jobs=2)
    assert "n_folds" not in str(rejected.value)


@pytest.mark.parametrize(
    ("option", "other", "here"),
    [
        ("loss", "mse", "squared_error"),
        ("loss", "MSELoss", "squared_error"),
        ("loss", "mean squared error", "squared_error"),
        ("loss", "mae", "absolute_error"),
        ("loss", "l1", "absolute_error"),
        ("loss", "smooth_l1", "huber"),
        ("loss", "pinball", "quantile"),
        ("schedule", "adaptive", "reduce_on_plateau"),
        ("schedule", "OneCycleLR", "one_cycle"),
    ],
)
def test_a_name_of_other_libraries_is_rejected_with_the_name_here(
    option: str, other: str, here: str
) -> None:
    refuse(quick(**{option: other}), rf"Unknown {option} '{other}'\. Did you mean '{here}'\?")


class OneMethod:
    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        pass


class OfScikitLearn:
    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("callbacks", "advice"),
    [
        ([OneMethod()], r"Derive its class from skorch\.callbacks\.Callback"),
        (OneMethod(), r"Derive its class from skorch\.callbacks\.Callback"),
        ([("mine", print)], r"Derive its class from skorch\.callbacks\.Callback"),
        ([OfScikitLearn()], "Pass a callback of scikit-learn to set_callbacks"),
    ],
)
def test_a_callback_that_skorch_cannot_call_is_rejected(callbacks: Any, advice: str) -> None:
    refuse(quick(callbacks=callbacks), f"callbacks expects skorch callbacks.*{advice}")


# Limits

OUTSIDE: dict[str, list[Any]] = {
    "module": [3, "mlp"],
    "loss": [3, None],
    "optimizer": [3, None],
    "lr": [0, -1.0, INF, NAN, "auto"],
    "schedule": [None, 3, 0.1],
    "max_epochs": [0, -1, 2.5, None, "many"],
    "batch_size": [0, -1, 2.5, "all"],
    "standardize": ["x", "both", None, 2],
    "early_stopping": ["auto", None, 2],
    "n_folds": [0, 1, 2.0, -3, NAN, "all"],
    "validation_fraction": [0, 1, 0.0, 1.0, -0.1, 1.5, NAN, None],
    "n_iter_no_change": [0, -1, 2.5, None],
    "tol": [-1e-4, NAN, INF, "auto"],
    "n_init": [0, -1, 2.5, None, "many"],
    "callbacks": [3, "bar"],
    "device": [3, None],
    "dtype": ["float16", "double", None, np.float32],
    "warm_start": ["auto", None, 2],
    "verbose": [-1, "loud", None],
    "random_state": [-1, "seed", 1.5],
}


def test_values_outside_the_limits_of_every_parameter_are_tried() -> None:
    parameters = {name for name in TorchRegressor(module=MLP).get_params() if "__" not in name}
    assert set(OUTSIDE) == parameters


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in OUTSIDE.items() for value in values]
)
def test_a_value_outside_its_limits_is_rejected_by_name_with_the_limits(
    name: str, value: Any
) -> None:
    shown = str(value) if isinstance(value, str) else repr(value)
    message = rf"'{name}' parameter of TorchRegressor must be [\s\S]*\. Got .*{shown[:8]}"
    refuse(quick(**{name: value}), message.replace("(", "."))


def test_a_value_that_equals_a_good_one_is_judged_by_its_own_type() -> None:
    quick(n_init=1, max_epochs=3).fit(X, Y)
    refuse(quick(n_init=1.0), r"'n_init' parameter of TorchRegressor must be an int.*Got 1\.0")
    refuse(quick(max_epochs=3.0), r"'max_epochs' parameter of TorchRegressor must be.*Got 3\.0")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex64])
def test_a_dtype_that_networks_do_not_train_in_is_rejected(dtype: torch.dtype) -> None:
    refuse(quick(dtype=dtype), rf"dtype expects 'auto', 'float32' or 'float64', got {dtype}")


@pytest.mark.parametrize("device", ["cuda:99", "xpu", "hpu:3", "warp", "", "meta"])
def test_an_unavailable_device_is_rejected_with_the_available_ones(device: str) -> None:
    why = "a device that torch knows" if device in ("", "warp") else "available"
    message = rf"device='{device}' is .*{why}\. Available: 'cpu'.*'auto'"
    refuse(quick(device=device), message)
    with pytest.raises(ValueError, match=message) as error:
        quick(device=device).fit(X, Y)
    assert all(repr(name) in str(error.value) for name in devices_present())


def test_a_device_is_either_unknown_or_unavailable() -> None:
    with pytest.raises(ValueError, match="'warp' is not a device that torch knows"):
        quick(device="warp").fit(X, Y)
    with pytest.raises(ValueError, match=r"'cuda:99' is not available\. Available: 'cpu'"):
        quick(device="cuda:99").fit(X, Y)
