"""The distribution is ``torch-regressor``: PyPI's ``torchreg`` is another library."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import torchreg

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "torchreg"

#: Imports a part of the package from each folder, and prints the warnings.
SCRIPT = """
import json, sys, warnings
from pathlib import Path
for folder in sys.argv[1:]:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchreg"]:
        del sys.modules[name]
    sys.path[:] = [folder, *(p for p in sys.path if not (Path(p) / "torchreg").exists())]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from torchreg.nn import MLP
    print(json.dumps([[w.category.__name__, str(w.message)] for w in caught]))
"""


def install(folder: Path, init: str | None = None, distribution: str | None = None) -> Path:
    """Put the package in a folder, with this text as its ``__init__.py``, and a distribution."""
    (folder / "torchreg").mkdir(parents=True)
    for part in PACKAGE.iterdir():
        if part.name != "__init__.py":
            (folder / "torchreg" / part.name).symlink_to(part)
    if init is not None:
        (folder / "torchreg" / "__init__.py").write_text(init, encoding="utf-8")
    if distribution is not None:
        info = folder / f"{distribution}-0.1.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {distribution}\nVersion: 0.1.3\n", encoding="utf-8")
        (info / "RECORD").write_text("torchreg/__init__.py,,\n", encoding="utf-8")
    return folder


def test_the_import_of_a_mixed_installation_says_what_happened_and_how_to_repair_it(
    tmp_path: Path,
) -> None:
    folders = [
        install(tmp_path / "sound", "", "torch_regressor"),
        install(tmp_path / "together with the other", "", "torchreg"),
        install(tmp_path / "init deleted with the other"),
    ]
    command = [sys.executable, "-c", SCRIPT, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    sound, *mixed = map(json.loads, done.stdout.splitlines())
    assert sound == []
    for (caught,), said in zip(mixed, ["torchreg 0.1.3", "missing"], strict=True):
        assert caught[0] == "InstallationWarning"
        assert said in caught[1]
        assert "pip uninstall torchreg torch-regressor" in caught[1]


def test_the_metadata_name_torch_regressor_with_the_version_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["name"] == "torch-regressor"
    module, _, name = project["tool"]["setuptools"]["dynamic"]["version"]["attr"].rpartition(".")
    assert getattr(sys.modules[module], name) == torchreg.__version__


#: What pip would install as the other library: ``torchreg[files]``, ``torchreg==0.1.0``.
OTHER = re.compile(r"\btorchreg(\[\w+(,\w+)*\](?!\()|[=~<>]=\d)|pip install [^`\n]*\btorchreg\b")


@pytest.mark.parametrize("folder", ["", ".ci", "torchreg", "examples", "benchmarks"])
def test_no_file_says_to_install_the_other_library(folder: str) -> None:
    suffixes = {".py", ".md", ".toml", ".txt", ".jinja", ".html", ""}
    files = (ROOT / folder).rglob("*") if folder else ROOT.glob("*")
    texts = {
        file: file.read_text(encoding="utf-8")
        for file in files
        if file.is_file() and file.suffix in suffixes and file.name != ".git"
    }
    found = {file.name: OTHER.search(text) for file, text in texts.items()}
    assert len(texts) >= 2
    assert {name: match[0] for name, match in found.items() if match} == {}
