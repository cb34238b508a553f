"""Programs of torch.export and torch.compile give the predictions of predict."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn

from torchreg import TorchRegressor
from torchreg.exceptions import ExportError
from torchreg.nn import MLP

Array = np.ndarray
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)) * [1.0, 100.0, 0.01, 10.0] + [0.0, 1000.0, 5.0, 200.0]
UNIX = np.column_stack([1.7e9 + RNG.uniform(-100, 100, size=60), X[:, :3]])
Y = 4000 + 800 * (np.sin(X[:, 0]) + (X[:, 1] - 1000) / 100)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = nn.GRU(1, 5, batch_first=True), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        # (n, 4) -> (n, 4, 1): the columns are the steps; (n, 1) -> (n,)
        return self.last(self.cell(x[:, :, None])[0][:, -1])[:, 0]


def layers() -> nn.Module:
    return nn.Sequential(
        *[nn.Linear(4, 6), nn.BatchNorm1d(6), nn.GELU(), nn.LayerNorm(6), nn.Dropout(0.3)],
        *[nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.LazyLinear(2)],
    )


def build(module: Any = MLP, **options: Any) -> TorchRegressor:
    settings: dict[str, Any] = {"max_epochs": 5, "random_state": 0, "module": module, **options}
    return TorchRegressor(**settings)


BOTH = np.stack([Y, -Y], axis=1)
#: name: (regressor, X, y, whether the export needs rows)
ZOO: dict[str, tuple[TorchRegressor, Array, Array, bool]] = {
    "built-in": (build(), X, Y, False),
    "float32": (build(dtype="float32"), X, Y, False),
    "layers, two outputs": (build(layers), X, BOTH, False),
    "GRU": (build(Recurrent), X, Y, False),
    "in place": (build(lambda: nn.Sequential(nn.ReLU(True), nn.Linear(4, 1))), X, Y, False),
    "Unix time": (build(max_epochs=50), UNIX, np.sin(UNIX[:, 0] / 50), False),
    "y alone standardized": (build(standardize="y"), (X - X.mean(0)) / X.std(0), Y, True),
}
WITHOUT_TORCHREG = """
import sys
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchreg":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Guard())
import json, numpy as np, torch
for name, stem in json.load(open("names.json")).items():
    compute = torch.export.load(f"{stem}.pt2").module()
    rows = torch.from_numpy(np.load(f"{stem}.npy"))
    with torch.no_grad():
        for n in (1, 7, len(rows)):
            np.save(f"{stem}-{n}.npy", compute(rows[:n]).numpy())
assert "torchreg" not in sys.modules
"""


@pytest.fixture(scope="module", autouse=True)
def fitted() -> None:
    for reg, rows, y, _ in ZOO.values():
        reg.fit(rows, y)


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save all programs, and run them in a process without torchreg."""
    folder = tmp_path_factory.mktemp("programs")
    for index, (reg, rows, _, needs_rows) in enumerate(ZOO.values()):
        torch.export.save(
            reg.to_exported_program(rows if needs_rows else None), folder / f"{index}.pt2"
        )
        np.save(folder / f"{index}.npy", np.tile(rows, (17, 1)))  # (1020, 4)
    (folder / "names.json").write_text(json.dumps({name: str(i) for i, name in enumerate(ZOO)}))
    command = [sys.executable, "-c", WITHOUT_TORCHREG]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", ZOO)
def test_a_saved_program_gives_the_predictions_without_torchreg(
    name: str, predictions: Path
) -> None:
    reg, rows, y, _ = ZOO[name]
    stem = list(ZOO).index(name)
    for n in (1, 7, 1020):
        found = np.load(predictions / f"{stem}-{n}.npy")
        assert found.shape == (n, reg.n_outputs_) and found.dtype == np.float64
        expected = reg.predict(np.tile(rows, (17, 1))[:n]).reshape(n, -1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * y.std())


@pytest.mark.parametrize("name", ["built-in", "float32", "layers, two outputs", "Unix time"])
def test_torch_export_supports_the_fitted_module_itself(name: str) -> None:
    reg, rows, y, _ = ZOO[name]
    x = torch.from_numpy(rows)
    shapes = ({0: torch.export.Dim("n_samples")},)
    program = torch.export.export(reg.module_, (x[:3],), dynamic_shapes=shapes)
    for n in (1, 7, 60):
        with torch.no_grad():
            found = program.module()(x[:n]).numpy().reshape(n, -1)
        expected = reg.predict(rows[:n]).reshape(n, -1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * y.std())


