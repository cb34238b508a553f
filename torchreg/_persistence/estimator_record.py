"""A fitted regressor as a record and tensors, and back."""

from __future__ import annotations

import platform
from collections.abc import Callable, Container, Iterable, Mapping
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
from torchreg._utils import installed_versions
from torchreg.engine.spec import check_output, has_members
from torchreg.exceptions import FileError
from torchreg.nn import AverageMembers, Standardize, Unstandardize
from torchreg.nn.links import columns_per_output

#: Attributes that are written separately, or not at all (scikit-learn's callbacks).
_SKIPPED = {"_nested", "_x_format", "_metadata_request", "_skl_callbacks", "module_"}

#: Methods whose metadata requests (``set_fit_request``) are kept.
_METHODS_WITH_REQUESTS = ("fit", "predict", "score")

_PACKAGES = ("torch", "scikit-learn", "numpy")

#: The layers that scale X and y, and the attributes with their numbers of columns.
_SCALING = {
    "standardize": (Standardize, "n_features_in_"),
    "unstandardize": (Unstandardize, "n_outputs_"),
}

#: The children of ``module_``, in order.
_ORDER = ("standardize", "network", "link", "average", "unstandardize")

#: The largest number of features of a network that has fewer parameters than features.
_MAX_FEATURES = 2**20


def _is_count(value: Any, minimum: int = 1) -> bool:
    return type(value) is int and minimum <= value < 2**63


def _is_curve(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is float for item in value)


def _is_float_dtype(value: Any) -> bool:
    return value in (torch.float32, torch.float64)


#: The fitted attributes of every regressor, and a check of each.
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "n_features_in_": _is_count,
    "n_outputs_": _is_count,
    "_y_is_vector": lambda value: type(value) is bool,
    "_prediction_dtype": _is_float_dtype,
    "dtype_": _is_float_dtype,
    "history_": lambda value: isinstance(value, list) and all(isinstance(r, dict) for r in value),
    "n_iter_": _is_count,
    "best_epoch_": lambda value: _is_count(value, 0),
    "loss_": lambda value: type(value) is float,
    "loss_curve_": _is_curve,
    "validation_loss_curve_": lambda value: value is None or _is_curve(value),
    "init_losses_": _is_curve,
    "chosen_params_": lambda value: isinstance(value, dict) and value.keys() <= AUTO_PARAMS,
}

#: Attributes that files of earlier versions lack.
_OPTIONAL = {"init_losses_", "chosen_params_", "_prediction_dtype"}


def write_estimator(estimator: BaseEstimator) -> tuple[dict[str, Any], Writer]:
    """Convert a fitted regressor to a record, and a writer with its tensors.

    Raises
    ------
    TypeError
        If a fitted attribute cannot be written.
    """
    writer = Writer(write_module)
    versions = {"python": platform.python_version(), **installed_versions(*_PACKAGES)}
    record = {"versions": versions, **write_unfitted(writer, estimator)}
    skipped = {*estimator.get_params(deep=False), *_SKIPPED}
    attributes = {}
    try:
        for name, value in vars(estimator).items():
            if name not in skipped:
                attributes[name] = writer.write(value, path=name)
        name = "_x_format"
        x_format = estimator._x_format
        form = [x_format.namespace, x_format.device, x_format.x_dtype]
        record |= {"attributes": attributes, "form": writer.write(form, path=name)}
        name = "module_"
        record["module"] = write_network(writer, estimator.module_)
        _check_module(estimator.module_, estimator)
    except (UnwritableError, FileError) as error:
        raise TypeError(
            f"The attribute {name} of this {type(estimator).__name__} cannot be saved: "
            f"{str(error).removesuffix('.')}. A file holds numbers, strings, tensors, arrays and "
            "collections of these."
        ) from error
    return record, writer


