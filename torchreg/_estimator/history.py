"""What a fit saw, epoch by epoch, as rows that are written when somebody asks for them.

A search makes hundreds of fits of hundreds of epochs, and nobody looks at their rows. Each is a
dictionary, and so many of them make Python search all objects that there are for circles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchreg.engine.spec import TrainResult

#: The private attribute from which ``history_`` comes.
PAST = "_past"


class Past:
    """The rows of a fit, written once.

    Parameters
    ----------
    result : TrainResult
        What training said.
    """

    __slots__ = ("_result", "_rows")

    def __init__(self, result: TrainResult) -> None:
        self._result = result
        self._rows: list[dict[str, Any]] | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One for each epoch, always the same list."""
        if self._rows is None:
            self._rows = self._result.history()
        return self._rows


class HistoryAttribute:
    """``history_``, of an estimator that has a past; an entry of that name in it comes first."""

    def __get__(self, estimator: object | None, owner: type) -> list[dict[str, Any]]:
        """Give the rows; the class has none, nor has who is not fitted."""
        past = None if estimator is None else vars(estimator).get(PAST)
        if past is None:
            raise AttributeError(f"{owner.__name__!r} object has no attribute 'history_'")
        rows: list[dict[str, Any]] = past.rows
        return rows


def written_out(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Give the attributes of an estimator with its history in the place of its past.

    Examples
    --------
    >>> written_out({"a_": 1, "history_": []})
    {'a_': 1, 'history_': []}
    """
    return {
        ("history_" if name == PAST else name): (value.rows if name == PAST else value)
        for name, value in attributes.items()
    }
