"""A signal happens once, whoever sets it, and everybody who waits for it hears of it."""

from __future__ import annotations

import threading

import pytest

from torchreg._parallel.events import HEAD_START_S, HeadStart, Signal


def test_everybody_who_waits_hears_of_it_however_often_it_is_set() -> None:
    signal = Signal()
    heard: list[bool] = []
    waiting = [
        threading.Thread(target=lambda: heard.append(signal.wait()), daemon=True) for _ in range(8)
    ]
    for thread in waiting:
        thread.start()
    for _ in range(3):
        signal.set()
    for thread in waiting:
        thread.join(30)
    assert heard == [True] * 8
    assert signal.wait() and signal.wait(0.0)


def test_it_has_not_happened_before_it_is_set() -> None:
    signal = Signal()
    assert not signal.is_set() and not signal.wait(0.0) and not signal.wait(0.01)
    signal.set()
    assert signal.is_set()


@pytest.mark.parametrize(
    ("in_time", "n_waits"), [([], 16), ([True] * 40, 40), ([True, False] * 20, 40), ([True], 17)]
)
def test_what_is_never_done_in_time_is_soon_waited_for_no_more(
    monkeypatch: pytest.MonkeyPatch, in_time: list[bool], n_waits: int
) -> None:
    waits: list[float] = []

    def wait(signal: Signal, timeout: float) -> bool:
        waits.append(timeout)
        return len(waits) <= len(in_time) and in_time[len(waits) - 1]

    monkeypatch.setattr(Signal, "wait", wait)
    start = HeadStart()
    for _ in range(40):
        start.begin()
        start.wait()
    assert waits == [HEAD_START_S] * n_waits


def test_what_is_done_is_not_waited_for() -> None:
    start = HeadStart()
    for _ in range(100):
        start.begin()
        ended = threading.Thread(target=start.end)
        ended.start()
        start.wait()
        ended.join()
        assert start._done.is_set()
