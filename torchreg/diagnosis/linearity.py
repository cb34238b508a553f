"""Findings about straight lines: whether the data are one, or the network became one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scipy.special import fdtrc

from torchreg.diagnosis.evidence import Evidence, listed
from torchreg.diagnosis.record import Structure
from torchreg.diagnosis.report import Finding
from torchreg.diagnosis.scale import inputs, target

#: Bends count if chance alone shows them in one of a thousand data sets, ...
CHANCE = 1e-3
#: ... and if they take more than this share of what the straight line leaves over.
SHARE_OF_REST = 0.02
#: A straight line that leaves less than this share of the variance is exact: rounding in
#: float32, squared, with room for a hundred operations.
EXACT = 1e-10
#: A network is a straight line if its own output bends by less than this share of its variance ...
STRAIGHT = 0.01
#: ... and by less than this share of the bending that the data ask for.
SHARE_OF_BENDS = 0.1
#: Beyond this, no straight line would be missed for the network: it bends for good or ill.
NEARLY_STRAIGHT = 0.1


def bend_of(structure: Structure) -> float:
    """Estimate the share of y's variance that bends explain beyond a line; 0 if it is chance.

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


def line_is_real(structure: Structure) -> bool:
    """Tell whether a straight line explains more than chance would."""
    added = structure.line_terms - 1
    free = structure.n - structure.line_terms
    left = 1 - structure.line_r2
    if added <= 0 or free <= 0:
        return False
    if left <= EXACT:
        return True
    return bool(fdtrc(added, free, structure.line_r2 / added / (left / free)) <= CHANCE)


def line(evidence: Evidence) -> Iterator[Finding]:
    """Find ``effectively-linear`` (the network became a line) or ``linear-data`` (they are one)."""
    look = evidence.look
    if look is None or look.linear_share is None or not any(evidence.summary.y.scale):
        return
    seen = evidence.summary.look
    structure = look.structure or (None if seen is None else seen.structure)
    constant = not any(look.output_scale)
    crooked = 0.0 if constant else 1 - look.linear_share
    bend = None if structure is None else bend_of(structure)
    n_units = sum(layer.n_units for layer in look.layers)
    n_bending = sum(layer.n_bending for layer in look.layers)
    numbers = {
        "linear_share": look.linear_share,
        "n_units": n_units,
        "n_bending": n_bending,
        **({} if structure is None else {"line_r2": structure.line_r2, "bend_of_data": bend}),
    }
    if bend == 0 and structure is not None and line_is_real(structure):
        if crooked <= NEARLY_STRAIGHT:
            yield Finding(
                "linear-data",
                "info",
                f"The data look linear: a straight line explains {structure.line_r2:.1%} of y's "
                "variance, and nothing in what it leaves over bends.",
                numbers,
                "A linear model tells the same with fewer numbers: LinearRegression, or "
                "module=MLP with module__hidden_sizes=().",
            )
        return
    asked = STRAIGHT if bend is None else min(STRAIGHT, SHARE_OF_BENDS * bend)
    # Without bends to be missed, a constant alone is a disease; a plain linear model is none.
    if bend == 0 or crooked > asked or not (n_units or _stacks_lines(evidence)):
        return
    yield _degenerated(evidence, numbers, constant=constant, bend=bend)


def _degenerated(
    evidence: Evidence, numbers: dict[str, Any], *, constant: bool, bend: float | None
) -> Finding:
    of_scale = [*inputs(evidence), *target(evidence)]
    what = (
        "it gives the same number for every row"
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
        magnitudes = listed([f.message.partition(": ")[2].rstrip(".") for f in of_scale])
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


def _stacks_lines(evidence: Evidence) -> bool:
    """Tell whether linear layers follow each other without an activation."""
    weights = [j for j in evidence.summary.journeys if j.name.endswith("weight")]
    return len(weights) > 1
