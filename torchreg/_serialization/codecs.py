"""JSON forms of values that JSON itself does not have.

To add a kind of value, add one entry each to :data:`WRITERS` and :data:`READERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from torchreg.exceptions import FileError

if TYPE_CHECKING:
    from torchreg._serialization.values import Reader, Writer

#: The length from which lists of floats or of integers are tensors, at 8 bytes per number.
MIN_TENSOR_LENGTH = 16


class UnwritableError(TypeError):
    """A file cannot hold a value."""


def _write_list(writer: Writer, value: list[Any], path: str) -> Any:
    kinds = set(map(type, value))
    if len(value) >= MIN_TENSOR_LENGTH and kinds == {float}:
        return {"floats": writer.add_tensor(torch.tensor(value, dtype=torch.float64), f":{path}")}
    if (
        len(value) >= MIN_TENSOR_LENGTH
        and kinds == {int}
        and all(-(2**63) <= i < 2**63 for i in value)
    ):
        return {"integers": writer.add_tensor(torch.tensor(value, dtype=torch.int64), f":{path}")}
    if kinds == {dict} and len({tuple(row) for row in value}) == 1 and value[0]:
        return {"rows": _write_rows(writer, value, path)}
    return [writer.write(item, path=f"{path}.{i}") for i, item in enumerate(value)]


def _write_rows(writer: Writer, rows: list[dict[Any, Any]], path: str) -> Any:
    """Write dictionaries with the same keys column by column."""
    return [
        [writer.write(key, path=path), writer.write([row[key] for row in rows], path=f"{path}.{i}")]
        for i, key in enumerate(rows[0])
    ]


def _read_rows(reader: Reader, content: Any) -> list[dict[Any, Any]]:
    names, columns = zip(*(reader.read_list(column) for column in content), strict=True)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _write_dict(writer: Writer, value: dict[Any, Any], path: str) -> Any:
    return {
        "dict": [
            [writer.write(key, path=f"{path}.{i}.key"), writer.write(item, path=f"{path}.{i}")]
            for i, (key, item) in enumerate(value.items())
        ]
    }


def _read_dict(reader: Reader, content: Any) -> dict[Any, Any]:
    pairs = [reader.read_list(pair) for pair in content]
    found = {key: value for key, value in pairs}
    if len(found) != len(pairs):
        raise FileError("The file contains a dictionary with a duplicate key.")
    return found


def _write_tuple(writer: Writer, value: tuple[Any, ...], path: str) -> Any:
    return {"tuple": [writer.write(item, path=f"{path}.{i}") for i, item in enumerate(value)]}


def _write_partial(writer: Writer, value: partial[Any], path: str) -> Any:
    parts = (value.func, value.args, value.keywords)
    return {"partial": [writer.write(part, path=f"{path}.{i}") for i, part in enumerate(parts)]}


def _read_partial(reader: Reader, content: Any) -> partial[Any]:
    function, arguments, keywords = reader.read_list(content)
    return partial(function, *arguments, **keywords)


def _write_tensor(writer: Writer, value: Tensor, path: str) -> Any:
    if value.requires_grad:
        raise UnwritableError("a tensor that requires a gradient cannot be written")
    return {"tensor": writer.add_tensor(value, f":{path}")}


def _write_array(writer: Writer, value: np.ndarray, path: str) -> Any:
    if value.ndim == 1 and value.dtype.kind in "OU":
        items = value.tolist()
        if all(type(item) is str for item in items):
            return {"texts": [value.dtype.kind, items]}
    try:
        tensor = torch.from_numpy(value.copy(order="C"))
    except (TypeError, ValueError) as error:
        raise UnwritableError(f"an array of dtype {value.dtype} cannot be written") from error
    return {"array": writer.add_tensor(tensor, f":{path}")}


def _read_texts(reader: Reader, content: Any) -> np.ndarray:
    kind, items = content
    if not all(type(item) is str for item in items):
        raise FileError("The file contains an array of strings with an item that is not a string.")
    return np.array(items, dtype={"O": object, "U": str}[kind])


def _write_scalar(writer: Writer, value: np.generic, path: str) -> Any:
    item = value.item()
    if value.dtype.kind not in "biufU" or type(item) not in (bool, int, float, str):
        raise UnwritableError(f"a scalar of dtype {value.dtype} cannot be written")
    return {
        "scalar": [
            value.dtype.name if value.dtype.kind != "U" else "str",
            writer.write(item, path=path),
        ]
    }


def _read_scalar(reader: Reader, content: Any) -> Any:
    name, item = content
    kind = np.dtype(name)
    if kind.kind not in "biufU" or kind.itemsize > 8:
        raise FileError(f"The file contains a scalar of dtype {name!r}, which is not supported.")
    return kind.type(reader.read(item))


def _write_random_state(writer: Writer, value: np.random.RandomState, path: str) -> Any:
    state: Any = value.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        raise UnwritableError(f"a RandomState with {state['bit_generator']} cannot be written")
    key = torch.from_numpy(state["state"]["key"].astype(np.int64))
    rest = [state["state"]["pos"], state["has_gauss"], state["gauss"]]
    return {"random_state": [writer.add_tensor(key, f":{path}"), *map(_to_python, rest)]}


def _to_python(number: Any) -> int | float:
    plain: int | float = number.item() if isinstance(number, np.generic) else number
    return plain


def _read_random_state(reader: Reader, content: Any) -> np.random.RandomState:
    key, position, has_gauss, gauss = content
    vector = reader.pop_tensor(key)
    if vector.dtype != torch.int64 or vector.shape != (624,) or not 0 <= position <= 624:
        raise FileError("The file contains an invalid random state.")
    state = np.random.RandomState()
    words = vector.numpy().astype(np.uint32)
    state.set_state(("MT19937", words, position, has_gauss, gauss))
    return state


def _read_vector(dtype: torch.dtype) -> Callable[[Reader, Any], list[Any]]:
    def read(reader: Reader, content: Any) -> list[Any]:
        vector = reader.pop_tensor(content)
        if vector.dtype != dtype or vector.ndim != 1:
            raise FileError(f"The file's tensor {content!r} is not a vector of {dtype}.")
        listed: list[Any] = vector.tolist()
        return listed

    return read


def _read_dtype(reader: Reader, content: Any) -> torch.dtype:
    dtype = vars(torch).get(content)
    if not isinstance(dtype, torch.dtype):
        raise FileError(f"The file contains the dtype {content!r}, which torch does not have.")
    return dtype


def _read_float(reader: Reader, content: Any) -> float:
    return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan, "-nan": -math.nan}[content]


WRITERS: dict[type, Callable[[Writer, Any, str], Any]] = {
    dict: _write_dict,
    list: _write_list,
    np.generic: _write_scalar,
    np.ndarray: _write_array,
    np.random.RandomState: _write_random_state,
    partial: _write_partial,
    Tensor: _write_tensor,
    torch.device: lambda writer, value, path: {"device": str(value)},
    torch.dtype: lambda writer, value, path: {"dtype": str(value).removeprefix("torch.")},
    tuple: _write_tuple,
}

READERS: dict[str, Callable[[Reader, Any], Any]] = {
    "array": lambda reader, content: reader.pop_tensor(content).numpy(),
    "device": lambda reader, content: torch.device(content),
    "dict": _read_dict,
    "dtype": _read_dtype,
    "float": _read_float,
    "floats": _read_vector(torch.float64),
    "integers": _read_vector(torch.int64),
    "name": lambda reader, content: reader.allowlist.resolve(content),
    "partial": _read_partial,
    "random_state": _read_random_state,
    "rows": _read_rows,
    "scalar": _read_scalar,
    "tensor": lambda reader, content: reader.pop_tensor(content),
    "texts": _read_texts,
    "tuple": lambda reader, content: tuple(reader.read_list(content)),
}
