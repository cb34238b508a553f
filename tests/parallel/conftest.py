"""Timeouts of the batcher, the sizes of its batches, and a check for threads that are left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from torchreg._parallel import FitBatcher


@pytest.fixture
def set_timeouts(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """Set the timeouts after which an incomplete batch is trained (s)."""

    def set_both(idle: float, busy: float) -> None:
        monkeypatch.setattr(FitBatcher, "IDLE_TIMEOUT_S", idle)
        monkeypatch.setattr(FitBatcher, "BUSY_TIMEOUT_S", busy)

    return set_both


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of fits in each batch."""
    sizes: list[int] = []
    train = FitBatcher.train

    def recorded(jobs: Any, cancel_event: Any = None) -> Any:
        if cancel_event is not None:
            sizes.append(len(jobs))
        return train(jobs, cancel_event)

    monkeypatch.setattr(FitBatcher, "train", staticmethod(recorded))
    return sizes


def worker_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("torchreg")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not worker_threads()
