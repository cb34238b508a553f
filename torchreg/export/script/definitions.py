"""Source code of classes and functions, and the names that it uses."""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
import re
import symtable
import sys
import textwrap
from collections.abc import Mapping
from types import FunctionType
from typing import Any, NamedTuple

#: A role of Sphinx, such as :math:`x`.
_ROLE = re.compile(r":\w+:`~?([^`]+)`")


class Found(NamedTuple):
    """Source code of a class or function, and the values of its global and enclosing names."""

    text: str
    names: Mapping[str, Any]
    lazy_annotations: bool


def find_source(thing: Any) -> Found | None:
    """Find the source of a class or function in its file or in a notebook cell."""
    values = [*vars(thing).values()] if isinstance(thing, type) else [thing]
    unwrapped = [inspect.unwrap(getattr(v, "__func__", getattr(v, "fget", v))) for v in values]
    # A class of a notebook is found by its methods: inspect knows files only.
    for function in unwrapped:
        if not isinstance(function, FunctionType):
            continue
        text = "".join(linecache.getlines(function.__code__.co_filename))
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name != thing.__name__:
                continue
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first <= function.__code__.co_firstlineno <= (node.end_lineno or 0):
                lines = text.splitlines()[first - 1 : node.end_lineno]
                lazy = "from __future__ import annotations" in text
                return Found(textwrap.dedent("\n".join(lines)), _names(thing, unwrapped), lazy)
    return None


def _names(thing: Any, functions: list[Any]) -> dict[str, Any]:
    names = dict(vars(sys.modules.get(thing.__module__, builtins)))
    for function in functions:
        if isinstance(function, FunctionType):
            names |= function.__globals__
            cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            names |= {key: cell.cell_contents for key, cell in cells if key != "__class__"}
    return names


def global_names(text: str) -> list[str]:
    r"""List the global names that a definition uses, without built-in ones.

    Examples
    --------
    >>> global_names("def double(x, by=TWO):\n    y = x * by\n    return abs(y + shift)")
    ['TWO', 'shift']
    """
    found: set[str] = set()
    tables = [symtable.symtable(text, "definition", "exec")]
    for table in tables:
        at_top = table.get_type() == "module"
        for symbol in table.get_symbols():
            is_global = symbol.is_global() or (at_top and not symbol.is_assigned())
            if symbol.is_referenced() and is_global:
                found.add(symbol.get_name())
        tables += table.get_children()
    return sorted(name for name in found if not hasattr(builtins, name))


def strip_source(text: str) -> str:
    """Shorten docstrings to their first paragraph."""
    lines = text.splitlines()
    for node in reversed([*ast.walk(ast.parse(text))]):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (doc := ast.get_docstring(node)):
            kept, old = _ROLE.sub(r"\1", doc.partition("\n\n")[0]), node.body[0]
            prefix = "r" if "\\" in kept else ""
            quoted = textwrap.indent(f'{prefix}"""{kept}"""', " " * old.col_offset)
            lines[old.lineno - 1 : old.end_lineno] = [quoted]
    return "\n".join(lines)
