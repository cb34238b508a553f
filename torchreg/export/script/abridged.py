"""Torchreg's own code as a lesson quotes it: what it computes, without manual and guards."""

from __future__ import annotations

import ast
import inspect
import io
import re
import sys
import tokenize
from typing import NamedTuple

from torchreg.export.script.layout import Group, Item, lay_out

#: A heading of numpydoc, with the line under it.
_SECTION = re.compile(r"\n[ ]*\n[ ]*[A-Z][\w ]*\n[ ]*-{3,}\n")
#: A cross-reference of Sphinx: its last word is what the script calls the thing.
_REFERENCE = re.compile(r":(?:class|func|meth|attr|data):`~?(?:[\w.]*\.)?(\w+)`")
#: A formula within a line.
_FORMULA = re.compile(r":math:`([^`]+)`")
#: What only other tools read.
_FOR_TOOLS = re.compile(r"[ ]*# (?:noqa|type: ignore).*")
#: Functions that give back what they are given, if it is valid.
_GUARDS = {"check_size"}
#: Methods that only say how a module prints or was made, or refuse rows.
_UNSPOKEN = {"extra_repr", "quantile", "std", "describe", "combine_members"}


class _Edit(NamedTuple):
    """Some lines, counted from 0, the last one left out; and what stands there instead."""

    first: int
    end: int
    lines: list[str]


def abridged(text: str) -> str:
    r"""Leave out what a reader of a script can do without, and nothing that it computes.

    Docstrings end before their first section, checks of arguments and annotations are gone.

    Parameters
    ----------
    text : str
        Source of a function or a class of torchreg's.

    Returns
    -------
    str

    Examples
    --------
    >>> print(abridged('def half(x: float) -> float:\n    if x < 0:\n        raise ValueError\n'
    ...                '    share: float = x / 2\n    return share'))
    def half(x):
        share = x / 2
        return share
    """
    # 1. Annotations inside of lines, as long as everything stands where it stood.
    text = _without_annotations(text)
    # 2. Whole lines.
    lines = text.splitlines()
    edits: list[_Edit] = []
    _visit(ast.parse(text).body, lines, edits)
    for edit in sorted(edits, reverse=True):
        lines[edit.first : edit.end] = edit.lines
    text = "\n".join(_FOR_TOOLS.sub("", line) for line in lines)
    return re.sub(r"\n{3,}", "\n\n", text.replace("#: ", "# ")).strip("\n")


def find_constant(name: str, home: str) -> str | None:
    """Find where a module defines a constant, with the comment above it.

    Examples
    --------
    >>> print(find_constant("LIMIT", "torchreg.nn.robust"))
    # Limit of the smooth clip.
    LIMIT = 3.0
    """
    text = inspect.getsource(sys.modules[home])
    lines = text.splitlines()
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and any(a.name == name for a in node.names):
            known = node.module in sys.modules and str(node.module).startswith("torchreg.")
            return find_constant(name, str(node.module)) if known else None
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            first = _first_line(node, lines)
            found = "\n".join(lines[first : node.end_lineno]).replace("#: ", "# ")
            return _without_annotations(found)
    return None


def _without_annotations(text: str) -> str:
    """Take ``: int`` out of assignments; what only declares a type keeps its line."""
    places = [0]
    for line in text.encode().splitlines(keepends=True):
        places.append(places[-1] + len(line))
    source = text.encode()
    cuts = [
        (
            places[node.target.end_lineno - 1] + node.target.end_col_offset,
            places[node.annotation.end_lineno - 1] + node.annotation.end_col_offset,
        )
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.AnnAssign)
        and node.value is not None
        and node.target.end_lineno is not None
        and node.target.end_col_offset is not None
        and node.annotation.end_lineno is not None
        and node.annotation.end_col_offset is not None
    ]
    for first, end in sorted(cuts, reverse=True):
        source = source[:first] + source[end:]
    return source.decode()


