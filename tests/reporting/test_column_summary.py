"""The summary of the reported rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse

from torchreg.plotting._labels import Labels, labels_of
from torchreg.reporting.column_summary import MAX_LISTED, summarize_columns


def test_the_summary_agrees_with_pandas(penguins: pd.DataFrame) -> None:
    X = penguins[["flipper_length_mm", "bill_length_mm"]]
    y = penguins[["body_mass_g"]]
    units = {"flipper_length_mm": "mm", "body_mass_g": "g"}
    labels = labels_of(None, X, y, units, n_features=2)
    table = summarize_columns(X, y.to_numpy(dtype=float), labels)
    both = pd.concat([X, y], axis=1)
    expected = np.stack([both.min(), both.mean(), both.max(), both.std(ddof=0)], axis=1)
    np.testing.assert_allclose([row[2:6] for row in table.rows], expected, rtol=1e-12)
    assert [row[6] for row in table.rows] == ["mm", "", "g"]


def test_sparse_columns_are_summarized_like_dense_ones() -> None:
    X = np.array([[0.0, 1.0], [0.0, -2.0], [3.0, 0.0]])
    y = np.zeros((3, 1))
    labels = labels_of(None, n_features=2)
    assert summarize_columns(X, y, labels) == summarize_columns(
        scipy.sparse.csr_array(X), y, labels
    )


def test_of_many_columns_the_first_are_listed_and_the_target() -> None:
    n = MAX_LISTED + 7
    names = tuple(f"x{column}" for column in range(n))
    table = summarize_columns(np.zeros((2, n)), np.zeros((2, 1)), Labels(names, ("y",)))
    assert len(table.rows) == MAX_LISTED + 1
    assert f"the first {MAX_LISTED} of {n} features are listed" in table.caption
