"""Validation of arrays, and conversion between the user's arrays and the engine's tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import scipy.sparse
import sklearn
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.validation import validate_data
from torch import Tensor

from torchreg._estimator.dataset import (
    ArrayFormat,
    Data,
    FitInputs,
    convert_numbers,
    to_sparse_rows,
    to_tensor,
)
from torchreg._estimator.sklearn_compat import get_namespace_and_device
from torchreg.engine.data import MAX_MAGNITUDE, Rows, SparseRows, to_dense

#: The fitted attributes that describe X and y.
DATA_ATTRIBUTES = (
    "n_features_in_",
    "feature_names_in_",
    "n_outputs_",
    "_x_format",
    "_y_is_vector",
    "_prediction_dtype",
)

_NUMPY = {dtype: ArrayFormat("numpy", "cpu", dtype) for dtype in (torch.float32, torch.float64)}


def check_fit_inputs(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    sample_weight: Any,
    X_val: Any,
    y_val: Any,
    sample_weight_val: Any,
) -> FitInputs:
    """Validate the arguments of ``fit`` without changing the estimator."""
    data, x_format, attributes = check_training_data(estimator, X, y, sample_weight)
    validation = check_validation_data(estimator, attributes, data, X_val, y_val, sample_weight_val)
    arrays = {"X": X, "y": y, "sample_weight": sample_weight}
    return FitInputs(data, validation, x_format, attributes, arrays)


def check_training_data(
    estimator: BaseEstimator, X: Any, y: Any, sample_weight: Any
) -> tuple[Data, ArrayFormat, dict[str, Any]]:
    """Validate the training rows without changing the estimator.

    Returns
    -------
    data : Data
    x_format : ArrayFormat
    attributes : dict
        ``n_features_in_`` and, if X has names, ``feature_names_in_``.
    """
    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None."
        )
    validator = _validator(estimator, {})
    x, x_format = _check_x(validator, X, reset=True)
    data = _check_y(X, x, x_format, y, sample_weight, suffix="")
    names = ("n_features_in_", "feature_names_in_")
    attributes = {name: getattr(validator, name) for name in names if hasattr(validator, name)}
    return data, x_format, attributes


def check_validation_data(
    estimator: BaseEstimator,
    attributes: dict[str, Any],
    training: Data,
    X_val: Any,
    y_val: Any,
    sample_weight_val: Any,
) -> Data | None:
    """Validate the user's validation rows against the training rows."""
    if X_val is None and y_val is None:
        if sample_weight_val is not None:
            raise ValueError("sample_weight_val was given without X_val and y_val.")
        return None
    if X_val is None or y_val is None:
        missing = "X_val" if X_val is None else "y_val"
        raise ValueError(f"X_val and y_val belong together; {missing} is missing.")
    try:
        x, x_format = _check_x(_validator(estimator, attributes), X_val, reset=False)
    except ValueError as error:
        raise ValueError(f"X_val: {error}") from error
    data = _check_y(X_val, x, x_format, y_val, sample_weight_val, suffix="_val")
    if data.y.shape[1] != training.y.shape[1]:
        raise ValueError(f"y_val has {data.y.shape[1]} outputs, but y has {training.y.shape[1]}.")
    return data


def check_prediction_data(
    estimator: BaseEstimator, X: Any, *, method: str
) -> tuple[Rows, ArrayFormat]:
    """Validate the X of a method of a fitted estimator against the X of ``fit``."""
    # Fast path: scikit-learn's validation takes longer than a small network.
    if (
        type(X) is np.ndarray
        and X.ndim == 2
        and X.shape[1] == estimator.n_features_in_
        and not hasattr(estimator, "feature_names_in_")
        and (tensor := _share_memory(X)) is not None
    ):
        return tensor, _NUMPY[tensor.dtype]
    if sklearn.get_config()["array_api_dispatch"]:
        fitted, given = (
            (form.namespace, form.device) for form in (estimator._x_format, _format_of(X))
        )
        if given != fitted:
            raise ValueError(
                f"Inputs passed to {type(estimator).__name__}.{method}() must use the same "
                "namespace and the same device as those passed to fit(): expected "
                f"{' on '.join(fitted)}, got {' on '.join(given)}. Convert X, or fit again."
            )
    return _check_x(estimator, X, reset=False)


