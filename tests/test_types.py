"""A user's typed script: mypy checks it, and what it asserts about types holds when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import nn

import torchreg
from torchreg import TorchEnsembleRegressor, TorchRegressor
from torchreg.diagnosis import Diagnosis
from torchreg.nn import MLP, Ensemble

Predictions = NDArray[np.floating[Any]]
X = pd.DataFrame({"a": [181.0, 186.0, 195.0, 210.0]})
y = pd.Series([3750.0, 3800.0, 3250.0, 4400.0])


def test_a_fit_and_its_attributes_have_types() -> None:
    reg = TorchRegressor(MLP, module__hidden_sizes=[5], loss=nn.SmoothL1Loss, max_epochs=2)
    assert_type(reg.set_params(lr=0.1), TorchRegressor)
    assert_type(reg.fit(X, y), TorchRegressor)
    assert isinstance(assert_type(reg.score(X, y), float), float)
    assert isinstance(assert_type(reg.module_, nn.Sequential), nn.Sequential)
    assert isinstance(assert_type(reg.dtype_, torch.dtype), torch.dtype)
    assert isinstance(assert_type(reg.diagnose(), Diagnosis), Diagnosis)
    integers = [
        assert_type(value, int)
        for value in (reg.n_iter_, reg.best_epoch_, reg.n_features_in_, reg.n_outputs_)
    ]
    assert all(type(value) is int for value in integers)
    losses = [
        *assert_type(reg.loss_curve_, list[float]),
        *assert_type(reg.init_losses_, list[float]),
        assert_type(reg.loss_, float),
    ]
    assert all(type(loss) is float for loss in losses)
    assert assert_type(reg.validation_loss_curve_, list[float] | None) is None
    assert assert_type(reg.feature_names_in_, NDArray[np.object_]).dtype == object
    assert len(assert_type(reg.history_, list[dict[str, Any]])) == 2
    assert "batch_size" not in assert_type(reg.chosen_params_, dict[str, Any])
    assert "network" in assert_type(reg.fit_summary_, dict[str, Any])


def test_predictions_have_types() -> None:
    reg = TorchRegressor(MLP, loss="gaussian_nll", max_epochs=2).fit(X, y)
    assert assert_type(reg.predict(X), Predictions).shape == (4,)
    assert assert_type(reg.predict(X, quantiles=[0.1, 0.9]), Predictions).shape == (4, 2)
    mean, std = assert_type(reg.predict(X, return_std=True), tuple[Predictions, Predictions])
    assert mean.shape == std.shape == (4,)


def test_sparse_matrices_and_tensors_are_features() -> None:
    reg = TorchRegressor(MLP, max_epochs=2)
    for sparse in (scipy.sparse.csr_matrix(X), scipy.sparse.csr_array(X)):
        assert assert_type(reg.fit(sparse, y).predict(sparse), Predictions).shape == (4,)
    x = torch.tensor(X.to_numpy())
    assert assert_type(reg.fit(x, torch.tensor(y.to_numpy())).predict(x), Predictions).shape == (4,)


def test_an_ensemble_and_a_loaded_regressor_have_types(tmp_path: Path) -> None:
    ensemble = TorchEnsembleRegressor(TorchRegressor(MLP, max_epochs=2), 2)
    assert_type(ensemble.fit(X, y), TorchEnsembleRegressor)
    assert isinstance(assert_type(ensemble.module_, Ensemble), Ensemble)
    assert len(assert_type(ensemble.estimators_, list[TorchRegressor])) == 2
    mean, _ = assert_type(ensemble.predict(X, return_std=True), tuple[Predictions, Predictions])
    ensemble.save(tmp_path / "ensemble.safetensors")
    loaded = torchreg.load(tmp_path / "ensemble.safetensors")
    assert_type(loaded, TorchRegressor | TorchEnsembleRegressor)
    np.testing.assert_array_equal(assert_type(loaded.predict(X), Predictions), mean)
