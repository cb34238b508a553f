"""Source is found wherever it was written, with all that it refers to."""

from __future__ import annotations

import linecache
import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise as neighbours
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchreg.export.script.layout import flat, lay_out
from torchreg.export.script.source import NotWritableError, Source

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


class BareError(Exception):
    pass


def run(source: Source, expression: str) -> Any:
    """Evaluate an expression where there is nothing but what a source has collected."""
    lines = [*source.imports.values(), *source.definitions.values()]
    names: dict[str, Any] = {"__name__": "script"}
    exec("\n\n".join(lines), names)
    return eval(expression, names)


@pytest.mark.parametrize("thing", [scaled, Derived, even, BareError])
def test_a_definition_runs_alone_with_all_that_it_refers_to(thing: Any) -> None:
    source = Source({})
    name = source.name_of(thing)
    assert name == thing.__name__
    again = run(source, name)
    assert again is not thing
    assert again.__name__ == name


def test_what_is_copied_does_the_same() -> None:
    source = Source({})
    x = torch.linspace(-1, 1, 5)
    copied = run(source, f"{source.name_of(Derived)}()")
    assert torch.equal(copied(x), Derived()(x))


def test_a_definition_comes_once_and_after_those_that_it_needs() -> None:
    source = Source({})
    for _ in range(2):
        source.name_of(Derived)
    places = {name: place for place, name in enumerate(source.definitions)}
    assert places.keys() == {"SCALES", "scaled", "odd", "even", "Base", "Derived"}
    assert places["SCALES"] < places["scaled"] < places["Derived"]
    assert places["Base"] < places["Derived"]
    assert source.imports["neighbours"] == "from itertools import pairwise as neighbours"
    assert source.imports["np"] == "import numpy as np"
    assert source.imports["F"] == "import torch.nn.functional as F"


def test_what_a_function_encloses_is_written_down() -> None:
    width, kinds = 3, {"a": [nn.Tanh, None]}

    class Local(nn.Module):
        def forward(self, x):
            return x * width, kinds

    source = Source({})
    copied = run(source, f"{source.name_of(Local)}()")
    assert copied(2) == (6, kinds)
    assert "class Local" in source.definitions["Local"].splitlines()[0]


def annotated(x: Any, activation: Callable[[Any], Any] = torch.tanh) -> Any:
    return activation(x)


def test_what_torch_imports_from_python_is_imported_from_python() -> None:
    source = Source({})
    source.expression(annotated)
    of_python = {"from typing import Any", "from collections.abc import Callable"}
    assert of_python <= {*source.imports.values()}


def test_the_cells_of_a_notebook_are_read() -> None:
    cells = {
        "<cell 1>": "class Twice:\n    def __call__(self, x):\n        return 2 * x\n",
        "<cell 2>": "def call_twice(x):\n    return Twice()(x)\n",
    }
    session: dict[str, Any] = {"__name__": "__main__"}
    try:
        for name, text in cells.items():
            linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
            exec(compile(text, name, "exec"), session)
        source = Source({})
        assert run(source, f"{source.name_of(session['call_twice'])}(4)") == 8
        assert list(source.definitions) == ["Twice", "call_twice"]
    finally:
        for name in cells:
            del linecache.cache[name]


def test_where_there_is_no_source_an_import_stands_and_is_said() -> None:
    session: dict[str, Any] = {"__name__": "__main__"}
    exec("def gone(x):\n    return x", session)
    source = Source({})
    assert source.name_of(session["gone"]) == "gone"
    assert source.imports["gone"] == "from definitions import gone"
    assert source.remarks == [
        "gone was defined where no source is kept: write it into definitions.py, beside this "
        "script."
    ]


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (nn.Linear, "nn.Linear"),
        (torch.tanh, "torch.tanh"),
        (F.softplus, "nn.functional.softplus"),
        (torch.optim.Adam, "torch.optim.Adam"),
        (nn.init.zeros_, "nn.init.zeros_"),
        (len, "len"),
    ],
)
def test_what_torch_and_python_have_is_called_by_its_name(thing: Any, name: str) -> None:
    source = Source({})
    assert source.name_of(thing) == name
    assert not source.definitions


VALUES = [
    None,
    True,
    ...,
    -3,
    1e-300,
    math.inf,
    -math.inf,
    "both \" and '",
    "new\nline\\",
    b"bytes",
    (),
    (1,),
    [1, [2.5, (None, "x")]],
    {"a": 1, "b c": {"d": [2]}},
    torch.float64,
    torch.device("cpu"),
    np.float32(0.5),
    np.int64(7),
    np.bool_(True),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_written_down_is_that_value(value: Any) -> None:
    source = Source({})
    written = source.expression(value)
    for text in (flat(written), "\n".join(lay_out(written))):
        assert run(source, text) == value


@pytest.mark.parametrize(
    "value",
    [torch.tensor([[0.1, -1e-20]], dtype=torch.float64), torch.tensor(2), np.arange(3.0)],
    ids=["matrix", "number", "array"],
)
def test_arrays_are_written_with_all_their_digits(value: Any) -> None:
    source = Source({})
    again = run(source, flat(source.expression(value)))
    assert type(again) is type(value)
    assert again.dtype == value.dtype
    assert again.tolist() == value.tolist()


def test_a_partial_is_written_with_its_arguments() -> None:
    source = Source({})
    written = flat(source.expression(partial(scaled, by=0.5)))
    assert written == "partial(scaled, by=0.5)"
    x = torch.ones(2)
    assert torch.equal(run(source, written)(x), scaled(x, by=0.5))


@pytest.mark.parametrize(
    "value",
    [object(), {1: 2}, {1, 2}, torch.zeros(2000)],
    ids=["object", "dict of numbers", "set", "large tensor"],
)
def test_what_has_no_source_says_so(value: Any) -> None:
    with pytest.raises(NotWritableError, match="cannot be written as Python source"):
        Source({}).expression(value)


NOWHERE = object()


def refers_to_what_has_no_source():
    return NOWHERE


def test_what_a_definition_uses_and_cannot_be_written_is_named() -> None:
    with pytest.raises(
        NotWritableError,
        match=r"^NOWHERE, which the module or the loss uses: <object .* cannot be written",
    ):
        Source({}).name_of(refers_to_what_has_no_source)


def test_what_has_its_name_for_other_reasons_is_no_function() -> None:
    class Titled:
        __name__ = 3

        def __call__(self) -> None: ...

    with pytest.raises(NotWritableError, match="cannot be written as Python source"):
        Source({}).expression(Titled())


def test_a_part_of_a_library_that_its_module_does_not_have_is_refused() -> None:
    # A method of a class, which says of itself that it is the module's.
    with pytest.raises(
        NotWritableError, match=r"^statistics\.pdf cannot be imported under that name\.$"
    ):
        Source({}).expression(NormalDist.pdf)


def test_one_name_for_two_things_is_refused() -> None:
    def other() -> Any:
        def scaled() -> int:
            return 1

        return scaled

    source = Source({})
    source.name_of(scaled)
    with pytest.raises(NotWritableError, match="'scaled' means two things"):
        source.name_of(other())
