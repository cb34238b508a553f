"""The shipped data file is what the note beside it says."""

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


def test_344_penguins_were_caught_and_333_of_them_are_complete(
    table: pd.DataFrame, penguins: pd.DataFrame
) -> None:
    assert len(table) == 344
    assert len(table.dropna()) == len(penguins) == 333
    assert len(table.dropna(subset=MEASURED)) == 342


def test_the_columns_are_those_of_the_note_in_its_order(table: pd.DataFrame, note: str) -> None:
    assert list(table.columns) == COLUMNS
    assert re.findall(r"^\| `(\w+)` \|", note, flags=re.MULTILINE) == COLUMNS


def test_as_many_values_are_missing_as_the_note_says(table: pd.DataFrame, note: str) -> None:
    said = dict(re.findall(r"^\| `(\w+)` \|.*\| (\d+) \|$", note, flags=re.MULTILINE))
    assert {name: int(count) for name, count in said.items()} == table.isna().sum().to_dict()


def test_the_counts_in_the_note_are_the_counts_in_the_file(table: pd.DataFrame, note: str) -> None:
    for column in ("species", "sex"):
        for name, count in table[column].value_counts().items():
            assert f"{name} ({count})" in note


def test_the_checksum_in_the_note_is_that_of_the_file(note: str) -> None:
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
def test_every_value_is_possible_in_the_unit_that_its_column_names(
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
