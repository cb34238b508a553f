"""Summaries that the diagnosis reads: of the training rows, of a trained network, of the fit.

They are computed once training has ended. ``summarize_rows`` describes the columns and chooses
up to 512 probe rows; ``ProbeRows`` evaluates the network on them; ``summarize_fit`` combines both
with the settings of the fit and the drift of the parameters in a ``FitSummary``.
"""

from torchreg.engine.inspect.fit_summary import (
    ProbeRows,
    parameter_drifts,
    probe_rows,
    summarize_fit,
)
from torchreg.engine.inspect.row_summary import (
    RowSummary,
    column_ranges,
    distant_columns,
    summarize_rows,
)

__all__ = [
    "ProbeRows",
    "RowSummary",
    "column_ranges",
    "distant_columns",
    "parameter_drifts",
    "probe_rows",
    "summarize_fit",
    "summarize_rows",
]
