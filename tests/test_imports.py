"""Imports run downwards only, and importing torchreg brings in no more than it needs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "torchreg"

#: The house from top to ground. A module imports modules that stand below it, on its own
#: floor or on a lower one.
FLOORS: dict[str, list[str]] = {
    "the door": ["torchreg", "torchreg._loading"],
    "several estimators": ["torchreg.ensemble"],
    "the estimator": [
        "torchreg.regressor",
        "torchreg._fitting",
        "torchreg._scoring",
        "torchreg.parallel",
        "torchreg._crew",
        "torchreg._tasks",
    ],
    "looks inside": ["torchreg._inspecting"],
    "out and back": [
        "torchreg._exporting",
        "torchreg._saving",
        "torchreg._ensemble_record",
        "torchreg._record",
        "torchreg._given",
        "torchreg._recipe",
        "torchreg._recipe_parts",
    ],
    "arrays, parameters, words": [
        "torchreg._automatic",
        "torchreg._origin",
        "torchreg._history",
        "torchreg._checkpoint",
        "torchreg._fingerprint",
        "torchreg._observers",
        "torchreg._verdict",
        "torchreg._limits",
        "torchreg._checks",
        "torchreg._data",
        "torchreg._parameters",
        "torchreg._sklearn",
    ],
    "pages": [
        "torchreg.reporting",
        "torchreg.reporting.page",
        "torchreg.reporting.figures",
        "torchreg.reporting.network",
        "torchreg.reporting.data",
        "torchreg.reporting.settings",
        "torchreg.reporting.style",
        "torchreg.reporting.markup",
    ],
    "figures": [
        "torchreg.plotting",
        "torchreg.plotting.fit",
        "torchreg.plotting.layers",
        "torchreg.plotting.loss_curve",
        "torchreg.plotting.prediction",
        "torchreg.plotting._rows",
        "torchreg.plotting._inside",
        "torchreg.plotting._labels",
        "torchreg.plotting._axes",
    ],
    "what a diagnosis finds": [
        "torchreg.diagnosis.findings",
        "torchreg.diagnosis.optimization",
        "torchreg.diagnosis.linearity",
        "torchreg.diagnosis.activations",
        "torchreg.diagnosis.scale",
        "torchreg.diagnosis.generalization",
        "torchreg.diagnosis.data",
        "torchreg.diagnosis.evidence",
        "torchreg.diagnosis.looking",
        "torchreg.diagnosis.curve",
        "torchreg.diagnosis",
        "torchreg.diagnosis.report",
    ],
    "the engine": [
        "torchreg.engine",
        "torchreg.engine.start",
        "torchreg.engine.meeting",
        "torchreg.engine.signals",
        "torchreg.engine.fit",
        "torchreg.engine.together",
        "torchreg.engine.plan",
        "torchreg.engine.beginnings",
        "torchreg.engine.drafts",
        "torchreg.engine.folds",
        "torchreg.engine.inside",
        "torchreg.engine.skorch_net",
        "torchreg.engine.shared",
        "torchreg.engine.looks",
        "torchreg.engine.summary",
        "torchreg.engine.described_rows",
        "torchreg.engine.loop",
        "torchreg.engine.curves",
        "torchreg.engine.ranks",
        "torchreg.engine.member",
        "torchreg.engine.stack",
        "torchreg.engine.leading",
        "torchreg.engine.groups",
        "torchreg.engine.trial",
        "torchreg.engine.told",
        "torchreg.engine.alike",
        "torchreg.engine.script",
        "torchreg.engine.progress",
        "torchreg.engine.alone",
        "torchreg.engine.stepper",
        "torchreg.engine.gradient",
        "torchreg.engine.stacked_network",
        "torchreg.engine.stacked_rows",
        "torchreg.engine.cuda_graph",
        "torchreg.engine.capture",
        "torchreg.engine.notes",
        "torchreg.engine.rewriting",
        "torchreg.engine.operations",
        "torchreg.engine.cosines",
        "torchreg.engine.products",
        "torchreg.engine.recorder",
        "torchreg.engine.surroundings",
        "torchreg.engine.core",
        "torchreg.engine.pace",
        "torchreg.engine.objective",
        "torchreg.engine.members",
        "torchreg.engine.network",
        "torchreg.engine.predict",
        "torchreg.engine.request",
        "torchreg.engine.problem",
        "torchreg.engine.statistics",
        "torchreg.engine.initial",
        "torchreg.engine.rows",
    ],
    "files and graphs": [
        "torchreg.export",
        "torchreg.export.script",
        "torchreg.export.script.writing",
        "torchreg.export.script.using",
        "torchreg.export.script.training",
        "torchreg.export.script.loop",
        "torchreg.export.script.loss",
        "torchreg.export.script.network",
        "torchreg.export.script.files",
        "torchreg.export.script.text",
        "torchreg.export.script.recipe",
        "torchreg.export.script.layers",
        "torchreg.export.script.source",
        "torchreg.export.script.definitions",
        "torchreg.export.script.abridged",
        "torchreg.export.script.reshaped",
        "torchreg.export.script.layout",
        "torchreg.export.onnx",
        "torchreg.export.graph",
        "torchreg.export.agreement",
        "torchreg.export.architecture",
        "torchreg.export.layers",
        "torchreg.export.values",
        "torchreg.export.kinds",
        "torchreg.export.unwritten",
        "torchreg.export.names",
        "torchreg.export.file",
        "torchreg.export.lock",
        "torchreg.export.atomic",
    ],
    "what a diagnosis reads": [
        "torchreg.diagnosis.statistics",
        "torchreg.diagnosis.following",
        "torchreg.diagnosis.watching",
        "torchreg.diagnosis.units",
        "torchreg.diagnosis.duplicates",
        "torchreg.diagnosis.slopes",
        "torchreg.diagnosis.structure",
        "torchreg.diagnosis.lines",
        "torchreg.diagnosis.moments",
        "torchreg.diagnosis.record",
    ],
    "rules and losses": [
        "torchreg.course",
        "torchreg.schedules",
        "torchreg.optimizers",
        "torchreg.lbfgs",
        "torchreg.line_search",
        "torchreg.rules",
        "torchreg.vector_rule",
        "torchreg.losses",
        "torchreg.losses.loss",
        "torchreg.losses.table",
        "torchreg.losses.errors",
        "torchreg.losses.deviances",
        "torchreg.losses.distributions",
    ],
    "modules": [
        "torchreg.nn",
        "torchreg.nn.ensemble",
        "torchreg.nn.tabular",
        "torchreg.nn.links",
        "torchreg.nn.linear_path",
        "torchreg.nn.ridge",
        "torchreg.nn.bins",
        "torchreg.nn.members",
        "torchreg.nn.plain",
        "torchreg.nn.mlp",
        "torchreg.nn.periodic",
        "torchreg.nn.robust",
        "torchreg.nn.scale",
        "torchreg.nn.standardize",
        "torchreg.nn.constants",
    ],
    "the ground": ["torchreg._device", "torchreg._errors", "torchreg._guard"],
}
HEIGHT = {
    module: -depth
    for depth, module in enumerate(module for floor in FLOORS.values() for module in floor)
}


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


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


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_its_place_in_the_house(name: str) -> None:
    assert name in HEIGHT, (
        f"{name} stands on no floor: give it a place in FLOORS of tests/test_imports.py, below "
        "everything that imports it and above everything that it imports."
    )


def test_every_place_in_the_house_is_taken_by_a_module() -> None:
    assert set(HEIGHT) <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_downwards_only(name: str) -> None:
    for imported, line in imports_of(name):
        if imported.partition(".")[0] == "torchreg":
            assert HEIGHT[imported] < HEIGHT[name], (
                f"{name} (line {line}) imports {imported}, which stands above it: what it wants "
                "from there belongs one floor lower."
            )


def test_the_reader_of_imports_sees_every_way_to_write_one() -> None:
    # Lazy, under TYPE_CHECKING, and in the package's own __init__.
    assert "torchreg.engine.skorch_net" in dict(imports_of("torchreg.engine.inside"))
    assert "torchreg.regressor" in dict(imports_of("torchreg"))
    assert "torchreg.nn" in dict(imports_of("torchreg.engine.network"))


def outsiders(name: str) -> set[str]:
    return {imported for imported, _ in imports_of(name) if not imported.startswith("torchreg")}


def test_one_module_alone_imports_private_parts_of_scikit_learn() -> None:
    private = {
        name
        for name in MODULES
        for imported in outsiders(name)
        if imported.startswith("sklearn.") and "._" in imported
    }
    assert private == {"torchreg._sklearn"}


def test_skorch_is_the_business_of_one_module() -> None:
    users = {name for name in MODULES for i in outsiders(name) if i.partition(".")[0] == "skorch"}
    assert users == {"torchreg.engine.skorch_net"}


@pytest.mark.parametrize(
    "floor",
    [
        "what a diagnosis finds",
        "the engine",
        "files and graphs",
        "what a diagnosis reads",
        "rules and losses",
        "modules",
    ],
)
def test_what_crunches_numbers_knows_no_estimator(floor: str) -> None:
    for name in FLOORS[floor]:
        roots = {imported.partition(".")[0] for imported in outsiders(name)}
        # A report turns into a table where pandas is; it never takes one.
        roots -= {"pandas"} if name == "torchreg.diagnosis.report" else set()
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
    """What a fresh process has loaded after the import, after four small fits, after a file."""
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:3]


def test_importing_torchreg_imports_nothing_heavy_that_torch_and_scikit_learn_do_not(
    fresh_process: list[str],
) -> None:
    assert fresh_process[0] == ""


def test_a_small_fit_loads_no_compiler_and_no_skorch(fresh_process: list[str]) -> None:
    assert fresh_process[1] == ""


def test_a_file_on_its_way_out_and_back_loads_safetensors_alone(fresh_process: list[str]) -> None:
    assert fresh_process[2] == "safetensors"
