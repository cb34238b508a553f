"""Findings about a fit, in words and numbers.

``findings.diagnose`` reads a fitted module, the record of its fit (``record.FitSummary``) and,
optionally, rows. ``network_summary`` evaluates a network on rows and describes its hidden units;
``linear_baseline`` fits linear models and curves for comparison; ``evidence`` collects these
numbers; each of ``linearity``, ``activations``, ``scale``, ``optimization``, ``generalization`` and
``data`` turns them into findings. No module of this package knows an estimator.
"""

from torchreg.diagnosis.report import CODES, SEVERITIES, Diagnosis, Finding

__all__ = ["CODES", "SEVERITIES", "Diagnosis", "Finding"]
