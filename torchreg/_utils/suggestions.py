"""Suggestions for misspelt names in error messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Write the end of an error message for an unknown name: similar names, then all known ones.

    Examples
    --------
    >>> did_you_mean("adma", ["adam", "rprop"])
    " Did you mean 'adam'? Known: 'adam', 'rprop'."
    """
    names = sorted(set(known))
    near = get_close_matches(name.lower(), names, n=3, cutoff=0.6)
    question = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    listing = f" Known: {', '.join(map(repr, names))}." if names else " It takes none."
    return question + listing
