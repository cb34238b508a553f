"""The kinds of values that JSON does not have: how each is written, and how it is read.

Adding a kind is one entry in each of :data:`WRITERS` and :data:`READERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from torchreg._serialization.allowlist import ImportAllowlist
from torchreg.exceptions import FileError

#: From this length on, a list of floats or of integers is a tensor: 8 bytes a number.
LONG = 16


class UnwritableError(TypeError):
    """A file cannot hold this value."""


class Writes(Protocol):
    """What a kind needs to be written: see :class:`torchreg._serialization.values.Writer`."""

    def keep(self, tensor: Tensor, key: str) -> str:
        """Put a tensor into the file."""

    def write(self, value: Any, *, at: str) -> Any:
        """Write a value that is part of this one."""


class Reads(Protocol):
    """What a kind needs to be read: see :class:`torchreg._serialization.values.Reader`."""

    names: ImportAllowlist

    def take(self, key: Any) -> Tensor:
        """Take a tensor out of the file."""

    def read(self, written: Any) -> Any:
        """Read a value that is part of this one."""

    def read_list(self, written: Any) -> list[Any]:
        """Read what must be a list."""


def _write_list(writer: Writes, value: list[Any], at: str) -> Any:
    kinds = set(map(type, value))
    if len(value) >= LONG and kinds == {float}:
        return {"floats": writer.keep(torch.tensor(value, dtype=torch.float64), f":{at}")}
    if len(value) >= LONG and kinds == {int} and all(-(2**63) <= i < 2**63 for i in value):
        return {"integers": writer.keep(torch.tensor(value, dtype=torch.int64), f":{at}")}
    if kinds == {dict} and len({tuple(row) for row in value}) == 1 and value[0]:
        return {"rows": _write_rows(writer, value, at)}
    return [writer.write(item, at=f"{at}.{i}") for i, item in enumerate(value)]


def _write_rows(writer: Writes, rows: list[dict[Any, Any]], at: str) -> Any:
    """Write dictionaries with the same keys as columns."""
    return [
        [writer.write(key, at=at), writer.write([row[key] for row in rows], at=f"{at}.{i}")]
        for i, key in enumerate(rows[0])
    ]


def _read_rows(reader: Reads, content: Any) -> list[dict[Any, Any]]:
    names, columns = zip(*(reader.read_list(column) for column in content), strict=True)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _write_dict(writer: Writes, value: dict[Any, Any], at: str) -> Any:
    return {
        "dict": [
            [writer.write(key, at=f"{at}.{i}.key"), writer.write(item, at=f"{at}.{i}")]
            for i, (key, item) in enumerate(value.items())
        ]
    }


def _read_dict(reader: Reads, content: Any) -> dict[Any, Any]:
    pairs = [reader.read_list(pair) for pair in content]
    found = {key: value for key, value in pairs}
    if len(found) != len(pairs):
        raise FileError("The file has a dictionary in which a key stands twice.")
    return found


def _write_tuple(writer: Writes, value: tuple[Any, ...], at: str) -> Any:
    return {"tuple": [writer.write(item, at=f"{at}.{i}") for i, item in enumerate(value)]}


def _write_partial(writer: Writes, value: partial[Any], at: str) -> Any:
    parts = (value.func, value.args, value.keywords)
    return {"partial": [writer.write(part, at=f"{at}.{i}") for i, part in enumerate(parts)]}


def _read_partial(reader: Reads, content: Any) -> partial[Any]:
    function, arguments, keywords = reader.read_list(content)
    return partial(function, *arguments, **keywords)


def _write_tensor(writer: Writes, value: Tensor, at: str) -> Any:
    if value.requires_grad:
        raise UnwritableError("a tensor with a gradient cannot be written")
    return {"tensor": writer.keep(value, f":{at}")}


def _write_array(writer: Writes, value: np.ndarray, at: str) -> Any:
    if value.ndim == 1 and value.dtype.kind in "OU":
        items = value.tolist()
        if all(type(item) is str for item in items):
            return {"texts": [value.dtype.kind, items]}
    try:
        tensor = torch.from_numpy(value.copy(order="C"))
    except (TypeError, ValueError) as error:
        raise UnwritableError(f"an array of {value.dtype} cannot be written") from error
    return {"array": writer.keep(tensor, f":{at}")}


def _read_texts(reader: Reads, content: Any) -> np.ndarray:
    kind, items = content
    if not all(type(item) is str for item in items):
        raise FileError("The file has something else in a list of names.")
    return np.array(items, dtype={"O": object, "U": str}[kind])


def _write_scalar(writer: Writes, value: np.generic, at: str) -> Any:
    item = value.item()
    if value.dtype.kind not in "biufU" or type(item) not in (bool, int, float, str):
        raise UnwritableError(f"a number of the kind {value.dtype} cannot be written")
    return {
        "scalar": [
            value.dtype.name if value.dtype.kind != "U" else "str",
            writer.write(item, at=at),
        ]
    }


def _read_scalar(reader: Reads, content: Any) -> Any:
    name, item = content
    kind = np.dtype(name)
    if kind.kind not in "biufU" or kind.itemsize > 8:
        raise FileError(f"The file has a number of the kind {name!r}, which is none.")
    return kind.type(reader.read(item))


def _write_random_state(writer: Writes, value: np.random.RandomState, at: str) -> Any:
    state: Any = value.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        raise UnwritableError(f"random numbers by {state['bit_generator']} cannot be written")
    key = torch.from_numpy(state["state"]["key"].astype(np.int64))
    rest = [state["state"]["pos"], state["has_gauss"], state["gauss"]]
    return {"random_state": [writer.keep(key, f":{at}"), *map(_python, rest)]}


def _python(number: Any) -> int | float:
    plain: int | float = number.item() if isinstance(number, np.generic) else number
    return plain


def _read_random_state(reader: Reads, content: Any) -> np.random.RandomState:
    key, position, has_gauss, gauss = content
    numbers = reader.take(key)
    if numbers.dtype != torch.int64 or numbers.shape != (624,) or not 0 <= position <= 624:
        raise FileError("The file has a random state that is none.")
    state = np.random.RandomState()
    words = numbers.numpy().astype(np.uint32)
    state.set_state(("MT19937", words, position, has_gauss, gauss))
    return state


def _read_numbers(dtype: torch.dtype) -> Callable[[Reads, Any], list[Any]]:
    def read(reader: Reads, content: Any) -> list[Any]:
        numbers = reader.take(content)
        if numbers.dtype != dtype or numbers.ndim != 1:
            raise FileError(f"The file's tensor {content!r} is no vector of {dtype}.")
        listed: list[Any] = numbers.tolist()
        return listed

    return read


def _read_dtype(reader: Reads, content: Any) -> torch.dtype:
    dtype = vars(torch).get(content)
    if not isinstance(dtype, torch.dtype):
        raise FileError(f"The file has a dtype {content!r}, which torch does not know.")
    return dtype


def _read_float(reader: Reads, content: Any) -> float:
    return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan, "-nan": -math.nan}[content]


WRITERS: dict[type, Callable[[Writes, Any, str], Any]] = {
    dict: _write_dict,
    list: _write_list,
    np.generic: _write_scalar,
    np.ndarray: _write_array,
    np.random.RandomState: _write_random_state,
    partial: _write_partial,
    Tensor: _write_tensor,
    torch.device: lambda writer, value, at: {"device": str(value)},
    torch.dtype: lambda writer, value, at: {"dtype": str(value).removeprefix("torch.")},
    tuple: _write_tuple,
}

READERS: dict[str, Callable[[Reads, Any], Any]] = {
    "array": lambda reader, content: reader.take(content).numpy(),
    "device": lambda reader, content: torch.device(content),
    "dict": _read_dict,
    "dtype": _read_dtype,
    "float": _read_float,
    "floats": _read_numbers(torch.float64),
    "integers": _read_numbers(torch.int64),
    "name": lambda reader, content: reader.names.find(content),
    "partial": _read_partial,
    "random_state": _read_random_state,
    "rows": _read_rows,
    "scalar": _read_scalar,
    "tensor": lambda reader, content: reader.take(content),
    "texts": _read_texts,
    "tuple": lambda reader, content: tuple(reader.read_list(content)),
}
