"""Findings about scale: inputs, target, range of the output, precision and parameter drift."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from torchreg.diagnosis.evidence import Evidence, join_words, mean_and_spread
from torchreg.diagnosis.output_range import MISSING_SHARE
from torchreg.diagnosis.report import Finding
from torchreg.losses import Loss, find_loss

#: Initial weights assume values of order 1 (LeCun et al., "Efficient BackProp", 1998, section 4.3).
#: Root mean squares within a factor of 10 do no harm: indicators, shares, temperatures in °C.
ORDER_ONE = 10.0
#: With an offset of this many standard deviations, beyond OFFSET_SIZE, the input of a unit is
#: nearly constant: its bend, which starts within about 1 of zero, is outside the data.
OFFSET = 5.0
OFFSET_SIZE = 3.0
#: Beyond this factor from order 1, the square of ORDER_ONE, `fit` warns.
EXTREME = 100.0
#: A spread of fewer spacings of the network's dtype has lost its precision: the bound of
#: :func:`torchreg.engine.data.column_statistics.lost_digits`.
SPACINGS = 16.0
#: A change of this many times the initial size means that the parameters had the wrong order of
#: magnitude.
LARGE_DRIFT = 100.0
#: If targets outside the range of the network take this share of y's variance, that is severe.
SEVERE_SHARE = 0.1


def is_unscaled(mean: float, scale: float) -> bool:
    """Whether values are far from order 1; a constant 0 is not."""
    size = math.hypot(mean, scale)
    if size == 0:
        return False
    offset = abs(mean) > OFFSET_SIZE and abs(mean) > OFFSET * scale
    # A small constant column acts as a bias and does no harm.
    small = scale > 0 and size < 1 / ORDER_ONE
    return size > ORDER_ONE or small or offset


def is_extreme(finding: Finding) -> bool:
    """Whether an ``unscaled-*`` finding names values beyond the factor for warnings."""
    numbers = zip(finding.numbers["mean"], finding.numbers["scale"], strict=True)
    sizes = [math.hypot(mean, spread) for mean, spread in numbers]
    return max(sizes) > EXTREME or max(sizes) < 1 / EXTREME


def _has_costly_value(evidence: Evidence, table: str) -> bool:
    """Whether one value determines the scale of a column, which is a finding of its own."""
    return any(far.costs_digits and far.table == table for far in evidence.summary.far_values)


def find_unscaled_inputs(evidence: Evidence) -> Iterator[Finding]:
    """Find ``unscaled-inputs``: columns that reach the first linear layer far from order 1."""
    # Of the training rows, because new rows may have other scales.
    network = evidence.summary.network
    # Standardized columns are of order 1 over all rows, if not over the inspected ones.
    if network is None or (network.input_is_core and evidence.summary.standardize_x):
        return
    if _has_costly_value(evidence, "X"):
        return
    numbers = list(zip(network.input_mean, network.input_scale, strict=True))
    worst = [column for column, (m, s) in enumerate(numbers) if is_unscaled(m, s)]
    if not worst:
        return
    as_given = network.input_is_core and not evidence.summary.standardize_x
    named = [
        f"{evidence.feature(c) if as_given else f'column {c} of the first layer'} "
        f"is about {mean_and_spread(*numbers[c])}"
        for c in worst
    ]
    yield Finding(
        "unscaled-inputs",
        "warning",
        f"The network's inputs are far from order 1, which its initial weights assume: "
        f"{join_words(named)}.",
        {
            "columns": worst,
            "mean": [numbers[c][0] for c in worst],
            "scale": [numbers[c][1] for c in worst],
        },
        "standardize=True, which scales them inside the network."
        if as_given
        else "Constants inside the module that scale its inputs to order 1.",
    )


def find_unscaled_target(evidence: Evidence) -> Iterator[Finding]:
    """Find ``unscaled-target``: a target of the last linear layer that is far from order 1."""
    summary = evidence.summary
    network = summary.network
    if network is None or not evidence.compares_with_y or _has_costly_value(evidence, "y"):
        return
    numbers = list(zip(network.target_mean, network.target_scale, strict=True))
    worst = [column for column, (m, s) in enumerate(numbers) if is_unscaled(m, s)]
    if not worst:
        return
    raw = list(zip(summary.y.mean, summary.y.scale, strict=True))
    named = [
        f"{evidence.target(c)} is about {mean_and_spread(*raw[c])}"
        + (
            ""
            if _alike(numbers[c], raw[c])
            else f", {mean_and_spread(*numbers[c])} for the last layer"
        )
        for c in worst
    ]
    yield Finding(
        "unscaled-target",
        "warning",
        f"The target of the last layer is far from order 1: {join_words(named)}.",
        {
            "columns": worst,
            "mean": [numbers[c][0] for c in worst],
            "scale": [numbers[c][1] for c in worst],
        },
        "standardize=True, which scales it inside the network."
        if not summary.standardize_y
        else "Constants at the end of the module for a standardized y.",
    )


def _alike(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return all(math.isclose(p, q, rel_tol=0.1) for p, q in zip(a, b, strict=True))


def find_bounded_output(evidence: Evidence) -> Iterator[Finding]:
    """Find ``bounded-output``: values of y that no parameters of the network can give."""
    summary = evidence.summary
    found = None if summary.network is None else summary.network.output_range
    loss = find_loss(summary.loss)
    # What the predictions of an unknown loss are compared with is unknown, too.
    if found is None or loss is Loss:
        return
    named, fits_raw = [], loss.center_target and summary.standardize_y
    numbers = enumerate(zip(found.low, found.high, found.share, found.missing, strict=True))
    for column, (low, high, share, missing) in numbers:
        least, most = summary.y.low[column], summary.y.high[column]
        if missing < MISSING_SHARE:
            continue
        fits_raw = fits_raw and low <= least and most <= high
        # 1. The bounds in raw units, rounded to a thousandth of y's spread.
        mean, spread = summary.y.mean[column], summary.y.scale[column]
        offset, unit = (mean, spread) if loss.center_target else (0.0, mean)
        if not summary.standardize_y:
            offset, unit = 0.0, 1.0
        digits = 3 - math.ceil(math.log10(spread))
        low, high = (round(offset + unit * bound, digits) + 0.0 for bound in (low, high))
        # 2. The bounds that y exceeds.
        sides = [("below", low, least < low), ("above", high, most > high)]
        bounds = " or ".join(f"{word} {value:.6g}" for word, value, beyond in sides if beyond)
        named.append(
            f"{evidence.target(column)} cannot be predicted {bounds}, where "
            f"{share:.0%} of its values lie ({least:.4g} to {most:.4g})"
        )
    total = sum(found.missing) / max(1, sum(scale > 0 for scale in summary.y.scale))
    setting = "'X'" if summary.standardize_x else "False"
    yield Finding(
        "bounded-output",
        "severe" if total > SEVERE_SHARE else "warning",
        f"The network's last operation bounds its output: {join_words(named)}.",
        {"low": found.low, "high": found.high, "share": found.share, "missing_r2": total},
        f"standardize={setting}, which leaves y in its own units, or a module without its last "
        "activation."
        if fits_raw
        else "A module without its last activation, or one whose output spans the values of y.",
    )


def find_precision_loss(evidence: Evidence) -> Iterator[Finding]:
    """Find ``precision-loss``: columns whose spread is about the spacing of their dtype."""
    summary, network = evidence.summary, evidence.summary.network
    eps = torch.finfo(getattr(torch, summary.dtype)).eps
    found = []

    def few(mean: float) -> str:
        return f"where {summary.dtype} has a resolution of {abs(mean) * eps:.2g}"

    if network is not None:
        for column, (mean, scale) in enumerate(
            zip(network.input_mean, network.input_scale, strict=True)
        ):
            if 0 < scale < SPACINGS * eps * abs(mean):
                label = evidence.feature(column) if network.input_is_core else f"column {column}"
                found.append(
                    f"{label} enters the network as {mean_and_spread(mean, scale)}, {few(mean)}"
                )
    if not summary.standardize_y:
        for column, (mean, scale) in enumerate(zip(summary.y.mean, summary.y.scale, strict=True)):
            if 0 < scale < SPACINGS * eps * abs(mean):
                found.append(
                    f"{evidence.target(column)} is {mean_and_spread(mean, scale)}, {few(mean)}"
                )
    if summary.lost_digits is not None:
        found.append(summary.lost_digits.partition(": digits were lost")[0])
    if found:
        yield Finding(
            "precision-loss",
            "warning",
            f"Digits were lost: {join_words(found)}.",
            {"n_columns": len(found), "eps": eps},
            "Subtract the offset, or use float64, where the data are created; standardize=True "
            "subtracts in float64.",
        )


def find_parameter_drift(evidence: Evidence) -> Iterator[Finding]:
    """Find ``parameter-drift``: parameters that changed by many times their initial size."""
    parameter_drifts = evidence.summary.parameter_drifts
    # Biases may start at 0: compare them with the mean size of all parameters.
    typical = sum(j.initial_size for j in parameter_drifts) / max(1, len(parameter_drifts))
    ratios = {
        j.name: j.distance / max(j.initial_size, typical) for j in parameter_drifts if typical > 0
    }
    far = {name: ratio for name, ratio in ratios.items() if ratio > LARGE_DRIFT}
    if not far:
        return
    name = max(far, key=lambda key: far[key])
    yield Finding(
        "parameter-drift",
        "warning",
        f"Parameters changed by orders of magnitude: {name} by {far[name]:.0f} times its initial "
        f"size ({len(far)} of {len(ratios)} parameter tensors by more than "
        f"{LARGE_DRIFT:.0f} times).",
        {"largest_ratio": far[name], "n_tensors": len(far)},
        "Scale inputs and targets to order 1, so that initial parameters have the right size; "
        "or a lower lr.",
    )
