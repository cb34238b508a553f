"""Every check of scikit-learn's ``check_estimator`` passes in every configuration."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils._array_api import get_namespace
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import Tensor, nn

from torchreg import TorchEnsembleRegressor, TorchRegressor
from torchreg.nn import MLP


class Tanh(nn.Module):
    """A module whose widths follow from the data."""

    def __init__(self, in_features: int, out_features: int, width: int = 10) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_features, width)
        self.output = nn.Linear(width, out_features)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.output(self.hidden(x).tanh())
        return output


class TwoOutputs(TorchRegressor):
    """Fits each target and its negative as two outputs, and predicts the first."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TwoOutputs:
        if y is not None:
            namespace, is_array_api = get_namespace(y)
            y = y if is_array_api and not isinstance(y, np.ndarray) else np.asarray(y, dtype=float)
            y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
            y = namespace.stack([y, -y], axis=1) if y.ndim == 1 else y
        super().fit(X, y, sample_weight)
        return self

    def predict(self, X: Any) -> Any:
        prediction = super().predict(X)
        return prediction[:, 0] if prediction.shape[1] == 2 else prediction


EXACT = [
    # The default in every respect but its number of epochs, for the time of the checks.
    TorchRegressor(max_epochs=10),
    TorchRegressor(module=MLP),
    TwoOutputs(max_epochs=20),
    TorchRegressor(Tanh),
    TorchRegressor(module=MLP, standardize=False),
    TorchRegressor(module=MLP, standardize="X", loss="huber", max_epochs=100),
    TorchRegressor(module=MLP, optimizer="lbfgs", max_epochs=10),
    TorchRegressor(module=MLP, dtype="float64", optimizer="rprop", max_epochs=50),
    TorchRegressor(nn.LazyLinear, lr=0.1, max_epochs=50),
    TorchRegressor(module=MLP, n_init=3, max_epochs=50),
    TorchRegressor(module=MLP, loss="quantile", loss__quantile=[0.1, 0.9], max_epochs=50),
    TorchRegressor(module=MLP, loss="gaussian_nll", max_epochs=50),
    TorchRegressor(module=MLP, loss="poisson", max_epochs=50),
    TorchEnsembleRegressor(TorchRegressor(module=MLP, max_epochs=50), 3),
]
RANDOM = [
    TorchRegressor(module=MLP, early_stopping=True),
    TorchRegressor(module=MLP, batch_size=8, max_epochs=50),
    TorchEnsembleRegressor(TorchRegressor(module=MLP, max_epochs=50), 2, bootstrap=True),
    TorchRegressor(module=MLP, batch_size=8, early_stopping=True, module__dropout=0.1, lr=0.01),
]


def expected_failures(estimator: Any) -> dict[str, str]:
    """Return the checks that cannot pass, with reasons.

    They need rows that are not drawn at random, or negative targets.
    """
    if getattr(estimator, "loss", None) == "poisson":
        return {"check_regressor_multioutput": "the check has negative targets"}
    if estimator not in RANDOM:
        return {}
    reason = "random draws of rows differ if rows are repeated"
    return {
        "check_sample_weight_equivalence_on_dense_data": reason,
        "check_sample_weight_equivalence_on_sparse_data": reason,
    }


@parametrize_with_checks(EXACT + RANDOM, expected_failed_checks=expected_failures)
def test_every_check_of_scikit_learn_passes(
    estimator: Any, check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # scikit-learn runs its checks on "cuda" where torch was built for it, with a GPU or without.
    monkeypatch.setattr(torch.backends.cuda, "is_built", torch.cuda.is_available)
    with warnings.catch_warnings():
        # The checks themselves fit on raw lists, one row and float32 memory maps.
        warnings.simplefilter("ignore")
        check(estimator)
