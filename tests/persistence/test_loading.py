"""Files of every format and version load and predict the same."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import torchreg
from torchreg import TorchRegressor, UntrustedError
from torchreg._serialization import FORMAT

DATA = Path(__file__).parents[1] / "data"
#: Predictions of one file of each format. These files must never be written again.
FORMATS = {
    1: [4108.045254063467, 4293.414143682874],
}


@pytest.mark.parametrize("number", FORMATS)
def test_a_file_of_each_format_predicts_the_same(number: int) -> None:
    reg = torchreg.load(DATA / f"format-{number}.safetensors")
    X = np.array([[170.0, 1.7e9 - 50], [230.0, 1.7e9 + 50]])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        predicted = reg.predict(X)
    assert predicted == pytest.approx(FORMATS[number], rel=1e-9)
    assert list(reg.feature_names_in_) == ["flipper_mm", "time_s"]
    assert reg.get_params()["module__hidden_sizes"] == (3, 2)
    assert reg.optimizer is torch.optim.AdamW
    assert len(reg.history_) == reg.n_iter_ == 30
    assert reg.set_params(max_epochs=2).fit(X, X[:, 0]).n_iter_ == 2


@pytest.mark.parametrize("name", ["default", "mlp", "poisson", "quantile", "ensemble"])
def test_a_file_saved_before_the_restructuring_still_predicts_the_same(name: str) -> None:
    # Written by torchreg 0.1.0, as it was before its packages and classes were renamed.
    reg = torchreg.load(DATA / "saved_0_1" / f"{name}.safetensors")
    with np.load(DATA / "saved_0_1" / "predictions.npz") as expected:
        np.testing.assert_allclose(reg.predict(expected["X"]), expected[name], rtol=1e-12)


def test_the_current_format_has_a_file() -> None:
    assert max(FORMATS) == FORMAT


X = np.linspace(-1, 1, 20).reshape(10, 2)
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
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Save a regressor with a class of a package that is not imported any more."""
    (tmp_path / "my_nets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    import my_nets

    reg = TorchRegressor(my_nets.Net, max_epochs=2, random_state=0).fit(X, X[:, 0])
    reg.save(tmp_path / "reg")
    np.save(tmp_path / "predicted.npy", reg.predict(X))
    del sys.modules["my_nets"]
    yield tmp_path
    sys.modules.pop("my_nets", None)


def test_a_class_is_imported_only_if_its_package_is_trusted(saved: Path) -> None:
    with pytest.raises(UntrustedError, match=r"load\(path, module=MyNet\)"):
        torchreg.load(saved / "reg")
    assert "my_nets" not in sys.modules
    loaded = torchreg.load(saved / "reg", trusted="my_nets")
    assert "my_nets" in sys.modules
    assert np.array_equal(loaded.predict(X), np.load(saved / "predicted.npy"))


def test_the_error_names_the_file_and_the_parameter(saved: Path) -> None:
    with pytest.raises(UntrustedError, match=r"reg: Parameter module: The file names my_nets\.Net"):
        torchreg.load(saved / "reg")
