"""Shape of a loss curve in a few numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Self

#: Changes of the loss are relative to the loss, or to this share of the loss of predicting the mean
#: if that is larger: 0.1 corresponds to an R2 of 0.9.
NEGLIGIBLE = 0.1


@dataclass(frozen=True)
class LossCurve:
    """The shape of a training loss, dimensionless.

    Parameters
    ----------
    n_epochs : int
        Number of epochs.
    reference : float
        The loss of predicting the mean.
    first, best, last : float
        The first loss, the smallest, and the median of the last tenth.
    best_tenth : float
        Median of the best tenth, which is robust against noise.
    best_epoch : int
        Counted from 1, within this fit.
    largest : float
        The largest loss.
    fall : float
        From the tenth before the last to the last tenth, as a share of the reference.
    relative_fall : float
        The same as a share of the loss.
    late_fall : float
        From the middle fifth to the last tenth, as a share of the reference.
    swing : float
        Median change from epoch to epoch in the second half, as a share of the loss.
    shake : float
        The same as a share of the reference.
    turns : float
        Share of the epochs of the second half at which the loss changes direction; noise has 2/3.
    falling : float
        Share of the epochs in which the loss fell.
    """

    n_epochs: int
    reference: float
    first: float
    best: float
    last: float
    best_tenth: float
    best_epoch: int
    largest: float
    fall: float
    relative_fall: float
    late_fall: float
    swing: float
    shake: float
    turns: float
    falling: float

    @classmethod
    def of(cls, losses: list[float], reference: float | None) -> Self:
        """Compute the shape of a curve; losses that are not finite are left out."""
        curve = [loss for loss in losses if math.isfinite(loss)] or [math.nan]
        n = len(curve)
        unit = reference if reference else abs(curve[0]) or 1.0
        tenth = max(1, n // 10)
        last = median(curve[-tenth:])
        before = median(curve[-2 * tenth : -tenth] or curve[:1])
        middle = median(curve[(4 * n) // 10 : max((6 * n) // 10, (4 * n) // 10 + 1)])
        half = curve[n // 2 :]
        steps = [b - a for a, b in pairwise(half)]
        typical = max(abs(median(half)), NEGLIGIBLE * unit)
        turns = sum(a * b < 0 for a, b in pairwise(steps))
        best = min(curve)
        return cls(
            n_epochs=n,
            reference=unit,
            first=curve[0],
            best=best,
            last=last,
            best_tenth=min(median(curve[i : i + tenth]) for i in range(0, n, tenth)),
            best_epoch=curve.index(best) + 1 if best in curve else n,
            largest=max(curve),
            fall=(before - last) / unit,
            relative_fall=(before - last) / abs(before) if before else 0.0,
            late_fall=(middle - last) / unit,
            swing=median(map(abs, steps)) / typical if steps else 0.0,
            shake=median(map(abs, steps)) / unit if steps else 0.0,
            turns=turns / max(1, len(steps) - 1),
            falling=sum(b < a for a, b in pairwise(curve)) / max(1, n - 1),
        )
