"""Findings about hidden units that do not contribute to the fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from torchreg.diagnosis.evidence import Evidence, join_words
from torchreg.diagnosis.record import FitSummary, Layer
from torchreg.diagnosis.report import Finding

#: A layer is reported if more than this share of its units is affected ...
SHARE: dict[str, float] = {
    "dead-units": 0.5,
    "always-on-units": 0.5,
    "saturated-units": 0.5,
    "duplicate-units": 0.5,
}
#: ... and more than chance explains. With one standardized feature, about a sixth of the units with
#: random weights is dead and a sixth always on, because the bend |b/w| is outside the data; fewer
#: with more features. The bound is three standard deviations of a binomial variable: 4 of 5 units,
#: 6 of 10.
BY_CHANCE = 1 / 6
ERRORS = 3.0
#: All units of a layer of this size are dead by chance in one of 216 random layers.
NO_CHANCE = 3


def exceeds_chance(code: str, n_found: int, n_units: int) -> bool:
    """Whether a number of units of a layer is reported.

    Examples
    --------
    >>> [exceeds_chance("dead-units", *counts) for counts in ((3, 5), (4, 5), (50, 100))]
    [False, True, False]
    """
    chance = BY_CHANCE if code in ("dead-units", "always-on-units") else 0.0
    bound = n_units * chance + ERRORS * math.sqrt(n_units * chance * (1 - chance))
    # A layer of one to three units is reported if all are affected.
    return n_found > SHARE[code] * n_units and n_found >= min(bound, n_units)


def is_overparametrized(summary: FitSummary, share: float) -> bool:
    """Whether a network with fewer units still has more parameters than y has values."""
    # If both layers lose this share of units, the weights between them lose it twice.
    left = (1 - share) ** 2 * summary.n_parameters / summary.n_networks
    return left > summary.n_rows * len(summary.y.mean)


def is_whole_layer(finding: Finding) -> bool:
    """Whether all units of a layer of at least three units are affected."""
    pairs = zip(finding.numbers["n_found"], finding.numbers["n_units"], strict=True)
    return any(n_found == n_units >= NO_CHANCE for n_found, n_units in pairs)


#: Code, description, count of units, number of units, and advice.
_UNIT_KINDS: tuple[tuple[str, str, Callable[[Layer], int], Callable[[Layer], int], str], ...] = (
    (
        "dead-units",
        "dead: their output is constant over all rows, and they receive no gradient",
        lambda layer: layer.n_dead,
        lambda layer: layer.n_units,
        "A lower lr, standardized inputs, another random_state, or leaky_relu, gelu or silu.",
    ),
    (
        "always-on-units",
        "always on: they are linear within the data",
        lambda layer: 0 if layer.bounded else layer.n_always_on,
        lambda layer: layer.n_units,
        "Inputs of order 1 around 0, or smaller initial biases.",
    ),
    (
        "saturated-units",
        "saturated: they are at their bounds, where the gradient vanishes",
        lambda layer: layer.n_saturated,
        lambda layer: layer.n_units,
        "Inputs of order 1, smaller initial weights, a lower lr, or an unbounded activation.",
    ),
    (
        "duplicate-units",
        "duplicates of others, up to scale and offset: they are redundant",
        lambda layer: layer.n_duplicates,
        lambda layer: layer.n_units,
        "Random initial weights, different for each unit; or a smaller layer.",
    ),
)


def find_idle_units(evidence: Evidence) -> Iterator[Finding]:
    """Find dead, always-on, saturated and duplicate units."""
    for code, words, count, total, advice in _UNIT_KINDS:
        found = [
            layer
            for layer in evidence.layers
            if exceeds_chance(code, count(layer), total(layer))
            and not is_overparametrized(evidence.summary, count(layer) / total(layer))
        ]
        if not found:
            continue
        several = evidence.summary.n_networks > 1
        where = f" in {evidence.summary.n_networks} networks" if several else ""
        named = [
            f"{count(layer)} of {total(layer)} units of {layer.name} ({layer.function})"
            for layer in found
        ]
        named[-1] += where
        all_of_them = any(count(layer) == total(layer) for layer in found)
        yield Finding(
            code,
            "severe" if all_of_them and code == "dead-units" else "warning",
            f"{join_words(named)} are {words}.",
            {
                "layers": [layer.name for layer in found],
                "n_units": [total(layer) for layer in found],
                "n_found": [count(layer) for layer in found],
            },
            advice,
        )
