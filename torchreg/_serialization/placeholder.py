"""Placeholder for a parameter that no file can hold."""

from __future__ import annotations


class Unserialized:
    """Value of a loaded regressor's parameter that its file does not hold.

    Parameters
    ----------
    text : str
        The ``repr`` of the original value.

    Examples
    --------
    >>> Unserialized("<function <lambda>>")
    <not in the file: <function <lambda>>>
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"<not in the file: {self.text}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unserialized) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)
