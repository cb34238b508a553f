"""Pieces of HTML; whatever comes from outside goes through :func:`text`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

NUMBER = ' class="number"'


def text(value: object) -> str:
    """Write a value so that a browser shows it as it is.

    Control characters, which HTML cannot hold, become their symbols.

    Examples
    --------
    >>> text('<b>&"')
    '&lt;b&gt;&amp;&quot;'
    """
    shown = "".join(
        chr(0x2400 + ord(sign)) if ord(sign) < 32 and sign not in "\n\t" else sign
        for sign in str(value)
    )
    # A lone surrogate has no place in UTF-8.
    return html.escape(shown.encode("utf-8", "replace").decode("utf-8"))


def number(value: float) -> str:
    """Write a number the way a person would.

    Examples
    --------
    >>> number(200.96697), number(16), number(float("nan"))
    ('200.967', '16', 'nan')
    """
    return f"{value:.6g}"


def shortened(value: object, at_most: int = 40) -> str:
    """Write a name on one line, and cut it where it is too long for a sentence.

    Examples
    --------
    >>> shortened("a" * 50, at_most=5)
    'aaaa…'
    """
    line = " ".join(str(value).split())
    return line if len(line) <= at_most else line[: at_most - 1] + "…"


def listed(names: Sequence[str], at_most: int = 4) -> str:
    """Name some things in a sentence, and count the rest.

    Examples
    --------
    >>> listed(["a", "b"]), listed(["a", "b", "c", "d", "e", "f"])
    ('a and b', 'a, b, c and 3 more')
    """
    words = [shortened(name) for name in names]
    if len(words) > at_most:
        words = [*words[: at_most - 1], f"{len(words) - at_most + 1} more"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table whose rows are named by their first cell.

    Each cell also carries the title of its column, so that a narrow page can show a row as
    a list.

    Parameters
    ----------
    caption : str
        What the table shows.
    head : sequence of str
        Titles of the columns.
    rows : iterable of sequences
        Texts or numbers; floats are rounded to six digits.

    Returns
    -------
    str
    """
    rows = list(rows)
    numeric = [isinstance(value, int | float) for value in rows[0]] if rows else [False] * len(head)
    titles = "".join(
        f'<th scope="col"{NUMBER if right else ""}>{text(title)}</th>'
        for title, right in zip(head, numeric, strict=True)
    )
    body = "".join(f"<tr>{_cells(head, row)}</tr>" for row in rows)
    return (
        f"<table><caption>{text(caption)}</caption>"
        f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cells(head: Sequence[str], row: Sequence[object]) -> str:
    first, *others = row
    name = shortened(first, 80)
    title = "" if name == str(first) else f' title="{text(first)}"'
    cells = [f'<th scope="row"{title}>{text(name)}</th>']
    for title, value in zip(head[1:], others, strict=True):
        numeric = isinstance(value, int | float)
        shown = number(value) if isinstance(value, float) else str(value)
        kind = NUMBER if numeric else ""
        cells.append(f'<td{kind} data-title="{text(title)}">{text(shown)}</td>')
    return "".join(cells)
