"""The penguins data set is the one that its README describes."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

DATA = Path(__file__).parent.parent / "data"


def test_the_checksum_matches_the_readme() -> None:
    (stated,) = re.findall(r"\b[0-9a-f]{64}\b", (DATA / "README.md").read_text(encoding="utf-8"))
    assert hashlib.sha256((DATA / "penguins.csv").read_bytes()).hexdigest() == stated