def check_optional_data(
    estimator: BaseEstimator, X: Any, y: Any, *, method: str
) -> tuple[Tensor | None, Tensor | None]:
    """Validate the optional rows of a method of a fitted estimator.

    Returns
    -------
    x : Tensor of shape (n, n_features) or None
    y : Tensor of shape (n, n_outputs) or None
    """
    if X is None:
        if y is not None:
            raise ValueError(f"{method} was given y without X.")
        return None, None
    rows, x_format = check_prediction_data(estimator, X, method=method)
    if y is None:
        return to_dense(rows), None
    data = _check_y(X, rows, x_format, y, None, suffix="")
    if data.y.shape[1] != estimator.n_outputs_:
        raise ValueError(
            f"y has {data.y.shape[1]} outputs, but {estimator.n_outputs_} were fitted."
        )
    return to_dense(rows), data.y


def format_predictions(
    estimator: BaseEstimator, columns: Sequence[Tensor], X: Any, x_format: ArrayFormat
) -> Any:
    """Convert predictions to the shape of y and the format of X; several become a tuple."""
    # (n, 1, ...) -> (n, ...) where y was a vector
    shaped = (t.squeeze(1) if estimator._y_is_vector else t for t in columns)
    dtype = torch.float64
    if x_format.x_dtype == torch.float32:
        # Files of earlier versions lack the attribute.
        dtype = getattr(estimator, "_prediction_dtype", torch.float32)
    converted = tuple(to_input_format(t, X, x_format, dtype) for t in shaped)
    return converted if len(converted) > 1 else converted[0]


def to_input_format(prediction: Tensor, X: Any, x_format: ArrayFormat, dtype: torch.dtype) -> Any:
    """Convert predictions to a dtype, and to the array library and device of X.

    Raises
    ------
    ValueError
        If they exceed the range of float32.
    """
    narrows = prediction.dtype != dtype == torch.float32
    prediction = prediction.to(dtype)
    if narrows and not bool(torch.isfinite(prediction).all()):
        raise ValueError(
            "A prediction exceeds the range of float32, the dtype of X: X is far from the training "
            "rows. Check its units, or pass X as float64."
        )
    if x_format.namespace == "numpy":
        return prediction.cpu().numpy()
    if x_format.namespace == "torch":
        # MPS has no float64.
        dtype = torch.float32 if x_format.device.startswith("mps") else dtype
        return prediction.to(dtype).to(x_format.device)
    namespace, _, device = get_namespace_and_device(X)
    return namespace.asarray(prediction.cpu().numpy(), device=device)


def _validator(estimator: BaseEstimator, attributes: dict[str, Any]) -> BaseEstimator:
    """Return a shallow copy for ``validate_data``, with these attributes of X.

    ``copy.copy`` would run the pickling hook, which copies the network of a GPU to the CPU.
    """
    replaced = ("n_features_in_", "feature_names_in_")
    validator: BaseEstimator = object.__new__(type(estimator))
    vars(validator).update({k: v for k, v in vars(estimator).items() if k not in replaced})
    vars(validator).update(attributes)
    return validator


def _share_memory(array: Any) -> Tensor | None:
    """Return a tensor that shares the memory of an array, if no conversion or check applies."""
    if not (
        type(array) is np.ndarray
        and array.ndim in (1, 2)
        and array.dtype.char in "fd"
        and array.dtype.isnative
        and array.flags.c_contiguous
        and array.flags.writeable
        and array.size
        and not sklearn.get_config()["array_api_dispatch"]
    ):
        return None
    tensor = torch.from_numpy(array)
    return tensor if _max_abs(tensor) < MAX_MAGNITUDE else None


def _max_abs(values: Tensor) -> float:
    """Compute the largest absolute value without a copy; NaN if there is any."""
    if not values.numel():
        return 0.0
    low, high = torch.aminmax(values)
    return max(-float(low), float(high))


