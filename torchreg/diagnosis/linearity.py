"""Findings about linearity of the data and of the network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scipy.special import fdtrc

from torchreg.diagnosis.evidence import Evidence, join_words
from torchreg.diagnosis.record import Structure
from torchreg.diagnosis.report import Finding
from torchreg.diagnosis.scale import find_unscaled_inputs, find_unscaled_target

#: Bends of the data count at this level of significance, ...
CHANCE = 1e-3
#: ... and if they explain more than this share of the residual variance of a linear model.
SHARE_OF_REST = 0.02
#: A linear model with less than this share of residual variance is exact: rounding in float32,
#: squared, over about a hundred operations.
EXACT = 1e-10
#: A network is linear if a linear model leaves less than this share of its output's variance ...
STRAIGHT = 0.01
#: ... and less than this share of the significant bends of the data.
SHARE_OF_BENDS = 0.1
#: Beyond this share, the network is clearly nonlinear.
NEARLY_STRAIGHT = 0.1


def significant_bend(structure: Structure) -> float:
    """Estimate the share of y's variance that bends explain beyond a linear model.

    The share is 0 if it is not significant.

    An F-test of the added terms, and the gain of the adjusted R2: see Draper and Smith,
    "Applied Regression Analysis" (1998), chapter 6.
    """
    left, rest = 1 - structure.line_r2, 1 - structure.curve_r2
    added = structure.curve_terms - structure.line_terms
    free = structure.n - structure.curve_terms
    free_line = structure.n - structure.line_terms
    if left <= EXACT or added <= 0 or free <= 0 or free_line <= 0:
        return 0.0
    if rest <= EXACT * left:
        return left
    f = ((left - rest) / added) / (rest / free)
    gain = left / free_line - rest / free
    if fdtrc(added, free, max(f, 0.0)) > CHANCE or gain * free_line < SHARE_OF_REST * left:
        return 0.0
    return gain * free_line


def line_is_significant(structure: Structure) -> bool:
    """Whether a linear model explains a significant share of y's variance."""
    added = structure.line_terms - 1
    free = structure.n - structure.line_terms
    left = 1 - structure.line_r2
    if added <= 0 or free <= 0:
        return False
    if left <= EXACT:
        return True
    return bool(fdtrc(added, free, structure.line_r2 / added / (left / free)) <= CHANCE)


def find_linearity(evidence: Evidence) -> Iterator[Finding]:
    """Find ``effectively-linear`` (the network became a line) or ``linear-data`` (they are one)."""
    network = evidence.network
    if network is None or network.linear_share is None or not any(evidence.summary.y.scale):
        return
    seen = evidence.summary.network
    structure = network.structure or (None if seen is None else seen.structure)
    constant = not any(network.output_scale)
    crooked = 0.0 if constant else 1 - network.linear_share
    bend = None if structure is None else significant_bend(structure)
    n_units = sum(layer.n_units for layer in network.layers)
    n_bending = sum(layer.n_bending for layer in network.layers)
    numbers = {
        "linear_share": network.linear_share,
        "n_units": n_units,
        "n_bending": n_bending,
        **({} if structure is None else {"line_r2": structure.line_r2, "bend_of_data": bend}),
    }
    if bend == 0 and structure is not None and line_is_significant(structure):
        if crooked <= NEARLY_STRAIGHT:
            yield Finding(
                "linear-data",
                "info",
                f"The data look linear: a straight line explains {structure.line_r2:.1%} of y's "
                "variance, and the residuals have no significant bends.",
                numbers,
                "A linear model has the same error with fewer parameters: LinearRegression, or "
                "module=MLP with module__hidden_sizes=().",
            )
        return
    asked = STRAIGHT if bend is None else min(STRAIGHT, SHARE_OF_BENDS * bend)
    # For linear data, a linear network is no problem.
    if bend == 0 or crooked > asked or not (n_units or _has_stacked_linear_layers(evidence)):
        return
    yield _effectively_linear(evidence, numbers, constant=constant, bend=bend)


def _effectively_linear(
    evidence: Evidence, numbers: dict[str, Any], *, constant: bool, bend: float | None
) -> Finding:
    of_scale = [*find_unscaled_inputs(evidence), *find_unscaled_target(evidence)]
    what = (
        "it predicts the same value for every row"
        if constant
        else f"a straight line explains {numbers['linear_share']:.2%} of its output"
    )
    n_units, n_bending = numbers["n_units"], numbers["n_bending"]
    units = f", and {n_bending} of its {n_units} hidden units bend within the data"
    missed = f" The data bend ({bend:.1%} of y's variance is lost)." if bend else ""
    because = why = ""
    advice = (
        "Another random_state or initialization, a lower lr, or an activation between the linear "
        "layers if there is none."
    )
    if of_scale:
        magnitudes = join_words([f.message.partition(": ")[2].rstrip(".") for f in of_scale])
        because = " because of scale"
        why = f": {magnitudes}, where a network starts out with values of order 1"
        advice = "standardize=True: it brings X and y to order 1 inside the network."
    return Finding(
        "effectively-linear",
        "severe",
        f"The network is effectively linear{because}: {what}{units if n_units else ''}{why}."
        f"{missed}",
        {**numbers, "because_of_scale": bool(of_scale)},
        advice,
    )


def _has_stacked_linear_layers(evidence: Evidence) -> bool:
    """Whether linear layers follow each other without an activation."""
    weights = [j for j in evidence.summary.parameter_drifts if j.name.endswith("weight")]
    return len(weights) > 1
