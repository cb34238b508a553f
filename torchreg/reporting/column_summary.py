"""Range, mean and spread of each column of the reported rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array

from torchreg.plotting._labels import Labels
from torchreg.reporting.render import Table

#: Features listed at most; of more, their number is given.
MAX_LISTED = 500


def summarize_columns(X: Any, true: NDArray[np.float64], labels: Labels) -> Table:
    """Tabulate minimum, mean, maximum and standard deviation of each column, in its own unit.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n, n_features)
    true : ndarray of shape (n, n_outputs)
    labels : Labels
        Names and units.

    Returns
    -------
    Table
    """
    features = check_array(X, dtype=np.float64, accept_sparse="csc")
    n_listed = min(features.shape[1], MAX_LISTED)
    columns = [
        (labels.features[column], "feature", _dense(features[:, [column]]))
        for column in range(n_listed)
    ] + [(name, "target", true[:, column]) for column, name in enumerate(labels.targets)]
    titles = ["column", "role", "minimum", "mean", "maximum", "standard deviation"]
    titles += ["unit"] if labels.units else []
    rows = []
    for name, role, values in columns:
        statistics = [float(f(values)) for f in (np.min, np.mean, np.max, np.std)]
        rows.append([name, role, *statistics] + ([labels.unit(name)] if labels.units else []))
    caption = f"{len(true):,} rows"
    if n_listed < features.shape[1]:
        caption += f"; the first {n_listed} of {features.shape[1]:,} features are listed"
    return Table(caption, titles, rows)


def _dense(column: Any) -> NDArray[np.float64]:
    # (n, 1), sparse or dense -> (n,)
    values: NDArray[np.float64] = column.toarray() if hasattr(column, "toarray") else column
    return values.ravel()
