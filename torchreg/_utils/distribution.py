"""The distribution that holds this package: its name, its version, and what else is installed."""

from __future__ import annotations

import contextlib
import sys
import warnings
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

from torchreg.exceptions import InstallationWarning

#: What to install. The distribution ``torchreg`` of PyPI is another library.
DISTRIBUTION = "torch-regressor"
__version__ = "0.1.0"

_INIT = "torchreg/__init__.py"


def installed_versions(*packages: str) -> dict[str, str]:
    """Return the versions of this distribution and of those packages that are installed."""
    found = {DISTRIBUTION: __version__}  # Known also where it is imported from a folder.
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def check_installation() -> None:
    """Warn if the files of this package are mixed with those of PyPI's other ``torchreg``.

    Warns
    -----
    InstallationWarning
        Of two distributions, the one installed last has replaced files of the other, and
        uninstalling one of them deletes files of both.
    """
    repair = f"pip uninstall torchreg {DISTRIBUTION}, then pip install {DISTRIBUTION}"
    if getattr(sys.modules["torchreg"], "__file__", None) is None:  # A folder without _INIT.
        problem = f"{_INIT} is missing, as after another package named torchreg was uninstalled"
        warnings.warn(f"{problem}. Repair: {repair}.", InstallationWarning, stacklevel=2)
    folder = Path(__file__).parents[2]
    for other in distributions(name="torchreg", path=[str(folder)]):
        # Only a wheel has this list; an editable installation has no files here.
        if _INIT in (other.read_text("RECORD") or ""):
            warnings.warn(
                f"Two distributions put a package torchreg in {folder}: {DISTRIBUTION}, which has "
                f"TorchRegressor, and torchreg {other.version}, another library. They replace each "
                f"other's files. To use TorchRegressor: {repair}.",
                InstallationWarning,
                stacklevel=2,
            )
