"""An ONNX file maps raw X to the predictions of predict, without torch."""

from __future__ import annotations

import copy
import json
import logging
import os
import random
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from torchreg import BoundedOutputWarning, TorchRegressor
from torchreg.engine.predict import predict_outputs
from torchreg.exceptions import ExportError
from torchreg.export import Labels, Source, label, write_onnx
from torchreg.nn import MLP

Array = np.ndarray
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)) * [1.0, 100.0, 0.01, 10.0] + [0.0, 1000.0, 5.0, 200.0]
Y = 4000 + 800 * (np.sin(X[:, 0]) + (X[:, 1] - 1000) / 100)


def build(module: Any = MLP, **options: Any) -> TorchRegressor:
    settings: dict[str, Any] = {"max_epochs": 5, "random_state": 0, "module": module, **options}
    if module is MLP:
        settings.setdefault("module__hidden_sizes", [7])
    return TorchRegressor(**settings)


def run(path: Path, rows: Array) -> Array:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["y"], {"X": rows})[0]


def metadata_of(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.fixture(scope="module")
def reg() -> TorchRegressor:
    return build().fit(X, Y)


@pytest.fixture(scope="module")
def written(reg: TorchRegressor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "mass.onnx"
    reg.to_onnx(path)
    return path


# Modules


class Every(nn.Module):
    """One output for each activation."""

    def __init__(self, *activations: nn.Module) -> None:
        super().__init__()
        self.first, self.activations = nn.Linear(4, 6), nn.ModuleList(activations)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return torch.stack([f(h).mean(dim=1) for f in self.activations], dim=1)


#: Activations with a float64 kernel in onnxruntime, ...
DOUBLE = [
    *[nn.CELU(), nn.GLU(dim=1), nn.Hardshrink(), nn.Hardtanh(), nn.Identity(), nn.LogSigmoid()],
    *[nn.LogSoftmax(dim=1), nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Sigmoid(), nn.Softmax(dim=1)],
    *[nn.Softmin(dim=1), nn.Softshrink(), nn.Softsign(), nn.Tanh(), nn.Tanhshrink()],
    nn.Threshold(0.1, 0.2),
]
#: ... and those without.
SINGLE = [
    *[nn.ELU(), nn.GELU(), nn.Hardsigmoid(), nn.Hardswish(), nn.LeakyReLU(), nn.Mish()],
    *[nn.PReLU(), nn.RReLU(), nn.SELU(), nn.Softplus()],
]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.ReLU(), nn.Dropout(0.2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Embedded(nn.Module):
    """With a last column of small integers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.last = nn.Embedding(5, 3), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([x[:, :3], torch.tanh(self.embedding(x[:, 3].long()))], dim=1))


class Tied(nn.Module):
    """With one weight used twice, and a result of shape (n,)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.again = nn.Linear(4, 3), nn.Linear(4, 3)
        self.again.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.encode(x)) + self.again(x)
        return (h @ self.encode.weight).sum(dim=1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = nn.GRU(1, 5, batch_first=True), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        # (n, 4) -> (n, 4, 1): the columns are the steps
        return self.last(self.cell(x[:, :, None])[0][:, -1])


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift, self.last = nn.Linear(1, 8), nn.Linear(8, 1)
        self.layer = nn.TransformerEncoderLayer(8, 2, 4, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.lift(x[:, :, None])).mean(dim=1))


class Chosen(nn.Module):
    """Chooses by value, in place and out of place, as a graph can."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.where(x[:, :1] > 0, self.high(x), self.low(x))
        y[x[:, 1] > 1] *= 2
        return y


def layers() -> nn.Module:
    return nn.Sequential(
        *[nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), Residual(), nn.Dropout(0.3)],
        *[nn.GroupNorm(2, 6), nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2, 3), nn.MaxPool1d(2)],
        *[nn.Flatten(), nn.ELU(inplace=True), nn.LazyLinear(2)],
    )


INTEGERS = np.column_stack([(X[:, :3] - X[:, :3].mean(0)) / X[:, :3].std(0), np.arange(60) % 5])
UNIX = np.column_stack([1.7e9 + RNG.uniform(-100, 100, size=60), X[:, :3]])
MANY_Y = np.stack([Y * (1 + i) + i for i in range(len(DOUBLE))], axis=1)
#: name: (regressor, X, y, whether the export needs rows)
ZOO: dict[str, tuple[TorchRegressor, Array, Array, bool]] = {
    "built-in": (build(), X, Y, False),
    "float32": (build(dtype="float32", module__hidden_sizes=[64, 64]), X, Y, False),
    "activations in float64": (build(Every(*DOUBLE)), X, MANY_Y, False),
    "activations in float32": (build(Every(*SINGLE)), X, MANY_Y[:, : len(SINGLE)], False),
    "layers, two outputs": (build(layers), X, MANY_Y[:, :2], False),
    "embedding": (build(Embedded, standardize="y"), INTEGERS, Y, True),
    "weight tying": (build(Tied), X, Y, False),
    "GRU": (build(Recurrent), X, Y, False),
    "transformer": (build(Attentive), X, Y, False),
    "choice by value": (build(Chosen), X, Y, False),
    "Unix time": (build(max_epochs=50), UNIX, np.sin(UNIX[:, 0] / 50), False),
    "X alone standardized": (build(standardize="X"), X, Y / 1000, False),
    "nothing standardized": (build(standardize=False, dtype="float32"), INTEGERS, Y / 1e3, True),
    "constant column, constant y": (build(), X * [1, 0, 1, 1] + 7, Y * 0 + 7, False),
    "small y far from 0": (build(), X, 1e9 + Y / 1e6, False),
}

#: Runs files with numpy and onnxruntime; importing torch or torchreg is an error.
WITHOUT_TORCH = """
import sys
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchreg", "sklearn", "onnx"):
            raise AssertionError(f"{name} was imported")
sys.meta_path.insert(0, Guard())
import json, numpy as np, onnxruntime
for name, stem in json.load(open("names.json")).items():
    session = onnxruntime.InferenceSession(f"{stem}.onnx", providers=["CPUExecutionProvider"])
    rows = np.load(f"{stem}.npy")
    for n in (1, 7, len(rows)):
        np.save(f"{stem}-{n}.npy", session.run(["y"], {"X": rows[:n]})[0])
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export all regressors, and run the files in a process without torch."""
    folder = tmp_path_factory.mktemp("exported")
    for index, (reg, rows, y, needs_rows) in enumerate(ZOO.values()):
        with warnings.catch_warnings():
            # The modules of one activation for each output.
            warnings.simplefilter("ignore", BoundedOutputWarning)
            reg.fit(rows, y)
        reg.to_onnx(folder / f"{index}.onnx", rows if needs_rows else None)
        np.save(folder / f"{index}.npy", np.tile(rows, (17, 1)))  # (1020, 4)
    names = {name: str(index) for index, name in enumerate(ZOO)}
    (folder / "names.json").write_text(json.dumps(names))
    command = [sys.executable, "-c", WITHOUT_TORCH]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    return folder


@pytest.mark.parametrize("name", ZOO)
def test_a_file_gives_the_predictions_for_any_number_of_rows_without_torch(
    name: str, exported: Path
) -> None:
    reg, rows, y, _ = ZOO[name]
    stem = list(ZOO).index(name)
    spread = np.maximum(y.reshape(len(y), -1).std(axis=0), 1e-16 * np.abs(y).max())
    for n in (1, 7, 1020):
        found = np.load(exported / f"{stem}-{n}.npy")
        assert found.shape == (n, reg.n_outputs_) and found.dtype == np.float64
        expected = reg.predict(np.tile(rows, (17, 1))[:n]).reshape(n, -1)
        difference = np.abs(found - expected) - 4 * np.spacing(np.abs(expected))
        assert (difference / spread).max() < 1e-5


@pytest.mark.parametrize("name", ZOO)
def test_a_file_has_only_standard_operators_and_passes_the_checker(
    name: str, exported: Path
) -> None:
    path = exported / f"{list(ZOO).index(name)}.onnx"
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert model.ir_version == 8 and not model.functions
    assert all(node.domain == "" for node in model.graph.node)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert [value.name for value in model.graph.input] == ["X"]
    assert [value.name for value in model.graph.output] == ["y"]
    widths = (4, ZOO[name][0].n_outputs_)
    for value, width in zip((*model.graph.input, *model.graph.output), widths, strict=True):
        tensor = value.type.tensor_type
        assert tensor.elem_type == onnx.TensorProto.DOUBLE
        assert [d.dim_param or d.dim_value for d in tensor.shape.dim] == ["n_samples", width]
    assert {file.name for file in exported.glob("*.data*")} == set()


@pytest.mark.parametrize(
    ("name", "core"),
    [("built-in", "float64"), ("activations in float64", "float64"), ("float32", "float32")],
)
def test_the_network_keeps_its_dtype_if_onnxruntime_has_the_kernels(
    name: str, core: str, exported: Path
) -> None:
    assert metadata_of(exported / f"{list(ZOO).index(name)}.onnx")["core_dtype"] == core


def test_a_network_without_float64_kernels_is_in_float32_between_float64_scaling_layers(
    exported: Path,
) -> None:
    name = "activations in float32"
    path = exported / f"{list(ZOO).index(name)}.onnx"
    assert metadata_of(path)["core_dtype"] == "float32"
    assert [node.op_type for node in onnx.load(path).graph.node[:3]] == ["Sub", "Div", "Cast"]
    difference = np.abs(run(path, X) - ZOO[name][0].predict(X)).max(axis=0)
    assert 0 < difference.max() / Y.std() < 1e-5


def test_the_mean_of_a_unix_time_is_subtracted_in_float64(exported: Path) -> None:
    graph = onnx.load(exported / f"{list(ZOO).index('Unix time')}.onnx").graph
    first = graph.node[0]
    assert first.op_type == "Sub" and first.input[0] == "X"
    (mean,) = [tensor for tensor in graph.initializer if tensor.name == first.input[1]]
    assert mean.data_type == onnx.TensorProto.DOUBLE
    assert abs(onnx.numpy_helper.to_array(mean)[0] - 1.7e9) < 100


def test_a_file_contains_no_source_code(written: Path) -> None:
    content = written.read_bytes()
    for word in (b"stack_trace", b"forward", b".py", b"aten", b"torchreg.nn"):
        assert word not in content


# Metadata


def test_names_units_and_versions_are_in_the_file(tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=["age", "flipper_mm", "ratio", "Länge"])
    reg = build().fit(frame, Y)
    reg.to_onnx(
        tmp_path / "m.onnx",
        frame,
        feature_units={"flipper_mm": "mm", "Länge": "µm"},
        target_units="g",
    )
    model, metadata = onnx.load(tmp_path / "m.onnx"), metadata_of(tmp_path / "m.onnx")
    assert json.loads(metadata["feature_names"]) == list(frame.columns)
    assert json.loads(metadata["feature_units"]) == [None, "mm", None, "µm"]
    assert json.loads(metadata["target_units"]) == ["g"]
    versions = json.loads(metadata["versions"])
    assert versions["torch"] == version("torch") and versions["onnx"] == onnx.__version__
    assert set(versions) == {"torch-regressor", "torch", "scikit-learn", "onnx"}
    assert (model.producer_name, model.producer_version) == (
        "torchreg",
        versions["torch-regressor"],
    )
    assert "X of shape (n_samples, 4) in float64" in model.doc_string
    assert "age, flipper_mm [mm], ratio, Länge [µm]." in model.graph.input[0].doc_string
    assert model.graph.output[0].doc_string.endswith("columns: 0 [g].")


def test_unknown_names_and_units_are_not_in_the_metadata(written: Path) -> None:
    assert set(metadata_of(written)) == {"versions", "core_dtype"}


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"feature_units": ["mm"]}, r"feature_units expects one unit for each of 4 features"),
        ({"target_units": ["g", "kg"]}, r"target_units expects one unit for each of 1 outputs"),
        ({"feature_units": {"fliper": "mm"}}, r"unit for 'fliper', which is not a column of X"),
    ],
)
def test_units_that_match_no_column_are_refused(
    units: Any, message: str, reg: TorchRegressor, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        reg.to_onnx(tmp_path / "m.onnx", **units)
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_name_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match=r"Did you mean 'flipper'\?"):
        label(2, 1, ["flipper", "year"], {"fliper": "mm"}, None)


# Refusals


def source_of(reg: TorchRegressor, **changes: Any) -> Source:
    given: dict[str, Any] = {
        "module": reg.module_,
        "n_features": reg.n_features_in_,
        "n_outputs": reg.n_outputs_,
        "dtype": reg.dtype_,
        "predict": lambda rows: predict_outputs(
            reg.module_, rows, n_outputs=reg.n_outputs_, dtype=reg.dtype_
        ),
    }
    return Source(**{**given, **changes})


class Careless(nn.Module):
    """Casts to float32 before it subtracts the mean."""

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return ((x.float() - self.mean.float()) / self.scale.float()).to(self.dtype)


def test_a_graph_that_rounds_a_unix_time_is_refused_with_both_numbers(
    tmp_path: Path,
) -> None:
    reg = build(max_epochs=50).fit(UNIX, np.sin(UNIX[:, 0] / 50))
    module = copy.deepcopy(reg.module_)
    module.standardize = Careless(module.standardize.mean, module.standardize.scale)
    path = tmp_path / "m.onnx"
    with pytest.raises(ExportError, match="Nothing was written") as caught:
        write_onnx(source_of(reg, module=module), path, Labels())
    numbers = r"gives (\S+) where predict gives (\S+) .*differ by (\S+) st"
    found, expected, apart = map(float, re.findall(numbers, str(caught.value))[0])
    spread = float(reg.module_.unstandardize.scale)
    assert apart == pytest.approx(abs(found - expected) / spread, rel=0.05)
    assert apart > 1e-3
    assert isinstance(caught.value, ValueError)
    assert not path.exists() and list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::torchreg.UnscaledWarning")
@pytest.mark.parametrize(("factor", "agrees"), [(0.5e-5, True), (2e-5, False)])
@pytest.mark.parametrize("standardize", [True, "X"])
def test_the_largest_difference_is_1e_5_standard_deviations_of_y(
    factor: float, agrees: bool, standardize: Any, tmp_path: Path
) -> None:
    reg = build(standardize=standardize, max_epochs=50).fit(X, Y)
    source = source_of(reg)
    spread = float(source.reference_outputs().spread())
    shifted = source_of(reg, predict=lambda rows: source.predict(rows) + factor * spread)
    path = tmp_path / "m.onnx"
    path.write_bytes(b"the old content")
    if agrees:
        write_onnx(shifted, path, Labels())
        assert run(path, X).shape == (60, 1)
    else:
        with pytest.raises(ExportError, match="as do 512 of 512 rows"):
            write_onnx(shifted, path, Labels())
        assert path.read_bytes() == b"the old content"


class ByValue(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


class ByRows(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if len(x) > 5 else super().forward(-x)


class ByNumpy(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + torch.from_numpy(np.zeros((len(x), 1))) * float(len(x.detach().numpy()))


class Eigen(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.linalg.eigvalsh(x.T @ x).sum() * 0


class Batchwise(nn.Linear):
    """The prediction of a row depends on the other rows."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            raise RuntimeError("one row alone has no variance")
        return super().forward(x - x.mean(dim=0))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (ByValue, r"depends on the values of its input .* Use torch\.where instead"),
        (ByRows, r"depends on the number of rows, which a graph must not"),
        (ByNumpy, r"torch\.export does not support one of its operations\. .*numpy"),
        (Eigen, r"torch\.onnx does not support one of its operations\. .*linalg_eig"),
        (Batchwise, r"cannot be predicted: one row alone has no variance Pass X"),
    ],
)
def test_a_module_that_cannot_be_a_graph_is_refused_with_the_reason(
    module: Any, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reg = build(lambda: module(4, 1)).fit(X, Y)
    with pytest.raises(ExportError, match=message):
        reg.to_onnx(tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_does_not_standardize_X_needs_rows(tmp_path: Path) -> None:
    reg = build(standardize="y").fit(INTEGERS, Y)
    with pytest.raises(ExportError, match=r"does not standardize X: pass X, some rows"):
        reg.to_onnx(tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="X has 3 features"):
        reg.to_onnx(tmp_path / "m.onnx", INTEGERS[:, :3])
    reg.to_onnx(tmp_path / "m.onnx", INTEGERS[:1])


def test_an_error_of_predict_for_passed_rows_is_raised(reg: TorchRegressor, tmp_path: Path) -> None:
    grown = copy.deepcopy(reg)
    with torch.no_grad():
        grown.module_.network.layers[-1].weight.fill_(1e300)
    with pytest.raises(ValueError, match="The prediction for row 0 is not finite"):
        grown.to_onnx(tmp_path / "m.onnx", X + 1e200)


def test_a_network_larger_than_an_onnx_file_is_refused(tmp_path: Path) -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1).expand(2**30), requires_grad=False)

    source = Source(Large(), 4, 1, torch.float32, lambda rows: rows[:, :1])
    with pytest.raises(ExportError, match=r"4,294,967,296 bytes; an ONNX file at most 2,147,483"):
        write_onnx(source, tmp_path / "m.onnx", Labels())


