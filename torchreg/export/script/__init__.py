"""Export of a fit as a plain PyTorch script.

``describe`` collects the contents from a fitted regressor; ``source`` and ``definitions`` turn its
values, classes and functions into source code; ``writing`` fills in ``script.py.jinja``.
"""

from torchreg.export.script.describe import describe
from torchreg.export.script.writing import check_path, write_script

__all__ = ["check_path", "describe", "write_script"]
