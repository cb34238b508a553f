"""A file returns the record and tensors that were written, and any other file is refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from torchreg import FileError
from torchreg._serialization import FORMAT, pack, read_file, unpack, write_file

RECORD = {"unit": "g", "nested": [1, {"a": None}], "name": "Pygoscelis adéliae \ud800"}
TENSORS = {
    "a": torch.linspace(0, 1, 7, dtype=torch.float64),
    "b.c": torch.tensor(3),
    "d": torch.zeros(0, 4),
    "e": torch.ones(2, 3).T,
    "f": torch.tensor([1.5], dtype=torch.bfloat16),
    "g": torch.tensor([True, False]),
    "h": torch.tensor([torch.nan, -0.0, torch.inf]),
}


def seal(header: Any, numbers: bytes = b"") -> bytes:
    """Return the bytes of a file, with the right digest in place of 64 zeros."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + numbers
    zeros = b"0" * 64
    if zeros in data:
        data = data.replace(zeros, hashlib.sha256(data).hexdigest().encode(), 1)
    return data


def with_record(text: str) -> bytes:
    return seal({"__metadata__": {"torchreg": text}})


def test_record_and_tensors_are_read_bit_for_bit(tmp_path: Path) -> None:
    write_file(tmp_path / "file", RECORD, TENSORS)
    record, tensors = read_file(tmp_path / "file")
    assert record == RECORD
    assert set(tensors) == set(TENSORS)
    for key, tensor in TENSORS.items():
        assert tensors[key].dtype == tensor.dtype and tensors[key].shape == tensor.shape
        first, second = (t.contiguous().view(-1).view(torch.uint8) for t in (tensors[key], tensor))
        assert torch.equal(first, second)


def test_tensors_that_share_memory_are_written_separately() -> None:
    base = torch.arange(6.0)
    _, tensors = unpack(pack({}, {"whole": base, "part": base[2:4], "again": base}))
    assert torch.equal(tensors["part"], base[2:4]) and torch.equal(tensors["again"], base)


def test_equal_content_gives_equal_bytes_of_a_safetensors_file() -> None:
    data = pack(RECORD, TENSORS)
    assert data == pack(RECORD, TENSORS)
    assert set(safetensors.torch.load(data)) == set(TENSORS)


def test_a_file_of_other_software_with_the_right_digest_is_read() -> None:
    text = json.dumps({"format": 1, "sha256": "0" * 64, "x": 1})
    assert unpack(with_record(text)) == ({"x": 1}, {})


def test_any_flipped_bit_is_detected() -> None:
    data = pack({"x": 1}, {"a": torch.arange(3.0)})
    for place in range(len(data)):
        for bit in range(8):
            broken = bytearray(data)
            broken[place] ^= 1 << bit
            with pytest.raises(FileError):
                unpack(bytes(broken))


def test_any_truncation_is_detected() -> None:
    data = pack({"x": 1}, {"a": torch.arange(3.0)})
    for length in range(len(data)):
        with pytest.raises(FileError):
            unpack(data[:length])
    with pytest.raises(FileError, match="damaged"):
        unpack(data + b"\0")


