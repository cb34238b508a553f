"""Early stopping restores the weights with the lowest validation loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from torchreg import TorchRegressor
from torchreg.nn import MLP

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 3))
Y = np.sin(2 * X[:, 0]) + 0.5 * RNG.normal(size=90)
TRAINING, VALIDATION = slice(60), slice(60, None)


@pytest.mark.parametrize("n_init", [1, 3], ids=["single network", "stack"])
@pytest.mark.parametrize("batch_size", [None, 16], ids=["full batch", "mini-batches"])
def test_predictions_have_the_lowest_validation_loss_of_all_epochs(
    batch_size: int | None, n_init: int
) -> None:
    options: dict[str, Any] = {"batch_size": batch_size, "n_init": n_init, "lr": 0.05}
    reg = TorchRegressor(
        MLP, early_stopping=True, max_epochs=80, dtype="float64", random_state=0, **options
    ).fit(X[TRAINING], Y[TRAINING], X_val=X[VALIDATION], y_val=Y[VALIDATION])
    assert 1 <= reg.best_epoch_ < reg.n_iter_ <= 80
    assert reg.best_epoch_ == 1 + np.argmin(reg.validation_loss_curve_)
    loss = ((reg.predict(X[VALIDATION]) - Y[VALIDATION]) ** 2).mean() / Y[TRAINING].var()
    assert loss == pytest.approx(min(reg.validation_loss_curve_), rel=1e-9)


def test_folds_restore_their_best_weights_without_early_stopping() -> None:
    settings: dict[str, Any] = {"n_folds": 3, "lr": 0.05, "dtype": "float64", "random_state": 0}
    long = TorchRegressor(MLP, max_epochs=80, **settings).fit(X, Y)
    assert len(long.validation_loss_curve_) == long.n_iter_ == 80
    assert long.best_epoch_ < 80
