"""What a fit looks like on a page: in a notebook, and as a report that stands alone."""

from torchreg.reporting.network import network_html
from torchreg.reporting.page import write_report

__all__ = ["network_html", "write_report"]
