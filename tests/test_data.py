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


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.read_csv(DATA / "penguins.csv")


@pytest.fixture(scope="module")
def note() -> str:
    return (DATA / "README.md").read_text(encoding="utf-8")


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
