"""Where a class or function was written, and what it refers to."""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
import symtable
import sys
import textwrap
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any, NamedTuple


class Found(NamedTuple):
    """The source of a class or function, and what its names mean."""

    text: str
    names: Mapping[str, Any]
    annotations_are_text: bool


def find_source(thing: Any) -> Found | None:
    """Find the source of a class or function: in its file, or in a notebook's cell."""
    if not isinstance(thing, type | FunctionType) or thing.__name__ == "<lambda>":
        return None
    functions = list(_methods(thing)) if isinstance(thing, type) else [inspect.unwrap(thing)]
    home = sys.modules.get(thing.__module__)
    names = dict(vars(home or builtins))
    for function in functions:
        names.update(function.__globals__)
    places = [(f.__code__.co_filename, f.__code__.co_firstlineno) for f in functions]
    if not functions and getattr(home, "__file__", None):
        places = [(str(getattr(home, "__file__", "")), 0)]
    for file, line in places:
        text = "".join(linecache.getlines(file))
        node = _definition(text, thing.__name__, line)
        if node is not None:
            break
    else:
        return None
    for function in functions:
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        names.update({key: cell.cell_contents for key, cell in cells if key != "__class__"})
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    lines = text.splitlines()[first - 1 : node.end_lineno]
    return Found(
        textwrap.dedent("\n".join(lines)), names, "from __future__ import annotations" in text
    )


def global_names(text: str) -> list[str]:
    r"""List the names that a definition takes from outside, built-in ones left out.

    Examples
    --------
    >>> global_names("def double(x, by=TWO):\n    y = x * by\n    return abs(y + shift)")
    ['TWO', 'shift']
    """
    found: dict[str, None] = {}

    def look(table: symtable.SymbolTable) -> None:
        for symbol in table.get_symbols():
            outside = symbol.is_global() or (
                table.get_type() == "module" and not symbol.is_assigned()
            )
            if symbol.is_referenced() and outside:
                found.setdefault(symbol.get_name())
        for child in table.get_children():
            look(child)

    look(symtable.symtable(text, "definition", "exec"))
    return sorted(name for name in found if not hasattr(builtins, name))


def _methods(cls: type) -> Iterator[FunctionType]:
    for value in vars(cls).values():
        inner = inspect.unwrap(getattr(value, "__func__", getattr(value, "fget", value)))
        # A method that another class lent says nothing about where this one was written.
        if isinstance(inner, FunctionType) and inner.__qualname__.startswith(cls.__qualname__):
            yield inner


def _definition(
    text: str, name: str, line: int
) -> ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | None:
    """Find the class or function of a name that has a line in it, or the last of that name."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError:
        return None
    last = None
    for node in nodes:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            last = node
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if first <= line <= (node.end_lineno or 0):
                return node
    return last if line == 0 else None
