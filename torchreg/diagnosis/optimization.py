"""Findings about the optimization, from the shape and the end of the loss curve."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torchreg.diagnosis.evidence import Evidence
from torchreg.diagnosis.linearity import line_is_significant
from torchreg.diagnosis.record import FitSummary
from torchreg.diagnosis.report import Finding
from torchreg.diagnosis.scale import find_bounded_output
from torchreg.losses import LOSSES

#: Behind: the network explains this much less of y's variance than least-squares linear models or
#: curves with fewer parameters on the same rows.
BEHIND = 0.1
#: Loss curves of fewer epochs are not interpreted.
FEW_EPOCHS = 10
#: A fit of fewer epochs may be about to learn a constant.
MANY_EPOCHS = 100
#: Still falling: the loss fell in the last tenth of the epochs by this share of y's variance, ...
FALL = 0.01
#: ... and by this share of the loss.
RELATIVE_FALL = 0.03
#: The fall counts if at least this share of it remains since the middle of the fit.
MOST_OF_IT = 0.9
#: If the curve changes direction at more than SMOOTH of the epochs, a fall counts beyond NOISE
#: times the typical change from one epoch to the next.
SMOOTH = 0.2
NOISE = 3.0
#: On a plateau (behind, and falling in nearly every epoch), this share suffices.
PLATEAU_FALL = 0.001
#: Flat: less than this share of y's variance since the middle of the fit.
FLAT = 0.005
#: The loss oscillates if it typically changes by this share from one epoch to the next, which is
#: more than the noise of batches of a few dozen rows, dropout or batch normalization, ...
SWING = 0.25
#: ... or by this share of y's variance ...
SHAKE = 0.05
#: ... and changes direction at this share of the epochs (noise at 2/3);
TURNS = 0.2
#: or if it changes direction at nearly every epoch, by more than rounding.
BOUNCE = 0.005
BOUNCES = 0.9
#: Erratic steps: the loss changes by this share and changes direction at this share of the epochs.
JUMP = 0.05
JUMPS = 0.4
#: Oscillations of this size come from the learning rate.
LARGE_SWING = 0.4
#: The last tenth is this many times the best tenth, and worse by this share of y's variance.
LOST = 2.0
LOST_SHARE = 0.05
#: The loss overshot if it was once this many times the initial loss.
OVERSHOT = 10.0
OVERSHOT_BEHIND = 0.03
#: Steps were too long if parameters changed by this many times their size.
ASTRAY = 5.0
#: At the rate of the last epochs, the missing R2 would take this many fits.
FITS_AWAY = 3.0
#: Parameters that changed by less than this share of their size have hardly changed ...
NOT_MOVED = 0.05
#: ... and by less than this share, little.
LITTLE_MOVED = 0.5
#: A steady decline: the loss fell in this share of the epochs.
STEADY = 0.85
#: A constant predicts better if the network's loss is larger by this share of the constant's: more
#: than the difference between the inspected rows and all training rows.
WORSE = 0.01


def find_loss_problems(evidence: Evidence) -> Iterator[Finding]:
    """Find problems of the loss curve; a fit of a constant y has none."""
    if not any(evidence.summary.y.scale):
        return
    swinging = list(_find_instability(evidence))
    yield from swinging
    if not swinging:
        yield from _find_slow_progress(evidence)


def find_failed_networks(evidence: Evidence) -> Iterator[Finding]:
    """Find ``failed-networks``: an error ended the training of some of several networks."""
    failures = evidence.summary.failures
    if failures:
        yield Finding(
            "failed-networks",
            "warning",
            f"{len(failures)} of several networks failed and are not in the fit: "
            f"{'; '.join(failures)}.",
            {"n_failed": len(failures)},
            "Remove the cause of the error, and fit again.",
        )


def find_worse_than_constant(evidence: Evidence) -> Iterator[Finding]:
    """Find ``worse-than-constant``: a constant predicts the training rows better."""
    network, y = evidence.summary.network, evidence.summary.y
    if network is None or not any(y.scale):
        return
    loss, constant, structure = network.loss, network.constant_loss, network.structure
    numbers = {"loss": loss, "constant_loss": constant}
    # Some losses are low far from y, such as those of classes: any value of y is nearer then.
    columns = [c for c in zip(y.mean, y.scale, y.low, y.high, strict=True) if c[1]]
    reach = sum((max(high - mean, mean - low) / s) ** 2 for mean, s, low, high in columns)
    if loss is not None and constant is not None and loss - constant > WORSE * abs(constant):
        how = f"the loss of the network is {loss:.4g} on them, that of a constant {constant:.4g}"
        advice = (
            "The remedies of the other findings; else standardize=True, a lower lr or more epochs."
        )
    elif structure is not None and 1 - structure.network_r2 > max(1.0, reach / len(y.scale)):
        how = "the predictions are farther from y than any of its values"
        advice = (
            f"A loss by name ({', '.join(map(repr, sorted(LOSSES)))}) or with its minimum at y."
        )
    else:
        return
    if structure is not None:
        numbers["r2"] = structure.network_r2
        how += f" (R2 = {structure.network_r2:.4g})"
    yield Finding(
        "worse-than-constant",
        "severe",
        f"A constant predicts the training rows better than the network: {how}.",
        numbers,
        advice,
    )


def is_certainly_worse(finding: Finding, n_epochs: int) -> bool:
    """Whether the fit was long enough to learn a constant, or has twice the loss of one."""
    loss, constant = finding.numbers["loss"], finding.numbers["constant_loss"]
    far = loss is None or constant is None or not 0 < loss - constant <= abs(constant)
    return far or n_epochs >= MANY_EPOCHS


def _describe_lr(evidence: Evidence) -> str:
    summary = evidence.summary
    lr = "torch's default lr" if summary.lr is None else f"lr={summary.lr:g}"
    moves = "" if summary.schedule == "constant" else f" with schedule {summary.schedule!r}"
    return f"{lr} of {summary.optimizer}{moves}"


def missing_r2(evidence: Evidence) -> float:
    """Compute by how much linear models or curves explain more of y's variance than the network.

    What the network cannot explain because its output is bounded does not count.
    """
    network = evidence.summary.network
    structure = None if network is None else network.structure
    # Other losses may have no predictions in units of y.
    if structure is None or not evidence.compares_with_y:
        return 0.0
    if not line_is_significant(structure) and structure.curve_r2 < 2 * BEHIND:
        return 0.0
    free = structure.n - structure.curve_terms
    adjusted = 1 - (1 - structure.curve_r2) * structure.n / max(free, 1)
    bounded = sum(float(f.numbers["missing_r2"]) for f in find_bounded_output(evidence))
    explained: float = max(structure.line_r2, adjusted)
    return explained - structure.network_r2 - bounded


def _relative_drift(summary: FitSummary) -> float:
    """Compute the change of all parameters, relative to their initial size."""
    start = sum(j.n * j.initial_size**2 for j in summary.parameter_drifts)
    gone = sum(j.n * j.distance**2 for j in summary.parameter_drifts)
    return math.sqrt(gone / start) if start > 0 else math.inf


def _find_instability(evidence: Evidence) -> Iterator[Finding]:
    c, summary = evidence.curve, evidence.summary
    diverged = summary.reason == "diverged"
    swings = c.n_epochs >= FEW_EPOCHS and (
        ((c.swing > SWING or c.shake > SHAKE) and c.turns > TURNS)
        or (c.swing > BOUNCE and c.turns > BOUNCES)
    )
    lost = c.n_epochs >= FEW_EPOCHS and (
        c.last > LOST * c.best_tenth and (c.last - c.best_tenth) / c.reference > LOST_SHARE
    )
    behind = c.n_epochs >= FEW_EPOCHS and missing_r2(evidence) > BEHIND
    # With full batches the first loss is the initial loss. With smaller batches, the drift of the
    # parameters tells too long steps in the first epoch from bad initial weights.
    whole = summary.batch_size >= summary.n_rows or _relative_drift(summary) < ASTRAY
    start = max(c.first, c.reference) if whole else c.reference
    overshot = missing_r2(evidence) > OVERSHOT_BEHIND and c.largest > OVERSHOT * start
    # Erratic steps behind a linear model prevent further progress.
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
            f"The loss became infinite or NaN after {c.n_epochs} epochs; the weights of epoch "
            f"{evidence.kept_epoch} were kept.",
            numbers,
            "A lower lr, standardize=True, or clipped gradients.",
        )
    if swings:
        yield Finding(
            "oscillating",
            "warning",
            f"The loss oscillates: it typically changes by {c.swing:.0%} from one epoch to the "
            f"next, and changes direction at {c.turns:.0%} of the epochs.",
            numbers,
            "A lower lr, larger batches, or a decreasing learning rate (schedule='cosine')."
            if summary.schedule == "constant"
            else "A lower lr, or larger batches.",
        )
    if diverged or lost or overshot or jumps or (swings and c.swing > LARGE_SWING):
        if diverged:
            how = "the loss became infinite or NaN"
        elif lost:
            how = f"the loss ended at {c.last:.3g} after it had been {c.best_tenth:.3g}"
        elif overshot:
            how = f"the loss rose to {c.largest:.3g} before it fell"
        else:
            how = f"the loss changes by {c.swing:.0%} from one epoch to the next"
        yield Finding(
            "learning-rate-too-high",
            "warning",
            f"The learning rate is too high ({_describe_lr(evidence)}): {how}.",
            numbers,
            "A third or a tenth of this learning rate.",
        )


def _find_slow_progress(evidence: Evidence) -> Iterator[Finding]:
    c, summary = evidence.curve, evidence.summary
    if summary.reason not in ("budget", "converged", "early_stopping") or c.n_epochs < FEW_EPOCHS:
        return
    missing = missing_r2(evidence)
    moved = _relative_drift(summary)
    numbers = {
        "lr": summary.lr,
        "fall_in_last_tenth": c.fall,
        "share_of_loss": c.relative_fall,
        "behind": missing,
        "moved": moved,
    }
    # Number of fits like this one that would gain the missing R2, at the rate of the last tenth.
    away = missing / (10 * c.fall) if c.fall > 0 else float("inf")
    steady = c.falling > STEADY
    # With more parameters than rows, and more explained than by curves, the network fits noise:
    # more epochs would be bad advice.
    n_numbers = summary.n_rows * len(summary.y.mean)
    memorizes = summary.n_parameters > n_numbers and missing < -BEHIND
    small_steps = moved < NOT_MOVED or (moved < LITTLE_MOVED and away > FITS_AWAY)
    plateau = missing > BEHIND and steady and c.fall > PLATEAU_FALL
    # A fall that only compensates a rise, or is as large as the oscillations, is noise.
    trend = c.late_fall > MOST_OF_IT * c.fall and (c.turns < SMOOTH or c.fall > NOISE * c.shake)
    falls = trend and c.fall > FALL and c.relative_fall > RELATIVE_FALL
    too_slow = missing > BEHIND and steady and small_steps
    if too_slow:
        yield Finding(
            "learning-rate-too-low",
            "warning",
            f"The learning rate is too low ({_describe_lr(evidence)}): the loss falls so slowly "
            f"that after {c.n_epochs} epochs the network explains {missing:.0%} less of y's "
            "variance than a piecewise linear model.",
            numbers,
            "Ten times this learning rate.",
        )
    stalled = not too_slow and missing > BEHIND and abs(c.late_fall) < FLAT
    if stalled:
        yield Finding(
            "stalled",
            "severe",
            f"The loss no longer falls: since the middle of the fit it fell by {c.late_fall:.2%} "
            f"of y's variance, while the network explains {missing:.0%} less of it than a "
            "piecewise linear model.",
            numbers,
            "Standardized inputs, random initial weights, another lr or activation.",
        )
    falls = falls or plateau or (too_slow and c.fall > 0)
    if summary.reason == "budget" and falls and not stalled and not memorizes:
        yield Finding(
            "still-falling",
            "warning",
            f"The loss was still falling when the {c.n_epochs} epochs ended: by "
            f"{100 * c.relative_fall:.2g} % in the last tenth of them.",
            numbers,
            f"max_epochs={3 * summary.max_epochs}, or a higher lr.",
        )
