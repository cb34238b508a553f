"""What stands in the place of a setting that no file could hold."""

from __future__ import annotations


class Unserialized:
    """Stands in a loaded regressor for a setting that its file could not hold.

    Parameters
    ----------
    text : str
        What the setting looked like.

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
