"""Warnings and errors that torchreg gives, and the helper that names what was probably meant.

Errors are ``ValueError`` and ``TypeError``, so that callers who know scikit-learn catch
them; those of files have classes of their own, so that a program can tell a broken file
from one that it has not allowed yet. So have warnings, so that a caller can silence one
and keep the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from sklearn.exceptions import ConvergenceWarning


class DivergenceWarning(ConvergenceWarning):
    """The loss became infinite or NaN; the fit stopped and kept its best finite weights."""


class PrecisionWarning(UserWarning):
    """A column's spread is about the spacing of its dtype: digits were lost before the fit."""


class EffectivelyLinearWarning(ConvergenceWarning):
    """Scale made a straight line of the network; see ``TorchRegressor.diagnose``."""


class DeadUnitsWarning(ConvergenceWarning):
    """All hidden units of a layer are off for every row: nothing passes, nothing is learned."""


class UnscaledWarning(UserWarning):
    """The network sees, or has to make, values more than a hundred times order 1 or below it."""


class InterruptWarning(UserWarning):
    """A fit was interrupted (Ctrl-C); the estimator holds what it had learned by then."""


class UnserializedWarning(UserWarning):
    """A file cannot hold some of the settings: predicting needs none of them, fitting does."""


class FileError(ValueError):
    """A file is not one that torchreg wrote, is damaged, or was written by a later version."""


class CheckpointError(ValueError):
    """A checkpoint is that of another fit, in use, damaged, or cannot be written."""


class UntrustedError(FileError):
    """A file names code of the user's that was neither passed nor allowed."""


class ExportError(ValueError):
    """A graph cannot be written of a module, or does not compute what ``predict`` does."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Say which known names are near an unknown one, and what all of them are.

    Parameters
    ----------
    name : str
        What came.
    known : iterable of str
        What would have been understood.

    Returns
    -------
    str
        The end of an error message, starting with a space.

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
