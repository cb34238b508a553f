"""Fits that scripts do not cover are refused with the reason and a remedy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn

from torchreg import TorchRegressor
from torchreg.nn import MLP, MemberLinear

Array = np.ndarray
Data = tuple[Array, Array]


def fit_of(data: Data, **parameters: Any) -> TorchRegressor:
    settings = {"module": MLP, "max_epochs": 2, "random_state": 0} | parameters
    return TorchRegressor(**settings).fit(*data)


class Adds(nn.Linear):
    """A module that changes its input."""

    def forward(self, x: Tensor) -> Tensor:
        x += 1.0
        return super().forward(x)


class KeepsNothing(nn.Module):
    """A module that does not keep its arguments as attributes."""

    def __init__(self, width: int, what: Any = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def members(in_features: int, out_features: int) -> nn.Module:
    return nn.Sequential(MemberLinear(3, in_features, out_features))


def mean_of_fourth_powers(prediction: Tensor, target: Tensor) -> Tensor:
    return ((prediction - target) ** 4).mean()


def train(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target) ** 2


SESSION: dict[str, Any] = {"__name__": "session"}
exec("from torch import nn\n\n\nclass Gone(nn.Linear):\n    pass", SESSION)
TIED = nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"module": members}, r"\(n, n_outputs\), got members: \(2, 3, 1\)"),
        ({"module": Adds}, r"changes its input\. Write x = x \+ 1"),
        ({"module": nn.LazyLinear, "module__out_features": 1}, "lazy layers.* nn.Linear"),
        ({"module": nn.Sequential(TIED, nn.Tanh(), TIED)}, "same parameters in two places"),
        ({"module": KeepsNothing(3)}, r"KeepsNothing.* Give the class"),
        ({"module": SESSION["Gone"]}, "source of Gone is not available.* notebook cell"),
        ({"module": lambda in_features: nn.Linear(in_features, 1)}, "Define a function with def"),
        ({"module": KeepsNothing, "module__width": 3, "module__what": object()}, "module__what: "),
        ({"loss": train}, "'train' has two meanings in the script. Rename"),
        ({"schedule": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9)}, "with def"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_part_without_source_is_refused(
    parameters: dict[str, Any], message: str, kink: Data, tmp_path: Path
) -> None:
    reg = fit_of(kink, **parameters)
    with pytest.raises(ValueError, match=f"to_script .*{message}.* save and to_onnx"):
        reg.to_script(tmp_path / "script.py", *kink)
    assert not list(tmp_path.iterdir())


def test_a_loss_of_all_rows_with_weights_is_refused(kink: Data, tmp_path: Path) -> None:
    X, y = kink
    weight = np.arange(1.0, len(y) + 1)
    reg = TorchRegressor(MLP, loss=mean_of_fourth_powers, max_epochs=2).fit(X, y, weight)
    with pytest.raises(ValueError, match=r"mean_of_fourth_powers.* got \(\).* loss for each row"):
        reg.to_script(tmp_path / "script.py")


def test_a_fit_that_continues_another_is_refused(kink: Data, tmp_path: Path) -> None:
    reg = fit_of(kink, warm_start=True).fit(*kink)
    with pytest.raises(ValueError, match=r"continues another \(warm_start=True\)"):
        reg.to_script(tmp_path / "script.py")


def test_another_default_dtype_is_refused(kink: Data, tmp_path: Path) -> None:
    reg = fit_of(kink)
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ValueError, match=r"default dtype, got torch\.float64"):
            reg.to_script(tmp_path / "script.py")
    finally:
        torch.set_default_dtype(torch.float32)


def test_another_number_of_folds_than_that_of_the_fit_is_refused(
    kink: Data, tmp_path: Path
) -> None:
    reg = fit_of(kink, n_folds=4).set_params(n_folds=5)
    with pytest.raises(ValueError, match=r"each of n_folds=5, got 4\. Set n_folds"):
        reg.to_script(tmp_path / "script.py")


def test_networks_of_other_shapes_are_refused(kink: Data, tmp_path: Path) -> None:
    reg = fit_of(kink, n_folds=3)
    reg.module_.network.members[1] = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"different layers\. Fit with n_folds=None"):
        reg.to_script(tmp_path / "script.py")


# %% Rows
def test_rows_of_other_widths_or_names_are_refused(penguins: Any, tmp_path: Path) -> None:
    X, y = penguins[["flipper_length_mm", "bill_length_mm"]], penguins["body_mass_g"]
    reg, file = fit_of((X, y)), tmp_path / "script.py"
    with pytest.raises(ValueError, match=r"n_features_in_=2; got 1"):
        reg.to_script(file, X[["flipper_length_mm"]], y)
    with pytest.raises(ValueError, match=r"feature_names_in_=.*; got "):
        reg.to_script(file, X[["bill_length_mm", "flipper_length_mm"]], y)
    with pytest.raises(ValueError, match=r"n_outputs_=1; got 2"):
        reg.to_script(file, X, X)


def test_rows_come_in_pairs(kink: Data, tmp_path: Path) -> None:
    reg, file, (X, y) = fit_of(kink), tmp_path / "script.py", kink
    with pytest.raises(ValueError, match="X and y belong together; y is missing"):
        reg.to_script(file, X)
    with pytest.raises(ValueError, match="X and y belong together; X is missing"):
        reg.to_script(file, y=y)
    with pytest.raises(ValueError, match="expects X and y with weights"):
        reg.to_script(file, sample_weight=np.ones(len(y)))
    with pytest.raises(ValueError, match=r"without X_val\. Leave X_val and y_val out"):
        reg.to_script(file, X, y, X_val=X, y_val=y)


def test_validation_rows_that_stopped_the_fit_are_required(kink: Data, tmp_path: Path) -> None:
    X, y = kink
    reg = TorchRegressor(module=MLP, early_stopping=True, max_epochs=3)
    reg.fit(X, y, X_val=X[::3], y_val=y[::3])
    with pytest.raises(ValueError, match="Pass those of fit as X_val and y_val"):
        reg.to_script(tmp_path / "script.py", X, y)
    reg.to_script(tmp_path / "script.py")
    assert "X_val" in (tmp_path / "script.py").read_text()


# %% Files
def test_only_a_fitted_regressor_writes_a_script(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        TorchRegressor(module=MLP).to_script(tmp_path / "script.py")


@pytest.mark.parametrize("name", ["script", "script.txt", "script.py.gz", ""])
def test_a_script_is_a_python_file(name: str, kink: Data, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expects a file name that ends in \.py, got "):
        fit_of(kink).to_script(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(kink: Data, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*absent'\. Make it first"):
        fit_of(kink).to_script(tmp_path / "absent" / "script.py")


def test_a_script_is_replaced_as_a_whole_or_not_at_all(
    kink: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, reg = tmp_path / "script.py", fit_of(kink)
    file.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            reg.to_script(file)
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]
    reg.to_script(str(file))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script.pt", "script.py"]
