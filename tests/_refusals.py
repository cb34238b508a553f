"""A refit with bad input raises, and leaves the fitted regressor as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from torchreg import TorchRegressor
from torchreg.nn import MLP

Array = np.ndarray
NAN, INF = float("nan"), float("inf")
#: The only errors that bad input may raise.
REFUSAL = (ValueError, TypeError)


def make_rows(n: int = 30, *, seed: int = 0) -> tuple[Array, Array]:
    X = 200 + 10 * np.random.default_rng(seed).normal(size=(n, 3))
    return X, 4000 + 20 * X[:, 0]


def spoilt(array: Array, value: Any, *, dtype: Any = None) -> Array:
    """Copy an array with one value replaced."""
    array = array.astype(dtype or array.dtype)
    array[(4, 1) if array.ndim == 2 else 4] = value
    return array


def quick(module: Any = MLP, **options: Any) -> TorchRegressor:
    settings: dict[str, Any] = {"max_epochs": 3, "random_state": 0}
    return TorchRegressor(module, **{**settings, **options})


def refuse(
    reg: TorchRegressor, message: str, *args: Any, error: Any = REFUSAL, **given: Any
) -> None:
    """Require an error from a refit, and the same predictions and attributes after it."""
    X, y = make_rows()
    args = args or (X, y)
    before = quick().fit(X, y)
    kept = before.predict(X)
    learned = {name: value for name, value in vars(before).items() if name.endswith("_")}
    with pytest.raises(error, match=message):
        before.set_params(**reg.get_params()).fit(*args, **given)
    np.testing.assert_array_equal(before.predict(X), kept)
    assert all(getattr(before, name) is value for name, value in learned.items())
    assert {name for name in vars(before) if name.endswith("_")} == set(learned)
    # A first fit fails with the same error and sets no attributes.
    fresh = TorchRegressor(module=MLP).set_params(**reg.get_params())
    with pytest.raises(error, match=message):
        fresh.fit(*args, **given)
    with pytest.raises(NotFittedError):
        fresh.predict(X)


X, Y = make_rows()
