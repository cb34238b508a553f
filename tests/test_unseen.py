"""The benchmark on random tables finds regression problems in them."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from tests._benchmarks import benchmark_imports

N_ROWS = 200


@pytest.fixture(scope="module")
def unseen() -> Iterator[ModuleType]:
    with benchmark_imports() as load:
        yield load("unseen")


@pytest.fixture
def table() -> pd.DataFrame:
    """Return 200 rows in which ``y`` is ``x`` with noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=N_ROWS)
    return pd.DataFrame(
        {
            "rownames": np.arange(N_ROWS),
            "year": np.arange(N_ROWS) + 1800,
            "x": x,
            "y": x + rng.normal(size=N_ROWS),
            "kind": np.array(["a", "b"])[np.arange(N_ROWS) % 2],
            "id": [f"row {i}" for i in range(N_ROWS)],
            "constant": 7.0,
            "sparse": np.where(np.arange(N_ROWS) < 100, x, np.nan),
        }
    )


def test_the_target_is_the_last_numeric_column_and_identifiers_are_not_inputs(
    unseen: ModuleType, table: pd.DataFrame
) -> None:
    dataset = unseen.make_dataset("a table", table)
    assert dataset.target == "y"
    assert list(dataset.X) == ["x", "kind"]
    np.testing.assert_array_equal(dataset.y, table["y"])


def test_a_table_is_used_if_simple_regressors_explain_it_in_part(
    unseen: ModuleType, table: pd.DataFrame
) -> None:
    dataset = unseen.make_dataset("a table", table)
    assert unseen.is_learnable(dataset)
    noise = np.random.default_rng(1).normal(size=N_ROWS)
    for y in (noise, 2 * table["x"].to_numpy()):
        assert not unseen.is_learnable(unseen.Dataset("a table", dataset.X, y, "y"))
