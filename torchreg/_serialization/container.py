"""The bytes of a file: a safetensors file whose header holds a JSON record.

The record begins with two entries.

- ``format``: the version of the format. It is raised when an older torchreg would misread a
  file. Every version up to the current one is read (the tests keep a file of each), and a later
  one raises an error that says how to update.
- ``sha256``: the digest of the whole file, with zeros in its own place, which detects any flipped
  bit. It does not protect from a forged file: its content is checked where it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from torchreg._serialization.atomic_write import write_atomically
from torchreg.exceptions import FileError

#: The version of the format that is written, and the latest that is read.
FORMAT = 1

#: The largest size of a header in bytes, because parsed JSON takes up to 25 times its length.
MAX_HEADER_BYTES = 2**24

#: The key in safetensors' ``__metadata__``.
METADATA_KEY = "torchreg"

_EMPTY_DIGEST = "0" * 64
_NOT_A_SAVED_FILE = "it was not written by torchreg's save, or is incomplete"


def pack(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Return the bytes of a file; the same record and tensors give the same bytes.

    Parameters
    ----------
    record : mapping
        Serializable as JSON.
    tensors : mapping of str to Tensor
        Dense, on any device.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If the header is larger than ``MAX_HEADER_BYTES``.
    ImportError
        If safetensors is not installed.

    Examples
    --------
    >>> import torch
    >>> data = pack({"unit": "g"}, {"mass": torch.tensor([4200.0])})
    >>> unpack(data)
    ({'unit': 'g'}, {'mass': tensor([4200.])})
    """
    safetensors = _safetensors()
    text = json.dumps(
        {"format": FORMAT, "sha256": _EMPTY_DIGEST, **record}, allow_nan=False, ensure_ascii=True
    )
    # Cloned, because safetensors refuses tensors that share memory.
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data: bytes = safetensors.save(owned, metadata={METADATA_KEY: text})
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(
            f"The header takes {length} bytes without the tensors; expected at most "
            f"{MAX_HEADER_BYTES}. Fitted attributes are too large."
        )
    start = data.index(_EMPTY_DIGEST.encode(), 8)
    digest = hashlib.sha256(data).hexdigest().encode()
    return data[:start] + digest + data[start + len(digest) :]


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the bytes of a file without running code.

    Parameters
    ----------
    data : bytes
        As returned by :func:`pack`.

    Returns
    -------
    record : dict
    tensors : dict of str to Tensor
        On the CPU.

    Raises
    ------
    FileError
        If the bytes are anything else, damaged, or of a later format.
    ImportError
        If safetensors is not installed.
    """
    record = _read_record(data[: 8 + _header_length(data[:8], len(data))])
    digest = record.pop("sha256", None)
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise FileError(f"The file has no digest: {_NOT_A_SAVED_FILE}.")
    start = data.find(digest.encode(), 8)
    computed = hashlib.sha256(data[:start])
    computed.update(_EMPTY_DIGEST.encode())
    computed.update(memoryview(data)[start + len(digest) :])
    if start < 0 or computed.hexdigest() != digest:
        raise FileError(
            "The file is damaged: its content does not match its digest. Copy it again from its "
            "source."
        )
    try:
        tensors: dict[str, Tensor] = _safetensors().load(data)
    except ImportError:
        raise
    except Exception as error:
        raise FileError(f"The file's tensors cannot be read: {error}") from error
    # Cloned into memory of torch, because results of arithmetic may depend on its alignment.
    return record, {name: tensor.clone() for name, tensor in tensors.items()}


def write_file(
    path: str | os.PathLike[str], record: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write a file atomically.

    Raises
    ------
    OSError
        See :func:`torchreg._serialization.atomic_write.write_atomically`.
    """
    write_atomically(path, pack(record, tensors))


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Read the bytes of a file, after its header has been checked.

    Raises
    ------
    FileError
        If it is not a regular file, or has another format.
    OSError
        If it does not exist or cannot be read.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # Reading a pipe would block.
        raise FileError(f"{Path(path)}: expected a regular file.")
    with open(path, "rb") as file:
        try:
            start = file.read(8)
            head = start + file.read(_header_length(start, status.st_size))
            _read_record(head)
        except FileError as error:
            raise FileError(f"{Path(path)}: {error}") from error
        return head + file.read()


def read_file(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file; see :func:`read_bytes` and :func:`unpack` for the errors."""
    data = read_bytes(path)
    try:
        return unpack(data)
    except FileError as error:
        raise FileError(f"{Path(path)}: {error}") from error


def _header_length(start: bytes, size: int) -> int:
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 0 < length <= size - 8:
        raise FileError(
            f"The file states a header of {length} bytes and has {size} bytes itself: "
            f"{_NOT_A_SAVED_FILE}."
        )
    if length > MAX_HEADER_BYTES:
        raise FileError(
            f"The file's header has {length} bytes; expected at most {MAX_HEADER_BYTES}."
        )
    return length


def _read_record(head: bytes) -> dict[str, Any]:
    header = _parse(head[8:])
    metadata = header.get("__metadata__")
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise FileError("The file is a safetensors file of another program and holds no regressor.")
    record = _parse(text)
    version = record.pop("format", None)
    if type(version) is not int or version < 1:
        raise FileError(f"The file has no format version: {_NOT_A_SAVED_FILE}.")
    if version > FORMAT:
        raise FileError(
            f"The file has format {version}; this version of torchreg reads formats up to "
            f"{FORMAT}. Update torchreg: pip install --upgrade torch-regressor"
        )
    return record


def _parse(text: bytes | str) -> dict[str, Any]:
    """Parse a JSON object; refuse duplicate keys, and NaN and infinity, which JSON lacks."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        parsed = json.loads(
            text, object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise FileError(f"The file's header cannot be read: {error}") from error
    if not isinstance(parsed, dict):
        raise FileError(f"The file's header is not a JSON object: {_NOT_A_SAVED_FILE}.")
    return parsed


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) != len(pairs):
        raise ValueError("duplicate key")
    return parsed


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not valid JSON")


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            "Files are written and read with safetensors, which is not installed. "
            'Install it with: pip install "torch-regressor[files]"'
        ) from error
    return safetensors.torch
