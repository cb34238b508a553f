"""Seeds of several networks."""

from __future__ import annotations

import numpy as np


def spawn_seeds(seed: int, n_init: int) -> list[int]:
    """Give each of several networks a seed; the first has the one of the fit.

    Examples
    --------
    >>> seeds_of(7, 1), seeds_of(7, 3)[:2] == seeds_of(7, 2)
    ([7], True)
    """
    if n_init == 1:
        return [seed]
    further: list[int] = np.random.SeedSequence(seed).generate_state(n_init - 1).tolist()
    return [seed, *further]
