"""The penguins data set matches its README."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pandas as pd
import pytest

DATA = Path(__file__).parent.parent / "data"
COLUMNS = [
    "species",
    "island",
    "bill_length_mm",
    "bill_depth_mm",
    "flipper_length_mm",
    "body_mass_g",
    "sex",
    "year",
]
MEASURED = COLUMNS[2:6]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.read_csv(DATA / "penguins.csv")


@pytest.fixture(scope="module")
def note() -> str:
    return (DATA / "README.md").read_text(encoding="utf-8")


def test_333_of_344_rows_are_complete(table: pd.DataFrame, penguins: pd.DataFrame) -> None:
    assert len(table) == 344
    assert len(table.dropna()) == len(penguins) == 333
    assert len(table.dropna(subset=MEASURED)) == 342


def test_columns_match_the_readme(table: pd.DataFrame, note: str) -> None:
    assert list(table.columns) == COLUMNS
    assert re.findall(r"^\| `(\w+)` \|", note, flags=re.MULTILINE) == COLUMNS


def test_missing_values_match_the_readme(table: pd.DataFrame, note: str) -> None:
    said = dict(re.findall(r"^\| `(\w+)` \|.*\| (\d+) \|$", note, flags=re.MULTILINE))
    assert {name: int(count) for name, count in said.items()} == table.isna().sum().to_dict()


def test_counts_match_the_readme(table: pd.DataFrame, note: str) -> None:
    for column in ("species", "sex"):
        for name, count in table[column].value_counts().items():
            assert f"{name} ({count})" in note


def test_the_checksum_matches_the_readme(note: str) -> None:
    (said,) = re.findall(r"\b[0-9a-f]{64}\b", note)
    assert hashlib.sha256((DATA / "penguins.csv").read_bytes()).hexdigest() == said


@pytest.mark.parametrize(
    ("column", "low", "high"),
    [
        # What a ruler and a scale give for these three species, with room to spare.
        ("bill_length_mm", 30, 65),
        ("bill_depth_mm", 12, 23),
        ("flipper_length_mm", 160, 240),
        ("body_mass_g", 2500, 6500),
        ("year", 2007, 2009),
    ],
)
def test_values_are_plausible_in_the_unit_of_their_column(
    column: str, low: float, high: float, table: pd.DataFrame
) -> None:
    values = table[column].dropna()
    assert values.between(low, high).all()
    # Wrong by a factor of ten, the spread would not fit either.
    assert values.max() - values.min() > (high - low) / 3


def test_the_longest_flippers_belong_to_the_heaviest_species(penguins: pd.DataFrame) -> None:
    means = penguins.groupby("species")[["flipper_length_mm", "body_mass_g"]].mean()
    assert means.idxmax().tolist() == ["Gentoo", "Gentoo"]
    assert penguins["flipper_length_mm"].corr(penguins["body_mass_g"]) > 0.8
