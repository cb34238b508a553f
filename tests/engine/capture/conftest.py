"""Fixtures of the tests of captured steps."""

from __future__ import annotations

import pytest

from tests._modules_with_state import Mode


@pytest.fixture
def mode(capsys: pytest.CaptureFixture[str]) -> Mode:
    """Return the line in which the last fit says how its steps ran."""
    return lambda: capsys.readouterr().out.splitlines()[-1]
