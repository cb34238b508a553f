"""Values are read with the value and type that was written; others are refused."""

from __future__ import annotations

import functools
import json
import math
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from torchreg import FileError
from torchreg._serialization import (
    ImportAllowlist,
    Reader,
    Unserialized,
    UnwritableError,
    Writer,
    read_module,
    write_module,
)


class Colour(IntEnum):
    RED = 1


def round_trip(value: Any) -> Any:
    writer = Writer(write_module)
    written = json.loads(json.dumps(writer.write(value, path="value"), allow_nan=False))
    reader = Reader(writer.tensors, ImportAllowlist(), read_module)
    read = reader.read(written)
    assert reader.tensors == {}
    return read


def same(one: Any, two: Any) -> bool:
    if type(one) is not type(two):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict):
        return same(list(one.items()), list(two.items()))
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and np.array_equal(one, two)
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, float):
        return math.copysign(1, one) == math.copysign(1, two) and (one == two or one != one)
    return bool(one == two)


PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(),
    st.sampled_from([torch.float32, torch.int8, torch.device("cpu"), torch.device("cuda:1")]),
    st.sampled_from([nn.ReLU, torch.optim.Adam, torch.tanh, np.float64(0.1), np.str_("a")]),
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(st.one_of(st.text(), st.integers(), st.tuples(st.text())), inner),
        st.lists(st.fixed_dictionaries({"epoch": st.integers(), "loss": inner})),
    ),
    max_leaves=20,
)


@given(VALUES)
@example(-math.nan)
@example((math.nan, [-math.inf, math.inf]))
def test_nested_values_are_read_as_written(value: Any) -> None:
    assert same(round_trip(value), value)


@given(st.lists(st.floats(), min_size=20) | st.lists(st.integers(), min_size=20))
def test_long_lists_are_read_bit_for_bit(value: list[Any]) -> None:
    assert same(round_trip(value), value)


@pytest.mark.parametrize(
    "value",
    [
        np.float32(0.1),
        np.int8(-3),
        np.bool_(True),
        np.float64("nan"),
        np.uint64(2**64 - 1),
        np.arange(6).reshape(2, 3).T,
        np.array(3.5, dtype=np.float16),
        np.array([], dtype=np.float32),
        np.array(["mm", "g"], dtype=object),
        np.array(["mm", "g"]),
        torch.tensor([[1.5]]),
        torch.tensor(3),
        torch.arange(6.0).reshape(2, 3).T,
    ],
    ids=repr,
)
def test_arrays_scalars_and_tensors_keep_their_dtype(value: Any) -> None:
    back = round_trip(value)
    assert same(back, value) or (value != value and back != back and back.dtype == value.dtype)


def test_random_states_continue_their_sequence() -> None:
    state = np.random.RandomState(3)
    state.normal(size=7)
    assert same(round_trip(state).normal(size=5), state.normal(size=5))


def test_partials_and_modules_are_read_as_written() -> None:
    back = round_trip(functools.partial(nn.Linear, 3, out_features=2))
    assert (back.func, back.args, back.keywords) == (nn.Linear, (3,), {"out_features": 2})
    module = nn.Sequential(nn.Linear(3, 1))
    back = round_trip({"template": [module]})["template"][0]
    assert torch.equal(back[0].weight, module[0].weight)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "a value of type object cannot be written"),
        (Path("a"), "cannot be written"),
        (Colour.RED, "a value of type Colour cannot be written"),
        ({1, 2}, "type set"),
        (1j, "type complex"),
        (np.complex128(1j), "a scalar of dtype complex128"),
        (np.datetime64("2020"), "cannot be written"),
        (np.array([object()]), "an array of dtype object"),
        (np.array(["2020"], dtype="datetime64"), r"an array of dtype datetime64\[Y\]"),
        (torch.ones(2, requires_grad=True), "requires a gradient"),
        (torch.ones(2).to_sparse(), ":value is not a dense tensor"),
        (lambda x: x, "type function"),
        (nn.GRU(1, 1), "GRU is not in the table"),
        (2**1024, "an integer of more than 1024 bits"),
        (np.random.RandomState(np.random.PCG64(0)), "RandomState with PCG64"),
    ],
    # Types instead of values, whose text may have an address.
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_value_that_cannot_be_written_is_named_and_leaves_nothing_in_the_file(
    value: Any, message: str
) -> None:
    for nested in (value, [value], {"a": (value,)}):
        writer = Writer(write_module)
        with pytest.raises(UnwritableError):
            writer.write(nested, path="value")
        writer = Writer(write_module)
        described = writer.write_or_describe(nested, path="value")
        assert set(described) == {"unwritten"}
        assert writer.tensors == {} and writer.named == {}
    with pytest.raises(UnwritableError, match=message):
        Writer(write_module).write(value, path="value")


