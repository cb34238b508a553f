"""Findings about generalization: overfitting and too few rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torchreg.diagnosis.evidence import Evidence, join_words, mean_and_spread
from torchreg.diagnosis.report import Finding

#: The mean squared error of n normal residuals has a relative standard error of sqrt(2 / n): 25 %
#: at 32 rows, more than the usual difference between epochs or candidates.
SMALL_VALIDATION = 32
#: Overfitting: increase of the validation loss since its minimum, as a share of the minimum, ...
LOST = 0.2
#: ... or as a multiple of the training loss, ...
GAP = 2.0
#: ... in both cases beyond this many standard errors, ...
ERRORS = 2.0
#: ... and by this share of the loss of predicting the mean.
SHARE = 0.05


def find_distant_validation_rows(evidence: Evidence) -> Iterator[Finding]:
    """Find ``distant-validation-rows``: validation rows in other units than the training rows."""
    summary = evidence.summary
    found = summary.distant_columns
    if not found:
        return
    named, tables = [], sorted({column.table for column in found})
    for column in found:
        columns, name = (
            (summary.x, evidence.feature)
            if column.table == "X_val"
            else (summary.y, evidence.target)
        )
        trained = mean_and_spread(columns.mean[column.column], columns.scale[column.column])
        named.append(
            f"{name(column.column)} is about {mean_and_spread(column.mean, column.scale)} in "
            f"{column.table} (trained on {trained})"
        )
    advice = {
        "X_val": "X_val as X, after the same transformers: in a Pipeline, "
        'transform_input=["X_val"] transforms it',
        "y_val": "y_val in the units of y: TransformedTargetRegressor transforms y, not y_val",
    }
    yield Finding(
        "distant-validation-rows",
        "severe",
        f"The validation rows lie far outside the training rows: {join_words(named)}. Their loss "
        "says nothing about the network, and early stopping by it ends at a wrong epoch.",
        {
            "tables": [column.table for column in found],
            "columns": [column.column for column in found],
            "mean": [column.mean for column in found],
            "scale": [column.scale for column in found],
        },
        f"{'; '.join(advice[table] for table in tables)}.",
    )


def find_overfitting(evidence: Evidence) -> Iterator[Finding]:
    """Find ``overfitting`` from the validation loss or from new rows."""
    summary, reference = evidence.summary, evidence.curve.reference
    if not any(summary.y.scale):
        return
    validation = evidence.validation
    # Rows in other units have a large loss for another reason.
    comparable = not summary.distant_columns
    if validation is not None and summary.n_validation > 1 and comparable:
        error = math.sqrt(2 / summary.n_validation)
        finite = [v for v in validation if math.isfinite(v)]
        kept = loss_at(validation, evidence.kept_epoch)
        trained = loss_at(evidence.losses, evidence.kept_epoch)
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
                f"The network overfits: its validation loss was {best:.3g} in epoch "
                f"{numbers['best_epoch']} and is {kept:.3g} now.",
                numbers,
                "early_stopping=True, a smaller network, weight decay or dropout.",
            )
            return
        if gap > GAP + ERRORS * error and (kept - trained) / reference > SHARE:
            yield _gap_finding(evidence, "the validation rows", kept, trained, numbers)
            return
    network, seen = evidence.network, summary.network
    if not evidence.is_new or network is None or seen is None or not evidence.compares_with_y:
        return
    if network.structure is None or seen.structure is None:
        return
    error = math.sqrt(2 / max(network.structure.n, 1))
    # In units of the training rows' variance.
    scale = [a / b for a, b in zip(network.target_scale, seen.target_scale, strict=True) if b > 0]
    ratio = sum(s**2 for s in scale) / max(1, len(scale))
    kept, trained = (1 - network.structure.network_r2) * ratio, 1 - seen.structure.network_r2
    if kept > (GAP + ERRORS * error) * trained and kept - trained > SHARE:
        yield _gap_finding(
            evidence, "the given rows", kept, trained, {"loss": kept, "training_loss": trained}
        )


def _gap_finding(
    evidence: Evidence, where: str, kept: float, trained: float, numbers: dict[str, Any]
) -> Finding:
    # Early stopping is no advice where the best weights were kept already.
    stop = "" if evidence.summary.keeps_best else "early_stopping=True, "
    return Finding(
        "overfitting",
        "warning",
        f"The network overfits: its loss on {where} is {kept:.3g}, on the training rows "
        f"{trained:.3g}.",
        numbers,
        f"More rows, a smaller network, {stop}weight decay or dropout.",
    )


def loss_at(curve: list[float], epoch: int) -> float:
    """Return the loss of an epoch, counted from 1."""
    return curve[min(max(epoch, 1), len(curve)) - 1]


def find_few_rows(evidence: Evidence) -> Iterator[Finding]:
    """Find ``underdetermined`` and ``small-validation``: too few rows."""
    summary = evidence.summary
    n_numbers = summary.n_rows * len(summary.y.mean)
    # Not a problem where the weights with the lowest validation loss are kept.
    if summary.n_parameters > n_numbers and not summary.keeps_best:
        yield Finding(
            "underdetermined",
            "info",
            f"The network has {summary.n_parameters} parameters for {n_numbers} values of y: it "
            "can fit all of them exactly.",
            {"n_parameters": summary.n_parameters, "n_targets": n_numbers},
            "A smaller network, or early_stopping=True and the validation loss.",
        )
    if 0 < summary.n_validation < SMALL_VALIDATION:
        error = math.sqrt(2 / summary.n_validation)
        folds = summary.n_networks > 1
        held_out = ", each held out by one of the networks," if folds else ""
        yield Finding(
            "small-validation",
            "warning",
            f"{summary.n_validation} validation rows{held_out} are too few: the standard error of "
            f"their loss is about {error:.0%}.",
            {"n_validation": summary.n_validation, "relative_error": error},
            "More rows."
            if folds
            else "A larger validation_fraction, more rows, or cross-validation.",
        )
