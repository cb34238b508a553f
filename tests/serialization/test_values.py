"""Values of every kind come back equal and of their type; what cannot be written says so."""

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
from torchreg._serialization.allowlist import ImportAllowlist
from torchreg._serialization.codecs import LONG, UnwritableError
from torchreg._serialization.module_spec import read_module, write_module
from torchreg._serialization.placeholder import Unserialized
from torchreg._serialization.values import Reader, Writer


class Colour(IntEnum):
    RED = 1


def again(value: Any) -> Any:
    writer = Writer(write_module)
    written = json.loads(json.dumps(writer.write(value, at="value"), allow_nan=False))
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
def test_any_nest_of_values_comes_back_the_same(value: Any) -> None:
    assert same(again(value), value)


@given(st.lists(st.floats(), min_size=LONG) | st.lists(st.integers(), min_size=LONG))
def test_long_lists_come_back_bit_for_bit(value: list[Any]) -> None:
    assert same(again(value), value)


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
def test_numbers_of_numpy_and_torch_keep_their_dtype(value: Any) -> None:
    back = again(value)
    assert same(back, value) or (value != value and back != back and back.dtype == value.dtype)


def test_generators_go_on_where_they_were() -> None:
    state = np.random.RandomState(3)
    state.normal(size=7)
    assert same(again(state).normal(size=5), state.normal(size=5))


def test_partials_and_modules_come_back() -> None:
    back = again(functools.partial(nn.Linear, 3, out_features=2))
    assert (back.func, back.args, back.keywords) == (nn.Linear, (3,), {"out_features": 2})
    module = nn.Sequential(nn.Linear(3, 1))
    back = again({"template": [module]})["template"][0]
    assert torch.equal(back[0].weight, module[0].weight)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "a object cannot be written"),
        (Path("a"), "cannot be written"),
        (Colour.RED, "a Colour cannot be written"),
        ({1, 2}, "a set cannot be written"),
        (1j, "a complex cannot be written"),
        (np.complex128(1j), "a number of the kind complex128 cannot be written"),
        (np.datetime64("2020"), "cannot be written"),
        (np.array([object()]), "an array of object cannot be written"),
        (np.array(["2020"], dtype="datetime64"), r"an array of datetime64\[Y\] cannot be written"),
        (torch.ones(2, requires_grad=True), "a tensor with a gradient cannot be written"),
        (torch.ones(2).to_sparse(), ":value is not a dense tensor"),
        (lambda x: x, "a function cannot be written"),
        (nn.GRU(1, 1), "GRU is not in the table"),
        (2**1024, "an integer of more than 1024 bits"),
        (np.random.RandomState(np.random.PCG64(0)), "random numbers by PCG64 cannot be written"),
    ],
    # Of the values their kind: the text of some has an address, another one in each process.
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_cannot_be_written_says_so(value: Any, message: str) -> None:
    for nested in (value, [value], {"a": (value,)}):
        writer = Writer(write_module)
        with pytest.raises(UnwritableError):
            writer.write(nested, at="value")
        writer = Writer(write_module)
        described = writer.write_or_describe(nested, at="value")
        assert set(described) == {"unwritten"}
        assert writer.tensors == {} and writer.named == {}
    with pytest.raises(UnwritableError, match=message):
        Writer(write_module).write(value, at="value")


def test_a_list_that_holds_itself_is_described() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert Writer().write_or_describe(endless, at="value") == {"unwritten": "[[...]]"}


def test_a_long_description_is_cut() -> None:
    text = Writer().write_or_describe([object(), "x" * 1000], at="value")["unwritten"]
    assert len(text) == 200 and text.startswith("[<object object>, 'xxx") and text.endswith(" ...")


def test_a_value_that_was_not_written_is_equal_to_itself_wherever_it_goes() -> None:
    one = Unserialized("<lambda>")
    assert one == again_described(one) and hash(one) == hash(again_described(one))
    assert one != Unserialized("<other>") and one != "<lambda>"


def again_described(value: Any) -> Any:
    return Reader({}, ImportAllowlist()).read(Writer().write_or_describe(value, at="value"))


def test_two_tensors_of_one_name_are_not_mixed_up() -> None:
    writer = Writer()
    writer.keep(torch.zeros(1), "a")
    with pytest.raises(UnwritableError, match="two tensors would be named 'a'"):
        writer.keep(torch.zeros(1), "a")


VECTOR = torch.zeros(20, dtype=torch.float64)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({}, "where one value is expected"),
        ({"tuple": [], "list": []}, "where one value is expected"),
        ({"pickle": "abc"}, "has 'abc' where the content of a value of the kind 'pickle' is exp"),
        ({"tuple": 3}, "where a list is expected"),
        ({"tuple": "ab"}, "where a list is expected"),
        ({"dict": [[1, 2, 3]]}, "of the kind 'dict' is expected"),
        ({"dict": [[1, 2], [1, 3]]}, "The file has a dictionary in which a key stands twice"),
        ({"dict": [[[], 3]]}, "of the kind 'dict' is expected"),
        ({"dtype": "float31"}, "a dtype 'float31', which torch does not know"),
        ({"dtype": "load"}, "a dtype 'load', which torch does not know"),
        ({"dtype": []}, "of the kind 'dtype' is expected"),
        ({"device": "toaster"}, "of the kind 'device' is expected"),
        ({"float": "1e999"}, "of the kind 'float' is expected"),
        ({"floats": "b"}, "no tensor 'b', which it should have"),
        ({"floats": ["v"]}, r"no tensor \['v'\], which it should have"),
        ({"integers": "v"}, "'v' is no vector of torch.int64"),
        ({"floats": "m"}, "'m' is no vector of torch.float64"),
        ([{"floats": "v"}, {"floats": "v"}], "no tensor 'v'"),
        ({"rows": [["a", [1]], ["b", [1, 2]]]}, "of the kind 'rows' is expected"),
        ({"rows": 3}, "of the kind 'rows' is expected"),
        ({"scalar": ["object", 3]}, "The file has a number of the kind 'object', which is none"),
        ({"scalar": ["float128", 3]}, "of the kind 'float128'|of the kind 'scalar'"),
        ({"scalar": ["int8", 1000]}, "of the kind 'scalar' is expected"),
        ({"texts": ["O", [1]]}, "something else in a list of names"),
        ({"texts": ["X", ["a"]]}, "of the kind 'texts' is expected"),
        ({"random_state": ["v", 0, 0, 0.0]}, "a random state that is none"),
        ({"partial": [{"name": "torch.nn.Linear"}, [], 3]}, "of the kind 'partial' is expected"),
        ({"partial": [3, [], {"dict": []}]}, "of the kind 'partial' is expected"),
        ({"name": 3}, "where the name of a class is expected"),
        ({"module": {}}, "of the kind 'module' is expected"),
        ({"array": 3}, "no tensor 3"),
    ],
    ids=str,
)
def test_what_no_writer_wrote_is_refused(written: Any, message: str) -> None:
    reader = Reader({"v": VECTOR, "m": VECTOR[None]}, ImportAllowlist(), read_module)
    with pytest.raises(FileError, match=message):
        reader.read(written)


def test_a_reader_of_no_modules_reads_none() -> None:
    with pytest.raises(FileError, match="of the kind 'module'"):
        Reader({}, ImportAllowlist()).read({"module": {}})
