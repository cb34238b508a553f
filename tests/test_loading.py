"""Files of every released format load, and what they predicted then they predict now."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import torchreg
from torchreg import TorchRegressor, UntrustedError

HERE = Path(__file__).parent
#: One file of each format, with what it predicted when it was written. Never write one again.
FORMATS = {
    1: [4108.045254063467, 4293.414143682874],
}


@pytest.mark.parametrize("number", FORMATS)
def test_a_file_of_each_format_loads_and_predicts_what_it_did(number: int) -> None:
    reg = torchreg.load(HERE / "data" / f"format-{number}.safetensors")
    X = np.array([[170.0, 1.7e9 - 50], [230.0, 1.7e9 + 50]])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        predicted = reg.predict(X)
    assert predicted == pytest.approx(FORMATS[number], rel=1e-9)
    assert list(reg.feature_names_in_) == ["flipper_mm", "time_s"]
    assert reg.get_params()["module__hidden_sizes"] == (3, 2)
    assert reg.optimizer is torch.optim.AdamW
    assert len(reg.history_) == reg.n_iter_ == 30
    assert reg.set_params(max_epochs=2).fit(X, X[:, 0]).n_iter_ == 2


def test_the_latest_format_has_its_file() -> None:
    from torchreg.export.file import FORMAT

    assert max(FORMATS) == FORMAT


MODULE = """
import sys
print("my_nets was imported", file=sys.stderr)
from torch import nn

class Net(nn.Module):
    def __init__(self, in_features, out_features):
        super().__init__()
        self.layer = nn.Linear(in_features, out_features)

    def forward(self, x):
        return self.layer(x) ** 3
"""


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Save a regressor with a class of a package that the process will have forgotten."""
    (tmp_path / "my_nets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    import my_nets

    X = np.linspace(-1, 1, 20).reshape(10, 2)
    reg = TorchRegressor(my_nets.Net, max_epochs=2, random_state=0).fit(X, X[:, 0])
    reg.save(tmp_path / "reg")
    np.save(tmp_path / "predicted.npy", reg.predict(X))
    del sys.modules["my_nets"]
    return tmp_path


def run(folder: Path, load: str) -> Any:
    script = (
        "import sys; sys.path.append('.')\n"
        "import numpy as np, torchreg\n"
        f"{load}\n"
        "X = np.linspace(-1, 1, 20).reshape(10, 2)\n"
        "assert (reg.predict(X) == np.load('predicted.npy')).all()\n"
        "print('predicted')\n"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.append({str(HERE.parent)!r})\n{script}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_a_class_is_imported_only_where_its_package_is_allowed(saved: Path) -> None:
    refused = run(saved, "reg = torchreg.load('reg')")
    assert "torchreg._errors.UntrustedError" in refused.stderr
    assert r"load(path, module=MyNet)" in refused.stderr
    assert "my_nets was imported" not in refused.stderr
    allowed = run(saved, "reg = torchreg.load('reg', trusted=['my_nets'])")
    assert allowed.stdout == "predicted\n" and "my_nets was imported" in allowed.stderr
    passed = run(saved, "import my_nets; reg = torchreg.load('reg', module=my_nets.Net)")
    assert passed.stdout == "predicted\n"


def test_the_error_names_the_file_and_the_parameter(saved: Path) -> None:
    with pytest.raises(UntrustedError, match=r"reg: Parameter module: The file names my_nets\.Net"):
        torchreg.load(saved / "reg")


def test_a_process_that_loads_imports_neither_skorch_nor_the_compiler(saved: Path) -> None:
    TorchRegressor(max_epochs=2).fit([[1.0, 2], [3, 5]], [1.0, 2]).save(saved / "plain")
    done = run(
        saved,
        "import sys, torch; before = set(sys.modules)\n"
        "torchreg.load('plain').predict([[1.0, 2]])\n"
        "new = set(sys.modules) - before\n"
        "print(*[m for m in ('skorch', 'torch._dynamo', 'pandas') if m in new])\n"
        "reg = torchreg.load('reg', trusted=['my_nets'])",
    )
    assert done.stdout == "\npredicted\n", done.stderr
