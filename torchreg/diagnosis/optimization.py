"""Findings about the optimization, from the shape of the loss curve and what it reached."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torchreg.diagnosis.evidence import Evidence
from torchreg.diagnosis.linearity import line_is_real
from torchreg.diagnosis.record import FitSummary
from torchreg.diagnosis.report import Finding

#: Behind: the network explains this much less of y's variance than a least-squares line or curve
#: with fewer parameters does on the same rows.
BEHIND = 0.1
#: Fewer epochs than this have no shape.
FEW_EPOCHS = 10
#: Still falling: the last tenth of the epochs brought this share of y's variance, ...
FALL = 0.01
#: ... and this share of the loss: the next tenth would be seen in the predictions.
RELATIVE_FALL = 0.03
#: It counts if most of it, at least, is left since the middle of the fit.
MOST_OF_IT = 0.9
#: Of a curve that turns at more than SMOOTH of its epochs, a fall counts beyond so many times the
#: typical change from one epoch to the next.
SMOOTH = 0.2
NOISE = 3.0
#: Or less, on a plateau: behind, and falling in nearly every epoch by no less than this share.
PLATEAU_FALL = 0.001
#: Flat: less than this share of y's variance since the middle of the fit.
FLAT = 0.005
#: The loss swings if it typically changes by this share of itself from one epoch to the next:
#: more than batches of a few dozen rows make of it, with dropout or batch normalization; ...
SWING = 0.25
#: ... or by this share of y's variance ...
SHAKE = 0.05
#: ... and turns at this share of the epochs (a smooth curve turns at none, chance at 2/3);
TURNS = 0.2
#: or if it turns at nearly every epoch, which is no chance, by more than rounding.
BOUNCE = 0.005
BOUNCES = 0.9
#: Steps that jump about, by this share of the loss, turning at this share of the epochs.
JUMP = 0.05
JUMPS = 0.4
#: Swings of this size are the steps' own doing.
LARGE_SWING = 0.4
#: The last tenth is so many times the best one, and worse by this share of y's variance.
LOST = 2.0
LOST_SHARE = 0.05
#: The loss overshot if it was once so many times what it is at the start.
OVERSHOT = 10.0
OVERSHOT_BEHIND = 0.03
#: Parameters that moved by so many times their size went astray.
ASTRAY = 5.0
#: At the present pace, what a line or curve explains is this many fits away.
FITS_AWAY = 3.0
#: Parameters that moved by less than this share of their size have not left their start ...
NOT_MOVED = 0.05
#: ... and by less than this, have not gone far: what they seek need not be far either.
LITTLE_MOVED = 0.5
#: A steady decline: the loss fell in this share of the epochs.
STEADY = 0.85


def curve(evidence: Evidence) -> Iterator[Finding]:
    """Find what the loss curve shows; a fit with a constant y has nothing to show."""
    if not any(evidence.summary.y.scale):
        return
    swinging = list(_swinging(evidence))
    yield from swinging
    if not swinging:
        yield from _slow(evidence)


def _lr(evidence: Evidence) -> str:
    summary = evidence.summary
    lr = "torch's default lr" if summary.lr is None else f"lr={summary.lr:g}"
    moves = "" if summary.schedule == "constant" else f" with schedule {summary.schedule!r}"
    return f"{lr} of {summary.optimizer}{moves}"


def gap(evidence: Evidence) -> float:
    """Tell how much of y's variance the network misses that a line or curve explains."""
    look = evidence.summary.look
    structure = None if look is None else look.structure
    # Another loss may not even give predictions in y's units.
    if structure is None or not evidence.compares_with_y:
        return 0.0
    if not line_is_real(structure) and structure.curve_r2 < 2 * BEHIND:
        return 0.0
    free = structure.n - structure.curve_terms
    adjusted = 1 - (1 - structure.curve_r2) * structure.n / max(free, 1)
    return max(structure.line_r2, adjusted) - structure.network_r2


def _moved(summary: FitSummary) -> float:
    """How far all parameters moved, relative to their size at the start."""
    start = sum(j.n * j.start**2 for j in summary.journeys)
    gone = sum(j.n * j.travelled**2 for j in summary.journeys)
    return math.sqrt(gone / start) if start > 0 else math.inf


