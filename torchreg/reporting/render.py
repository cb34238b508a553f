"""HTML from the templates of this package; every value is escaped."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jinja2 import Environment


class Table(NamedTuple):
    """A table whose rows are named by their first cell; floats are rounded to six digits."""

    caption: str
    titles: Sequence[str]
    rows: Sequence[Sequence[object]]

    def is_number(self, column: int) -> bool:
        """Whether a column holds numbers."""
        return bool(self.rows) and isinstance(self.rows[0][column], int | float)


def render(template: str, **values: Any) -> str:
    """Fill a template of the folder ``templates``.

    Parameters
    ----------
    template : str
        Name of the file.
    **values : dict
        Values of the template's variables. Text is escaped, ``markupsafe.Markup`` is not.

    Returns
    -------
    str
    """
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("torchreg.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
    )
    environment.filters |= {"number": number, "shorten": shorten, "brief": brief}
    return environment


def printable(value: Any) -> Any:
    r"""Replace characters that HTML cannot hold.

    Control characters become their symbols, and lone surrogates, which UTF-8 cannot encode,
    question marks.

    Examples
    --------
    >>> printable("a\x00")
    'a␀'
    """
    from markupsafe import Markup

    if isinstance(value, Markup):
        return value
    shown = "".join(
        chr(0x2400 + ord(sign)) if ord(sign) < 32 and sign not in "\n\t" else sign
        for sign in str(value)
    )
    return shown.encode("utf-8", "replace").decode("utf-8")


def number(value: float) -> str:
    """Write a number with six significant digits.

    Examples
    --------
    >>> number(200.96697), number(16), number(float("nan"))
    ('200.967', '16', 'nan')
    """
    return f"{value:.6g}"


def brief(value: object) -> str:
    """Write a value of a finding: numbers rounded, the first six items of a list.

    Examples
    --------
    >>> brief([0.123456789, 2, "a"])
    '[0.123457, 2, a]'
    """
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list | tuple):
        items = [brief(item) for item in value[:6]] + ["..."] * (len(value) > 6)
        return f"[{', '.join(items)}]"
    return str(value)


def shorten(value: object, at_most: int = 40) -> str:
    """Write a name on one line of at most ``at_most`` characters.

    Examples
    --------
    >>> shorten("a" * 50, at_most=5)
    'aaaa…'
    """
    line = " ".join(str(value).split())
    return line if len(line) <= at_most else line[: at_most - 1] + "…"


def join_names(names: Sequence[str], at_most: int = 4) -> str:
    """List names in a sentence, and count those beyond ``at_most``.

    Examples
    --------
    >>> join_names(["a", "b"]), join_names(["a", "b", "c", "d", "e", "f"])
    ('a and b', 'a, b, c and 3 more')
    """
    words = [shorten(name) for name in names]
    if len(words) > at_most:
        words = [*words[: at_most - 1], f"{len(words) - at_most + 1} more"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