# Inductor, the default backend, needs a C++ compiler and almost a minute. These two trace in the
# same way and compile nothing.
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", ["built-in", "layers, two outputs", "Unix time"])
def test_torch_compile_supports_the_fitted_module_without_graph_breaks(
    name: str, backend: str
) -> None:
    torch.compiler.reset()  # The recompilation limit counts all modules together.
    reg, rows, y, _ = ZOO[name]
    compiled: Callable[..., Tensor] = torch.compile(reg.module_, backend=backend, fullgraph=True)
    x = torch.from_numpy(rows)
    for n in (1, 7, 60):
        with torch.no_grad():
            found = compiled(x[:n]).numpy().reshape(n, -1)
        expected = reg.predict(rows[:n]).reshape(n, -1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * y.std())


def test_a_program_has_the_state_dict_names_of_the_module() -> None:
    reg = ZOO["built-in"][0]
    program = reg.to_exported_program()
    assert set(program.state_dict) == set(reg.module_.state_dict())


def test_a_program_does_not_share_memory_with_the_fitted_module() -> None:
    reg = build().fit(X, Y)
    expected = reg.predict(X)
    program = reg.to_exported_program()
    with torch.no_grad():
        for parameter in reg.module_.parameters():
            parameter.zero_()
        found = program.module()(torch.from_numpy(X))[:, 0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_a_saved_program_contains_no_data_and_no_source_code(tmp_path: Path) -> None:
    program = ZOO["layers, two outputs"][0].to_exported_program(X)
    assert program.example_inputs is None
    torch.export.save(program, tmp_path / "m.pt2")
    content = (tmp_path / "m.pt2").read_bytes()
    assert b"aten.linear" in content  # The archive is not compressed.
    assert not any(word in content for word in (b"stack_trace", b".py", X[0].tobytes()))


class ByValue(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


class Stateful(nn.Linear):
    """Gives another result in each call."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) + self.calls


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            ByValue,
            r"depends on the values of its input .* Use torch\.where instead\. \(torch\.export: ",
        ),
        (Stateful, "The program gives .* where predict gives .* as do 512 of 512 rows"),
    ],
)
def test_a_module_that_cannot_be_a_graph_is_refused_with_the_reason(
    module: Any, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    reg = build(lambda: module(4, 1)).fit(X, Y)
    with pytest.raises(ExportError, match=message):
        reg.to_exported_program()
    assert capfd.readouterr() == ("", "")


def test_an_unfitted_regressor_cannot_be_exported() -> None:
    with pytest.raises(NotFittedError):
        build().to_exported_program()


@pytest.mark.parametrize("columns", [[0, 1], [1]], ids=["continuous and binary", "binary"])
def test_the_graph_of_several_default_networks_is_about_as_small_as_that_of_one(
    columns: list[int],
) -> None:
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=60), rng.integers(0, 2, 60)])[:, columns]
    y = rng.normal(size=60)
    sizes = []
    for n_folds in (None, 3):
        reg = TorchRegressor(
            n_folds=n_folds, max_epochs=1, module__hidden_sizes=(4,), random_state=0
        )
        program = reg.fit(X, y).to_exported_program()
        sizes.append(len(program.graph.nodes))
        found = program.module()(torch.from_numpy(X)).detach().numpy()[:, 0]
        np.testing.assert_allclose(found, reg.predict(X), rtol=1e-12, atol=1e-12)
    assert sizes[1] < 1.25 * sizes[0]


def test_networks_that_no_longer_share_their_scaling_are_exported_one_by_one() -> None:
    X = np.random.default_rng(0).normal(size=(60, 2))
    reg = TorchRegressor(n_folds=2, max_epochs=1, module__hidden_sizes=(4,), random_state=0)
    reg.fit(X, X[:, 0])
    reg.module_.get_submodule("network.members.1.scale").get_buffer("center").add_(0.5)
    found = reg.to_exported_program().module()(torch.from_numpy(X)).detach().numpy()[:, 0]
    np.testing.assert_allclose(found, reg.predict(X), rtol=1e-12, atol=1e-12)