def write_unfitted(
    writer: Writer, estimator: BaseEstimator, *, skip: Container[str] = ()
) -> dict[str, Any]:
    """Convert the class, parameters and metadata requests of an estimator to a record."""
    routing = vars(estimator).get("_metadata_request")
    methods = () if routing is None else _METHODS_WITH_REQUESTS
    return {
        "estimator": _class_name(type(estimator)),
        "params": {
            name: writer.write_or_describe(value, path=name)
            for name, value in estimator.get_params(deep=False).items()
            if name not in skip
        },
        "requests": {method: dict(getattr(routing, method).requests) for method in methods},
    }


def _class_name(kind: type) -> str:
    own, _, _ = __name__.partition(".")
    if kind.__module__.partition(".")[0] == own:  # Without the module, which may change.
        return f"{own}.{kind.__name__}"
    return f"{kind.__module__}:{kind.__qualname__}"


def read_estimator(
    record: dict[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    base: type,
    trusted: Iterable[Any],
    params: Mapping[str, Any],
) -> Any:
    """Convert a record and its tensors to a fitted regressor.

    Parameters
    ----------
    record, tensors
        As written by :func:`write_estimator`.
    base : type
        The class of regressors that is always trusted; any other must be a subclass of it.
    trusted : iterable
        See :class:`torchreg._serialization.ImportAllowlist`.
    params : mapping
        Parameters that replace those of the record.

    Raises
    ------
    FileError
        If the record is invalid.
    TypeError
        If a parameter does not exist.
    """
    reader, estimator = _read_unfitted(record, tensors, base, trusted, params)
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
    """Convert a record of :func:`write_unfitted` to an estimator; see :func:`read_estimator`."""
    reader, estimator = _read_unfitted(record, tensors, base, trusted, params)
    _check_all_used(reader)
    return estimator


def _read_unfitted(
    record: dict[str, Any],
    tensors: Mapping[str, Tensor],
    base: type,
    trusted: Iterable[Any],
    params: Mapping[str, Any],
) -> tuple[Reader, Any]:
    passed = [value for value in params.values() if isinstance(value, type | FunctionType)]
    trusted = [trusted] if isinstance(trusted, str) else trusted
    reader = Reader(tensors, ImportAllowlist([*trusted, base, *passed]), read_module)
    try:
        estimator = _build_estimator(reader, record, base, params)
    except FileError:
        raise
    except Exception as error:
        raise FileError(f"The file's parameters are invalid: {error}") from error
    # Not above, because a wrong parameter of the caller is not an error in the file.
    estimator.set_params(**params)
    return reader, estimator


def _build_estimator(
    reader: Reader, record: dict[str, Any], base: type, params: Mapping[str, Any]
) -> Any:
    """Build the estimator without the parameters that the caller replaces."""
    name = record["estimator"]
    kind = base if name == _class_name(base) else reader.allowlist.resolve(name)
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise FileError(f"The file names {name!r} as the class of the regressor.")
    values = {}
    for name, written in record["params"].items():
        if name not in params:
            try:
                values[name] = reader.read(written)
            except FileError as error:
                raise type(error)(f"Parameter {name}: {error}") from error
    for key in [*reader.tensors]:
        if key[:1] == ":" and key[1:].partition(".")[0] in params:
            reader.pop_tensor(key)
    estimator = kind(**values)
    requests = record["requests"]
    if requests:
        with sklearn.config_context(enable_metadata_routing=True):
            for method in requests.keys() & set(_METHODS_WITH_REQUESTS):
                getattr(estimator, f"set_{method}_request")(**requests[method])
    return estimator


def _read_fitted(
    reader: Reader, record: dict[str, Any], estimator: Any, *, module_passed: bool
) -> None:
    attributes = {name: reader.read(value) for name, value in record["attributes"].items()}
    _check_attributes(attributes, estimator)
    namespace, device, x_dtype = reader.read(record["form"])
    if not (isinstance(namespace, str) and isinstance(device, str)):
        raise FileError("The file does not contain the array namespace and device of X.")
    if not isinstance(x_dtype, torch.dtype):
        raise FileError("The file does not contain the dtype of X.")
    vars(estimator).update(attributes)
    estimator._x_format = ArrayFormat(namespace, device, x_dtype)
    n_numbers = sum(tensor.numel() for tensor in reader.tensors.values())
    if estimator.n_features_in_ > max(_MAX_FEATURES, n_numbers):
        raise FileError(f"The file has {estimator.n_features_in_} features, but fewer parameters.")

    def build_network(tensors: Mapping[str, Tensor]) -> nn.Module:
        link = read_link(reader, record["module"])
        per_output = 1 if link is None else link.per_output
        return rebuild_network(estimator, tensors, per_output, passed=module_passed)

    module = read_module(reader, record["module"], build_network)
    _check_all_used(reader)
    _check_module(module, estimator)
    if not needs_network(record["module"]):
        # Not a network of the user's, whose buffers a forward pass may change; rebuild_network
        # has checked it before it got its parameters.
        _check_forward(module, estimator)
    estimator.module_ = module


def _check_all_used(reader: Reader) -> None:
    if reader.tensors:
        raise FileError(f"The file has unused tensors: {sorted(reader.tensors)}.")


def _check_attributes(attributes: dict[str, Any], estimator: Any) -> None:
    params = estimator.get_params(deep=False)
    for name in attributes:
        if name in params or name in _SKIPPED or hasattr(type(estimator), name):
            raise FileError(f"The file has an attribute {name!r}, which fit does not set.")
    for name, is_valid in _CHECKS.items():
        if name in _OPTIONAL and name not in attributes:
            continue
        if name not in attributes or not is_valid(attributes[name]):
            raise FileError(f"The file has an invalid value of {name}: {attributes.get(name)!r}.")
    if attributes["_y_is_vector"] and attributes["n_outputs_"] != 1:
        raise FileError(f"The file has one-dimensional y, but {attributes['n_outputs_']} outputs.")
    names = attributes.get("feature_names_in_")
    shape = (attributes["n_features_in_"],)
    if names is not None and not (isinstance(names, np.ndarray) and names.shape == shape):
        raise FileError(f"The file's feature names are not an array of {shape[0]} names.")


def _check_module(module: nn.Module, estimator: Any) -> None:
    """Check the layers of a fitted module, their dtype and their numbers of columns."""
    children = dict(module.named_children())
    order = [name for name in _ORDER if name in children]
    if type(module) is not nn.Sequential or list(children) != order or "network" not in order:
        raise FileError(f"The module has {list(children)}, which are not the layers of a fit.")
    dtype = next(children["network"].parameters()).dtype
    if dtype != estimator.dtype_:
        raise FileError(f"The network has dtype {dtype}; expected {estimator.dtype_}.")
    kinds = {"average": (AverageMembers,), "link": LINKS, "network": (type(children["network"]),)}
    kinds |= {name: (kind,) for name, (kind, _) in _SCALING.items()}
    for name, layer in children.items():
        if type(layer) not in kinds[name] or (
            name in _SCALING and getattr(layer, "dtype", dtype) != dtype
        ):
            raise FileError(f"The layer {name} is {layer!r}, which fit does not build.")
    for name, (_, attribute) in _SCALING.items():
        width = getattr(estimator, attribute)
        width *= columns_per_output(module) if name == "unstandardize" else 1
        if name in children and children[name].mean.shape != (width,):
            raise FileError(f"The layer {name} is not for {width} columns.")


def _check_forward(module: nn.Module, estimator: Any) -> None:
    """Check the output for two rows, which take no memory, however many columns they have."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    x = torch.zeros(1, 1, dtype=estimator.dtype_).expand(2, estimator.n_features_in_)
    with torch.no_grad():
        output = check_output(
            module(x),
            n_rows=2,
            n_outputs=estimator.n_outputs_,
            per_output=columns_per_output(module),
        )
    if has_members(output):
        raise FileError("The module has several members, but no layer that averages them.")
    for child, mode in modes:
        child.training = mode
