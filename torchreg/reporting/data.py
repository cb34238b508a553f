"""A summary of the rows that a report is about."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array

from torchreg.plotting._labels import Labels
from torchreg.reporting.markup import table

#: More columns than this are counted, not listed.
LISTED = 500


def data_table(X: Any, true: NDArray[np.float64], labels: Labels) -> str:
    """Show the range, the mean and the spread of each column, in its own unit.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n, n_features)
    true : ndarray of shape (n, n_outputs)
    labels : Labels

    Returns
    -------
    str
        A table.
    """
    features = check_array(X, dtype=np.float64, accept_sparse="csc")
    width = min(features.shape[1], LISTED)
    columns = [
        (labels.features[column], "feature", _dense(features[:, [column]]))
        for column in range(width)
    ] + [(name, "target", true[:, column]) for column, name in enumerate(labels.targets)]
    head = ["column", "role", "minimum", "mean", "maximum", "standard deviation"]
    head += ["unit"] if labels.units else []
    rows = []
    for name, role, values in columns:
        spread = [float(f(values)) for f in (np.min, np.mean, np.max, np.std)]
        rows.append([name, role, *spread] + ([labels.unit(name)] if labels.units else []))
    caption = f"{len(true):,} rows"
    if width < features.shape[1]:
        caption += f"; the first {width} of {features.shape[1]:,} features are listed"
    return table(caption, head, rows)


def _dense(column: Any) -> NDArray[np.float64]:
    # (n, 1), sparse or dense -> (n,)
    values: NDArray[np.float64] = column.toarray() if hasattr(column, "toarray") else column
    return values.ravel()
