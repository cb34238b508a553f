"""Files of every released format load, and what they predicted then they predict now."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

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


def test_a_class_is_imported_only_where_its_package_is_allowed(saved: Path) -> None:
    TorchRegressor(max_epochs=2).fit([[1.0, 2], [3, 5]], [1.0, 2]).save(saved / "plain")
    script = f"""
import sys
sys.path += [{str(HERE.parent)!r}, "."]
import numpy as np, torchreg

before = set(sys.modules)
torchreg.load("plain").predict([[1.0, 2]])
assert not (set(sys.modules) - before) & {{"skorch", "torch._dynamo", "pandas"}}
try:
    torchreg.load("reg")
except torchreg.UntrustedError as error:
    assert "load(path, module=MyNet)" in str(error)
    print("refused")
assert "my_nets" not in sys.modules
X = np.linspace(-1, 1, 20).reshape(10, 2)
assert (torchreg.load("reg", trusted="my_nets").predict(X) == np.load("predicted.npy")).all()
assert "my_nets" in sys.modules
print("predicted")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=saved
    )
    assert done.stdout == "refused\npredicted\n", done.stderr


def test_the_error_names_the_file_and_the_parameter(saved: Path) -> None:
    with pytest.raises(UntrustedError, match=r"reg: Parameter module: The file names my_nets\.Net"):
        torchreg.load(saved / "reg")
