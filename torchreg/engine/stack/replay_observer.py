"""An observer that forwards each epoch once, even if training restarts."""

from __future__ import annotations

from typing import Any

from torchreg.engine.spec import EpochRecord, Observer, TrainResult


class ReplayObserver:
    """Wraps the observer of a network that may leave its stack and restart alone.

    The restarted network takes the same steps, so epochs that the observer has seen are not
    forwarded again: its answers and what it added to the records are replayed.

    Parameters
    ----------
    observer : Observer
    """

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        #: Epochs whose begin was forwarded; for each end, the answer and the added entries.
        self.n_begun = 0
        self.answers: list[tuple[bool, dict[str, Any]]] = []
        self.is_over = False
        self.reset()

    def reset(self) -> None:
        """Count epochs from the start again."""
        self.begun = self.ended = 0

    def on_epoch_begin(self) -> None:
        """Forward the start of an epoch, unless it was forwarded before."""
        self.begun += 1
        if self.begun > self.n_begun:
            self.n_begun = self.begun
            self.observer.on_epoch_begin()

    def on_epoch_end(self, record: EpochRecord) -> bool:
        """Forward the end of an epoch; return the observer's answer, or its earlier answer."""
        self.ended += 1
        if self.ended > len(self.answers):
            self.answers.append((self.observer.on_epoch_end(record), {**record.extra}))
        stops, extra = self.answers[self.ended - 1]
        record.extra.update(extra)
        return stops

    def on_fit_end(self, result: TrainResult) -> None:
        """Forward the end of the fit, once."""
        if not self.is_over:
            self.is_over = True
            self.observer.on_fit_end(result)