def _swinging(evidence: Evidence) -> Iterator[Finding]:
    c, summary = evidence.curve, evidence.summary
    diverged = summary.reason == "diverged"
    swings = c.n_epochs >= FEW_EPOCHS and (
        ((c.swing > SWING or c.shake > SHAKE) and c.turns > TURNS)
        or (c.swing > BOUNCE and c.turns > BOUNCES)
    )
    lost = c.n_epochs >= FEW_EPOCHS and (
        c.last > LOST * c.best_tenth and (c.last - c.best_tenth) / c.reference > LOST_SHARE
    )
    behind = c.n_epochs >= FEW_EPOCHS and gap(evidence) > BEHIND
    # The first loss is that of the start, but for batches: there the parameters' journey tells
    # steps that went astray in the first epoch from a start that was bad.
    whole = summary.batch_size >= summary.n_rows or _moved(summary) < ASTRAY
    start = max(c.first, c.reference) if whole else c.reference
    overshot = gap(evidence) > OVERSHOT_BEHIND and c.largest > OVERSHOT * start
    # Steps that jump about at a place that is not good cannot go down to one that is.
    jumps = behind and c.swing > JUMP and c.turns > JUMPS
    numbers = {
        "lr": summary.lr,
        "swing": c.swing,
        "turns": c.turns,
        "last_over_best": c.last / c.best_tenth if c.best_tenth else None,
        "best_epoch": summary.first_epoch + c.best_epoch,
    }
    if diverged:
        yield Finding(
            "diverged",
            "severe",
            f"The loss ceased to be finite after {c.n_epochs} epochs; the weights of epoch "
            f"{evidence.kept_epoch} were kept.",
            numbers,
            "A lower lr, standardize=True, or clipped gradients.",
        )
    if swings:
        yield Finding(
            "oscillating",
            "warning",
            f"The loss goes up and down: it typically changes by {c.swing:.0%} of itself from one "
            f"epoch to the next, and turns at {c.turns:.0%} of them.",
            numbers,
            "A lower lr, larger batches, or a learning rate that falls (schedule='cosine')."
            if summary.schedule == "constant"
            else "A lower lr, or larger batches.",
        )
    if diverged or lost or overshot or jumps or (swings and c.swing > LARGE_SWING):
        if diverged:
            how = "the loss ceased to be finite"
        elif lost:
            how = f"the loss ended at {c.last:.3g}, having been {c.best_tenth:.3g}"
        elif overshot:
            how = f"the loss rose to {c.largest:.3g} before it fell"
        else:
            how = f"the loss jumps by {c.swing:.0%} of itself from one epoch to the next"
        yield Finding(
            "learning-rate-too-high",
            "warning",
            f"The learning rate is too high ({_lr(evidence)}): {how}.",
            numbers,
            "A third or a tenth of it.",
        )


def _slow(evidence: Evidence) -> Iterator[Finding]:
    c, summary = evidence.curve, evidence.summary
    if summary.reason not in ("budget", "converged", "early_stopping") or c.n_epochs < FEW_EPOCHS:
        return
    missing = gap(evidence)
    moved = _moved(summary)
    numbers = {
        "lr": summary.lr,
        "fall_in_last_tenth": c.fall,
        "share_of_loss": c.relative_fall,
        "behind": missing,
        "moved": moved,
    }
    # How many fits like this one, at the pace of its last tenth, would gain what is missing.
    away = missing / (10 * c.fall) if c.fall > 0 else float("inf")
    steady = c.falling > STEADY
    # What still falls where there are more parameters than rows, and more is explained than
    # curves can, is the noise of these rows: more epochs would be bad advice.
    n_numbers = summary.n_rows * len(summary.y.mean)
    memorizes = summary.n_parameters > n_numbers and missing < -BEHIND
    small_steps = moved < NOT_MOVED or (moved < LITTLE_MOVED and away > FITS_AWAY)
    plateau = missing > BEHIND and steady and c.fall > PLATEAU_FALL
    # A fall that only makes up for a rise, or is as large as the ups and downs, is noise.
    trend = c.late_fall > MOST_OF_IT * c.fall and (c.turns < SMOOTH or c.fall > NOISE * c.shake)
    falls = trend and c.fall > FALL and c.relative_fall > RELATIVE_FALL
    if missing > BEHIND and steady and small_steps:
        yield Finding(
            "learning-rate-too-low",
            "warning",
            f"The learning rate is too low ({_lr(evidence)}): the loss falls so slowly that after "
            f"{c.n_epochs} epochs the network explains {missing:.0%} less of y's variance than a "
            "few straight pieces do.",
            numbers,
            "Ten times it.",
        )
    elif missing > BEHIND and abs(c.late_fall) < FLAT:
        yield Finding(
            "stalled",
            "severe",
            f"The loss stands still: since the middle of the fit it fell by {c.late_fall:.2%} of "
            f"y's variance, while the network explains {missing:.0%} less of it than a few "
            "straight pieces do.",
            numbers,
            "Standardized inputs, random initial weights, another lr or activation.",
        )
    elif summary.reason == "budget" and (falls or plateau) and not memorizes:
        yield Finding(
            "still-falling",
            "warning",
            f"The loss still fell when the {c.n_epochs} epochs were over: by {c.relative_fall:.0%} "
            "in the last tenth of them.",
            numbers,
            f"max_epochs={3 * summary.max_epochs}, or a higher lr.",
        )
