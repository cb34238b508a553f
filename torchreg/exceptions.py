"""Warnings and errors of torchreg.

Errors subclass ``ValueError``, which scikit-learn raises too. Each warning has a class of its own,
so that it can be filtered.
"""

from __future__ import annotations

from sklearn.exceptions import ConvergenceWarning, FitFailedWarning


class DivergenceWarning(ConvergenceWarning):
    """The loss became infinite or NaN; training stopped and the best finite weights were kept."""


class NetworkFailedWarning(FitFailedWarning):
    """An error ended the training of one of several networks; the fit has the other ones."""


class CallbackWarning(UserWarning):
    """A callback has no effect, because its pattern matches no parameter."""


class PrecisionWarning(UserWarning):
    """A column was already rounded in the input: its spread is near the spacing of its dtype."""


class ValidationWarning(UserWarning):
    """Validation rows lie far outside the training rows, probably because of other units."""


class EffectivelyLinearWarning(ConvergenceWarning):
    """The scale of X or y makes the network a linear function; see ``TorchRegressor.diagnose``."""


class WorseThanConstantWarning(ConvergenceWarning):
    """A constant predicts the training rows better than the network."""


class DeadUnitsWarning(ConvergenceWarning):
    """All units of a hidden layer are inactive for every row, so that it cannot learn."""


class UnscaledWarning(UserWarning):
    """Inputs or targets of the network are more than a hundred times above or below order 1."""


class BoundedOutputWarning(UserWarning):
    """The last operation of the network bounds its output, so that it cannot reach all of y."""


class InterruptWarning(UserWarning):
    """A fit was interrupted (Ctrl-C); the estimator has the weights learned until then."""


class UnserializedWarning(UserWarning):
    """A file cannot store some parameters, which ``fit`` needs but ``predict`` does not."""


class InstallationWarning(UserWarning):
    """Another distribution has put files of its package ``torchreg`` among those of this one."""


class FileError(ValueError):
    """A file was not written by torchreg, is damaged, or was written by a later version."""


class CheckpointError(ValueError):
    """A checkpoint belongs to another fit, is in use, is damaged, or cannot be written."""


class UntrustedError(FileError):
    """A file names code of the user that was neither passed to ``load`` nor trusted."""


class ExportError(ValueError):
    """A module cannot be exported, or its export does not reproduce ``predict``."""
