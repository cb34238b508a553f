"""What went on inside a fit, in words and numbers.

It reads a module, the record of its fit and, if there are any, rows; it knows no estimator.
"""

from torchreg.diagnosis.report import CODES, SEVERITIES, Diagnosis, Finding

__all__ = ["CODES", "SEVERITIES", "Diagnosis", "Finding"]
