"""Findings about rows that the network was not trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torchreg.diagnosis.evidence import Evidence
from torchreg.diagnosis.report import Finding

#: A mean squared error of n normal residuals is uncertain by sqrt(2 / n): 25 % at 32 rows,
#: more than what epochs or candidates usually differ by.
SMALL_VALIDATION = 32
#: Validation loss lost since its best, as a share of the best ...
LOST = 0.2
#: ... or as a multiple of the training loss, ...
GAP = 2.0
#: ... in either case beyond so many standard errors, ...
ERRORS = 2.0
#: ... and by this share of the loss of predicting the mean.
SHARE = 0.05


def overfitting(evidence: Evidence) -> Iterator[Finding]:
    """Find ``overfitting``: from the validation curve or, if there are any, from new rows."""
    summary, reference = evidence.summary, evidence.curve.reference
    if not any(summary.y.scale):
        return
    validation = evidence.validation
    if validation is not None and summary.n_validation > 1:
        error = math.sqrt(2 / summary.n_validation)
        finite = [v for v in validation if math.isfinite(v)]
        kept = _at(validation, evidence.kept_epoch)
        trained = _at(evidence.losses, evidence.kept_epoch)
        best = min(finite, default=math.nan)
        numbers: dict[str, Any] = {
            "validation_loss": kept,
            "best_validation_loss": best,
            "training_loss": trained,
            "best_epoch": validation.index(best) + 1 if finite else None,
        }
        lost, gap = (kept - best) / best, kept / trained if trained else math.inf
        if lost > LOST + ERRORS * error / 4 and (kept - best) / reference > SHARE:
            yield Finding(
                "overfitting",
                "warning",
                f"The network memorizes: its loss on the validation rows was {best:.3g} in epoch "
                f"{numbers['best_epoch']} and is {kept:.3g} now.",
                numbers,
                "early_stopping=True, a smaller network, weight decay or dropout.",
            )
            return
        if gap > GAP + ERRORS * error and (kept - trained) / reference > SHARE:
            yield _gap_finding("the validation rows", kept, trained, numbers)
            return
    look, seen = evidence.look, summary.look
    if not evidence.is_new or look is None or seen is None or not evidence.compares_with_y:
        return
    if look.structure is None or seen.structure is None:
        return
    error = math.sqrt(2 / max(look.structure.n, 1))
    # In units of the training rows' variance.
    scale = [a / b for a, b in zip(look.target_scale, seen.target_scale, strict=True) if b > 0]
    ratio = sum(s**2 for s in scale) / max(1, len(scale))
    kept, trained = (1 - look.structure.network_r2) * ratio, 1 - seen.structure.network_r2
    if kept > (GAP + ERRORS * error) * trained and kept - trained > SHARE:
        yield _gap_finding(
            "the given rows", kept, trained, {"loss": kept, "training_loss": trained}
        )


def _gap_finding(where: str, kept: float, trained: float, numbers: dict[str, Any]) -> Finding:
    return Finding(
        "overfitting",
        "warning",
        f"The network memorizes: its loss on {where} is {kept:.3g}, on the training rows "
        f"{trained:.3g}.",
        numbers,
        "More rows, a smaller network, early_stopping=True, weight decay or dropout.",
    )


def _at(curve: list[float], epoch: int) -> float:
    return curve[min(max(epoch, 1), len(curve)) - 1]


def rows(evidence: Evidence) -> Iterator[Finding]:
    """Find ``underdetermined`` and ``small-validation``: too few rows for what they are to tell."""
    summary = evidence.summary
    n_numbers = summary.n_rows * len(summary.y.mean)
    if summary.n_parameters > n_numbers:
        yield Finding(
            "underdetermined",
            "info",
            f"The network has {summary.n_parameters} parameters for {n_numbers} numbers in y: "
            "it can memorize all of them.",
            {"n_parameters": summary.n_parameters, "n_targets": n_numbers},
            "A smaller network, or early_stopping=True and a look at the validation loss.",
        )
    if 0 < summary.n_validation < SMALL_VALIDATION:
        error = math.sqrt(2 / summary.n_validation)
        yield Finding(
            "small-validation",
            "warning",
            f"{summary.n_validation} validation rows are too few to tell: their loss is uncertain "
            f"by about {error:.0%}.",
            {"n_validation": summary.n_validation, "relative_error": error},
            "A larger validation_fraction, more rows, or cross-validation.",
        )
