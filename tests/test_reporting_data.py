"""The summary of the data."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import scipy.sparse

from torchreg.plotting._labels import Labels, labels_of
from torchreg.reporting.data import LISTED, data_table


def numbers(html: str) -> list[list[float]]:
    """Read the numbers of a table, row by row."""
    rows = html.partition("<tbody>")[2].split("<tr>")[1:]
    return [[float(n) for n in re.findall(r'class="number"[^>]*>([^<]*)<', row)] for row in rows]


def test_it_agrees_with_pandas(penguins: pd.DataFrame) -> None:
    X = penguins[["flipper_length_mm", "bill_length_mm"]]
    y = penguins[["body_mass_g"]]
    units = {"flipper_length_mm": "mm", "body_mass_g": "g"}
    labels = labels_of(None, X, y, units, n_features=2)
    html = data_table(X, y.to_numpy(dtype=float), labels)
    both = pd.concat([X, y], axis=1)
    expected = np.stack([both.min(), both.mean(), both.max(), both.std(ddof=0)], axis=1)
    np.testing.assert_allclose(numbers(html), expected, rtol=1e-5)
    assert ">mm</td>" in html and ">g</td>" in html


def test_sparse_columns_are_summed_up_like_dense_ones() -> None:
    X = np.array([[0.0, 1.0], [0.0, -2.0], [3.0, 0.0]])
    y = np.zeros((3, 1))
    labels = labels_of(None, n_features=2)
    assert data_table(X, y, labels) == data_table(scipy.sparse.csr_array(X), y, labels)


def test_of_very_many_columns_the_first_are_listed_and_the_target_is_too() -> None:
    n = LISTED + 7
    names = tuple(f"x{column}" for column in range(n))
    html = data_table(np.zeros((2, n)), np.zeros((2, 1)), Labels(names, ("y",)))
    assert len(numbers(html)) == LISTED + 1
    assert f"the first {LISTED} of {n} features are listed" in html
