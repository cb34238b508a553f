"""Findings about hidden units that do nothing for the fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from torchreg.diagnosis.evidence import Evidence, listed
from torchreg.diagnosis.record import FitSummary, Layer
from torchreg.diagnosis.report import Finding

#: A layer is reported beyond this share of its units ...
SHARE: dict[str, float] = {
    "dead-units": 0.5,
    "always-on-units": 0.5,
    "saturated-units": 0.5,
    "duplicate-units": 0.5,
}
#: ... if chance does not make as many. With one standardized feature, about a sixth of the units
#: that start at random is dead and a sixth always on (a weight and a bias of the same range put
#: the bend |b/w| beyond the data), fewer with more features. Beyond three standard deviations
#: of a binomial number it is no chance: 4 of 5 units, 6 of 10.
BY_CHANCE = 1 / 6
ERRORS = 3.0
#: All of so many units are off by chance in one of 216 layers that start at random.
NO_CHANCE = 3


def is_many(code: str, n_found: int, n_units: int) -> bool:
    """Tell whether so many units of a layer are worth a word.

    Examples
    --------
    >>> is_many("dead-units", 3, 5), is_many("dead-units", 4, 5), is_many("dead-units", 50, 100)
    (False, True, False)
    """
    chance = BY_CHANCE if code in ("dead-units", "always-on-units") else 0.0
    bound = n_units * chance + ERRORS * math.sqrt(n_units * chance * (1 - chance))
    # A layer of one to three units is reported where none is left.
    return n_found > SHARE[code] * n_units and n_found >= min(bound, n_units)


def can_spare(summary: FitSummary, share: float) -> bool:
    """Tell whether a network is so large that without a share of its units nothing is lost.

    It is if the others alone have more parameters than y has numbers, and could memorize them.
    """
    # Between two layers that both lose this share, the square is left of the weights.
    left = (1 - share) ** 2 * summary.n_parameters / summary.n_networks
    return left > summary.n_rows * len(summary.y.mean)


def is_whole_layer(finding: Finding) -> bool:
    """Tell whether no unit of some layer is left, where a layer of three is no longer chance."""
    pairs = zip(finding.numbers["n_found"], finding.numbers["n_units"], strict=True)
    return any(n_found == n_units >= NO_CHANCE for n_found, n_units in pairs)


#: What is looked for: code, in words, how many units, of how many, and what helps.
_KINDS: tuple[tuple[str, str, Callable[[Layer], int], Callable[[Layer], int], str], ...] = (
    (
        "dead-units",
        "dead: they are off for every row, give the same number for all of them, and "
        "can no longer learn",
        lambda layer: layer.n_dead,
        lambda layer: layer.n_units,
        "A lower lr, standardized inputs, another random_state, or leaky_relu, gelu or silu.",
    ),
    (
        "always-on-units",
        "always on: they bend nowhere within the data, and are straight lines",
        lambda layer: 0 if layer.bounded else layer.n_always_on,
        lambda layer: layer.n_units,
        "Inputs of order 1 around 0, or initial biases nearer to 0.",
    ),
    (
        "saturated-units",
        "saturated: they sit at their floor or ceiling, where next to no gradient passes",
        lambda layer: layer.n_saturated,
        lambda layer: layer.n_units,
        "Inputs of order 1, smaller initial weights, a lower lr, or an activation without ceiling.",
    ),
    (
        "duplicate-units",
        "duplicates of others, up to scale and offset: they add nothing",
        lambda layer: layer.n_duplicates,
        lambda layer: layer.n_units,
        "Random initial weights, different for each unit; or a smaller layer.",
    ),
)


def units(evidence: Evidence) -> Iterator[Finding]:
    """Find dead, always-on, saturated and duplicate units."""
    for code, words, count, total, advice in _KINDS:
        found = [
            layer
            for layer in evidence.layers
            if is_many(code, count(layer), total(layer))
            and not can_spare(evidence.summary, count(layer) / total(layer))
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
            f"{listed(named)} are {words}.",
            {
                "layers": [layer.name for layer in found],
                "n_units": [total(layer) for layer in found],
                "n_found": [count(layer) for layer in found],
            },
            advice,
        )
