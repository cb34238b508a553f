"""Every claim of the table of methods to store and deploy a regressor is true."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import skops.io
import torch

from tests._benchmarks import BENCHMARKS, benchmark_imports
from torchreg import TorchRegressor

TABLE = (BENCHMARKS / "results" / "shipping.md").read_text(encoding="utf-8")
ROWS = {
    cells[0]: cells[1:]
    for cells in (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in TABLE.splitlines()
        if line.startswith("| `")
    )
}
IN_PROCESS = "`reg.predict`, in this process"
NAMES = [name for name in ROWS if name != IN_PROCESS]
#: Packages that are blocked in a process unless a method requires them.
PACKAGES = {"torchreg", "torch", "sklearn", "joblib", "onnx", "onnxruntime", "onnxscript", "pandas"}
PACKAGES |= {"safetensors", "skops", "skorch"}
#: Packages that a package requires.
REQUIRES = {"sklearn": {"joblib"}}


@pytest.fixture(scope="module")
def shipping() -> Iterator[ModuleType]:
    with benchmark_imports() as load:
        yield load("shipping")


@pytest.fixture(scope="module")
def reg(shipping: ModuleType) -> TorchRegressor:
    return shipping.fit_penguins(names=True)


@pytest.fixture(scope="module")
def files(
    shipping: ModuleType, reg: TorchRegressor, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("methods")
    files = {}
    for index, (name, method) in enumerate(shipping.METHODS.items()):
        if method.write is not None:
            files[name] = folder / f"{index}{method.suffix}"
            method.write(reg, files[name])
    return files


def run_without(packages: set[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process in which some packages cannot be imported."""
    # Some releases of scikit-learn use sys.modules["pandas"] even if it is None.
    blocked = f"""
import sys
from importlib.machinery import ModuleSpec
sys.modules.update(dict.fromkeys({sorted(packages - {"pandas"})!r}))
class NoPandas:
    create_module = staticmethod(lambda spec: None)
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name == "pandas" else None
    def exec_module(self, module):
        raise ModuleNotFoundError("No module named 'pandas'", name="pandas")
if {"pandas" in packages}:
    sys.meta_path.insert(0, NoPandas())
"""
    # Predictions of rows without feature names warn.
    command = [sys.executable, "-W", "ignore", "-c", blocked + code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_table_has_a_row_for_every_method_with_its_claims(shipping: ModuleType) -> None:
    assert {name: cells[:5] for name, cells in ROWS.items()} == {
        **{name: method.claims() for name, method in shipping.METHODS.items()},
        IN_PROCESS: [""] * 5,
    }
    for name, (*_, size, first, latency) in ROWS.items():
        has_file = name != IN_PROCESS and shipping.METHODS[name].write is not None
        assert float(latency.replace(",", "")) > 0
        assert bool(size) == bool(first) == has_file


@pytest.mark.parametrize("name", NAMES)
def test_a_method_gives_predictions_and_contents_with_its_packages_and_no_others(
    name: str, shipping: ModuleType, reg: TorchRegressor, files: dict[str, Path]
) -> None:
    method = shipping.METHODS[name]
    flipper_mm = np.linspace(170, 235, 40).reshape(-1, 1)
    expected = reg.predict(shipping.pd.DataFrame(flipper_mm, columns=reg.feature_names_in_))
    if name not in files:
        # Inductor would compile for a minute; the script measures it.
        predict = shipping.run_load(method, reg, Path(), backend="aot_eager")["predict"]
        np.testing.assert_allclose(predict(flipper_mm), expected, rtol=1e-9)
        assert method.needs == ("torchreg", "torch", "sklearn")  # as reg itself
        return
    entries = ", ".join(f"{key!r}: {expression}" for key, expression in method.kept.items())
    code = f"""
path = {str(files[name])!r}
{method.load}
import json, sys
import numpy as np
predicted = predict(np.linspace(170, 235, 40).reshape(-1, 1)).tolist()
imported = [name for name in {sorted(PACKAGES)!r} if sys.modules.get(name)]
print(json.dumps([predicted, {{{entries}}}, imported], default=str))
"""
    needed = {*method.needs, *(name for need in method.needs for name in REQUIRES.get(need, ()))}
    done = run_without(PACKAGES - needed, code)
    assert done.returncode == 0, done.stderr
    predicted, kept, imported = json.loads(done.stdout)
    assert set(method.needs) <= set(imported)
    np.testing.assert_allclose(predicted, expected, rtol=1e-9)
    contents: dict[str, Any] = {
        "parameters": reg.get_params(),
        "history": reg.history_,
        "feature names": list(reg.feature_names_in_),
    }
    as_json = json.loads(json.dumps(contents, default=str))
    assert kept == {key: as_json[key] for key in method.kept}
    assert set(contents) == set(shipping.CONTENTS)


class Payload:
    """An object that creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def insert_payload(file: Path, mark: Path) -> None:
    """Replace a file, or every pickle in an archive, by a payload."""
    if file.suffix == ".py":
        file.write_text(f"from pathlib import Path; Path({str(mark)!r}).touch()", encoding="utf-8")
        return
    if file.suffix == ".skops":
        skops.io.dump(Payload(mark), file)
        return
    if not zipfile.is_zipfile(file):
        file.write_bytes(pickle.dumps(Payload(mark)))
        return
    buffer = io.BytesIO()
    torch.save(Payload(mark), buffer)
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            if name.endswith(".pkl"):
                content = pickle.dumps(Payload(mark), protocol=2)
            elif name.endswith(".pt"):
                content = buffer.getvalue()
            archive.writestr(name, content)


@pytest.mark.parametrize("name", NAMES)
def test_loading_runs_code_of_a_file_only_where_the_table_says_so(
    name: str, shipping: ModuleType, files: dict[str, Path], tmp_path: Path
) -> None:
    method = shipping.METHODS[name]
    if name not in files:
        assert not method.runs_code
        return
    file, mark = tmp_path / f"file{method.suffix}", tmp_path / "mark"
    file.write_bytes(files[name].read_bytes())
    insert_payload(file, mark)
    run_without(set(), f"path = {str(file)!r}\n{method.load}")
    assert mark.exists() == method.runs_code
