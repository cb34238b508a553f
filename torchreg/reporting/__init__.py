"""HTML: the network below an estimator in a notebook, and the report page.

Python computes tables, figures and sentences; the templates in ``templates/`` lay them out.
"""

from torchreg.reporting.network import network_html
from torchreg.reporting.report import write_report

__all__ = ["network_html", "write_report"]
