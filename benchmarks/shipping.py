"""Methods to store and deploy a fitted regressor: content, requirements, size and speed.

``METHODS`` has the claims of the table, which ``tests/test_shipping.py`` verifies.
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

#: What a method may keep in addition to predictions in raw units.
CONTENTS = ("parameters", "history", "feature names")

NOTES = """\
333 penguins, 5 ReLU, float64. With every method, predictions are grams from millimetres: scaling
is included. *Runs code* is whether loading a file runs code from it; load such files only from
sources that you trust. *Size* is that of the file, for the script with its file of weights. *First*
is the seconds from the start of a fresh process to its first prediction, median of {fresh}. *Row*
is the microseconds of a prediction of one row (an array of shape (1, 1)) after loading, median of
{rounds} interleaved rounds of {calls} calls. [tests/test_shipping.py](../../tests/test_shipping.py)
verifies each *yes*, *no* and requirement. numpy and Python are not listed; ONNX files need neither.
onnxruntime {onnxruntime}; torch.compile with the backend {backend}."""


@dataclass(frozen=True)
class Method:
    """A method to store or deploy a regressor.

    Parameters
    ----------
    write : callable or None
        Writes a fitted regressor to a path; ``None`` for a method without a file.
    load : str
        Code that defines ``predict``, from ``path`` (or ``reg`` and ``backend`` without a file).
        It maps shape (n, n_features) to (n,).
    needs : tuple of str
        Packages that the code requires.
    kept : dict of str to str
        For each of the contents that is kept, an expression that evaluates to it after ``load``.
    other_needs : str
        Other requirements, in words.
    runs_code : bool
        Whether loading a file runs code from it.
    suffix : str
        Suffix of the file.
    """

    write: Callable[[TorchRegressor, Path], Any] | None
    load: str
    needs: tuple[str, ...]
    kept: dict[str, str] = field(default_factory=dict)
    other_needs: str = ""
    runs_code: bool = False
    suffix: str = ""

    def claims(self) -> list[str]:
        """Return the cells of the table: contents, whether it runs code, and requirements."""
        answers = [*(content in self.kept for content in CONTENTS), self.runs_code]
        needs = ", ".join(filter(None, (*self.needs, self.other_needs)))
        return [*("yes" if answer else "no" for answer in answers), needs]


ESTIMATOR = {
    "parameters": "reg.get_params()",
    "history": "reg.history_",
    "feature names": "list(reg.feature_names_in_)",
}

METHODS: dict[str, Method] = {
    "`reg.save(path)`": Method(
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
    "`skops.io.dump(reg, path)`": Method(
        write=lambda reg, path: skops.io.dump(reg, path),
        load="""
import skops.io
trusted = ["torchreg._persistence.save_mixin.PickleState", "torchreg.regressor.TorchRegressor"]
reg = skops.io.load(path, trusted=trusted)
predict = reg.predict
""",
        needs=("skops", "torchreg", "torch", "sklearn", "safetensors"),
        kept=ESTIMATOR,
        other_needs="a list of trusted types",
        suffix=".skops",
    ),
    "`joblib.dump(reg, path)`": Method(
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
    "`reg.to_onnx(path)`": Method(
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
    "`torch.export.save(reg.to_exported_program(), path)`": Method(
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
    "`reg.to_script(path)`": Method(
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
        other_needs="its file of weights",
        runs_code=True,
        suffix=".py",
    ),
    "`torch.save(reg.module_.state_dict(), path)`": Method(
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
        other_needs="code that builds the module",
    ),
    "`torch.compile(reg.module_)`": Method(
        write=None,
        load="""
import torch
compiled = torch.compile(reg.module_, backend=backend)
def predict(rows):
    with torch.no_grad():
        return compiled(torch.from_numpy(rows)).numpy()[:, 0]
""",
        needs=("torchreg", "torch", "sklearn"),
        other_needs="a C++ compiler; only in this process",
    ),
}


def fit_penguins(*, names: bool = False) -> TorchRegressor:
    """Fit the penguins, with feature names or without."""
    X, y = penguins()
    reg = TorchRegressor(
        module=MLP, module__hidden_sizes=[5], optimizer="rprop", max_epochs=200, random_state=0
    )
    return reg.fit(pd.DataFrame(X, columns=["flipper_length_mm"]) if names else X, y)


def run_load(method: Method, reg: TorchRegressor, path: Path, backend: str) -> dict[str, Any]:
    """Run the loading code of a method in this process; return its names."""
    names: dict[str, Any] = {"path": str(path), "reg": reg, "backend": backend}
    exec(method.load, names)
    return names


def first_prediction(method: Method, path: Path, run: Run, rounds: int) -> float:
    """Return the median seconds of fresh processes that load a file and predict one row."""
    code = (
        f"path = {str(path)!r}\n{method.load}\n"
        "import numpy as np\nprint(predict(np.array([[200.0]])).shape)"
    )
    return float(np.median([run_fresh(code, run.threads)[0] for _ in range(rounds)]))


def size_of(path: Path) -> int:
    """Return the bytes of a file and of those with the same stem."""
    return sum(f.stat().st_size for f in path.parent.iterdir() if f.stem == path.stem)


def has_compiler() -> bool:
    """Return whether inductor, torch.compile's default, works here."""
    try:
        torch.compile(torch.nn.Linear(1, 1))(torch.zeros(1, 1))
    except Exception:  # It raises various errors.
        return False
    return True


def measure(run: Run) -> str:
    reg, calls = fit_penguins(), run.pick(500, 20)
    row = np.array([[200.0]])
    backend = "inductor" if not run.quick and has_compiler() else "aot_eager"

    def repeat(predict: Callable[[np.ndarray], object], _: int) -> None:
        for _ in range(calls):
            predict(row)

    with tempfile.TemporaryDirectory() as folder:
        paths = {
            name: Path(folder, f"{index}{method.suffix}")
            for index, (name, method) in enumerate(METHODS.items())
        }
        for name, method in METHODS.items():
            if method.write is not None:
                method.write(reg, paths[name])
        loaded = {
            name: run_load(method, reg, paths[name], backend)["predict"]
            for name, method in METHODS.items()
        }
        gc.collect()
        timings = interleave(
            {name: partial(repeat, predict) for name, predict in loaded.items()}
            | {"`reg.predict`, in this process": partial(repeat, reg.predict)},
            rounds=run.pick(11, 1),
        )
        rows = []
        for name, timing in timings.items():
            method = METHODS.get(name)
            claims = method.claims() if method else [""] * 5
            on_disk = method is not None and method.write is not None
            size = f"{size_of(paths[name]) / 1000:.1f}" if on_disk else ""
            fresh = first_prediction(method, paths[name], run, run.pick(5, 1)) if on_disk else None
            first = "" if fresh is None else number(fresh)
            rows.append([name, *claims, size, first, number(timing.median / calls * 1e6)])
    notes = NOTES.format(
        fresh=run.pick(5, 1),
        rounds=run.pick(11, 1),
        calls=calls,
        onnxruntime=importlib.metadata.version("onnxruntime"),
        backend=backend,
    )
    header = ["", *CONTENTS, "runs code", "needs", "size, kB", "first, s", "row, µs"]
    return f"{notes}\n\n{table(header, rows)}"


def main() -> None:
    run = begin("shipping", __doc__)
    run.report("Storage and deployment of a fitted regressor", measure(run))


if __name__ == "__main__":
    main()
