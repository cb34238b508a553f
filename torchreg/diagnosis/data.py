"""Findings about the data themselves."""

from __future__ import annotations

from collections.abc import Iterator

from torchreg.diagnosis.evidence import Evidence, listed
from torchreg.diagnosis.report import Finding
from torchreg.losses import LOSSES

#: Nearly constant: fewer than this share of the rows differ from the commonest value.
HARDLY_ANY = 0.005
#: Of a column that differs from its commonest value in fewer rows than this share, as sparse
#: ones do, a standard deviation says little, and ten of them no more.
MOSTLY_ONE = 0.1
#: A kurtosis beyond this is a heavy tail: 3 is a normal distribution, 9 an exponential one, and
#: from about 15 on a few rows in a hundred make half of a squared loss.
HEAVY = 15.0
#: New rows that lie outside: this share of them in one column, and so many times what new rows
#: of the same kind show by chance, 2 / (n + 1) (the two ends of n exchangeable values), ...
OUTSIDE = 0.05
TIMES_CHANCE = 4.0
#: ... or a single row that lies further out than so many widths of the training range.
BEYOND = 1.0


def columns(evidence: Evidence) -> Iterator[Finding]:
    """Find ``constant-column``, ``duplicate-column`` and ``outlying-rows``."""
    summary = evidence.summary
    n = summary.n_rows
    rare = [far for far in summary.far if far.n_other <= HARDLY_ANY * n]
    constant = [column for column, spread in enumerate(summary.x.scale) if spread == 0]
    if constant or rare:
        named = [f"{evidence.feature(c)} is {summary.x.mean[c]:.6g} in every row" for c in constant]
        named += [
            f"{evidence.feature(far.column)} differs from its commonest value in {far.n_other} of "
            f"{n} rows"
            for far in rare
        ]
        yield Finding(
            "constant-column",
            "info",
            f"{listed(named)}: nothing can be learned from {'it' if len(named) == 1 else 'them'}.",
            {"constant": constant, "nearly_constant": [far.column for far in rare]},
            "Leave out what does not vary.",
        )
    if summary.copies:
        named = [f"{evidence.feature(b)} of {evidence.feature(a)}" for a, b in summary.copies]
        yield Finding(
            "duplicate-column",
            "info",
            f"There are copies of columns, in whatever unit: {listed(named)}.",
            {"pairs": [list(pair) for pair in summary.copies]},
            "Leave the copies out: they only count a feature twice.",
        )
    outlying = [far for far in summary.far if far.n_other > MOSTLY_ONE * n and not far.two_valued]
    if outlying:
        named = [
            f"{far.n_far} in {evidence.feature(far.column)} (range {summary.x.low[far.column]:.4g} "
            f"to {summary.x.high[far.column]:.4g}, mean {summary.x.mean[far.column]:.4g})"
            for far in outlying
        ]
        yield Finding(
            "outlying-rows",
            "warning",
            f"Some rows lie more than 10 standard deviations from the mean: {listed(named)}; they "
            "press all the others together.",
            {
                "columns": [far.column for far in outlying],
                "n_rows": [far.n_far for far in outlying],
            },
            "Look for errors of measurement or units; or a logarithm, or QuantileTransformer.",
        )


def tails(evidence: Evidence) -> Iterator[Finding]:
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
        f"A few rows dominate the loss: {listed(named)}.",
        {
            "columns": heavy,
            "kurtosis": [y.kurtosis[c] for c in heavy],
            "skewness": [y.skewness[c] for c in heavy],
        },
        "TransformedTargetRegressor(reg, func=np.log, inverse_func=np.exp), since y is positive."
        if positive
        else f"{robust}, which large residuals influence less.",
    )


def extrapolation(evidence: Evidence) -> Iterator[Finding]:
    """Find ``extrapolation``: given rows that lie outside the training rows."""
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
        f"The given rows leave the range of the training rows: {listed(named)}; what is predicted "
        "there is a guess.",
        {
            "columns": [o.column for o in far],
            "share": [o.share for o in far],
            "beyond": [o.beyond for o in far],
        },
        "Train on rows like these, or leave them out.",
    )