def _visit(body: list[ast.stmt], lines: list[str], edits: list[_Edit]) -> bool:
    """Collect the edits of some statements; tell whether nothing is left of them."""
    gone = 0
    for node in body:
        if _is_guard(node, lines) or _is_unspoken(node):
            edits.append(_Edit(_first_line(node, lines), node.end_lineno or 0, []))
            gone += 1
            continue
        inner: list[_Edit] = []
        parts = [getattr(node, name, []) for name in ("body", "orelse", "finalbody")]
        parts += [handler.body for handler in getattr(node, "handlers", [])]
        emptied = [_visit(part, lines, inner) for part in parts if part]
        if isinstance(node, ast.For) and emptied == [True]:
            # A loop that only checked.
            edits.append(_Edit(_first_line(node, lines), node.end_lineno or 0, []))
            gone += 1
            continue
        edits += inner
        if isinstance(node, ast.FunctionDef):
            edits.append(_signature(node, lines))
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            edits.append(_docstring(node.body[0], lines))
    return gone == len(body)


def _is_guard(node: ast.stmt, lines: list[str]) -> bool:
    match node:
        case ast.Assign([ast.Name(known)], ast.Call(ast.Name(check), [ast.Name(given), *_])):
            return check in _GUARDS and known == given
    if not isinstance(node, ast.If) or node.orelse or len(node.body) != 1:
        return False
    is_elif = lines[node.lineno - 1].lstrip().startswith("elif")
    binds = any(isinstance(part, ast.NamedExpr) for part in ast.walk(node.test))
    return isinstance(node.body[0], ast.Raise) and not (is_elif or binds)


def _is_unspoken(node: ast.stmt) -> bool:
    if isinstance(node, ast.AnnAssign):
        return node.value is None
    return isinstance(node, ast.FunctionDef) and node.name in _UNSPOKEN


def _first_line(node: ast.stmt, lines: list[str]) -> int:
    """Give the first line of a statement, with its decorators and the comment above it."""
    decorators = [part.lineno for part in getattr(node, "decorator_list", [])]
    first: int = min([node.lineno, *decorators]) - 1
    while first and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return first


def _signature(node: ast.FunctionDef, lines: list[str]) -> _Edit:
    """Write a signature without its types."""
    given = node.args
    names = [*given.posonlyargs, *given.args]
    defaults = [*[None] * (len(names) - len(given.defaults)), *given.defaults]
    items = [_argument(n.arg, d, lines) for n, d in zip(names, defaults, strict=True)]
    if given.posonlyargs:
        items.insert(len(given.posonlyargs), "/")
    if given.vararg is not None:
        items.append(f"*{given.vararg.arg}")
    elif given.kwonlyargs:
        items.append("*")
    pairs = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    items += [_argument(name.arg, default, lines) for name, default in pairs]
    if given.kwarg is not None:
        items.append(f"**{given.kwarg.arg}")
    written = Group(f"def {node.name}(", tuple(map(Item, items)), ")")
    first = node.lineno - 1
    return _Edit(first, _end_of_signature(first, lines), lay_out(written, node.col_offset, "", ":"))


def _argument(name: str, default: ast.expr | None, lines: list[str]) -> str:
    if default is None:
        return name
    return f"{name}={ast.get_source_segment(chr(10).join(lines), default)}"


def _end_of_signature(first: int, lines: list[str]) -> int:
    """Find the line behind the colon that ends a signature."""
    depth = 0
    reader = io.StringIO("\n".join(lines[first:])).readline
    for token in tokenize.generate_tokens(reader):
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
        if token.string == ":" and depth == 0:
            return first + token.end[0]
    return len(lines)


def _docstring(node: ast.stmt, lines: list[str]) -> _Edit:
    """Keep of a docstring what stands before its sections."""
    assert isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    said = _SECTION.split(inspect.cleandoc(str(node.value.value)) + "\n")[0].rstrip()
    said = _FORMULA.sub(r"\1", _REFERENCE.sub(r"\1", said))
    indent, prefix = " " * node.col_offset, "r" if "\\" in said else ""
    kept = [indent + line if line else "" for line in f'{prefix}"""{said}'.splitlines()]
    if len(kept) == 1:
        kept[0] += '"""'
    else:
        kept.append(f'{indent}"""')
    return _Edit(node.lineno - 1, node.end_lineno or 0, kept)
