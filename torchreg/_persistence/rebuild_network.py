"""Networks without a description, built as ``fit`` builds them.

The file chooses the arguments, and may be forged. So only classes are called that the caller passed
or trusts, or that a file may describe, and first on the meta device, to check the memory they take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchreg._estimator import nested_parameters
from torchreg._serialization import CONSTANTS, CONTAINERS, LAYERS, Unserialized, builtin_objects
from torchreg._utils import with_seed
from torchreg.engine.build import build_network, materialize
from torchreg.exceptions import FileError, UntrustedError

_DESCRIBED = (*LAYERS, *CONSTANTS, *CONTAINERS)

#: The length of options up to which the number of layers is not limited by that of tensors.
_SMALL = 100


def rebuild_network(
    estimator: Any, tensors: Mapping[str, Tensor], per_output: int = 1, *, passed: bool
) -> nn.Module:
    """Build the network of an estimator's ``module`` and ``module__*``.

    Parameters
    ----------
    estimator : TorchRegressor
        With its parameters and data attributes.
    tensors : mapping of str to Tensor
        The parameters and buffers of the network, by name.
    per_output : int, default=1
        The number of columns per output.
    passed : bool
        Whether ``module`` was passed by the caller, and not read from the file.

    Returns
    -------
    nn.Module
        With initial values of its parameters.

    Raises
    ------
    FileError
        If the network cannot be built, or its parameters have other names or shapes.
    UntrustedError
        If ``module`` is missing, or is not trusted.
    """
    params = estimator._fitted_params()
    module, options = params["module"], nested_parameters(params, "module")
    if isinstance(module, Unserialized):
        raise UntrustedError(
            f"The network was built by {module.text}, which a file cannot hold. Pass it: "
            "torchreg.load(path, module=...)."
        )
    if not passed:
        _check_trusted(module, called=True)
        _check_trusted(options, called=False)

    def build() -> nn.Module:
        return build_network(
            module,
            options,
            in_features=estimator.n_features_in_,
            out_features=estimator.n_outputs_ * per_output,
        )

    def checked() -> nn.Module:
        if not isinstance(module, nn.Module):
            _check_size(build, tensors, must_succeed=described)
        network = build()
        rows = torch.zeros(2, estimator.n_features_in_)
        materialize(network, rows, estimator.n_outputs_, per_output)
        return network

    described = _is_described(module)
    if described and _longest([module, options]) > max(len(tensors), _SMALL):
        raise FileError("The file describes more layers than it has tensors.")
    try:
        network = with_seed(0, torch.device("cpu"), checked)
    except FileError:
        raise
    except Exception as error:
        shown = type(module).__name__ if isinstance(module, nn.Module) else repr(module)
        raise FileError(
            f"The network of the file cannot be built from module={shown}: {error}"
        ) from error
    return network.to(estimator.dtype_)


def _is_described(module: Any) -> bool:
    while isinstance(module, partial):
        module = module.func
    return module in _DESCRIBED


def _parts(value: Any) -> list[Any]:
    """List the items of a value."""
    if isinstance(value, partial):
        return [*value.args, *value.keywords.values()]
    if isinstance(value, dict):
        return [*value.values()]
    if isinstance(value, np.ndarray):
        return list(value.flat)
    return [*value] if isinstance(value, list | tuple) else []


def _longest(value: Any) -> int:
    parts = _parts(value)
    return max([len(parts), *map(_longest, parts)])


def _check_trusted(value: Any, *, called: bool) -> None:
    """Check that no object of torch is called except layers that a file may describe."""
    for part in _parts(value):
        _check_trusted(part, called=False)
    if isinstance(value, partial):
        _check_trusted(value.func, called=True)
    elif called and callable(value) and _is_builtin(value) and value not in _DESCRIBED:
        raise UntrustedError(
            f"The network is built by {value!r}. Pass it: torchreg.load(path, module=...)."
        )


def _is_builtin(value: Any) -> bool:
    return value in builtin_objects().values()


def _check_size(
    build: Callable[[], nn.Module], tensors: Mapping[str, Tensor], *, must_succeed: bool
) -> None:
    """Check names and shapes of parameters on the meta device, before they take memory."""
    try:
        with torch.device("meta"):
            network = build()
    except Exception:
        if must_succeed:
            raise
        return  # The user's constructor may need values, which meta tensors do not have.
    for name, expected in [*network.named_parameters(), *network.named_buffers()]:
        if nn.parameter.is_lazy(expected):
            continue
        if name not in tensors:
            raise FileError(f"The module has {name!r}, for which the file has no tensor.")
        if tensors[name].shape != expected.shape:
            raise FileError(
                f"The file's tensor {name!r} has shape {tuple(tensors[name].shape)}, the module's "
                f"has shape {tuple(expected.shape)}."
            )
