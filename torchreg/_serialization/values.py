"""Settings and fitted attributes as JSON, with the numbers in tensors, and back unchanged.

What JSON has itself is written as itself: ``None``, booleans, integers, finite floats, text and
lists. Anything else is an object with one entry, whose key says what it is:
``{"tuple": [...]}``, ``{"dtype": "float64"}``, ``{"name": "torch.optim.AdamW"}``; most of those
are in the tables of :mod:`torchreg._serialization.codecs`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchreg._serialization.allowlist import ImportAllowlist, name_of
from torchreg._serialization.codecs import READERS, WRITERS, UnwritableError
from torchreg._serialization.placeholder import Unserialized
from torchreg.exceptions import FileError

#: How much of a value's text is kept where the value itself cannot be.
_SHOWN = 200


class Writer:
    """Writes values, and collects their tensors and the classes that they name.

    Parameters
    ----------
    write_module : callable or None
        Writes a ``torch.nn.Module``, given this writer, the module and where it stands.

    Examples
    --------
    >>> writer = Writer()
    >>> writer.write((1, torch.float32, [0.5] * 20), at="example")
    {'tuple': [1, {'dtype': 'float32'}, {'floats': ':example.2'}]}
    >>> writer.tensors[":example.2"].shape
    torch.Size([20])
    """

    def __init__(self, write_module: Callable[[Writer, nn.Module, str], Any] | None = None) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.named: dict[str, Any] = {}
        self.write_module = write_module

    def keep(self, tensor: Tensor, key: str) -> str:
        """Put a tensor into the file, and say under which name it stands there."""
        if key in self.tensors:
            raise UnwritableError(f"two tensors would be named {key!r}")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise UnwritableError(f"{key} is not a dense tensor")
        self.tensors[key] = tensor
        return key

    def write(self, value: Any, *, at: str) -> Any:
        """Write a value; ``at`` is a name for its place, and for its tensors.

        Raises
        ------
        UnwritableError
            If it, or something in it, cannot be said.
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
            sign = "-" if math.copysign(1, value) < 0 else ""  # A NaN has one, too.
            return {"float": f"{sign}{abs(value)!r}"}
        write = WRITERS.get(np.generic if isinstance(value, np.generic) else kind)
        if write is not None:
            return write(self, value, at)
        if isinstance(value, nn.Module) and self.write_module is not None:
            return {"module": self.write_module(self, value, at)}
        name = name_of(value)
        if name is None:
            raise UnwritableError(f"a {kind.__name__} cannot be written")
        if ":" in name:
            self.named[name] = value
        return {"name": name}

    def write_or_describe(self, value: Any, *, at: str) -> Any:
        """Write a value, or else what it looked like."""
        before = dict(self.tensors), dict(self.named)
        try:
            return self.write(value, at=at)
        except (UnwritableError, RecursionError):
            self.tensors, self.named = before
            text = value.text if isinstance(value, Unserialized) else _shorten(repr(value))
            return {"unwritten": text}


def _shorten(text: str) -> str:
    # Where an object lay in memory says nothing later, and makes of each file another one.
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(text.split()))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."


class Reader:
    """Reads what a :class:`Writer` wrote; each tensor is taken once.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Of the file.
    names : ImportAllowlist
        What the file may name.
    read_module : callable or None
        Reads what ``write_module`` wrote, given this reader and that.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        names: ImportAllowlist,
        read_module: Callable[[Reader, Any], nn.Module] | None = None,
    ) -> None:
        self.tensors = dict(tensors)
        self.names = names
        self.read_module = read_module

    def take(self, key: Any) -> Tensor:
        """Take a tensor out.

        Raises
        ------
        FileError
            If there is none of that name, or no more.
        """
        if not isinstance(key, str) or key not in self.tensors:
            raise FileError(f"The file has no tensor {key!r}, which it should have.")
        return self.tensors.pop(key)

    def read(self, written: Any) -> Any:
        """Read a value.

        Raises
        ------
        FileError
            If it cannot have been written by a :class:`Writer`.
        UntrustedError
            If it names code of the user's that is not allowed.
        """
        if isinstance(written, list):
            return [self.read(item) for item in written]
        if not isinstance(written, dict):
            return written
        if len(written) != 1:
            raise FileError(f"The file has {_shorten(repr(written))} where one value is expected.")
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
                f"The file has {_shorten(repr(content))} where the content of a value of the kind "
                f"{kind!r} is expected: {error}"
            ) from error

    def read_list(self, written: Any) -> list[Any]:
        """Read what must be a list."""
        if not isinstance(written, list):
            raise FileError(f"The file has {_shorten(repr(written))} where a list is expected.")
        return [self.read(item) for item in written]
