"""A network that a file does not describe: built as ``fit`` built it, if that does no harm.

Whoever wrote the file chose the arguments. So nothing is called but what the caller passed or
allowed, and the layers that a file may describe; and a sketch without memory comes first.
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

_TABLE = (*LAYERS, *CONSTANTS, *CONTAINERS)

#: So many options and sizes ask for no more memory than any file may.
_FEW = 100


def rebuild_network(
    estimator: Any, numbers: Mapping[str, Tensor], per_output: int = 1, *, passed: bool
) -> nn.Module:
    """Build the network of an estimator's ``module`` and ``module__*``.

    Parameters
    ----------
    estimator : TorchRegressor
        With its parameters, and what ``fit`` saw.
    numbers : mapping of str to Tensor
        Its parameters and buffers, by name.
    per_output : int, default=1
        How many numbers it gives for each output.
    passed : bool
        Whether the caller passed ``module``, rather than the file naming it.

    Returns
    -------
    nn.Module
        With numbers of its own.

    Raises
    ------
    FileError
        If it cannot be built, or its numbers have other names or shapes.
    UntrustedError
        If it needs something that the caller neither passed nor allowed.
    """
    params = estimator._fitted_params()
    module, options = params["module"], nested_parameters(params, "module")
    if isinstance(module, Unserialized):
        raise UntrustedError(
            f"The network was built by {module.text}, which a file cannot hold. Pass it: "
            "torchreg.load(path, module=...)."
        )
    if not passed:
        _require_harmless(module, called=True)
        _require_harmless(options, called=False)

    def build() -> nn.Module:
        return build_network(
            module,
            options,
            in_features=estimator.n_features_in_,
            out_features=estimator.n_outputs_ * per_output,
        )

    def checked() -> nn.Module:
        if not isinstance(module, nn.Module):
            _check_size(build, numbers, must_work=own)
        network = build()
        rows = torch.zeros(2, estimator.n_features_in_)
        materialize(network, rows, estimator.n_outputs_, per_output)
        return network

    own = _is_own(module)
    if own and _longest([module, options]) > max(len(numbers), _FEW):
        raise FileError("The file asks for more layers than it has tensors for.")
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


def _is_own(module: Any) -> bool:
    while isinstance(module, partial):
        module = module.func
    return module in _TABLE


def _parts(value: Any) -> list[Any]:
    """List what a value holds, one level down."""
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


def _require_harmless(value: Any, *, called: bool) -> None:
    """Let nothing of torch be called with a file's arguments but the layers of the table."""
    for part in _parts(value):
        _require_harmless(part, called=False)
    if isinstance(value, partial):
        _require_harmless(value.func, called=True)
    elif called and callable(value) and value in builtin_objects().values() and value not in _TABLE:
        raise UntrustedError(
            f"The network is built by {value!r}. Pass it: torchreg.load(path, module=...)."
        )


def _check_size(
    build: Callable[[], nn.Module], numbers: Mapping[str, Tensor], *, must_work: bool
) -> None:
    """Require that a network is no larger than its numbers, before it takes any memory."""
    try:
        with torch.device("meta"):
            sketch = build()
    except Exception:
        if must_work:
            raise
        return  # The user's constructor wants to see numbers, which a sketch has not.
    for name, there in [*sketch.named_parameters(), *sketch.named_buffers()]:
        if nn.parameter.is_lazy(there):
            continue
        if name not in numbers:
            raise FileError(f"The module has {name!r}, for which the file has no tensor.")
        if numbers[name].shape != there.shape:
            raise FileError(
                f"The file's tensor {name!r} has shape {tuple(numbers[name].shape)}, the module's "
                f"has shape {tuple(there.shape)}."
            )
