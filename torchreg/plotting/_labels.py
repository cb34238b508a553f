"""Names and units for the axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from torchreg._utils import did_you_mean
from torchreg.nn import Ensemble


@dataclass(frozen=True)
class Labels:
    """Names and units of features and targets.

    Parameters
    ----------
    features, targets : tuple of str
        Names, one per column.
    units : mapping of str to str
        Known units, by name.

    Examples
    --------
    >>> labels = Labels(("flipper_length_mm",), ("mass",), {"mass": "g"})
    >>> labels.feature(0), labels.target(0)
    ('flipper_length_mm', 'mass (g)')
    >>> labels.of_target("RMSE", 0)
    'RMSE of mass (g)'
    """

    features: tuple[str, ...]
    targets: tuple[str, ...]
    units: Mapping[str, str] = field(default_factory=dict)

    def feature(self, column: int) -> str:
        """Write the label of a feature, with its unit."""
        return self._with_unit(self.features[column], self.features[column])

    def target(self, column: int) -> str:
        """Write the label of a target, with its unit."""
        return self._with_unit(self.targets[column], self.targets[column])

    def of_target(self, what: str, column: int) -> str:
        """Write the label of a quantity in the unit of a target."""
        return self._with_unit(f"{what} of {self.targets[column]}", self.targets[column])

    def unit(self, name: str) -> str:
        """Return the unit of a name; empty if it is unknown."""
        return self.units.get(name, "")

    def _with_unit(self, text: str, name: str) -> str:
        unit = self.unit(name)
        return f"{text} ({unit})" if unit else text


def labels_of(
    estimator: Any,
    X: Any = None,
    y: Any = None,
    units: Mapping[str, str] | None = None,
    *,
    n_features: int | None = None,
    n_outputs: int = 1,
) -> Labels:
    """Find the names of features and targets, and check the units against them.

    Features have the names in X or in the X of the fit, else ``x0``, ``x1`` ...; targets have
    the names in y or in the y of the fit, else those in ``units`` that are no feature, else ``y``
    or ``y0``, ``y1`` ...

    Raises
    ------
    ValueError
        If ``units`` has a name that is neither.
    """
    units = dict(units or {})
    columns = _names_of(X) or [str(name) for name in getattr(estimator, "feature_names_in_", [])]
    width = n_features
    if width is None:
        width = int(getattr(estimator, "n_features_in_", len(columns)))
    features = columns if len(columns) == width else [f"x{column}" for column in range(width)]
    targets = _names_of(y) or list(getattr(estimator, "fit_summary_", {}).get("target_names", []))
    no_features = [name for name in units if name not in features]
    if len(targets) != n_outputs:
        unnamed = ["y"] if n_outputs == 1 else [f"y{column}" for column in range(n_outputs)]
        targets = no_features if len(no_features) == n_outputs else unnamed
    known = [*features, *targets]
    for name in units:
        if name not in known:
            raise ValueError(
                f"units expects names of features and targets, got {name!r}."
                f"{did_you_mean(name, known)}"
            )
    return Labels(tuple(features), tuple(targets), units)


def _names_of(table: Any) -> list[str]:
    """Return the names of a DataFrame or a Series; other arrays have none."""
    columns = getattr(table, "columns", None)
    if columns is not None:
        return [str(column) for column in columns]
    name = getattr(table, "name", None)
    return [str(name)] if isinstance(name, str) and name else []


def as_columns(values: Any, *, name: str) -> NDArray[np.float64]:
    """Convert targets or predictions to an array of shape (n, n_outputs).

    Raises
    ------
    ValueError
        If they have more than two dimensions.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in (1, 2):
        raise ValueError(
            f"{name} expects shape (n_samples,) or (n_samples, n_outputs), got {array.shape}."
        )
    # (n,) -> (n, 1)
    return array.reshape(len(array), -1)


def regressor_in(estimator: Any, X: Any = None) -> tuple[Any, Any]:
    """Find the fitted regressor in a pipeline or a search, and transform X for it.

    Parameters
    ----------
    estimator : estimator
        A regressor with a network, or a pipeline, search or target transformer around it.
    X : array-like or None
        Input of ``estimator``.

    Returns
    -------
    regressor, X

    Raises
    ------
    TypeError
        If there is no such regressor.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    """
    inner = estimator
    while not hasattr(inner, "module_"):
        check_is_fitted(inner)
        if hasattr(inner, "best_estimator_"):
            inner = inner.best_estimator_
        elif hasattr(inner, "steps"):
            if X is not None and len(inner.steps) > 1:
                X = inner[:-1].transform(X)
            inner = inner.steps[-1][1]
        elif hasattr(inner, "regressor_"):
            inner = inner.regressor_
        else:
            raise TypeError(
                "Expected a fitted TorchRegressor, or a pipeline or search around one, got "
                f"{type(estimator).__name__}."
            )
    return inner, X


def evenly_spaced(n: int, at_most: int | None) -> Sequence[int] | slice:
    """Choose at most ``at_most`` rows, evenly spaced."""
    if at_most is None or n <= at_most:
        return slice(None)
    return [int(row) for row in np.linspace(0, n - 1, at_most).round()]


def n_networks_of(reg: Any) -> int:
    """Count the networks whose mean a fitted regressor or ensemble predicts."""
    network = reg.module_ if isinstance(reg.module_, Ensemble) else reg.module_.network
    return len(network.members) if isinstance(network, Ensemble) else 1
