"""A loss is defined by one class, from which training, score, curves, findings and scripts read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import Tensor, nn
from torch.nn import functional

from torchreg import TorchRegressor
from torchreg.losses import LOSSES, Loss, RawError, find_loss
from torchreg.nn import MLP, Exponential
from torchreg.plotting import LossCurveDisplay

Array = np.ndarray
X = np.linspace(-2, 2, 60)[:, None]
Y = 40 + 10 * np.sin(2 * X[:, 0])


def log_cosh(prediction: Tensor, target: Tensor) -> Tensor:
    """Logarithm of the hyperbolic cosine of each residual."""
    residual = prediction - target
    return residual + functional.softplus(-2 * residual) - 0.6931471805599453


@pytest.fixture
def new_loss() -> Iterator[type[Loss]]:
    class LogCosh(Loss, name="log_cosh"):
        output_is_prediction = True
        is_robust = True
        score_name = "D2"
        raw_error = RawError("curve", lambda loss, std: loss * std, lambda error, std: error / std)

        def __init__(self) -> None:
            super().__init__(log_cosh)

        def score(self, y: Any, prediction: Any, sample_weight: Any = None) -> float:
            return -float(np.average(np.abs(y - prediction), weights=sample_weight))

        @classmethod
        def loss_of_mean(cls, std: Sequence[float]) -> float:
            return 0.25

    yield LogCosh
    del LOSSES["log_cosh"]


@pytest.mark.parametrize("by_name", [True, False])
def test_a_new_loss_is_used_by_training_score_curves_findings_and_script(
    by_name: bool, new_loss: type[Loss], tmp_path: Path
) -> None:
    loss: Any = "log_cosh" if by_name else new_loss
    reg = TorchRegressor(MLP, loss=loss, max_epochs=40, lr=0.01, random_state=0)
    reg.fit(X, Y, X_val=X, y_val=Y)
    # Training: as with the function alone.
    plain = clone(reg).set_params(loss=log_cosh).fit(X, Y, X_val=X, y_val=Y)
    np.testing.assert_array_equal(reg.predict(X), plain.predict(X))
    # Score.
    weight = np.arange(60.0)
    for w in (None, weight):
        expected = -np.average(np.abs(Y - reg.predict(X)), weights=w)
        assert reg.score(X, Y, w) == pytest.approx(expected)
    # Curves.
    display = LossCurveDisplay.from_estimator(reg, in_units="raw")
    assert display.ax_.get_ylabel() == "curve of y"
    np.testing.assert_allclose(
        display.training_line_.get_ydata(), np.array(reg.loss_curve_) * Y.std(), rtol=1e-12
    )
    # Findings: the loss of the mean, and advice.
    folds = clone(reg).set_params(n_folds=3).fit(X, Y)
    explained = 1 - folds.validation_loss_curve_[folds.best_epoch_ - 1] / 0.25
    assert f"D2 = {explained:.3f} of single networks" in str(folds.diagnose())
    heavy = TorchRegressor(MLP, loss=loss, max_epochs=2).fit(X, np.r_[-1e4, Y[1:]])
    advice = next(f.advice for f in heavy.diagnose() if f.code == "heavy-tailed-target")
    assert "loss='log_cosh'" in advice
    # Script.
    reg.to_script(tmp_path / "fit.py")
    text = (tmp_path / "fit.py").read_text()
    assert "def log_cosh(" in text and "class LogCosh" not in text


def test_a_name_that_belongs_to_another_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="'huber' belongs to HuberLoss"):

        class Other(Loss, name="huber"):
            pass

    assert find_loss("huber").__name__ == "HuberLoss"


def test_a_loss_without_a_class_of_its_own_has_no_link_no_range_and_no_unit() -> None:
    loss = Loss(functional.mse_loss, "mine")
    loss.check_target(torch.tensor([[-1.0]]), name="y")
    assert (loss.link, loss.per_output, loss.center_target) == (None, 1, True)
    assert find_loss("mine") is Loss and Loss.raw_error is None


@pytest.mark.parametrize("name", LOSSES)
def test_each_named_loss_says_what_it_is_built_with_and_is_in_the_documented_table(
    name: str,
) -> None:
    loss = LOSSES[name]()
    namespace = {type(loss).__name__: type(loss)}
    assert repr(eval(repr(loss), namespace)) == repr(loss)
    assert f'``"{name}"``' in str(TorchRegressor.__doc__)


def test_a_module_may_declare_its_link_and_its_targets() -> None:
    class LogRatio(nn.Module):
        center_target = False

        def __init__(self) -> None:
            super().__init__()
            self.link = Exponential()

        def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
            return (prediction - target.log()) ** 2

        def check_target(self, y: Tensor, *, name: str, training: bool = True) -> None:
            if bool((y <= 0).any()):
                raise ValueError(f"{name} above 0")

    reg = TorchRegressor(nn.Linear, loss=LogRatio, optimizer="lbfgs", max_epochs=20).fit(X, Y)
    np.testing.assert_allclose(
        np.log(reg.predict(X)), np.polyval(np.polyfit(X[:, 0], np.log(Y), 1), X[:, 0]), rtol=1e-5
    )
    with pytest.raises(ValueError, match="y above 0"):
        reg.fit(X, -Y)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_loss_of_the_mean_is_known_from_the_standard_deviations_or_not_at_all(
    name: str,
) -> None:
    y = torch.randn(200, 2, dtype=torch.float64) * torch.tensor([3.0, 0.5])
    found = LOSSES[name].loss_of_mean(y.std(dim=0, correction=0).tolist())
    if found is not None:
        mean = y.mean(dim=0, keepdim=True).expand(200, 2)
        assert found == pytest.approx(float(LOSSES[name]().mean(mean, y, None)))
    assert (found is None) == (name != "squared_error")
