"""The ways in which a fitted regressor travels: what each keeps and needs, its size and its speed.

``WAYS`` is what the table says; ``tests/test_shipping.py`` proves it, row by row.
"""

from __future__ import annotations

import gc
import importlib.metadata
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import skops.io
import torch
from _harness import Run, begin, interleave, number, penguins, run_fresh, table

from torchreg import TorchRegressor
from torchreg.nn import MLP

#: What may travel beside the predictions in raw units, which every way keeps.
KEEPSAKES = ("settings", "history", "feature names")

NOTES = """\
333 penguins, 5 ReLU, float64. Every way predicts grams from millimetres: the scaling is inside.
*Runs code* says whether opening a file runs code from it: open only files that you trust.
*Size* is that of the file, for the script of its parameters too. *First* is the seconds of a fresh
process from its start to its first prediction, median of {fresh}; *row* the microseconds of a
prediction of one row (an array of shape (1, 1) in, an array out) once it is loaded, median of
{rounds} interleaved rounds of {calls} calls.
Each *yes*, *no* and need is proven by [tests/test_shipping.py](../../tests/test_shipping.py). numpy
and Python are not counted among the needs of what Python opens; ONNX files open without either.
onnxruntime {onnxruntime}; torch.compile with its backend {backend}."""


@dataclass(frozen=True)
class Way:
    """One way to travel.

    Parameters
    ----------
    write : callable or None
        Writes a fitted regressor to a path; ``None`` for what lives in this process alone.
    load : str
        Code that finds ``path`` (or, in this process, ``reg`` and ``backend``) and leaves
        ``predict``, from rows (n, n_features) to an array (n,).
    needs : tuple of str
        Packages that the code cannot do without.
    kept : dict of str to str
        For each keepsake that survives, an expression that finds it after the code has run.
    beside : str
        What else is needed, in words.
    runs_code : bool
        Whether opening a file runs code from it, so that only trusted files may be opened.
    suffix : str
        How the name of the file ends.
    """

    write: Callable[[TorchRegressor, Path], Any] | None
    load: str
    needs: tuple[str, ...]
    kept: dict[str, str] = field(default_factory=dict)
    beside: str = ""
    runs_code: bool = False
    suffix: str = ""

    def claims(self) -> list[str]:
        """Say what the table says: yes or no to keepsakes and to running code, and the needs."""
        answers = [*(keepsake in self.kept for keepsake in KEEPSAKES), self.runs_code]
        needs = ", ".join((*self.needs, *([self.beside] if self.beside else [])))
        return [*("yes" if answer else "no" for answer in answers), needs]


ESTIMATOR = {
    "settings": "reg.get_params()",
    "history": "reg.history_",
    "feature names": "list(reg.feature_names_in_)",
}

WAYS: dict[str, Way] = {
    "`reg.save(path)`": Way(
        write=lambda reg, path: reg.save(path),
        load="""
import torchreg
reg = torchreg.load(path)
predict = reg.predict
""",
        needs=("torchreg", "torch", "sklearn", "safetensors"),
        kept=ESTIMATOR,
        suffix=".safetensors",
    ),
    "`skops.io.dump(reg, path)`": Way(
        write=lambda reg, path: skops.io.dump(reg, path),
        load="""
import skops.io
trusted = ["torchreg._persistence.save_mixin.PickleState", "torchreg.regressor.TorchRegressor"]
reg = skops.io.load(path, trusted=trusted)
predict = reg.predict
""",
        needs=("skops", "torchreg", "torch", "sklearn", "safetensors"),
        kept=ESTIMATOR,
        beside="a list of trusted types",
        suffix=".skops",
    ),
    "`joblib.dump(reg, path)`": Way(
        write=joblib.dump,
        load="""
import joblib
reg = joblib.load(path)
predict = reg.predict
""",
        needs=("joblib", "torchreg", "torch", "sklearn"),
        kept=ESTIMATOR,
        runs_code=True,
    ),
    "`reg.to_onnx(path)`": Way(
        write=lambda reg, path: reg.to_onnx(path),
        load="""
import json
import onnxruntime
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
facts = session.get_modelmeta().custom_metadata_map
def predict(rows):
    return session.run(["y"], {"X": rows})[0][:, 0]
""",
        needs=("onnxruntime",),
        kept={"feature names": "json.loads(facts['feature_names'])"},
        suffix=".onnx",
    ),
    "`torch.export.save(reg.to_exported_program(), path)`": Way(
        write=lambda reg, path: torch.export.save(reg.to_exported_program(), path),
        load="""
import torch
compute = torch.export.load(path).module()
def predict(rows):
    with torch.no_grad():
        return compute(torch.from_numpy(rows)).numpy()[:, 0]
""",
        needs=("torch",),
        runs_code=True,
        suffix=".pt2",
    ),
    "`reg.to_script(path)`": Way(
        write=lambda reg, path: reg.to_script(path),
        load="""
import importlib.util
import torch
spec = importlib.util.spec_from_file_location("shipped", path)
shipped = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shipped)
network = shipped.fitted_network()
def predict(rows):
    return shipped.predict(network, torch.from_numpy(rows)).numpy()[:, 0]
""",
        needs=("torch",),
        kept={"feature names": "shipped.FEATURES"},
        beside="the parameters beside it",
        runs_code=True,
        suffix=".py",
    ),
    "`torch.save(reg.module_.state_dict(), path)`": Way(
        write=lambda reg, path: torch.save(reg.module_.state_dict(), path),
        load="""
import torch
from collections import OrderedDict
from torchreg.nn import MLP, Standardize, Unstandardize
module = torch.nn.Sequential(OrderedDict(
    standardize=Standardize([0.0], [1.0], dtype=torch.float64),
    network=MLP(1, hidden_sizes=[5]).to(torch.float64),
    unstandardize=Unstandardize([0.0], [1.0]),
))
module.load_state_dict(torch.load(path, weights_only=True))
module.eval()
def predict(rows):
    with torch.no_grad():
        return module(torch.from_numpy(rows)).numpy()[:, 0]
""",
        needs=("torchreg", "torch", "sklearn"),
        beside="code that builds the module",
    ),
    "`torch.compile(reg.module_)`": Way(
        write=None,
        load="""
import torch
compiled = torch.compile(reg.module_, backend=backend)
def predict(rows):
    with torch.no_grad():
        return compiled(torch.from_numpy(rows)).numpy()[:, 0]
""",
        needs=("torchreg", "torch", "sklearn"),
        beside="a C++ compiler; in this process alone",
    ),
}


