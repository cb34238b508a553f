"""Validated rows as tensors: how arrays become them, and what is done to them as a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from torchreg.engine.data import Rows, SparseRows, rescale_weights


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
        float64, positive: rows of weight 0 are gone.
    x_dtype, y_dtype : torch.dtype
        As they came.
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
        """Keep some of the rows."""
        x = _take_sparse(self.x, index) if isinstance(self.x, SparseRows) else self.x[index]
        weight = None if self.weight is None else self.weight[index]
        return replace(self, x=x, y=self.y[index], weight=weight)


def hold_out(data: Data, fraction: float, *, seed: int) -> tuple[Data, Data]:
    """Split rows at random into training and validation.

    Raises
    ------
    ValueError
        If either part would be empty.
    """
    n_rows = len(data)
    n_held = math.ceil(fraction * n_rows)
    if not 0 < n_held < n_rows:
        raise ValueError(
            f"early_stopping=True holds out validation_fraction={fraction} of the rows, but "
            f"with n_samples={n_rows} none would be left to train on. Give X_val and y_val, "
            "more rows, or early_stopping=False."
        )
    order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))
    return data.take(order[n_held:]), data.take(order[:n_held])


def draw_with_replacement(data: Data, seed: int) -> Data:
    """Draw as many rows as there are, with replacement: a bootstrap.

    The chance of a row is its weight, as in :class:`sklearn.ensemble.BaggingRegressor`; what is
    drawn has no weights any more, so that a weight is worth as much as so many rows.
    """
    chances = None
    if data.weight is not None:
        weight = rescale_weights(data.weight)
        chances = (weight / weight.sum()).numpy()
    # Another stream than those of the rows held out, the batches and the weights.
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    index = generator.choice(len(data), size=len(data), p=chances)
    return replace(data.take(torch.from_numpy(np.sort(index))), weight=None)


def names_of(y: Any) -> list[str]:
    """Read the names of y's columns off a Series or a DataFrame; empty where there are none."""
    columns = getattr(y, "columns", None)
    names = [getattr(y, "name", None)] if columns is None else list(columns)
    return [str(name) for name in names] if all(isinstance(n, str) and n for n in names) else []


def to_tensor(array: Any, *, name: str) -> Tensor:
    """Turn a validated array of any library into a tensor on the CPU.

    Raises
    ------
    ValueError
        If it holds anything but real numbers.
    """
    if not isinstance(array, Tensor):
        try:
            array = np.asarray(array)
        except (TypeError, RuntimeError):
            array = torch.utils.dlpack.from_dlpack(array)
    if isinstance(array, np.ndarray):
        array = torch.from_numpy(_torch_ready(array, name=name))
    tensor: Tensor = array.detach().cpu()
    if tensor.is_complex():
        raise ValueError(f"Complex data not supported: {name} expects real numbers.")
    return tensor


def _torch_ready(array: np.ndarray, *, name: str) -> np.ndarray:
    """Give an array a dtype, a byte order and a layout that torch can share."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "fiub":
        return _as_numbers(array, name=name)
    if (kind == "f" and size > 8) or (kind == "u" and size > 1):
        array = array.astype(np.float64)
    array = np.ascontiguousarray(array)
    if not array.dtype.isnative or not array.flags.writeable:
        array = array.astype(array.dtype.newbyteorder("="))
    return array


def _as_numbers(array: np.ndarray, *, name: str) -> np.ndarray:
    numbers = np.empty(array.shape)
    for index, value in np.ndenumerate(array):
        # A duration counts as an integer for NumPy; which unit it is in would be lost.
        if not isinstance(value, Real | np.bool_) or isinstance(value, np.timedelta64):
            raise ValueError(f"{name} expects numbers, got {str(value)!r}.")
        try:
            numbers[index] = value
        except OverflowError as error:
            raise ValueError(f"{name} holds a number too large for float64.") from error
    return numbers


def to_sparse_rows(X: Any) -> SparseRows:
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