def test_a_graph_that_onnxruntime_cannot_run_is_refused_with_its_message(
    reg: TorchRegressor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **options: Any) -> Any:
        raise RuntimeError("no kernel\nand more")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(ExportError, match=r"onnxruntime cannot run the graph: no kernel$"):
        reg.to_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_its_extra(
    package: str, reg: TorchRegressor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ImportError, match=rf'{package} is needed .* pip install "torch-regressor\[onnx\]"'
    ):
        reg.to_onnx(tmp_path / "m.onnx")


# Global state


def global_state(reg: TorchRegressor) -> dict[str, Any]:
    state: Any = np.random.get_state()
    return {
        "torch's generator": torch.get_rng_state().tolist(),
        "numpy's generator": (state[1].tolist(), state[2]),
        "Python's generator": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "filters": list(warnings.filters),
        "levels": {name: logging.getLogger(name).level for name in ("", "torch", "torch.onnx")},
        "streams": (sys.stdout, sys.stderr),
        "folder": os.getcwd(),
        "weights": {k: v.tolist() for k, v in reg.module_.state_dict().items()},
        "modules": [(id(m), m.training) for m in reg.module_.modules()],
        "gradients wanted": [p.requires_grad for p in reg.module_.parameters()],
        "attributes": sorted(vars(reg)),
    }


