"""Findings and their collection: as text, HTML, DataFrame or dictionary."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

#: From worst to mildest: the fit is of little use; it could be better; good to know.
SEVERITIES = ("severe", "warning", "info")

#: Codes of all findings, in the order of equally severe ones: causes before their consequences.
CODES = (
    "failed-networks",
    "distant-validation-rows",
    "placeholder-values",
    "precision-loss",
    "unscaled-inputs",
    "unscaled-target",
    "bounded-output",
    "learning-rate-too-high",
    "diverged",
    "worse-than-constant",
    "effectively-linear",
    "linear-data",
    "dead-units",
    "always-on-units",
    "saturated-units",
    "duplicate-units",
    "parameter-drift",
    "stalled",
    "oscillating",
    "learning-rate-too-low",
    "still-falling",
    "overfitting",
    "underdetermined",
    "small-validation",
    "constant-column",
    "duplicate-column",
    "outlying-rows",
    "heavy-tailed-target",
    "extrapolation",
)


@dataclass(frozen=True)
class Finding:
    """One finding of a diagnosis.

    Parameters
    ----------
    code : str
        One of :data:`CODES`.
    severity : {"severe", "warning", "info"}
        The fit is of little use; it could be better; good to know.
    message : str
        One or two sentences.
    numbers : dict
        Numbers behind the finding, ready for JSON.
    advice : str
        What to try.
    """

    code: str
    severity: str
    message: str
    numbers: dict[str, Any] = field(default_factory=dict)
    advice: str = ""

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"A finding's code is one of {CODES}, got {self.code!r}.")
        if self.severity not in SEVERITIES:
            raise ValueError(f"A severity is one of {SEVERITIES}, got {self.severity!r}.")

    def __str__(self) -> str:
        lines = [f"{self.severity}: {self.code}", f"    {self.message}"]
        return "\n".join([*lines, f"    Try: {self.advice}"] if self.advice else lines)

    def to_dict(self) -> dict[str, Any]:
        """Convert to a dictionary, ready for JSON."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "numbers": plain(self.numbers),
            "advice": self.advice,
        }


@dataclass(frozen=True)
class Diagnosis:
    """All findings about one fit, the worst first.

    A diagnosis prints as text and, in a notebook, as HTML. It iterates over its findings, and
    ``"dead-units" in diagnosis`` tests for a code.

    Parameters
    ----------
    findings : tuple of Finding
    summary : dict
        Key numbers of the fit, ready for JSON.

    Examples
    --------
    >>> finding = Finding("dead-units", "warning", "3 of 5 units are dead.", {"n_dead": 3},
    ...                   "Lower the learning rate.")
    >>> diagnosis = Diagnosis((finding,), {"n_rows": 333})
    >>> print(diagnosis)
    1 finding
    <BLANKLINE>
    warning: dead-units
        3 of 5 units are dead.
        Try: Lower the learning rate.
    >>> "dead-units" in diagnosis, diagnosis.codes
    (True, ('dead-units',))
    """

    findings: tuple[Finding, ...]
    summary: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def rank(finding: Finding) -> tuple[int, int]:
            return SEVERITIES.index(finding.severity), CODES.index(finding.code)

        object.__setattr__(self, "findings", tuple(sorted(self.findings, key=rank)))

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of the findings, the worst first, each once."""
        return tuple(dict.fromkeys(finding.code for finding in self.findings))

    @property
    def healthy(self) -> bool:
        """Whether nothing worse than ``"info"`` was found."""
        return all(finding.severity == "info" for finding in self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __bool__(self) -> bool:
        return True

    def __contains__(self, code: object) -> bool:
        return code in self.codes

    def __getitem__(self, code: str) -> Finding:
        """Return the finding with a code.

        Raises
        ------
        KeyError
            If there is no such finding.
        """
        for finding in self.findings:
            if finding.code == code:
                return finding
        raise KeyError(f"no finding {code!r}; there are: {', '.join(self.codes) or 'none'}")

    def to_dict(self) -> dict[str, Any]:
        """Convert to a dictionary, ready for JSON."""
        return {
            "findings": [finding.to_dict() for finding in self.findings],
            "summary": plain(self.summary),
        }

    def to_frame(self) -> pd.DataFrame:
        """Convert to a DataFrame with one row per finding.

        Raises
        ------
        ImportError
            If pandas is missing.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                'to_frame needs pandas: pip install "torch-regressor[plot]", or use to_dict.'
            ) from error
        columns = ["code", "severity", "message", "numbers", "advice"]
        return pd.DataFrame([finding.to_dict() for finding in self.findings], columns=columns)

    def headline(self) -> str:
        """Summarize in one line: the number of findings or, without any, the quality of the fit."""
        if self.findings:
            return f"{len(self)} finding{'' if len(self) == 1 else 's'}"
        return f"Nothing to worry about: {self.summary.get('sentence', 'no findings.')}"

    def __str__(self) -> str:
        blocks = [self.headline(), *map(str, self.findings)]
        if self.findings and "sentence" in self.summary:
            blocks.append(f"The fit: {self.summary['sentence']}")
        return "\n\n".join(blocks)

    def _repr_html_(self) -> str:
        """Show as HTML in the colors of the surrounding page."""
        items = "".join(
            f"<dt><b>{html.escape(finding.code)}</b> ({html.escape(finding.severity)})</dt>"
            f"<dd>{html.escape(finding.message)}"
            + (f"<br><i>Try: {html.escape(finding.advice)}</i>" if finding.advice else "")
            + f"<br><small>{html.escape(_write(finding.numbers))}</small></dd>"
            for finding in self.findings
        )
        sentence = self.summary.get("sentence") if self.findings else None
        return (
            f'<div class="torchreg-diagnosis"><p><b>{html.escape(self.headline())}</b></p>'
            + (f"<dl>{items}</dl>" if items else "")
            + (f"<p>The fit: {html.escape(sentence)}</p>" if sentence else "")
            + "</div>"
        )


def _write(numbers: dict[str, Any]) -> str:
    """Write numbers as text: ``n_dead = 3, share = 0.6``."""
    words = []
    for key, value in numbers.items():
        shown = value if not isinstance(value, list) else value[:6]
        text = f"{shown:.4g}" if isinstance(shown, float) else str(plain(shown))
        words.append(f"{key} = {text}{' ...' if isinstance(value, list) and value[6:] else ''}")
    return ", ".join(words)


def plain(value: Any) -> Any:
    """Convert a nested value for JSON: numbers that are not finite become ``None``."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
