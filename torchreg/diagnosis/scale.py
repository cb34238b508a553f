"""Findings about scale: what the network sees and must give, digits, and how far it went."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from torchreg.diagnosis.evidence import Evidence, about, listed
from torchreg.diagnosis.report import Finding

#: Initial weights assume values of order 1 (LeCun et al., "Efficient BackProp", 1998, section
#: 4.3). Root mean squares within a factor 10 of it are learned all the same: columns of 0 and 1,
#: shares, temperatures in tens of degrees.
ORDER_ONE = 10.0
#: An offset of so many standard deviations, from OFFSET_SIZE on, makes every unit see a constant:
#: its bend, which starts within about 1 of zero, lies outside the data.
OFFSET = 5.0
OFFSET_SIZE = 3.0
#: So far from order 1, the square of ORDER_ONE, a fit warns without being asked.
WILD = 100.0
#: A spread of fewer spacings than this of the core's dtype has lost its digits: the bound of
#: :func:`torchreg.engine.data.column_statistics.lost_digits`.
SPACINGS = 16.0
#: A tensor that ends so many times its own initial size away from its start was not tuned but
#: sent on a journey, which steps that suit order 1 do not finish.
FAR_TRAVELLED = 100.0


def is_unscaled(mean: float, scale: float) -> bool:
    """Tell whether values are far from order 1; a constant 0 is not."""
    size = math.hypot(mean, scale)
    if size == 0:
        return False
    offset = abs(mean) > OFFSET_SIZE and abs(mean) > OFFSET * scale
    # A column that does not vary is a bias, whatever its size; unless it is a large one.
    small = scale > 0 and size < 1 / ORDER_ONE
    return size > ORDER_ONE or small or offset


def is_wild(finding: Finding) -> bool:
    """Tell whether what an ``unscaled-*`` finding names is so far off that it cannot go well."""
    numbers = zip(finding.numbers["mean"], finding.numbers["scale"], strict=True)
    sizes = [math.hypot(mean, spread) for mean, spread in numbers]
    return max(sizes) > WILD or max(sizes) < 1 / WILD


def inputs(evidence: Evidence) -> Iterator[Finding]:
    """Find ``unscaled-inputs``: columns that reach the first linear layer far from order 1."""
    # New rows may lie elsewhere; what the network learned from are the rows of the fit.
    look = evidence.summary.look
    # What is standardized is of order 1 on all rows, whatever a few of a rare column show.
    if look is None or (look.input_is_core and evidence.summary.standardize_x):
        return
    numbers = list(zip(look.input_mean, look.input_scale, strict=True))
    worst = [column for column, (m, s) in enumerate(numbers) if is_unscaled(m, s)]
    if not worst:
        return
    as_given = look.input_is_core and not evidence.summary.standardize_x
    named = [
        f"{evidence.feature(c) if as_given else f'column {c} of the first layer'} "
        f"is about {about(*numbers[c])}"
        for c in worst
    ]
    yield Finding(
        "unscaled-inputs",
        "warning",
        f"The network sees values far from order 1, for which its initial weights were made: "
        f"{listed(named)}.",
        {
            "columns": worst,
            "mean": [numbers[c][0] for c in worst],
            "scale": [numbers[c][1] for c in worst],
        },
        "standardize=True, which does it inside the network."
        if as_given
        else "Constants inside the module that bring its inputs to order 1.",
    )


def target(evidence: Evidence) -> Iterator[Finding]:
    """Find ``unscaled-target``: a target that the last linear layer must make far from order 1."""
    summary = evidence.summary
    look = summary.look
    if look is None or not evidence.compares_with_y:
        return
    numbers = list(zip(look.target_mean, look.target_scale, strict=True))
    worst = [column for column, (m, s) in enumerate(numbers) if is_unscaled(m, s)]
    if not worst:
        return
    raw = list(zip(summary.y.mean, summary.y.scale, strict=True))
    named = [
        f"{evidence.target(c)} is about {about(*raw[c])}"
        + ("" if _alike(numbers[c], raw[c]) else f", {about(*numbers[c])} for the last layer")
        for c in worst
    ]
    yield Finding(
        "unscaled-target",
        "warning",
        f"The last layer has to make values far from order 1: {listed(named)}.",
        {
            "columns": worst,
            "mean": [numbers[c][0] for c in worst],
            "scale": [numbers[c][1] for c in worst],
        },
        "standardize=True, which does it inside the network."
        if not summary.standardize_y
        else "Constants at the module's end that suit a standardized y.",
    )


def _alike(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return all(math.isclose(p, q, rel_tol=0.1) for p, q in zip(a, b, strict=True))


def digits(evidence: Evidence) -> Iterator[Finding]:
    """Find ``precision-loss``: columns whose spread is about the spacing of their dtype."""
    summary, look = evidence.summary, evidence.summary.look
    eps = torch.finfo(getattr(torch, summary.dtype)).eps
    found = []

    def few(mean: float) -> str:
        return f"where {summary.dtype} can only tell numbers {abs(mean) * eps:.2g} apart"

    if look is not None:
        for column, (mean, scale) in enumerate(zip(look.input_mean, look.input_scale, strict=True)):
            if 0 < scale < SPACINGS * eps * abs(mean):
                label = evidence.feature(column) if look.input_is_core else f"column {column}"
                found.append(f"{label} enters the network as {about(mean, scale)}, {few(mean)}")
    if not summary.standardize_y:
        for column, (mean, scale) in enumerate(zip(summary.y.mean, summary.y.scale, strict=True)):
            if 0 < scale < SPACINGS * eps * abs(mean):
                found.append(f"{evidence.target(column)} is {about(mean, scale)}, {few(mean)}")
    if summary.lost_digits is not None:
        found.append(summary.lost_digits.partition(": digits were lost")[0])
    if found:
        yield Finding(
            "precision-loss",
            "warning",
            f"Digits were lost: {listed(found)}.",
            {"n_columns": len(found), "eps": eps},
            "Subtract the offset, or pass float64, where the numbers are made; standardize=True "
            "subtracts in float64.",
        )


def travel(evidence: Evidence) -> Iterator[Finding]:
    """Find ``far-travelled``: parameters that ended very far from where they began."""
    journeys = evidence.summary.journeys
    # A bias may start at 0: then the network's other parameters say what is large.
    typical = sum(j.start for j in journeys) / max(1, len(journeys))
    ratios = {j.name: j.travelled / max(j.start, typical) for j in journeys if typical > 0}
    far = {name: ratio for name, ratio in ratios.items() if ratio > FAR_TRAVELLED}
    if not far:
        return
    name = max(far, key=lambda key: far[key])
    yield Finding(
        "far-travelled",
        "warning",
        f"Training spent itself on a journey: {name} ended {far[name]:.0f} times its initial size "
        f"away from its start ({len(far)} of {len(ratios)} parameter tensors went beyond "
        f"{FAR_TRAVELLED:.0f}).",
        {"largest_ratio": far[name], "n_tensors": len(far)},
        "Bring inputs and targets to order 1, so that the parameters start near their end; "
        "or a lower lr.",
    )
