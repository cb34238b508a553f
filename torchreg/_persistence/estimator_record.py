"""A fitted regressor as a record and tensors, and the other way round."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Container, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from types import FunctionType
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from torchreg._estimator import AUTO_PARAMS, ArrayFormat
from torchreg._persistence.rebuild_network import rebuild_network
from torchreg._serialization import (
    LINKS,
    ImportAllowlist,
    Reader,
    UnwritableError,
    Writer,
    needs_network,
    read_link,
    read_module,
    write_module,
    write_network,
)
from torchreg.engine.spec import check_output, has_members
from torchreg.exceptions import FileError
from torchreg.nn import AverageMembers, Standardize, Unstandardize
from torchreg.nn.links import columns_per_output

#: Attributes that are written in another way, or belong to the process: scikit-learn's callbacks.
_APART = {"_nested", "_x_format", "_metadata_request", "_skl_callbacks", "module_"}

#: Methods whose metadata requests (``set_fit_request``) are kept.
_REQUESTS = ("fit", "predict", "score")

_PACKAGES = ("torchreg", "torch", "scikit-learn", "numpy")

#: The layers around the network, and which attribute says for how many columns.
_SCALING = {
    "standardize": (Standardize, "n_features_in_"),
    "unstandardize": (Unstandardize, "n_outputs_"),
}

_ORDER = ("standardize", "network", "link", "average", "unstandardize")

#: Features of a network that does not standardize, at most, or as many as it has numbers.
_MANY_FEATURES = 2**20


def _is_count(value: Any, least: int = 1) -> bool:
    return type(value) is int and least <= value < 2**63


def _is_curve(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is float for item in value)


def _is_choice(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() <= AUTO_PARAMS


#: What every fitted regressor has, and what it must be.
FITTED: dict[str, Callable[[Any], bool]] = {
    "n_features_in_": _is_count,
    "n_outputs_": _is_count,
    "_y_is_vector": lambda value: type(value) is bool,
    "dtype_": lambda value: value in (torch.float32, torch.float64),
    "history_": lambda value: isinstance(value, list) and all(isinstance(r, dict) for r in value),
    "n_iter_": _is_count,
    "best_epoch_": lambda value: _is_count(value, 0),
    "loss_": lambda value: type(value) is float,
    "loss_curve_": _is_curve,
    "validation_loss_curve_": lambda value: value is None or _is_curve(value),
}

#: What files of an earlier version lack.
LATER: dict[str, Callable[[Any], bool]] = {"init_losses_": _is_curve, "chosen_params_": _is_choice}


def write_estimator(estimator: BaseEstimator) -> tuple[dict[str, Any], Writer]:
    """Write a fitted regressor as a record; its tensors are with the writer.

    Raises
    ------
    TypeError
        If a fitted attribute cannot be written.
    """
    writer = Writer(write_module)
    unfitted = write_unfitted(writer, estimator)
    apart = {*estimator.get_params(deep=False), *_APART}
    attributes = {}
    try:
        for name, value in vars(estimator).items():
            if name not in apart:
                attributes[name] = writer.write(value, path=name)
        name = "_x_format"
        x_format = estimator._x_format
        form = [x_format.namespace, x_format.device, x_format.x_dtype]
        written_form = writer.write(form, path=name)
        name = "module_"
        module = write_network(writer, estimator.module_)
        _check_module(estimator.module_, estimator)
    except (UnwritableError, FileError) as error:
        raise TypeError(
            f"The attribute {name} of this {type(estimator).__name__} cannot be saved: {error}. "
            "A file holds numbers, text, tensors, arrays and collections of those."
        ) from error
    record = {
        "versions": _versions(),
        **unfitted,
        "attributes": attributes,
        "form": written_form,
        "module": module,
    }
    return record, writer


def write_unfitted(
    writer: Writer, estimator: BaseEstimator, *, apart: Container[str] = ()
) -> dict[str, Any]:
    """Write what an estimator is before it is fitted, without the parameters named ``apart``."""
    params = estimator.get_params(deep=False)
    return {
        "estimator": _name_of_kind(type(estimator)),
        "params": {
            name: writer.write_or_describe(value, path=name)
            for name, value in params.items()
            if name not in apart
        },
        "requests": _requests(estimator),
    }


def _name_of_kind(kind: type) -> str:
    own, _, _ = __name__.partition(".")
    if kind.__module__.partition(".")[0] == own:  # Wherever in the package it may stand.
        return f"{own}.{kind.__name__}"
    return f"{kind.__module__}:{kind.__qualname__}"


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):  # Run from a folder, not installed.
            versions[package] = version(package)
    return versions


def _requests(estimator: BaseEstimator) -> dict[str, Any]:
    """Write down what ``set_fit_request`` and its like were told."""
    routing = vars(estimator).get("_metadata_request")
    if routing is None:
        return {}
    return {method: dict(getattr(routing, method).requests) for method in _REQUESTS}


def read_estimator(
    record: dict[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    base: type,
    trusted: Iterable[Any],
    params: Mapping[str, Any],
) -> Any:
    """Make a fitted regressor of a record and its tensors.

    Parameters
    ----------
    record, tensors : as :func:`write_estimator` made them
    base : type
        The class of regressor that needs no trust, and of which any other must be a subclass.
    trusted : iterable
        See :class:`torchreg._serialization.allowlist.ImportAllowlist`.
    params : mapping
        Parameters that replace those of the record.

    Raises
    ------
    FileError
        If they are not what :func:`write_estimator` made.
    TypeError
        If a parameter does not exist.
    """
    reader = _reader(tensors, base, trusted, params)
    estimator = _read_parameters(reader, record, base, params)
    try:
        _read_fitted(reader, record, estimator, module_passed="module" in params)
    except FileError:
        raise
    except Exception as error:
        raise FileError(f"The file does not hold a fitted regressor: {error}") from error
    return estimator


def read_unfitted(
    record: dict[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    base: type,
    trusted: Iterable[Any],
    params: Mapping[str, Any],
) -> Any:
    """Make an estimator that is not fitted; see :func:`read_estimator`.

    Raises
    ------
    FileError
        If they are not what :func:`write_unfitted` made.
    TypeError
        If a parameter does not exist.
    """
    reader = _reader(tensors, base, trusted, params)
    estimator = _read_parameters(reader, record, base, params)
    if reader.tensors:
        raise FileError(f"The file has tensors too many: {sorted(reader.tensors)}.")
    return estimator


def _reader(
    tensors: Mapping[str, Tensor], base: type, trusted: Iterable[Any], params: Mapping[str, Any]
) -> Reader:
    names = ImportAllowlist([*_as_list(trusted), base, *filter(_is_code, params.values())])
    return Reader(tensors, names, read_module)


def _read_parameters(
    reader: Reader, record: dict[str, Any], base: type, params: Mapping[str, Any]
) -> Any:
    try:
        estimator = _read_unfitted(reader, record, base, params)
    except FileError:
        raise
    except Exception as error:
        raise FileError(f"The file's parameters make no regressor: {error}") from error
    # Outside of that: what the caller passes is the caller's to mistake.
    estimator.set_params(**params)
    return estimator


def _as_list(trusted: Iterable[Any]) -> list[Any]:
    return [trusted] if isinstance(trusted, str) else list(trusted)


def _is_code(value: Any) -> bool:
    return isinstance(value, type | FunctionType)


def _read_unfitted(
    reader: Reader, record: dict[str, Any], base: type, params: Mapping[str, Any]
) -> Any:
    name = record["estimator"]
    kind = base if name == _name_of_kind(base) else reader.allowlist.resolve(name)
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise FileError(f"The file names {record['estimator']!r} as the kind of regressor.")
    settings = {}
    for name, written in record["params"].items():
        if name not in params:
            try:
                settings[name] = reader.read(written)
            except FileError as error:
                raise type(error)(f"Parameter {name}: {error}") from error
    for key in [*reader.tensors]:
        if key[:1] == ":" and key[1:].partition(".")[0] in params:
            reader.pop_tensor(key)
    estimator = kind(**settings)
    requests = record["requests"]
    if requests:
        with sklearn.config_context(enable_metadata_routing=True):
            for method in requests.keys() & set(_REQUESTS):
                getattr(estimator, f"set_{method}_request")(**requests[method])
    return estimator


def _read_fitted(
    reader: Reader, record: dict[str, Any], estimator: Any, *, module_passed: bool
) -> None:
    taken = estimator.get_params(deep=False)
    attributes = {name: reader.read(value) for name, value in record["attributes"].items()}
    for name in attributes:
        if name in taken or name in _APART or hasattr(type(estimator), name):
            raise FileError(f"The file has an attribute {name!r}, which a fit does not set.")
    _check_attributes(attributes)
    namespace, device, x_dtype = reader.read(record["form"])
    if not (isinstance(namespace, str) and isinstance(device, str)):
        raise FileError("The file does not say what X was.")
    if not isinstance(x_dtype, torch.dtype):
        raise FileError("The file does not say which dtype X had.")
    vars(estimator).update(attributes)
    estimator._x_format = ArrayFormat(namespace, device, x_dtype)
    n_numbers = sum(tensor.numel() for tensor in reader.tensors.values())
    if estimator.n_features_in_ > max(_MANY_FEATURES, n_numbers):
        raise FileError(f"The file has {estimator.n_features_in_} features, and fewer numbers.")

    def give(numbers: Mapping[str, Tensor]) -> nn.Module:
        link = read_link(reader, record["module"])
        per_output = 1 if link is None else link.per_output
        return rebuild_network(estimator, numbers, per_output, passed=module_passed)

    module = read_module(reader, record["module"], give)
    if reader.tensors:
        raise FileError(f"The file has tensors too many: {sorted(reader.tensors)}.")
    _check_module(module, estimator)
    if not needs_network(record["module"]):
        # The user's own network was tried before its numbers came: it may change them.
        _try_module(module, estimator)
    estimator.module_ = module


def _check_attributes(attributes: dict[str, Any]) -> None:
    for name, is_right in FITTED.items():
        if name not in attributes or not is_right(attributes[name]):
            raise FileError(f"The file's {name} is {attributes.get(name)!r}, which it cannot be.")
    for name, is_right in LATER.items():
        if name in attributes and not is_right(attributes[name]):
            raise FileError(f"The file's {name} is {attributes[name]!r}, which it cannot be.")
    if attributes["_y_is_vector"] and attributes["n_outputs_"] != 1:
        raise FileError(f"The file has y as a vector with {attributes['n_outputs_']} outputs.")
    names = attributes.get("feature_names_in_")
    shape = (attributes["n_features_in_"],)
    if names is not None and not (isinstance(names, np.ndarray) and names.shape == shape):
        raise FileError(f"The file's feature names are not {shape[0]}, one per feature.")


def _check_module(module: nn.Module, estimator: Any) -> None:
    """Require the layers of a fit: for rows of the right width, and as many outputs as y has."""
    children = dict(module.named_children())
    order = [name for name in _ORDER if name in children]
    if type(module) is not nn.Sequential or list(children) != order or "network" not in order:
        raise FileError(f"The module has {list(children)}, which are not the layers of a fit.")
    average = children.get("average")
    if average is not None and type(average) is not AverageMembers:
        raise FileError(f"The layer average is {average!r}, which is not that of a fit.")
    dtype = next(children["network"].parameters()).dtype
    if dtype != estimator.dtype_:
        raise FileError(f"The network computes in {dtype}, and not in {estimator.dtype_}.")
    link = children.get("link")
    if link is not None and type(link) not in LINKS:
        raise FileError(f"The layer link is {link!r}, which is not that of a fit.")
    for name, (kind, length) in _SCALING.items():
        layer, width = children.get(name), getattr(estimator, length)
        if layer is None:
            continue
        width *= columns_per_output(module) if name == "unstandardize" else 1
        if type(layer) is not kind or getattr(layer, "dtype", dtype) != dtype:
            raise FileError(f"The layer {name} is {layer!r}, which is not that of a fit.")
        if layer.mean.shape != (width,):
            raise FileError(f"The layer {name} is not for {width} columns.")


def _try_module(module: nn.Module, estimator: Any) -> None:
    """Send two rows through a module; they take no memory, however wide they are said to be."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    x = torch.zeros(1, 1, dtype=estimator.dtype_).expand(2, estimator.n_features_in_)
    with torch.no_grad():
        per_output = columns_per_output(module)
        output = check_output(
            module(x), n_rows=2, n_outputs=estimator.n_outputs_, per_output=per_output
        )
    if has_members(output):
        raise FileError("The module has several members, but no layer that averages them.")
    for child, mode in modes:
        child.training = mode