def test_a_list_that_contains_itself_is_described() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert Writer().write_or_describe(endless, path="value") == {"unwritten": "[[...]]"}


def test_a_long_description_is_truncated() -> None:
    text = Writer().write_or_describe([object(), "x" * 1000], path="value")["unwritten"]
    assert len(text) == 200 and text.startswith("[<object object>, 'xxx") and text.endswith(" ...")


def test_placeholders_of_one_text_are_equal() -> None:
    one = Unserialized("<lambda>")
    assert one == reread(one) and hash(one) == hash(reread(one))
    assert one != Unserialized("<other>") and one != "<lambda>"


def reread(value: Any) -> Any:
    return Reader({}, ImportAllowlist()).read(Writer().write_or_describe(value, path="value"))


def test_two_tensors_of_one_name_are_refused() -> None:
    writer = Writer()
    writer.add_tensor(torch.zeros(1), "a")
    with pytest.raises(UnwritableError, match="two tensors would be named 'a'"):
        writer.add_tensor(torch.zeros(1), "a")


VECTOR = torch.zeros(20, dtype=torch.float64)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({}, "expected one value"),
        ({"tuple": [], "list": []}, "expected one value"),
        ({"pickle": "abc"}, "'abc', which is not a valid value of kind 'pickle'"),
        ({"tuple": 3}, "expected a list"),
        ({"tuple": "ab"}, "expected a list"),
        ({"dict": [[1, 2, 3]]}, "of kind 'dict'"),
        ({"dict": [[1, 2], [1, 3]]}, "duplicate key"),
        ({"dict": [[[], 3]]}, "of kind 'dict'"),
        ({"dtype": "float31"}, "the dtype 'float31'"),
        ({"dtype": "load"}, "the dtype 'load'"),
        ({"dtype": []}, "of kind 'dtype'"),
        ({"device": "toaster"}, "of kind 'device'"),
        ({"float": "1e999"}, "of kind 'float'"),
        ({"floats": "b"}, "no tensor 'b'"),
        ({"floats": ["v"]}, r"no tensor \['v'\]"),
        ({"integers": "v"}, "'v' is not a vector of torch.int64"),
        ({"floats": "m"}, "'m' is not a vector of torch.float64"),
        ([{"floats": "v"}, {"floats": "v"}], "no tensor 'v'"),
        ({"rows": [["a", [1]], ["b", [1, 2]]]}, "of kind 'rows'"),
        ({"rows": 3}, "of kind 'rows'"),
        ({"scalar": ["object", 3]}, "a scalar of dtype 'object'"),
        ({"scalar": ["float128", 3]}, "dtype 'float128'|of kind 'scalar'"),
        ({"scalar": ["int8", 1000]}, "of kind 'scalar'"),
        ({"texts": ["O", [1]]}, "an item that is not a string"),
        ({"texts": ["X", ["a"]]}, "of kind 'texts'"),
        ({"random_state": ["v", 0, 0, 0.0]}, "an invalid random state"),
        ({"partial": [{"name": "torch.nn.Linear"}, [], 3]}, "of kind 'partial'"),
        ({"partial": [3, [], {"dict": []}]}, "of kind 'partial'"),
        ({"name": 3}, "expected the name of a class"),
        ({"module": {}}, "of kind 'module'"),
        ({"array": 3}, "no tensor 3"),
    ],
    ids=str,
)
def test_invalid_json_is_refused(written: Any, message: str) -> None:
    reader = Reader({"v": VECTOR, "m": VECTOR[None]}, ImportAllowlist(), read_module)
    with pytest.raises(FileError, match=message):
        reader.read(written)


def test_a_reader_without_read_module_reads_no_modules() -> None:
    with pytest.raises(FileError, match="of kind 'module'"):
        Reader({}, ImportAllowlist()).read({"module": {}})
