"""Build the wheel, check what it holds, install it alone in a new environment, and fit."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Runs outside the checkout, so that `torchreg` can only be the installed wheel.
FIT = """
import sys
from importlib.metadata import version
import numpy as np
import torchreg

assert torchreg.__file__.startswith(sys.prefix), torchreg.__file__
X = np.linspace(0.0, 100.0, 20).reshape(-1, 1)
y = 3.0 * X[:, 0] + 1000.0
predicted = torchreg.TorchRegressor(max_epochs=5, random_state=0).fit(X, y).predict(X)
assert predicted.shape == y.shape, predicted.shape
assert np.isfinite(predicted).all()
print(f"torch-regressor {version('torch-regressor')}: installed, imported, fitted")
"""


def run(*command: str | Path, quiet: bool = False, cwd: Path = ROOT) -> None:
    """Run a command, and stop with its output if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{done.stdout or ''}failed: {' '.join(str(part) for part in command[:5])} ...")


def check_contents(wheel: Path) -> None:
    """Compare the wheel's files with those of the package in the checkout."""
    package = ROOT / "torchreg"
    expected = {path.relative_to(ROOT).as_posix() for path in package.rglob("*.py")}
    expected.add("torchreg/py.typed")
    templates = [path for path in package.rglob("*") if path.suffix in (".jinja", ".html", ".css")]
    expected |= {path.relative_to(ROOT).as_posix() for path in templates}
    names = set(zipfile.ZipFile(wheel).namelist())
    found = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    if found != expected:
        sys.exit(
            f"{wheel.name} should hold the torchreg package and nothing else.\n"
            f"  missing: {sorted(expected - found)}\n  unexpected: {sorted(found - expected)}"
        )
    print(f"{wheel.name}: {len(found)} files, all of the torchreg package, py.typed among them")


def main() -> None:
    """Run the three steps."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        # By way of the source archive, as a release is built: a wheel built in the checkout
        # would also take what an earlier build left there.
        run(sys.executable, "-m", "build", "--outdir", place, ROOT, quiet=True)
        (wheel,) = place.glob("*.whl")
        check_contents(wheel)
        run(sys.executable, "-m", "venv", place / "venv")
        python = place / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        constraints = ROOT / "constraints.txt"
        run(python, "-m", "pip", "install", "--quiet", "--constraint", constraints, wheel)
        run(python, "-I", "-W", "error", "-c", FIT, cwd=place)


if __name__ == "__main__":
    main()
