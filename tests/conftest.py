"""What the tests share: the penguins, and hypothesis without chance."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, settings

# The same examples in every run. `--hypothesis-profile=hunt` looks for new ones instead.
settings.register_profile(
    "deterministic",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=150,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
settings.register_profile(
    "hunt",
    derandomize=False,
    deadline=None,
    database=None,
    max_examples=3000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("deterministic")


@pytest.fixture(scope="session")
def penguins() -> pd.DataFrame:
    """The 333 penguins of which everything is known, in millimetres and grams."""
    file = Path(__file__).parent.parent / "data" / "penguins.csv"
    return pd.read_csv(file).dropna().reset_index(drop=True)
