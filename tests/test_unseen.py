"""The benchmark on tables drawn at random makes problems of regression of them, or none."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
MODULES = ("unseen", "accuracy", "_accuracy_report", "_datasets", "_harness", "_scores", "_untuned")
N_ROWS = 200


@pytest.fixture(scope="module")
def unseen() -> Iterator[ModuleType]:
    """Import the script from the folder of the benchmarks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("unseen")
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture
def table() -> pd.DataFrame:
    """200 rows, of which ``y`` follows ``x`` with noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=N_ROWS)
    return pd.DataFrame(
        {
            "rownames": np.arange(N_ROWS),
            "year": np.arange(N_ROWS) + 1800,
            "x": x,
            "y": x + rng.normal(size=N_ROWS),
            "kind": np.array(["a", "b"])[np.arange(N_ROWS) % 2],
            "who": [f"nobody {i}" for i in range(N_ROWS)],
            "always": 7.0,
            "seldom": np.where(np.arange(N_ROWS) < 100, x, np.nan),
        }
    )


def test_the_target_is_the_last_measured_column_and_names_of_rows_are_no_inputs(
    unseen: ModuleType, table: pd.DataFrame
) -> None:
    task = unseen.as_problem("a table", table)
    assert task.target == "y"
    assert list(task.X) == ["x", "kind"]
    np.testing.assert_array_equal(task.y, table["y"])


def test_rows_without_a_target_are_left_out(unseen: ModuleType, table: pd.DataFrame) -> None:
    table.loc[::10, "y"] = np.nan
    task = unseen.as_problem("a table", table)
    assert len(task.y) == len(task.X) == N_ROWS - N_ROWS // 10
    assert np.isfinite(task.y).all()


@pytest.mark.parametrize("left", [["x", "kind", "who"], ["rownames", "kind", "who", "always"]])
def test_a_table_without_a_target_or_with_one_input_is_no_problem(
    unseen: ModuleType, table: pd.DataFrame, left: list[str]
) -> None:
    assert unseen.as_problem("a table", table[left]) is None


def test_learnable_is_what_a_simple_regressor_explains_in_part(
    unseen: ModuleType, table: pd.DataFrame
) -> None:
    task = unseen.as_problem("a table", table)
    assert unseen.is_learnable(task)
    noise = np.random.default_rng(1).normal(size=N_ROWS)
    for y in (noise, 2 * table["x"].to_numpy()):
        assert not unseen.is_learnable(unseen.Dataset("a table", task.X, y, "y"))
