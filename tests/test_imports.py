"""Imports between packages are downward, and ``import torchreg`` loads no optional packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "torchreg"

#: Packages from the lowest to the highest. A package imports from packages before it.
PACKAGES = [
    "exceptions",
    "_utils",
    "nn",
    "optim",
    "losses",
    "diagnosis",
    "_serialization",
    "engine.data",
    "engine.spec",
    "engine.capture",
    "engine.train",
    "engine.stack",
    "engine.inspect",
    "engine.build",
    "engine.batched_program",
    "engine.batched_network",
    "engine.predict",
    "engine.run",
    "export",
    "plotting",
    "reporting",
    "_parallel",
    "_estimator",
    "_persistence",
    "regressor",
    "ensemble",
    "parallel",
    "_loading",
]
#: Packages of numerical code: they know no estimator, no table library and no figure.
NUMERICAL = ["nn", "optim", "losses", "diagnosis", "_serialization", "engine", "export"]


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def package_of(module: str) -> str:
    """Name the package of a module: the subpackage within ``engine``, else the first level."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2] if parts[:1] == ["engine"] else parts[:1])


def imports_of(name: str) -> Iterator[tuple[str, int]]:
    """Name every module that a module imports, with the line: inside functions too."""
    file = MODULES[name]
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, [base, node.module or ""]))
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield (full if full in MODULES else source), node.lineno


def test_every_folder_and_root_file_is_in_the_list_of_packages() -> None:
    assert {package_of(name) for name in MODULES} - {"", "engine"} == set(PACKAGES)


@pytest.mark.parametrize("name", [name for name in MODULES if package_of(name) in PACKAGES])
def test_imports_between_packages_run_downwards(name: str) -> None:
    package = package_of(name)
    for imported, line in imports_of(name):
        used = package_of(imported) if imported.startswith("torchreg") else package
        if used != package:
            assert used in PACKAGES, f"{name} (line {line}) imports the package {imported} itself"
            assert PACKAGES.index(used) < PACKAGES.index(package), (
                f"{name} (line {line}) imports {imported}, which is in a higher package. Move "
                f"what it needs to {package} or below."
            )


def test_imports_of_finds_every_kind_of_import() -> None:
    # Lazy, under TYPE_CHECKING, and in the package's own __init__.
    network = dict(imports_of("torchreg.engine.build.network"))
    assert "torchreg.engine.train.skorch_callbacks" in network
    assert "torchreg.regressor" in dict(imports_of("torchreg"))
    assert "torchreg.nn" in dict(imports_of("torchreg.engine.build.network"))


def outsiders(name: str) -> set[str]:
    return {imported for imported, _ in imports_of(name) if not imported.startswith("torchreg")}


def test_only_one_module_imports_private_parts_of_scikit_learn() -> None:
    private = {
        name
        for name in MODULES
        for imported in outsiders(name)
        if imported.startswith("sklearn.") and "._" in imported
    }
    assert private == {"torchreg._estimator.sklearn_compat"}


def test_only_one_module_imports_skorch() -> None:
    users = {name for name in MODULES for i in outsiders(name) if i.partition(".")[0] == "skorch"}
    assert users == {"torchreg.engine.train.skorch_callbacks"}


@pytest.mark.parametrize(
    "name", [name for name in MODULES if package_of(name).partition(".")[0] in NUMERICAL]
)
def test_numerical_code_imports_no_estimator_table_or_figure(name: str) -> None:
    roots = {imported.partition(".")[0] for imported in outsiders(name)}
    # A report turns into a table where pandas is installed; it never takes one.
    roots -= {"pandas"} if name == "torchreg.diagnosis.report" else set()
    # scikit-learn's scores are imported when they are computed.
    roots -= {"sklearn"} if name == "torchreg.losses.scores" else set()
    assert not roots & {"sklearn", "pandas", "polars", "joblib", "matplotlib"}


# Some releases of scikit-learn import pandas themselves, where it is installed.
HEAVY = [
    *("skorch", "pandas", "polars", "matplotlib"),
    *("torch._dynamo", "onnx", "onnxruntime", "safetensors"),
]
SCRIPT = f"""
import sys, tempfile
import torch, sklearn.base
theirs = set(sys.modules)
def heavy():
    print(*[name for name in {HEAVY} if name in sys.modules and name not in theirs], sep=",")
import torchreg
heavy()
import numpy as np
X = np.arange(20.0).reshape(10, 2)
for optimizer in ("adam", "adamw", "rprop", "sgd"):
    torchreg.TorchRegressor(optimizer=optimizer, max_epochs=2).fit(X, X[:, 0]).predict(X)
heavy()
with tempfile.TemporaryDirectory() as folder:
    torchreg.TorchRegressor(max_epochs=2).fit(X, X[:, 0]).save(folder + "/reg")
    torchreg.load(folder + "/reg").predict(X)
heavy()
"""


@pytest.fixture(scope="module")
def fresh_process() -> list[str]:
    """Modules that a new process has loaded after the import, four small fits and a file."""
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:3]


def test_importing_torchreg_loads_no_optional_packages(
    fresh_process: list[str],
) -> None:
    assert fresh_process[0] == ""


def test_a_small_fit_loads_no_compiler_and_no_skorch(fresh_process: list[str]) -> None:
    assert fresh_process[1] == ""


def test_saving_and_loading_load_safetensors_only(fresh_process: list[str]) -> None:
    assert fresh_process[2] == "safetensors"
