"""Findings about the data."""

from __future__ import annotations

from collections.abc import Iterator

from torchreg.diagnosis.evidence import Evidence, join_words
from torchreg.diagnosis.report import Finding
from torchreg.losses import LOSSES

#: Nearly constant: at most this share of the rows differs from the most common value.
HARDLY_ANY = 0.005
#: For columns with fewer rows that differ from the most common value, such as sparse columns, a
#: number of standard deviations says little.
MOSTLY_ONE = 0.1
#: A kurtosis beyond this is a heavy tail: a normal distribution has 3, an exponential one 9; from
#: about 15 on, a few percent of the rows make half of a squared loss.
HEAVY = 15.0
#: Extrapolation: this share of the new rows is outside in one column, and this many times the share
#: expected for rows of the same distribution, 2 / (n + 1) for n exchangeable values, ...
OUTSIDE = 0.05
TIMES_CHANCE = 4.0
#: ... or a single row is outside by more than this many widths of the training range.
BEYOND = 1.0


def find_placeholders(evidence: Evidence, *, only_digits: bool = False) -> Iterator[Finding]:
    """Find ``placeholder-values``: values far outside all others of their column.

    With ``only_digits``, only those that cost the others their digits.
    """
    summary = evidence.summary
    found = [far for far in summary.far_values if far.costs_digits or not only_digits]
    if not found:
        return
    named = [
        f"{(evidence.feature if far.table == 'X' else evidence.target)(far.column)} is "
        f"{far.value:.6g} in {far.count} row{'s' if far.count > 1 else ''} and "
        f"{far.low:.4g} to {far.high:.4g} in all others"
        for far in found
    ]
    digits = any(far.costs_digits for far in found)
    yield Finding(
        "placeholder-values",
        "warning",
        f"Values far outside all others are probably placeholders or errors: {join_words(named)}"
        f"{'; standardized with it, the others would lose their digits' if digits else ''}.",
        {
            "tables": [far.table for far in found],
            "columns": [far.column for far in found],
            "values": [far.value for far in found],
            "n_rows": [far.count for far in found],
        },
        "Leave these rows out; or in X, SimpleImputer(missing_values=...), which replaces them.",
    )


def find_problem_columns(evidence: Evidence) -> Iterator[Finding]:
    """Find ``constant-column``, ``duplicate-column`` and ``outlying-rows``."""
    summary = evidence.summary
    n = summary.n_rows
    rare = [far for far in summary.outlier_columns if far.n_other <= HARDLY_ANY * n]
    constant = [column for column, spread in enumerate(summary.x.scale) if spread == 0]
    if constant or rare:
        named = [f"{evidence.feature(c)} is {summary.x.mean[c]:.6g} in every row" for c in constant]
        named += [
            f"{evidence.feature(far.column)} differs from its most common value in "
            f"{far.n_other} of {n} rows"
            for far in rare
        ]
        yield Finding(
            "constant-column",
            "info",
            f"{join_words(named)}: {'it carries' if len(named) == 1 else 'they carry'} no "
            "information.",
            {"constant": constant, "nearly_constant": [far.column for far in rare]},
            "Remove constant columns.",
        )
    if summary.duplicate_columns:
        named = [
            f"{evidence.feature(b)} of {evidence.feature(a)}" for a, b in summary.duplicate_columns
        ]
        yield Finding(
            "duplicate-column",
            "info",
            f"Columns are linear functions of others: {join_words(named)}.",
            {"pairs": [list(pair) for pair in summary.duplicate_columns]},
            "Remove the copies: they count a feature twice.",
        )
    outlying = [
        far
        for far in summary.outlier_columns
        if far.n_other > MOSTLY_ONE * n and not far.two_valued
    ]
    if outlying:
        named = [
            f"{far.n_far} in {evidence.feature(far.column)} (range {summary.x.low[far.column]:.4g} "
            f"to {summary.x.high[far.column]:.4g}, mean {summary.x.mean[far.column]:.4g})"
            for far in outlying
        ]
        yield Finding(
            "outlying-rows",
            "warning",
            f"Some rows are more than 10 standard deviations from the mean: "
            f"{join_words(named)}; they compress the range of all others.",
            {
                "columns": [far.column for far in outlying],
                "n_rows": [far.n_far for far in outlying],
            },
            "Check for measurement errors and units; or use a logarithm or QuantileTransformer.",
        )


def find_heavy_tails(evidence: Evidence) -> Iterator[Finding]:
    """Find ``heavy-tailed-target``: a few rows whose y dominates the loss."""
    y = evidence.summary.y
    heavy = [column for column, kurtosis in enumerate(y.kurtosis) if kurtosis > HEAVY]
    if not heavy:
        return
    named = [
        f"{evidence.target(c)} has a kurtosis of {y.kurtosis[c]:.0f} (3 is normal) and reaches "
        f"from {y.low[c]:.4g} to {y.high[c]:.4g} around a mean of {y.mean[c]:.4g}"
        for c in heavy
    ]
    robust = " or ".join(f"loss={name!r}" for name in sorted(LOSSES) if LOSSES[name].is_robust)
    positive = all(y.low[c] > 0 and y.skewness[c] > 0 for c in heavy)
    yield Finding(
        "heavy-tailed-target",
        "warning",
        f"A few rows dominate the loss: {join_words(named)}.",
        {
            "columns": heavy,
            "kurtosis": [y.kurtosis[c] for c in heavy],
            "skewness": [y.skewness[c] for c in heavy],
        },
        "TransformedTargetRegressor(reg, func=np.log, inverse_func=np.exp), since y is positive."
        if positive
        else f"{robust}, which large residuals influence less.",
    )


def find_extrapolation(evidence: Evidence) -> Iterator[Finding]:
    """Find ``extrapolation``: given rows outside the range of the training rows."""
    bound = max(OUTSIDE, TIMES_CHANCE * 2 / (evidence.summary.n_rows + 1))
    far = [o for o in evidence.outside if o.share > bound or o.beyond > BEYOND]
    if not far:
        return
    x = evidence.summary.x
    named = [
        f"{evidence.feature(o.column)} in {o.share:.1%} of the rows ({o.low:.4g} to {o.high:.4g}, "
        f"trained on {x.low[o.column]:.4g} to {x.high[o.column]:.4g})"
        for o in far
    ]
    yield Finding(
        "extrapolation",
        "warning",
        f"The given rows are outside the range of the training rows: {join_words(named)}; the "
        "network extrapolates there.",
        {
            "columns": [o.column for o in far],
            "share": [o.share for o in far],
            "beyond": [o.beyond for o in far],
        },
        "Train on such rows, or do not predict them.",
    )
