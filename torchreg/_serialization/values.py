"""Parameters and fitted attributes as JSON and tensors, and back.

``None``, booleans, integers, finite floats, strings and lists are JSON. Any other value is an
object with one entry, whose key is its kind: ``{"tuple": [...]}``, ``{"dtype": "float64"}``,
``{"name": "torch.optim.AdamW"}``. Most kinds are in the tables of
:mod:`torchreg._serialization.codecs`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchreg._serialization.allowlist import ImportAllowlist, import_path
from torchreg._serialization.codecs import READERS, WRITERS, UnwritableError
from torchreg._serialization.placeholder import Unserialized
from torchreg.exceptions import FileError

#: The largest number of characters of a ``repr`` in a file or a message.
_MAX_TEXT = 200


class Writer:
    """Converts values to JSON, and collects their tensors and the user's classes that they name.

    Parameters
    ----------
    write_module : callable or None
        Converts a ``torch.nn.Module``, given this writer, the module and its path.

    Attributes
    ----------
    tensors : dict of str to Tensor
    named : dict of str to class or function
        By import path.

    Examples
    --------
    >>> writer = Writer()
    >>> writer.write((1, torch.float32, [0.5] * 20), path="example")
    {'tuple': [1, {'dtype': 'float32'}, {'floats': ':example.2'}]}
    >>> writer.tensors[":example.2"].shape
    torch.Size([20])
    """

    def __init__(self, write_module: Callable[[Writer, nn.Module, str], Any] | None = None) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.named: dict[str, Any] = {}
        self.write_module = write_module

    def add_tensor(self, tensor: Tensor, key: str) -> str:
        """Add a tensor, and return its key."""
        if key in self.tensors:
            raise UnwritableError(f"two tensors would be named {key!r}")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise UnwritableError(f"{key} is not a dense tensor")
        self.tensors[key] = tensor
        return key

    def write(self, value: Any, *, path: str) -> Any:
        """Convert a value to JSON; ``path`` names its tensors.

        Raises
        ------
        UnwritableError
            If the value, or an item of it, has no JSON form.
        """
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            if abs(value) >= 2**1024:
                raise UnwritableError("an integer of more than 1024 bits")
            return value
        if kind is float:
            if math.isfinite(value):
                return value
            sign = "-" if math.copysign(1, value) < 0 else ""  # NaN has a sign, too.
            return {"float": f"{sign}{abs(value)!r}"}
        write = WRITERS.get(np.generic if isinstance(value, np.generic) else kind)
        if write is not None:
            return write(self, value, path)
        if isinstance(value, nn.Module) and self.write_module is not None:
            return {"module": self.write_module(self, value, path)}
        name = import_path(value)
        if name is None:
            raise UnwritableError(f"a value of type {kind.__name__} cannot be written")
        if ":" in name:
            self.named[name] = value
        return {"name": name}

    def write_or_describe(self, value: Any, *, path: str) -> Any:
        """Convert a value to JSON, or to its ``repr`` if it has no JSON form."""
        before = dict(self.tensors), dict(self.named)
        try:
            return self.write(value, path=path)
        except (UnwritableError, RecursionError):
            self.tensors, self.named = before
            text = value.text if isinstance(value, Unserialized) else _shorten(repr(value))
            return {"unwritten": text}


def _shorten(text: str) -> str:
    # Without memory addresses, so that equal regressors give equal files.
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(text.split()))
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 4]} ..."


class Reader:
    """Converts the JSON of a :class:`Writer` to values.

    Parameters
    ----------
    tensors : mapping of str to Tensor
    allowlist : ImportAllowlist
        The classes and functions that the JSON may name.
    read_module : callable or None
        Builds a ``torch.nn.Module``, given this reader and the JSON of ``write_module``.

    Attributes
    ----------
    tensors : dict of str to Tensor
        Those not used yet.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        allowlist: ImportAllowlist,
        read_module: Callable[[Reader, Any], nn.Module] | None = None,
    ) -> None:
        self.tensors = dict(tensors)
        self.allowlist: ImportAllowlist = allowlist
        self.read_module = read_module

    def pop_tensor(self, key: Any) -> Tensor:
        """Remove and return a tensor.

        Raises
        ------
        FileError
            If there is no such tensor, or it was used before.
        """
        if not isinstance(key, str) or key not in self.tensors:
            raise FileError(f"The file has no tensor {key!r}.")
        return self.tensors.pop(key)

    def read(self, written: Any) -> Any:
        """Convert JSON to a value.

        Raises
        ------
        FileError
            If no :class:`Writer` can have written it.
        UntrustedError
            If it names a class or function that is not allowed.
        """
        if isinstance(written, list):
            return [self.read(item) for item in written]
        if not isinstance(written, dict):
            return written
        if len(written) != 1:
            raise FileError(f"The file contains {_shorten(repr(written))}; expected one value.")
        ((kind, content),) = written.items()
        try:
            if kind == "unwritten":
                return Unserialized(str(content))
            if kind == "module" and self.read_module is not None:
                return self.read_module(self, content)
            return READERS[kind](self, content)
        except FileError:
            raise
        except Exception as error:
            raise FileError(
                f"The file contains {_shorten(repr(content))}, which is not a valid value of "
                f"kind {kind!r}: {error}"
            ) from error

    def read_list(self, written: Any) -> list[Any]:
        """Convert a JSON list to a list of values."""
        if not isinstance(written, list):
            raise FileError(f"The file contains {_shorten(repr(written))}; expected a list.")
        return [self.read(item) for item in written]
