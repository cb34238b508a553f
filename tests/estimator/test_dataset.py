"""Exact numbers of any library are numbers; times and missing values are refused by name."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.utils.validation import _get_feature_names

from tests._refusals import quick, refuse
from torchreg import TorchEnsembleRegressor

N = 20
FLOATS = [round(200 + 10 * np.sin(i), 2) for i in range(N)]
OTHER = [float(i % 7) for i in range(N)]
X = np.column_stack([FLOATS, OTHER])
Y = np.array([4000 + 20 * value for value in FLOATS])

EXACT: dict[str, list[Any]] = {
    "decimals": [Decimal(str(value)) for value in FLOATS],
    "fractions": [Fraction(str(value)) for value in FLOATS],
}
START = datetime.datetime(2024, 1, 1)
TIMES: dict[str, list[Any]] = {
    "instants": [START + datetime.timedelta(hours=i) for i in range(N)],
    "instants of a zone": [START.replace(tzinfo=datetime.UTC)] * N,
    "dates": [START.date() + datetime.timedelta(days=i) for i in range(N)],
    "times": [datetime.time(i) for i in range(N)],
    "durations": [datetime.timedelta(minutes=i) for i in range(N)],
}


def arrow_series(values: Sequence[Any]) -> pd.Series:
    return pd.Series(pd.arrays.ArrowExtensionArray(pa.array(values)), name="when")


#: How each library holds one column.
SERIES: dict[str, Callable[[Sequence[Any]], Any]] = {
    "list": list,
    "objects": lambda values: np.array(values, dtype=object),
    "pandas": lambda values: pd.Series(values, name="when"),
    "pandas objects": lambda values: pd.Series(values, name="when", dtype=object),
    "pandas with pyarrow": arrow_series,
    "polars": lambda values: pl.Series("when", values),
    "polars objects": lambda values: pl.Series("when", values, dtype=pl.Object),
    "pyarrow": pa.array,
}
#: Tables of each library: the given column and a column of floats.
TABLES: dict[str, Callable[[Sequence[Any]], Any]] = {
    "lists": lambda values: [list(row) for row in zip(values, OTHER, strict=True)],
    "objects": lambda values: np.array([*zip(values, OTHER, strict=True)], dtype=object),
    "pandas": lambda values: pd.DataFrame({"when": values, "x": OTHER}),
    "pandas objects": lambda values: pd.DataFrame({"when": values, "x": OTHER}, dtype=object),
    "pandas with pyarrow": lambda values: pd.DataFrame({"when": arrow_series(values), "x": OTHER}),
    "polars": lambda values: pl.DataFrame({"when": values, "x": OTHER}),
    "pyarrow": lambda values: pa.table({"when": values, "x": OTHER}),
}
#: The libraries that hold any Python object.
OBJECTS = ("list", "lists", "objects", "pandas", "pandas objects", "polars objects")


def held(libraries: dict[str, Any]) -> list[tuple[str, str]]:
    """Pair libraries with the exact numbers that they hold."""
    pairs = itertools.product(libraries, EXACT)
    return [(lib, kind) for lib, kind in pairs if kind == "decimals" or lib in OBJECTS]


@pytest.mark.parametrize(("library", "kind"), held(SERIES))
def test_exact_numbers_are_numbers_in_y_and_in_weights(kind: str, library: str) -> None:
    numbers = SERIES[library](EXACT[kind])
    reg = quick().fit(X, FLOATS, sample_weight=FLOATS)
    prediction, score = reg.predict(X), reg.score(X, FLOATS, sample_weight=FLOATS)
    reg.fit(X, numbers, sample_weight=numbers, X_val=X, y_val=numbers, sample_weight_val=numbers)
    np.testing.assert_array_equal(reg.predict(X), prediction)
    assert reg.score(X, numbers, sample_weight=numbers) == score
    assert [f.code for f in reg.diagnose(X, numbers).findings] == [
        f.code for f in reg.diagnose(X, FLOATS).findings
    ]


@pytest.mark.parametrize(("library", "kind"), held(TABLES))
def test_exact_numbers_are_numbers_in_x(kind: str, library: str) -> None:
    table = TABLES[library](EXACT[kind])
    expected = quick().fit(X, Y).predict(X)
    reg = quick().fit(table, Y)
    np.testing.assert_array_equal(reg.predict(table), expected)
    # scikit-learn 1.7 knows no names of decimals in polars.
    if _get_feature_names(table) is not None:
        assert list(reg.feature_names_in_) == ["when", "x"]
        with pytest.raises(ValueError, match="feature names should match"):
            reg.predict(pd.DataFrame(X, columns=["x", "when"]).astype(object))


def test_integers_of_any_size_and_a_decimal_as_weight_are_numbers() -> None:
    large = [10**20 * (1 + i % 5) for i in range(N)]
    expected = quick().fit(X, np.array(large, dtype=float)).predict(X)
    for numbers in (large, pl.Series(large), pl.DataFrame({"y": large})):
        found = quick().fit(X, numbers, sample_weight=Decimal("0.5")).predict(X)
        np.testing.assert_array_equal(found.ravel(), expected)


def test_a_decimal_that_is_not_finite_is_refused() -> None:
    for text, message in (("NaN", "y contains NaN"), ("1E+400", "y contains infinity")):
        refuse(quick(), message, X, [*EXACT["decimals"][1:], Decimal(text)])


@pytest.mark.parametrize("kind", TIMES)
@pytest.mark.parametrize("library", TABLES)
def test_times_in_a_table_are_refused_with_the_name_of_the_column(kind: str, library: str) -> None:
    table = TABLES[library](TIMES[kind])
    column = "'when'" if hasattr(table, "columns") else "0"
    message = rf"expects numbers, got '.*' in row 0 of column {column}\. Convert dates and times"
    refuse(quick(), f"^X {message}", table, Y)
    refuse(quick(), f"^y {message}", X, table)
    refuse(quick(), f"^X_val: X {message}", X, Y, X_val=table, y_val=Y)
    for reg in (quick().fit(X, Y), TorchEnsembleRegressor(quick(), 1).fit(X, Y)):
        with pytest.raises(ValueError, match=f"^X {message}"):
            reg.predict(table)


@pytest.mark.parametrize("kind", TIMES)
@pytest.mark.parametrize("library", SERIES)
def test_times_are_refused_in_y_and_in_weights(kind: str, library: str) -> None:
    times = SERIES[library](TIMES[kind])
    column = " of column 'when'" if hasattr(times, "name") else ""
    message = rf"expects numbers, got '.*' in row 0{column}\. Convert dates and times"
    refuse(quick(), f"^y {message}", X, times)
    refuse(quick(), f"^sample_weight {message}", X, Y, sample_weight=times)


@pytest.mark.parametrize("missing", [pd.NA, None])
def test_missing_values_in_objects_are_refused_with_row_and_column(missing: Any) -> None:
    values = [*FLOATS[:3], missing, *FLOATS[4:]]
    where = r"has a missing value \((<NA>|None)\) in row 3 of column 'when'\. Remove"
    table = TABLES["pandas objects"](values)
    refuse(quick(), f"^X {where}", table, Y)
    refuse(quick(), f"^y {where}", X, table)
    refuse(quick(), f"^y {where}", X, SERIES["pandas objects"](values))
    refuse(quick(), r"^X has a missing value .* in row 3 of column 0\.", TABLES["lists"](values), Y)
    refuse(quick(), r"^y has a missing value .* in row 3\.", X, values)
    # Next to a column of objects, a missing value in one of numbers is refused, too.
    numbers = pd.DataFrame({"exact": EXACT["decimals"], "x": pd.array([1, pd.NA] * 10)})
    refuse(quick(), r"X (contains NaN|has a missing value)", numbers, Y)
