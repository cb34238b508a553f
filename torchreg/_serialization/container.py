r"""The container: tensors as safetensors, everything else as JSON in the header.

A file is what `safetensors <https://github.com/huggingface/safetensors>`_ writes, so any of
its readers opens it: 8 bytes with the length of the header, the header in JSON, the numbers.
The header's ``__metadata__`` has one entry, ``torchreg``, a JSON object that begins with

- ``format``: the version of what follows it. It is raised when an older torchreg would misread
  a file. A reader takes every format up to its own, forever (the tests keep a file of each);
  of a later one it says which version to install.
- ``sha256``: of the whole file, with 64 zeros in the place of the digest itself, so that no
  flipped bit goes unseen. It protects from damage, not from someone who writes a file on
  purpose: what such a file says is checked where it is read.
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

#: Bytes of a header, at most: parsed JSON takes up to 25 times its length in memory.
LARGEST_HEADER = 2**24

#: The entry of safetensors' ``__metadata__``.
ENTRY = "torchreg"

_NO_DIGEST = "0" * 64
_NOTHING_WRITTEN = "torchreg's save did not write it, or not the whole of it"


def pack(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Make the bytes of a file; the same record and tensors give the same bytes.

    Parameters
    ----------
    record : mapping
        Whatever JSON can say.
    tensors : mapping of str to Tensor
        Dense, on any device.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If the record is larger than a reader would take.
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
        {"format": FORMAT, "sha256": _NO_DIGEST, **record}, allow_nan=False, ensure_ascii=True
    )
    # A clone: safetensors takes no two tensors that share their memory.
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data: bytes = safetensors.save(owned, metadata={ENTRY: text})
    length = int.from_bytes(data[:8], "little")
    if length > LARGEST_HEADER:
        raise ValueError(
            f"What is to be saved beside the tensors takes {length} bytes; a file holds at most "
            f"{LARGEST_HEADER}."
        )
    place = data.index(_NO_DIGEST.encode(), 8)
    digest = hashlib.sha256(data).hexdigest().encode()
    return data[:place] + digest + data[place + len(digest) :]


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the bytes of a file; nothing in them is run.

    Parameters
    ----------
    data : bytes
        What :func:`pack` made.

    Returns
    -------
    record : dict
    tensors : dict of str to Tensor
        On the CPU.

    Raises
    ------
    FileError
        If they are anything else, damaged, or of a later format.
    ImportError
        If safetensors is not installed.
    """
    record = _read_record(data[: 8 + _header_length(data[:8], len(data))])
    digest = record.pop("sha256", None)
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise FileError(f"The file has no digest: {_NOTHING_WRITTEN}.")
    start = data.find(digest.encode(), 8)
    computed = hashlib.sha256(data[:start])
    computed.update(_NO_DIGEST.encode())
    computed.update(memoryview(data)[start + len(digest) :])
    if start < 0 or computed.hexdigest() != digest:
        raise FileError(
            "The file is damaged: its digest is not that of its bytes. Get it once more from "
            "where it came."
        )
    try:
        tensors: dict[str, Tensor] = _safetensors().load(data)
    except ImportError:
        raise
    except Exception as error:
        raise FileError(f"The file's tensors cannot be read: {error}") from error
    # Memory of torch's own: arithmetic may depend on how it is aligned.
    return record, {name: tensor.clone() for name, tensor in tensors.items()}


def write_file(
    path: str | os.PathLike[str], record: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write a file that is there whole or not at all: :func:`pack`, then onto the disk.

    Raises
    ------
    OSError
        See :func:`torchreg._serialization.atomic_write.write_atomically`.
    """
    write_atomically(path, pack(record, tensors))


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Read a file that looks like one of ours; one that does not is left unread.

    Raises
    ------
    FileError
        If it is no regular file, or its first bytes say that it is something else.
    OSError
        If there is none, or it cannot be read.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # A pipe would be waited for.
        raise FileError(f"{Path(path)}: a regular file is expected.")
    with open(path, "rb") as file:
        try:
            start = file.read(8)
            head = start + file.read(_header_length(start, status.st_size))
            _read_record(head)
        except FileError as error:
            raise FileError(f"{Path(path)}: {error}") from error
        return head + file.read()


def read_file(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file that :func:`write_file` wrote: :func:`read_bytes`, then :func:`unpack`.

    Raises
    ------
    FileError, OSError
        As these do.
    """
    data = read_bytes(path)
    try:
        return unpack(data)
    except FileError as error:
        raise FileError(f"{Path(path)}: {error}") from error


def _header_length(start: bytes, size: int) -> int:
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 0 < length <= size - 8:
        raise FileError(
            f"The file says that its header has {length} bytes, and has {size} bytes itself: "
            f"{_NOTHING_WRITTEN}."
        )
    if length > LARGEST_HEADER:
        raise FileError(f"The file's header has {length} bytes; at most {LARGEST_HEADER} are read.")
    return length


def _read_record(head: bytes) -> dict[str, Any]:
    header = _parse(head[8:])
    metadata = header.get("__metadata__")
    text = metadata.get(ENTRY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise FileError(
            "The file is one of safetensors, but holds no regressor: another program wrote it."
        )
    record = _parse(text)
    version = record.pop("format", None)
    if type(version) is not int or version < 1:
        raise FileError(f"The file has no format version: {_NOTHING_WRITTEN}.")
    if version > FORMAT:
        raise FileError(
            f"The file has format {version}, this version of torchreg reads formats up to "
            f"{FORMAT}. Update torchreg: pip install --upgrade torchreg"
        )
    return record


def _parse(text: bytes | str) -> dict[str, Any]:
    """Parse a JSON object in which nothing is ambiguous."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        parsed = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise FileError(f"The file's header cannot be read: {error}") from error
    if not isinstance(parsed, dict):
        raise FileError(f"The file's header is no JSON object: {_NOTHING_WRITTEN}.")
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) != len(pairs):
        raise ValueError("a key stands there twice")
    return parsed


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            "Files are written and read with safetensors, which is not installed: "
            'pip install "torchreg[files]"'
        ) from error
    return safetensors.torch
