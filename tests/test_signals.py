"""A signal happens once, whoever sets it, and everybody who waits for it hears of it."""

from __future__ import annotations

import threading

from torchreg.engine.signals import Signal


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
