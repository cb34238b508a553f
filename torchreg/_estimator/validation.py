"""Between the user's arrays and the engine's tensors: validation, and the way back."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
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

from torchreg._estimator.dataset import Data, to_sparse_rows, to_tensor
from torchreg._estimator.sklearn_compat import get_namespace_and_device
from torchreg.engine.data import MAX_MAGNITUDE, Rows, SparseRows, to_dense


@dataclass(frozen=True)
class ArrayFormat:
    """What is needed to give predictions back in the form of the inputs.

    Parameters
    ----------
    namespace, device : str
        Of X, where array API dispatch is on; else ``"numpy"`` and ``"cpu"``.
    x_dtype : torch.dtype
        Of X as it came; float32 predictions for float32, float64 for anything else.
    """

    namespace: str
    device: str
    x_dtype: torch.dtype

    @property
    def place(self) -> tuple[str, str]:
        """Namespace and device, which fit and predict must share."""
        return self.namespace, self.device


#: The attributes in which a fitted estimator keeps what it knows about its data.
DATA_ATTRIBUTES = ("n_features_in_", "feature_names_in_", "n_outputs_", "_form", "_y_is_vector")

#: The forms of plain arrays.
_NUMPY = {dtype: ArrayFormat("numpy", "cpu", dtype) for dtype in (torch.float32, torch.float64)}


def check_training_data(
    estimator: BaseEstimator, X: Any, y: Any, sample_weight: Any
) -> tuple[Data, ArrayFormat, dict[str, Any]]:
    """Validate what ``fit`` was given; the estimator itself is left as it was.

    Returns
    -------
    data : Data
    form : ArrayFormat
    attributes : dict
        ``n_features_in_`` and, for tables with names, ``feature_names_in_``.

    Raises
    ------
    ValueError, TypeError
        With what was expected and what came.
    """
    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None."
        )
    probe = copy.copy(estimator)
    for name in ("n_features_in_", "feature_names_in_"):
        probe.__dict__.pop(name, None)
    x, form = _check_x(probe, X, reset=True)
    data = _assemble(X, x, form, y, sample_weight, names=("X", "y", "sample_weight"))
    seen = {
        name: getattr(probe, name)
        for name in ("n_features_in_", "feature_names_in_")
        if hasattr(probe, name)
    }
    return data, form, seen


def check_validation_data(
    estimator: BaseEstimator,
    attributes: dict[str, Any],
    training: Data,
    X_val: Any,
    y_val: Any,
    sample_weight_val: Any,
) -> Data | None:
    """Validate the user's own validation rows against the training rows.

    Raises
    ------
    ValueError
        If only one of X_val and y_val is there, or they do not fit X and y.
    """
    if X_val is None and y_val is None:
        if sample_weight_val is not None:
            raise ValueError("sample_weight_val was given without X_val and y_val.")
        return None
    if X_val is None or y_val is None:
        missing = "X_val" if X_val is None else "y_val"
        raise ValueError(f"X_val and y_val belong together; {missing} is missing.")
    probe = copy.copy(estimator)
    probe.__dict__.pop("feature_names_in_", None)
    probe.__dict__.update(attributes)
    try:
        x, form = _check_x(probe, X_val, reset=False)
    except ValueError as error:
        raise ValueError(f"X_val: {error}") from error
    names = ("X_val", "y_val", "sample_weight_val")
    data = _assemble(X_val, x, form, y_val, sample_weight_val, names=names)
    if data.y.shape[1] != training.y.shape[1]:
        raise ValueError(f"y_val has {data.y.shape[1]} outputs, but y has {training.y.shape[1]}.")
    return data


def check_prediction_data(
    estimator: BaseEstimator, X: Any, *, method: str
) -> tuple[Rows, ArrayFormat]:
    """Validate what ``predict`` was given.

    Raises
    ------
    ValueError
        If X does not fit the X of ``fit``.
    """
    plain = _as_it_is(estimator, X)
    if plain is not None:
        return plain
    _check_same_place(estimator, _form_of(X), method=method)
    return _check_x(estimator, X, reset=False)


def check_given_rows(
    estimator: BaseEstimator, X: Any, y: Any, *, method: str
) -> tuple[Tensor | None, Tensor | None]:
    """Validate the rows that a method may be given after ``fit``.

    Returns
    -------
    x : Tensor of shape (n, n_features) or None
    y : Tensor of shape (n, n_outputs) or None

    Raises
    ------
    ValueError
        If they do not fit those of ``fit``, or y comes without X.
    """
    if X is None:
        if y is not None:
            raise ValueError(f"{method} was given y without X.")
        return None, None
    rows, form = check_prediction_data(estimator, X, method=method)
    if y is None:
        return to_dense(rows), None
    data = _assemble(X, rows, form, y, None, names=("X", "y", "sample_weight"))
    if data.y.shape[1] != estimator.n_outputs_:
        raise ValueError(
            f"y has {data.y.shape[1]} outputs, but {estimator.n_outputs_} were fitted."
        )
    return to_dense(rows), data.y


def _as_it_is(estimator: BaseEstimator, X: Any) -> tuple[Tensor, ArrayFormat] | None:
    """Take the X of ``predict`` if there is nothing to convert, rename or refuse in it."""
    if type(X) is not np.ndarray or X.ndim != 2 or hasattr(estimator, "feature_names_in_"):
        return None
    x = _plain_numbers(X) if X.shape[1] == estimator.n_features_in_ else None
    return None if x is None else (x, _NUMPY[x.dtype])


def _plain_numbers(array: Any) -> Tensor | None:
    """Share the memory of an array in which there is nothing to convert or refuse.

    scikit-learn's validation says nothing about it, and costs more than a small network.
    """
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
    return tensor if _largest(tensor) < MAX_MAGNITUDE else None


def _largest(values: Tensor) -> float:
    """Find the largest absolute value, without a copy; NaN if there is any."""
    if not values.numel():
        return 0.0
    low, high = torch.aminmax(values)
    return max(-float(low), float(high))


def _check_x(estimator: BaseEstimator, X: Any, *, reset: bool) -> tuple[Rows, ArrayFormat]:
    plain = _plain_numbers(X) if reset else None
    if plain is not None and plain.ndim == 2:
        estimator.n_features_in_ = plain.shape[1]
        return plain, _NUMPY[plain.dtype]
    form = _form_of(X)
    try:
        with np.errstate(invalid="ignore"):
            X = validate_data(
                estimator,
                X=_plain(X),
                reset=reset,
                accept_sparse="csr",
                dtype="numeric",
            )
    except OverflowError as error:
        raise ValueError("X holds a number too large for float64.") from error
    x = to_sparse_rows(X) if scipy.sparse.issparse(X) else to_tensor(X, name="X")
    values = x.values if isinstance(x, SparseRows) else x
    dtype = values.dtype
    if dtype != torch.float32:
        values = values.to(torch.float64)
        x = replace(x, values=values) if isinstance(x, SparseRows) else values
    if not (largest := _largest(values)) < MAX_MAGNITUDE:
        raise ValueError(
            f"X holds {largest:.3g}; values beyond {MAX_MAGNITUDE:.3g} cannot be "
            "subtracted from each other in float64. Rescale that column."
        )
    return x, replace(form, x_dtype=dtype)


def _assemble(
    X: Any, x: Rows, form: ArrayFormat, y: Any, sample_weight: Any, *, names: tuple[str, str, str]
) -> Data:
    _, y_name, weight_name = names
    tensor = _plain_numbers(y)
    if tensor is None or len(tensor) != len(x):
        with np.errstate(invalid="ignore"):
            y = check_array(
                _plain(y), ensure_2d=False, dtype=None, input_name=y_name, ensure_min_samples=0
            )
        check_consistent_length(X, y)
        tensor = to_tensor(y, name=y_name)
    y_dtype, t = tensor.dtype, tensor.to(torch.float64)
    if not (largest := _largest(t)) < MAX_MAGNITUDE:
        raise ValueError(
            f"{y_name} holds {largest:.3g}; values beyond {MAX_MAGNITUDE:.3g} cannot be "
            "subtracted from each other in float64. Rescale it."
        )
    data = Data(
        x=x,
        # (n,) -> (n, 1)
        y=t.reshape(len(t), -1),
        weight=_check_weight(sample_weight, n=len(t), name=weight_name),
        x_dtype=form.x_dtype,
        y_dtype=y_dtype,
        y_is_vector=t.ndim == 1,
    )
    if data.weight is not None and bool((data.weight == 0).any()):
        data = data.take(torch.nonzero(data.weight).flatten())
    return data


def _check_weight(sample_weight: Any, *, n: int, name: str) -> Tensor | None:
    if sample_weight is None:
        return None
    if isinstance(sample_weight, Real):
        sample_weight = np.full(n, float(sample_weight))
    with np.errstate(invalid="ignore"):
        weight = check_array(
            _plain(sample_weight),
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
        raise ValueError(f"{name} must hold at least one non-zero weight; all are zero.")
    return weight


def _plain(array: Any) -> Any:
    """Free a tensor of its graph and, where arrays are converted, of its device."""
    if not isinstance(array, Tensor):
        return array
    array = array.detach()
    if array.is_meta:
        raise ValueError(
            "A tensor on the meta device has a shape and no values: pass one on a CPU."
        )
    if array.dtype == torch.bfloat16:
        array = array.to(torch.float32)
    return array if sklearn.get_config()["array_api_dispatch"] else array.cpu()


def _form_of(X: Any) -> ArrayFormat:
    if not sklearn.get_config()["array_api_dispatch"]:
        return ArrayFormat("numpy", "cpu", torch.float64)
    namespace, is_array_api, device = get_namespace_and_device(X)
    name = namespace.__name__.rpartition(".")[2]
    if not is_array_api or name == "numpy":
        return ArrayFormat("numpy", "cpu", torch.float64)
    return ArrayFormat(name, str(device), torch.float64)


def _check_same_place(estimator: BaseEstimator, form: ArrayFormat, *, method: str) -> None:
    if not sklearn.get_config()["array_api_dispatch"]:
        return
    fitted = estimator._form.place
    if form.place != fitted:
        raise ValueError(
            f"Inputs passed to {type(estimator).__name__}.{method}() must use the same "
            f"namespace and the same device as those passed to fit(): {' on '.join(fitted)} "
            f"was fitted, {' on '.join(form.place)} came. Convert X, or fit again."
        )


def to_input_format(prediction: Tensor, X: Any, form: ArrayFormat) -> Any:
    """Give predictions the dtype, array library and device of X.

    float32 for float32 X, float64 for anything else.

    Raises
    ------
    ValueError
        If they do not fit X's dtype.
    """
    dtype = torch.float32 if form.x_dtype == torch.float32 else torch.float64
    narrows = prediction.dtype != dtype == torch.float32
    prediction = prediction.to(dtype)
    if narrows and not bool(torch.isfinite(prediction).all()):
        raise ValueError(
            "Predictions do not fit float32, the dtype of X: y was fitted on a larger scale. "
            "Pass X as float64."
        )
    if form.namespace == "numpy":
        return prediction.cpu().numpy()
    if form.namespace == "torch":
        return prediction.to(form.device)
    namespace, _, device = get_namespace_and_device(X)
    return namespace.asarray(prediction.cpu().numpy(), device=device)


def check_start(estimator: BaseEstimator, attributes: dict[str, Any], data: Data) -> None:
    """Require of a warm start that the data look as they did.

    Raises
    ------
    ValueError
        If a width or the names of the features changed.
    """
    widths = (estimator.n_features_in_, estimator.n_outputs_)
    came = (attributes["n_features_in_"], data.y.shape[1])
    before = list(getattr(estimator, "feature_names_in_", []))
    if widths != came or before != list(attributes.get("feature_names_in_", [])):
        raise ValueError(
            f"warm_start=True goes on from a fit with {widths[0]} features and {widths[1]} "
            f"outputs, but X has {came[0]} features and y {came[1]} outputs, or their names "
            "changed. Set warm_start=False to start afresh."
        )