@pytest.mark.parametrize(("default", "gradients"), [(torch.float32, True), (torch.float64, False)])
def test_an_export_prints_nothing_and_restores_the_global_state(
    default: torch.dtype,
    gradients: bool,
    reg: TorchRegressor,
    written: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    before_default = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        with torch.set_grad_enabled(gradients):
            before = global_state(reg)
            reg.to_onnx(tmp_path / "m.onnx")
            assert global_state(reg) == before
    finally:
        torch.set_default_dtype(before_default)
    assert capfd.readouterr() == ("", "") and caplog.records == []
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == written.read_bytes()


FIRST = """
import logging, sys, warnings
import numpy as np
from torchreg import TorchRegressor
X = np.arange(20.0).reshape(10, 2)
reg = TorchRegressor(max_epochs=2, module__hidden_sizes=[2]).fit(X, X[:, 0])
assert "torch._dynamo" not in sys.modules and "onnx" not in sys.modules
before = list(warnings.filters)
reg.to_onnx(sys.argv[1])
assert warnings.filters == before
assert logging.getLogger("torch.onnx").isEnabledFor(logging.WARNING)
"""


def test_the_first_export_of_a_process_prints_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", FIRST, str(tmp_path / "m.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_module_in_training_mode_is_exported_in_evaluation_mode(tmp_path: Path) -> None:
    reg = build(module__dropout=0.5).fit(X, Y)
    expected = reg.predict(X)
    reg.module_.train()
    reg.to_onnx(tmp_path / "m.onnx")
    assert np.abs(run(tmp_path / "m.onnx", X)[:, 0] - expected).max() / Y.std() < 1e-5


def test_threads_can_export_and_predict_at_once(reg: TorchRegressor, tmp_path: Path) -> None:
    expected = reg.predict(X)
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def go() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)

        return go

    def predict() -> None:
        while any(thread.is_alive() for thread in exporters):
            np.testing.assert_array_equal(reg.predict(X), expected)

    exporters = [
        threading.Thread(target=guarded(lambda i=i: reg.to_onnx(tmp_path / f"{i}.onnx")))
        for i in range(2)
    ]
    predictors = [threading.Thread(target=guarded(predict)) for _ in range(2)]
    for thread in (*exporters, *predictors):
        thread.start()
    for thread in (*exporters, *predictors):
        thread.join()
    assert errors == []
    assert (tmp_path / "0.onnx").read_bytes() == (tmp_path / "1.onnx").read_bytes()