DEEP = "[" * 100_000 + "]" * 100_000
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "header of 0 bytes and has 0 bytes itself"),
    "seven bytes": (b"\1\0\0\0\0\0\0", "has 7 bytes itself: it was not written by torchreg's save"),
    "a header of length 0": (bytes(20), "header of 0 bytes"),
    "a pickle": (b"\x80\x04\x95" + bytes(40), "not written by"),
    "a zip, like torch.save": (b"PK\3\4" + bytes(100), "not written by"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not written by"),
    "text": (b"flipper_mm,mass_g\n181,3750\n", "not written by"),
    "a header longer than the file": (seal(b"{}")[:8] + b"{", "not written by"),
    "no JSON": (seal(b"{]"), "header cannot be read"),
    "no UTF-8": (seal(b'{"\xff": 1}'), "header cannot be read"),
    "JSON of great depth": (seal(DEEP.encode()), "header cannot be read: maximum recursion"),
    "a number of great length": (seal(b'{"a": ' + b"9" * 5000 + b"}"), "header cannot be read"),
    "NaN": (seal(b'{"a": NaN}'), "NaN is not valid JSON"),
    "a list": (seal([1, 2]), "header is not a JSON object"),
    "safetensors of others": (
        safetensors.torch.save({"a": torch.zeros(2)}, {"format": "pt"}),
        "holds no regressor",
    ),
    "safetensors without metadata": (
        safetensors.torch.save({"a": torch.zeros(2)}),
        "another program",
    ),
    "metadata of another type": (seal({"__metadata__": 3}), "another program"),
    "a record that is not a string": (seal({"__metadata__": {"torchreg": 3}}), "another program"),
    "a duplicate key": (
        seal(b'{"__metadata__": {"torchreg": "{}"}, "a": 1, "a": 2}'),
        "duplicate key",
    ),
    "a duplicate key in the record": (with_record('{"format": 1, "format": 1}'), "duplicate key"),
    "a record of great depth": (with_record(DEEP), "maximum recursion"),
    "a record that is a list": (with_record("[1]"), "header is not a JSON object"),
    "a record of infinity": (with_record('{"a": -Infinity}'), "-Infinity is not valid JSON"),
    "no format": (with_record("{}"), "no format version"),
    "a format that is a string": (with_record('{"format": "1"}'), "no format version"),
    "a format that is true": (with_record('{"format": true}'), "no format version"),
    "format 0": (with_record('{"format": 0}'), "no format version"),
    "a later format": (
        with_record('{"format": 2, "anything": "else"}'),
        rf"has format 2; .* up to {FORMAT}\. .*: pip install --upgrade torch-regressor",
    ),
    "no digest": (with_record('{"format": 1}'), "has no digest"),
    "an invalid digest": (with_record('{"format": 1, "sha256": "abc"}'), "has no digest"),
    "a digest of something else": (
        with_record('{"format": 1, "sha256": "' + "a" * 64 + '"}'),
        "does not match its digest. Copy it again",
    ),
    "a digest with an escape sequence": (
        with_record('{"format": 1, "sha256": "' + "a" * 63 + '\\u0061"}'),
        "does not match its digest",
    ),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_an_invalid_file_is_refused_with_its_name_and_the_reason(
    data: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(FileError, match=message):
        unpack(data)
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(FileError, match=rf"{re.escape(str(tmp_path / 'file'))}: .*{message}"):
        read_file(tmp_path / "file")


OFFSETS: dict[str, dict[str, Any]] = {
    "beyond the end": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]},
    "negative": {"dtype": "F64", "shape": [-1], "data_offsets": [0, 8]},
    "of another length": {"dtype": "F64", "shape": [3], "data_offsets": [0, 8]},
    "larger than any": {"dtype": "F64", "shape": [2**40, 2**40], "data_offsets": [0, 8]},
    "of no dtype": {"dtype": "F7", "shape": [1], "data_offsets": [0, 8]},
    "backwards": {"dtype": "F64", "shape": [1], "data_offsets": [8, 0]},
    "without a shape": {"dtype": "F64", "data_offsets": [0, 8]},
    "of more than its bytes": {"dtype": "F64", "shape": [10**12], "data_offsets": [0, 8]},
}


@pytest.mark.parametrize("entry", OFFSETS.values(), ids=OFFSETS)
def test_invalid_tensor_headers_are_refused(entry: dict[str, Any]) -> None:
    text = json.dumps({"format": 1, "sha256": "0" * 64})
    header = {"__metadata__": {"torchreg": text}, "a": entry}
    with pytest.raises(FileError, match="tensors cannot be read"):
        unpack(seal(header, bytes(8)))


def test_a_large_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    # A sparse file of 1 TB, which takes no space on the disk.
    with open(tmp_path / "huge", "wb") as file:
        file.write((2**39).to_bytes(8, "little"))
        file.truncate(2**40)
    with pytest.raises(
        FileError, match=r"header has 549755813888 bytes; expected at most 16777216"
    ):
        read_file(tmp_path / "huge")


def test_a_file_of_another_program_is_refused_before_its_tensors_are_read(tmp_path: Path) -> None:
    with open(tmp_path / "huge", "wb") as file:
        file.write(seal({"__metadata__": {"format": "pt"}}))
        file.truncate(2**40)
    with pytest.raises(FileError, match="another program"):
        read_file(tmp_path / "huge")


def test_a_record_larger_than_the_limit_is_not_written() -> None:
    with pytest.raises(ValueError, match=r"takes \d+ bytes .* expected at most 16777216"):
        pack({"text": "x" * 2**24}, {})


def test_a_path_without_a_regular_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "nothing")
    with pytest.raises(FileError, match="expected a regular file"):
        read_file(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(FileError, match="expected a regular file"):
            read_file(tmp_path / "pipe")
