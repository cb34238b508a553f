"""Who listens to a fit hears of each epoch once, however often the fit begins anew."""

from __future__ import annotations

from typing import Any

from torchreg.engine.spec import EpochRecord, Observer, TrainResult


class ReplayObserver:
    """An observer of a network that may leave its stack and train again, alone.

    It takes the same steps then, so that there is nothing new in what was told before.

    Parameters
    ----------
    observer : Observer
    """

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        #: Epochs of which it has heard the beginning; what it answered to the ends, and noted.
        self.n_begun = 0
        self.answers: list[tuple[bool, dict[str, Any]]] = []
        self.is_over = False
        self.reset()

    def reset(self) -> None:
        """Hear that the fit begins once more."""
        self.begun = self.ended = 0

    def on_epoch_begin(self) -> None:
        """Tell that an epoch starts."""
        self.begun += 1
        if self.begun > self.n_begun:
            self.n_begun = self.begun
            self.observer.on_epoch_begin()

    def on_epoch_end(self, record: EpochRecord) -> bool:
        """Tell what the epoch saw; give the answer of now or of then."""
        self.ended += 1
        if self.ended > len(self.answers):
            self.answers.append((self.observer.on_epoch_end(record), {**record.extra}))
        stops, noted = self.answers[self.ended - 1]
        record.extra.update(noted)
        return stops

    def on_fit_end(self, result: TrainResult) -> None:
        """Tell that the fit is over."""
        if not self.is_over:
            self.is_over = True
            self.observer.on_fit_end(result)
