"""The table of ways to save and export a fitted regressor is correct."""

from __future__ import annotations

import importlib
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

from torchreg import TorchRegressor

ROOT = Path(__file__).parent.parent
TABLE = (ROOT / "benchmarks" / "results" / "shipping.md").read_text(encoding="utf-8")
ROWS = {
    cells[0]: cells[1:]
    for cells in (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in TABLE.splitlines()
        if line.startswith("| `")
    )
}
HERE = "`reg.predict`, in this process"
#: Packages that a process cannot import, except those that a way needs.
PACKAGES = {"torchreg", "torch", "sklearn", "joblib", "onnx", "onnxruntime", "onnxscript", "pandas"}
PACKAGES |= {"safetensors", "skops", "skorch"}
#: The requirements of a package itself.
BRINGS = {"sklearn": {"joblib"}}


@pytest.fixture(scope="module")
def shipping() -> Iterator[ModuleType]:
    """Import the benchmark that defines the ways."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("shipping")
        for name in ("shipping", "_harness"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def reg(shipping: ModuleType) -> TorchRegressor:
    return shipping.fitted(names=True)


@pytest.fixture(scope="module")
def files(
    shipping: ModuleType, reg: TorchRegressor, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ways")
    written = {}
    for index, (words, way) in enumerate(shipping.WAYS.items()):
        if way.write is not None:
            written[words] = folder / f"{index}{way.suffix}"
            way.write(reg, written[words])
    return written


def run_without(packages: set[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process in which some packages cannot be imported."""
    # Not None in sys.modules for pandas, which some releases of scikit-learn look up there.
    absent = f"""
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
    # Ways that keep feature names warn about rows without names.
    command = [sys.executable, "-W", "ignore", "-c", absent + code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_table_has_a_row_with_the_tested_claims_for_every_way(
    shipping: ModuleType,
) -> None:
    assert {words: cells[:5] for words, cells in ROWS.items()} == {
        **{words: way.claims() for words, way in shipping.WAYS.items()},
        HERE: [""] * 5,
    }


@pytest.mark.parametrize("words", ROWS)
def test_every_row_has_a_latency_and_a_size_if_there_is_a_file(
    words: str, shipping: ModuleType
) -> None:
    way = shipping.WAYS.get(words)
    size, first, latency = ROWS[words][5:]
    assert float(latency.replace(",", "")) > 0
    assert bool(size) == bool(first) == (way is not None and way.write is not None)


@pytest.mark.parametrize("words", [words for words in ROWS if words != HERE])
def test_a_way_gives_the_predictions_with_its_packages_and_no_others(
    words: str, shipping: ModuleType, reg: TorchRegressor, files: dict[str, Path]
) -> None:
    way = shipping.WAYS[words]
    flipper_mm = np.linspace(170, 235, 40).reshape(-1, 1)
    expected = reg.predict(shipping.pd.DataFrame(flipper_mm, columns=reg.feature_names_in_))
    if words not in files:
        # Inductor compiles for a minute; the benchmark measures it.
        found = shipping.opened(way, reg, Path(), backend="aot_eager")["predict"](flipper_mm)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        assert way.needs == ("torchreg", "torch", "sklearn")  # The process of ``reg`` itself.
        return
    entries = ", ".join(f"{key!r}: {finds}" for key, finds in way.kept.items())
    code = f"""
path = {str(files[words])!r}
{way.load}
import json, sys
import numpy as np
found = predict(np.linspace(170, 235, 40).reshape(-1, 1)).tolist()
kept = {{{entries}}}
imported = [name for name in {sorted(PACKAGES)!r} if sys.modules.get(name)]
print(json.dumps([found, kept, imported], default=str))
"""
    needed = {*way.needs, *(name for need in way.needs for name in BRINGS.get(need, ()))}
    done = run_without(PACKAGES - needed, code)
    assert done.returncode == 0, done.stderr
    found, kept, imported = json.loads(done.stdout)
    assert set(way.needs) <= set(imported)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    originals: dict[str, Any] = {
        "settings": reg.get_params(),
        "history": reg.history_,
        "feature names": list(reg.feature_names_in_),
    }
    as_json = json.loads(json.dumps(originals, default=str))
    assert kept == {key: as_json[key] for key in way.kept}
    assert set(originals) == set(shipping.KEEPSAKES)


class Intruder:
    """An object that creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def smuggle(file: Path, mark: Path) -> None:
    """Replace a file, or every pickle in an archive, by an intruder."""
    if file.suffix == ".py":
        file.write_text(f"from pathlib import Path; Path({str(mark)!r}).touch()", encoding="utf-8")
        return
    if file.suffix == ".skops":
        skops.io.dump(Intruder(mark), file)
        return
    if not zipfile.is_zipfile(file):
        file.write_bytes(pickle.dumps(Intruder(mark)))
        return
    buffer = io.BytesIO()
    torch.save(Intruder(mark), buffer)
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            if name.endswith(".pkl"):
                content = pickle.dumps(Intruder(mark), protocol=2)
            elif name.endswith(".pt"):
                content = buffer.getvalue()
            archive.writestr(name, content)


@pytest.mark.parametrize("words", [words for words in ROWS if words != HERE])
def test_only_the_ways_marked_in_the_table_run_code_of_a_file(
    words: str, shipping: ModuleType, files: dict[str, Path], tmp_path: Path
) -> None:
    way = shipping.WAYS[words]
    if words not in files:
        assert not way.runs_code  # There is no file.
        return
    file, mark = tmp_path / f"file{way.suffix}", tmp_path / "mark"
    file.write_bytes(files[words].read_bytes())
    smuggle(file, mark)
    run_without(set(), f"path = {str(file)!r}\n{way.load}")
    assert mark.exists() == way.runs_code
