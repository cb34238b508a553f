"""All cases, and how well a diagnosis finds what was put into them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product

from recipes import Case
from sick_data import data, generalization
from sick_defaults import defaults
from sick_networks import degenerated, healthy, linear_data, units
from sick_training import optimization, scale

CASES: list[Case] = [
    *healthy(),
    *linear_data(),
    *degenerated(),
    *units(),
    *scale(),
    *optimization(),
    *generalization(),
    *data(),
    *defaults(),
]


@dataclass
class Score:
    """How often each code was found where it is, missed, and found where it is not."""

    right: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def precision(self, code: str) -> float:
        found = self.right[code] + self.wrong[code]
        return self.right[code] / found if found else 1.0

    def recall(self, code: str) -> float:
        return self.right[code] / (self.right[code] + self.missed[code])

    def table(self, codes: Iterable[str]) -> str:
        lines = [f"{'code':<24} {'fits':>4} {'precision':>9} {'recall':>6}"]
        for code in codes:
            n = self.right[code] + self.missed[code]
            lines.append(f"{code:<24} {n:4d} {self.precision(code):9.2f} {self.recall(code):6.2f}")
        return "\n".join([*lines, *self.errors])


def score(cases: Iterable[Case], shifts: Iterable[int]) -> Score:
    """Fit and diagnose each case with each shift; what may be found counts neither way."""
    result = Score()
    for case, shift in product(cases, shifts):
        found = set(case.diagnose(shift))
        missed, wrong = case.must - found, found - case.must - case.may
        result.right.update(case.must & found)
        result.missed.update(missed)
        result.wrong.update(wrong)
        if missed or wrong:
            result.errors.append(
                f"{case.name}, seeds + {shift}: missed {sorted(missed)}, wrong {sorted(wrong)}"
            )
    return result