def fitted(*, names: bool = False) -> TorchRegressor:
    """Fit the penguins, from a table with names or from an array."""
    X, y = penguins()
    reg = TorchRegressor(
        module=MLP, module__hidden_sizes=[5], optimizer="rprop", max_epochs=200, random_state=0
    )
    return reg.fit(pd.DataFrame(X, columns=["flipper_length_mm"]) if names else X, y)


def opened(way: Way, reg: TorchRegressor, path: Path, backend: str) -> dict[str, Any]:
    """Run the code of a way in this process."""
    found: dict[str, Any] = {"path": str(path), "reg": reg, "backend": backend}
    exec(way.load, found)
    return found


def first_prediction(way: Way, path: Path, run: Run, rounds: int) -> float:
    """Return the median seconds of fresh processes that open a file and predict one row."""
    code = (
        f"path = {str(path)!r}\n{way.load}\n"
        "import numpy as np\nprint(predict(np.array([[200.0]])).shape)"
    )
    return float(np.median([run_fresh(code, run.threads)[0] for _ in range(rounds)]))


def size_of(path: Path) -> int:
    """Return the bytes of a file, and of those that belong to it."""
    return sum(f.stat().st_size for f in path.parent.iterdir() if f.stem == path.stem)


def has_compiler() -> bool:
    """Return whether inductor, torch.compile's default, works here."""
    try:
        torch.compile(torch.nn.Linear(1, 1))(torch.zeros(1, 1))
    except Exception:  # whatever it raises, it does not
        return False
    return True


def measure(run: Run) -> str:
    reg, calls = fitted(), run.pick(500, 20)
    row = np.array([[200.0]])
    backend = "inductor" if not run.quick and has_compiler() else "aot_eager"

    def repeat(predict: Callable[[np.ndarray], object], _: int) -> None:
        for _ in range(calls):
            predict(row)

    with tempfile.TemporaryDirectory() as name:
        paths = {
            words: Path(name, f"{index}{way.suffix}")
            for index, (words, way) in enumerate(WAYS.items())
        }
        for words, way in WAYS.items():
            if way.write is not None:
                way.write(reg, paths[words])
        loaded = {
            words: opened(way, reg, paths[words], backend)["predict"] for words, way in WAYS.items()
        }
        gc.collect()
        timings = interleave(
            {words: partial(repeat, predict) for words, predict in loaded.items()}
            | {"`reg.predict`, in this process": partial(repeat, reg.predict)},
            rounds=run.pick(11, 1),
        )
        rows = []
        for words, timing in timings.items():
            way = WAYS.get(words)
            claims = way.claims() if way else [""] * 5
            on_disk = way is not None and way.write is not None
            size = f"{size_of(paths[words]) / 1000:.1f}" if on_disk else ""
            fresh = first_prediction(way, paths[words], run, run.pick(5, 1)) if on_disk else None
            first = "" if fresh is None else number(fresh)
            rows.append([words, *claims, size, first, number(timing.median / calls * 1e6)])
    notes = NOTES.format(
        fresh=run.pick(5, 1),
        rounds=run.pick(11, 1),
        calls=calls,
        onnxruntime=importlib.metadata.version("onnxruntime"),
        backend=backend,
    )
    header = ["", *KEEPSAKES, "runs code", "needs", "size, kB", "first, s", "row, µs"]
    return f"{notes}\n\n{table(header, rows)}"


def main() -> None:
    run = begin("shipping", __doc__)
    run.report("How a fitted regressor travels", measure(run))


if __name__ == "__main__":
    main()