def _check_x(estimator: BaseEstimator, X: Any, *, reset: bool) -> tuple[Rows, ArrayFormat]:
    shared = _share_memory(X) if reset else None
    if shared is not None and shared.ndim == 2:
        estimator.n_features_in_ = shared.shape[1]
        return shared, _NUMPY[shared.dtype]
    x_format = _format_of(X)
    X = _detach(X)
    numbers = convert_numbers(X, name="X")
    if numbers is not X and hasattr(X, "columns"):
        # The array lacks the names of the columns.
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        X = check_array(numbers, input_name="X", estimator=estimator)
    else:
        with np.errstate(invalid="ignore"):
            X = validate_data(
                estimator, X=numbers, reset=reset, accept_sparse="csr", dtype="numeric"
            )
    x = to_sparse_rows(X) if scipy.sparse.issparse(X) else to_tensor(X, name="X")
    values = x.values if isinstance(x, SparseRows) else x
    dtype = values.dtype
    if dtype != torch.float32:
        values = values.to(torch.float64)
        x = replace(x, values=values) if isinstance(x, SparseRows) else values
    _check_range(values, name="X")
    return x, replace(x_format, x_dtype=dtype)


def _check_range(values: Tensor, *, name: str) -> None:
    if not (largest := _max_abs(values)) < MAX_MAGNITUDE:
        raise ValueError(
            f"{name} has a value of {largest:.3g}, but differences of values beyond "
            f"{MAX_MAGNITUDE:.3g} overflow in float64. Rescale {name}."
        )


def _check_y(
    X: Any, x: Rows, x_format: ArrayFormat, y: Any, sample_weight: Any, *, suffix: str
) -> Data:
    name = f"y{suffix}"
    tensor = _share_memory(y)
    if tensor is None or len(tensor) != len(x):
        y = convert_numbers(_detach(y), name=name)
        with np.errstate(invalid="ignore"):
            y = check_array(y, ensure_2d=False, dtype=None, input_name=name, ensure_min_samples=0)
        check_consistent_length(X, y)
        tensor = to_tensor(y, name=name)
    t = tensor.to(torch.float64)
    _check_range(t, name=name)
    data = Data(
        x=x,
        # (n,) -> (n, 1)
        y=t.reshape(len(t), -1),
        weight=_check_weight(sample_weight, n=len(t), name=f"sample_weight{suffix}"),
        x_dtype=x_format.x_dtype,
        y_dtype=tensor.dtype,
        y_is_vector=t.ndim == 1,
    )
    if data.weight is not None and bool((data.weight == 0).any()):
        data = data.take(torch.nonzero(data.weight).flatten())
    return data


def _check_weight(sample_weight: Any, *, n: int, name: str) -> Tensor | None:
    if sample_weight is None:
        return None
    if isinstance(sample_weight, Real | Decimal):
        sample_weight = np.full(n, float(sample_weight))
    with np.errstate(invalid="ignore"):
        weight = check_array(
            convert_numbers(_detach(sample_weight), name=name),
            ensure_2d=False,
            dtype=None,
            input_name=name,
            ensure_min_samples=0,
        )
    weight = to_tensor(weight, name=name).to(torch.float64)
    if tuple(weight.shape) != (n,):
        raise ValueError(
            f"{name} expects one weight per row, shape ({n},), got shape {tuple(weight.shape)}."
        )
    if bool((weight < 0).any()):
        row = int(torch.nonzero(weight < 0)[0])
        raise ValueError(
            f"Negative values in {name}: weights must be 0 or more, got {float(weight[row])} "
            f"in row {row}."
        )
    if not bool((weight > 0).any()):
        raise ValueError(f"{name} expects at least one weight above 0; all are zero.")
    return weight


def _detach(array: Any) -> Any:
    """Detach a tensor from its graph and, without array API dispatch, copy it to the CPU."""
    if not isinstance(array, Tensor):
        return array
    array = array.detach()
    if array.is_meta:
        raise ValueError("A tensor on the meta device has no values: pass one on a CPU.")
    if array.dtype == torch.bfloat16:
        array = array.to(torch.float32)
    return array if sklearn.get_config()["array_api_dispatch"] else array.cpu()


def _format_of(X: Any) -> ArrayFormat:
    if not sklearn.get_config()["array_api_dispatch"]:
        return _NUMPY[torch.float64]
    namespace, is_array_api, device = get_namespace_and_device(X)
    name = namespace.__name__.rpartition(".")[2]
    if not is_array_api or name == "numpy":
        return _NUMPY[torch.float64]
    return ArrayFormat(name, str(device), torch.float64)
