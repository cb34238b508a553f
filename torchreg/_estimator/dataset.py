"""Validated rows as tensors: conversion from arrays, splitting and resampling."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import scipy.sparse
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from torchreg.engine.data import Rows, SparseRows, rescale_weights

#: Types of X, of the quantiles of ``predict``, and of what it returns.
Features: TypeAlias = ArrayLike | scipy.sparse.spmatrix | scipy.sparse.sparray
Levels: TypeAlias = float | Sequence[float] | None
Predictions: TypeAlias = NDArray[np.floating[Any]]

#: Dtypes of pandas, polars and pyarrow that scikit-learn converts. NumPy has no 128-bit integers.
_PLAIN = re.compile(r"u?int(8|16|32|64)|float|double|half|bool|sparse", re.IGNORECASE)
_TIMES = (datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64)


@dataclass(frozen=True)
class Data:
    """Validated rows as tensors on the CPU, in raw units.

    Parameters
    ----------
    x : Tensor of shape (n, n_features) or SparseRows
        float32 or float64.
    y : Tensor of shape (n, n_outputs)
        float64.
    weight : Tensor of shape (n,) or None
        float64 and positive: rows of weight 0 are removed.
    x_dtype, y_dtype : torch.dtype
        Of the arrays that the user passed.
    y_is_vector : bool
        Whether y had shape (n,).
    """

    x: Rows
    y: Tensor
    weight: Tensor | None
    x_dtype: torch.dtype
    y_dtype: torch.dtype
    y_is_vector: bool

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Tensor) -> Data:
        """Select rows."""
        x = _take_sparse(self.x, index) if isinstance(self.x, SparseRows) else self.x[index]
        weight = None if self.weight is None else self.weight[index]
        return replace(self, x=x, y=self.y[index], weight=weight)


@dataclass(frozen=True)
class ArrayFormat:
    """The format of X, in which predictions are returned.

    Parameters
    ----------
    namespace, device : str
        Of X with array API dispatch; else ``"numpy"`` and ``"cpu"``.
    x_dtype : torch.dtype
        Predictions are float64 for any but float32.
    """

    namespace: str
    device: str
    x_dtype: torch.dtype


@dataclass(frozen=True)
class FitInputs:
    """The validated arguments of ``fit``.

    Parameters
    ----------
    data : Data
        Training rows, before any are held out.
    validation : Data or None
        Validation rows of the user.
    x_format : ArrayFormat
        Format of X.
    attributes : dict
        ``n_features_in_`` and, if X has names, ``feature_names_in_``.
    arrays : dict
        ``X``, ``y`` and ``sample_weight`` as the user passed them.
    """

    data: Data
    validation: Data | None
    x_format: ArrayFormat
    attributes: dict[str, Any]
    arrays: dict[str, Any]


def train_validation_split(data: Data, fraction: float, *, seed: int) -> tuple[Data, Data]:
    """Split rows at random into training and validation rows.

    Raises
    ------
    ValueError
        If either part would be empty.
    """
    n_rows = len(data)
    n_validation = math.ceil(fraction * n_rows)
    if not 0 < n_validation < n_rows:
        raise ValueError(
            f"early_stopping=True holds out validation_fraction={fraction} of the rows, but "
            f"with n_samples={n_rows} no training rows would be left. Pass X_val and y_val, "
            "pass more rows, or set early_stopping=False."
        )
    order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))
    return data.take(order[n_validation:]), data.take(order[:n_validation])


def bootstrap(data: Data, seed: int) -> Data:
    """Draw as many rows as there are, with replacement and in proportion to their weights.

    As in :class:`sklearn.ensemble.BaggingRegressor`, the drawn rows have no weights.
    """
    probabilities = None
    if data.weight is not None:
        weight = rescale_weights(data.weight)
        probabilities = (weight / weight.sum()).numpy()
    # Independent of the random numbers for the validation rows, the batches and the weights.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    index = rng.choice(len(data), size=len(data), p=probabilities)
    return replace(data.take(torch.from_numpy(np.sort(index))), weight=None)


def column_names(y: Any) -> list[str]:
    """Return the names of the columns of a Series or DataFrame, or an empty list."""
    columns = getattr(y, "columns", None)
    names = [getattr(y, "name", None)] if columns is None else list(columns)
    return [str(name) for name in names] if all(isinstance(n, str) and n for n in names) else []


class _Columns(NamedTuple):
    """The columns of a table of pandas, polars or pyarrow."""

    names: Sequence[Any]
    dtypes: Sequence[Any]
    get: Callable[[int], Any]


def convert_numbers(values: Any, *, name: str) -> Any:
    """Convert numbers in objects, such as ``Decimal`` and ``Fraction``, to float64.

    Parameters
    ----------
    values : array-like, Series or DataFrame
    name : str
        Of the argument, for messages.

    Returns
    -------
    ndarray or object
        The values themselves if there is nothing to convert, or something else than numbers, which
        scikit-learn refuses.

    Raises
    ------
    ValueError
        If there are dates, times or durations, whose numbers would depend on the unit in which
        they are stored; or ``None``, ``pandas.NA`` or masked entries.

    Examples
    --------
    >>> from fractions import Fraction
    >>> convert_numbers([Decimal("7434.2"), Fraction(1, 4)], name="y")
    array([7.4342e+03, 2.5000e-01])
    """
    if isinstance(values, np.ma.MaskedArray):
        if n_masked := int(np.ma.getmaskarray(values).sum()):
            raise ValueError(
                f"{name} has {n_masked} masked entries of {values.size}, which are missing values. "
                "Leave these rows out; SimpleImputer can replace those of X.filled(np.nan)."
            )
        values = values.data
    columns = _columns_of(values)
    if columns is not None:
        return _convert_table(values, columns, name=name)
    if isinstance(values, list | tuple) or hasattr(values, "to_numpy"):
        try:
            array = _to_array(values)
        except (ValueError, TypeError, RuntimeError):
            return values
    else:
        array = values
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "OmM":
        return values
    return _to_float64(array, name=name, column=getattr(values, "name", None))


def _columns_of(table: Any) -> _Columns | None:
    if hasattr(table, "column_names") and hasattr(table, "schema"):  # pyarrow
        return _Columns(table.column_names, table.schema.types, table.column)
    if not (hasattr(table, "columns") and hasattr(table, "dtypes")):
        return None
    get = table.to_series if hasattr(table, "to_series") else lambda i: table.iloc[:, i]
    return _Columns(table.columns, table.dtypes, get)


def _convert_table(table: Any, columns: _Columns, *, name: str) -> Any:
    dtypes = [*columns.dtypes]
    others = {dtype for dtype in {*dtypes} if not _PLAIN.match(str(dtype))}
    if not others:
        return table

    def convert(i: int) -> np.ndarray:
        return _to_float64(_to_array(columns.get(i)), name=name, column=columns.names[i])

    converted = {i: convert(i) for i, dtype in enumerate(dtypes) if dtype in others}
    if any(array.dtype.kind not in "fiub" or array.ndim > 1 for array in converted.values()):
        return table
    return np.column_stack(
        [converted[i] if i in converted else convert(i) for i in range(len(dtypes))]
    )


def _to_array(values: Any) -> np.ndarray:
    if str(getattr(values, "dtype", "")) in ("Int128", "UInt128"):  # polars
        return np.array(values.to_list(), dtype=object)
    return np.asarray(values)


def _to_float64(array: np.ndarray, *, name: str, column: Any = None) -> np.ndarray:
    """Convert an array of objects, if all are numbers."""
    if array.dtype.kind not in "OmM":
        return array
    kinds = dict.fromkeys(map(type, array.flat))
    for kind in kinds:
        is_missing = kind.__name__ in ("NoneType", "NAType")
        if not is_missing and not issubclass(kind, _TIMES) and kind.__name__ != "Period":
            continue
        index, value = next((i, v) for i, v in np.ndenumerate(array) if type(v) is kind)
        column = index[1] if column is None and array.ndim == 2 else column
        where = "" if column is None else f" of column {column!r}"
        if is_missing:
            raise ValueError(
                f"{name} has a missing value ({value}) in row {index[0]}{where}. Remove the row, "
                "or fill in a number."
            )
        raise ValueError(
            f"{name} expects numbers, got {str(value)!r} in row {index[0]}{where}. Convert dates "
            "and times to numbers in a unit of your choice, such as days since a date."
        )
    if not all(issubclass(kind, Real | Decimal | np.bool_) for kind in kinds):
        return array
    try:
        return array.astype(np.float64)
    except OverflowError as error:
        raise ValueError(f"{name} has a number too large for float64.") from error


def to_tensor(array: Any, *, name: str) -> Tensor:
    """Convert a validated array of any library to a tensor on the CPU.

    Raises
    ------
    ValueError
        If it has anything but real numbers.
    """
    if not isinstance(array, Tensor):
        try:
            array = np.asarray(array)
        except (TypeError, RuntimeError):
            array = torch.utils.dlpack.from_dlpack(array)
    if isinstance(array, np.ndarray):
        array = torch.from_numpy(_torch_compatible(array, name=name))
    tensor: Tensor = array.detach().cpu()
    if tensor.is_complex():
        raise ValueError(f"Complex data not supported: {name} expects real numbers.")
    return tensor


def _torch_compatible(array: np.ndarray, *, name: str) -> np.ndarray:
    """Convert an array to a dtype, a byte order and a layout that torch can share."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "fiub":
        array = convert_numbers(array, name=name)
        if array.dtype.kind not in "fiub":
            other = next(value for value in array.flat if not isinstance(value, Real))
            raise ValueError(f"{name} expects numbers, got {str(other)!r}.")
    if (kind == "f" and size > 8) or (kind == "u" and size > 1):
        array = array.astype(np.float64)
    array = np.ascontiguousarray(array)
    if not array.dtype.isnative or not array.flags.writeable:
        array = array.astype(array.dtype.newbyteorder("="))
    return array


def to_sparse_rows(X: Any) -> SparseRows:
    """Convert a SciPy sparse matrix."""
    X = scipy.sparse.csr_array(X, copy=True)
    X.sum_duplicates()
    return SparseRows(
        starts=torch.from_numpy(X.indptr.astype(np.int64)),
        columns=torch.from_numpy(X.indices.astype(np.int64)),
        values=to_tensor(X.data, name="X"),
        n_columns=X.shape[1],
    )


def _take_sparse(rows: SparseRows, index: Tensor) -> SparseRows:
    shape = (len(rows), rows.n_columns)
    parts = (rows.values.numpy(), rows.columns.numpy(), rows.starts.numpy())
    return to_sparse_rows(scipy.sparse.csr_array(parts, shape=shape)[index.numpy()])
