"""Definitions that a script needs are copied with all that they refer to."""

from __future__ import annotations

import linecache
import math
from functools import partial, wraps
from itertools import pairwise as neighbours
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchreg.nn
from torchreg.export.script.definitions import find_source, strip_source
from torchreg.export.script.source import Call, NotWritableError, Source

SCALES = [2.0, math.inf]


def scaled(x, by=SCALES[0]):
    for low, high in neighbours(SCALES):
        x = F.relu(x * by + np.float64(low)) / high
    return x


class Base(nn.Module):
    @property
    def scale(self):
        return even(3)


class Derived(Base):
    def forward(self, x):
        return scaled(x) * self.scale


def even(n):
    return n == 0 or odd(n - 1)


def odd(n):
    return n != 0 and even(n - 1)


def run(source: Source, expression: str) -> Any:
    """Evaluate an expression with nothing but what a source has collected."""
    names: dict[str, Any] = {"__name__": "script", "torch": torch, "nn": nn}
    exec("\n".join([*source.imports.values(), source.take_definitions()]), names)
    return eval(expression, names)


@pytest.mark.parametrize("thing", [scaled, Derived, even])
def test_a_definition_runs_with_all_that_it_refers_to(thing: Any) -> None:
    source = Source()
    name = source.name_of(thing)
    again = run(source, name)
    assert again is not thing
    assert again.__name__ == name == thing.__name__


def test_a_copied_module_computes_the_same() -> None:
    source, x = Source(), torch.linspace(-1, 1, 5)
    copied = run(source, f"{source.name_of(Derived)}()")
    assert torch.equal(copied(x), Derived()(x))
    assert source.imports["neighbours"] == "from itertools import pairwise as neighbours"


def test_a_definition_comes_once() -> None:
    source = Source()
    assert source.name_of(Derived) == source.name_of(Derived)
    assert source.take_definitions().count("class Derived") == 1


def test_enclosed_values_are_written() -> None:
    width, kinds = 3, {"a": [nn.Tanh, None]}

    class Local(nn.Module):
        def forward(self, x):
            return x * width, kinds

    source = Source()
    assert run(source, f"{source.name_of(Local)}()")(2) == (6, kinds)


def test_notebook_cells_are_read() -> None:
    cells = {
        "<cell 1>": "class Twice:\n    def __call__(self, x):\n        return 2 * x\n",
        "<cell 2>": "def call_twice(x):\n    return Twice()(x)\n",
    }
    session: dict[str, Any] = {"__name__": "__main__"}
    try:
        for name, text in cells.items():
            linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
            exec(compile(text, name, "exec"), session)
        source = Source()
        assert run(source, f"{source.name_of(session['call_twice'])}(4)") == 8
    finally:
        for name in cells:
            del linecache.cache[name]


def test_decorators_are_part_of_the_source() -> None:
    def loud(function: Any) -> Any:
        return wraps(function)(lambda *arguments: function(*arguments))

    @loud
    def decorated(x: float) -> float:
        return x

    found = find_source(decorated)
    assert found is not None
    assert found.text.startswith("@loud\ndef decorated(")


#: A script has constants in place of these two.
SCALING = {"Standardize", "Unstandardize"}
OURS = [getattr(torchreg.nn, name) for name in torchreg.nn.__all__ if name not in SCALING]
OURS = [thing for thing in OURS if hasattr(thing, "__name__")]


@pytest.mark.parametrize("thing", OURS, ids=lambda thing: thing.__name__)
def test_source_of_torchreg_runs_without_torchreg(thing: Any) -> None:
    source = Source()
    name = source.name_of(thing)
    assert not any("torchreg" in line for line in source.imports.values())
    text = source.take_definitions()
    names: dict[str, Any] = {"__name__": "script", "torch": torch, "nn": nn}
    exec("\n".join([*source.imports.values(), text]), names)
    assert "Parameters\n    ---" not in text
    assert text == "" or callable(names[name])


def test_a_stripped_definition_differs_in_its_docstrings_only() -> None:
    code = "\n\n    def f(self):\n        # why\n        return 1"
    text = f"class A:\n    '''One.\n\n    Two.\n    '''{code}"
    assert strip_source(text) == f'class A:\n    """One."""{code}'


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (nn.Linear, "nn.Linear"),
        (torch.tanh, "torch.tanh"),
        (F.softplus, "nn.functional.softplus"),
        (torch.optim.Adam, "torch.optim.Adam"),
        (len, "len"),
    ],
)
def test_names_of_torch_and_python_need_no_import(thing: Any, name: str) -> None:
    source = Source()
    assert source.name_of(thing) == name
    assert not source.imports


VALUES = [None, True, -3, 1e-300, -math.inf, "both \" and '", "new\nline\\", (), (1,)]
VALUES += [[1, [2.5, (None, "x")]], {"a": 1, "b c": {"d": [2]}}, torch.float64, np.float32(0.5)]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_an_expression_evaluates_to_its_value(value: Any) -> None:
    source = Source()
    assert run(source, source.expression(value)) == value


def test_a_tensor_is_written_with_all_digits() -> None:
    source, value = Source(), torch.tensor([[0.1, -1e-20]], dtype=torch.float64)
    assert torch.equal(run(source, source.expression(value)), value)


def test_a_partial_is_written_with_its_arguments() -> None:
    assert Source().expression(partial(scaled, by=0.5)) == "partial(scaled, by=0.5)"


@pytest.mark.parametrize(
    "written",
    [
        "nn.Linear(1, 5)",
        "nn.Linear(3, 2, bias=False)",
        "nn.Dropout(p=0.5)",
        "nn.LeakyReLU(negative_slope=0.2)",
        'nn.GELU(approximate="tanh")',
        "nn.BatchNorm1d(4, eps=0.001)",
        "nn.LayerNorm((4,), bias=False)",
        "nn.Unflatten(1, (1, 4))",
        "nn.Sequential(nn.Linear(1, 2), nn.Sequential(nn.Tanh()))",
    ],
)
def test_a_layer_is_the_call_that_makes_it(written: str) -> None:
    assert Source().module(eval(written), with_values=False) == written


def test_a_long_call_has_one_argument_a_line() -> None:
    call = Call("f(", ("x" * 50, "y" * 50), ")")
    assert call.wrap(4, "a = ") == f"a = f(\n        {'x' * 50},\n        {'y' * 50},\n    )"


NOWHERE = object()


def refers_to_an_object():
    return NOWHERE


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "cannot be written as Python source"),
        ({1: 2}, r"\{1: 2\} cannot be written as Python source"),
        (torch.zeros(2000), "cannot be written as Python source"),
        (lambda x: x, "Define a function with def"),
        (NormalDist.pdf, r"statistics\.pdf cannot be imported under that name"),
        (refers_to_an_object, r"NOWHERE.* <object object at .* cannot be written"),
        (nn.CrossEntropyLoss(weight=torch.ones(2)), r"CrossEntropyLoss\(\).* Give the class"),
    ],
    ids=["object", "dict", "tensor", "lambda", "method", "reference", "module"],
)
def test_values_without_source_are_refused(value: Any, message: str) -> None:
    with pytest.raises(NotWritableError, match=message):
        Source().expression(value)


def test_one_name_for_two_things_is_refused() -> None:
    def other() -> Any:
        def scaled() -> int:
            return 1

        return scaled

    source = Source()
    source.name_of(scaled)
    with pytest.raises(NotWritableError, match=r"'scaled' has two meanings.* Rename"):
        source.name_of(other())
