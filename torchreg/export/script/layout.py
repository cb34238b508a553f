"""Python expressions as trees, laid out as a formatter would: on one line, or one part a line."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

#: As wide as most formatters write.
WIDTH = 88


@dataclass(frozen=True)
class Group:
    """Something between brackets: a call, a list, a dictionary.

    Parameters
    ----------
    opening, closing : str
        ``"nn.Linear("`` and ``")"``, for example.
    items : tuple of Item
        What stands between.
    """

    opening: str
    items: tuple[Item, ...]
    closing: str


Expression = str | Group


@dataclass(frozen=True)
class Item:
    """One part of a group: ``bias=False``, with a comment where it has a line of its own.

    Parameters
    ----------
    expression : Expression
    prefix : str, default=""
        ``"bias="`` or ``'"key": '``.
    comment : str, default=""
        Makes the group that it stands in take a line for each part.
    """

    expression: Expression
    prefix: str = ""
    comment: str = ""


def call(name: str, *arguments: Expression, **named: Expression) -> Group:
    """Write a call.

    Examples
    --------
    >>> flat(call("nn.Linear", "1", "5", bias="False"))
    'nn.Linear(1, 5, bias=False)'
    """
    items = [Item(argument) for argument in arguments]
    items += [Item(value, f"{key}=") for key, value in named.items()]
    return Group(f"{name}(", tuple(items), ")")


def flat(expression: Expression) -> str:
    """Write an expression on one line."""
    if isinstance(expression, str):
        return expression
    inside = ", ".join(item.prefix + flat(item.expression) for item in expression.items)
    lone = expression.opening == "(" and len(expression.items) == 1
    return f"{expression.opening}{inside}{',' if lone else ''}{expression.closing}"


def lay_out(
    expression: Expression, indent: int = 0, before: str = "", after: str = "", comment: str = ""
) -> list[str]:
    r"""Write an expression on as many lines as it needs.

    Parameters
    ----------
    expression : Expression
    indent : int, default=0
        Spaces in front of each line.
    before, after : str, default=""
        What stands around it: ``"return "`` and ``","``, for example.
    comment : str, default=""
        Put behind the first line.

    Returns
    -------
    list of str

    Examples
    --------
    >>> print(*lay_out(call("f", "1", "x" * 100), before="y = "), sep="\n")
    y = f(
        1,
        xxx...,
    )
    """
    start, remark = " " * indent + before, f"  # {comment}" if comment else ""
    line = start + flat(expression) + after
    if isinstance(expression, str) or not expression.items:
        return [line + remark]
    if not _speaks(expression) and _width(line) <= WIDTH:
        return [line + remark]
    lines = [start + expression.opening + remark]
    for item in expression.items:
        lines += lay_out(item.expression, indent + 4, item.prefix, ",", item.comment)
    return [*lines, " " * indent + expression.closing + after]


def quoted(text: str) -> str:
    r"""Write a string, in double quotes unless that needs more backslashes.

    Examples
    --------
    >>> print(quoted("it's"), quoted('5" nail'), quoted("a\nb"))
    "it's" '5" nail' "a\nb"
    """
    if text.count('"') > text.count("'"):
        return repr(text)
    # With a double quote in it, here the first sign, repr puts single quotes around.
    inside = repr('"' + text)[2:-1]
    return '"' + inside.replace("\\'", "'").replace('"', '\\"') + '"'


def _speaks(expression: Expression) -> bool:
    if isinstance(expression, str):
        return False
    return any(item.comment or _speaks(item.expression) for item in expression.items)


def _width(text: str) -> int:
    """Count the columns of a line; East Asian signs take two."""
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)
