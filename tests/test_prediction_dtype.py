"""Predictions for float32 X come in a dtype that resolves the spread of y."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from torch import Tensor, nn

import torchreg
from torchreg import TorchEnsembleRegressor, TorchRegressor
from torchreg.nn import MLP

RNG = np.random.default_rng(0)
X = RNG.integers(-8, 8, size=(60, 2)) / 8
SIGNAL = X[:, 0] - 2 * X[:, 1] + X[:, 0] ** 2


def quick(module: Any = MLP, **options: Any) -> TorchRegressor:
    return TorchRegressor(module, **{"max_epochs": 3, "random_state": 0, **options})


UNRESOLVED = {
    "a Unix time": 1.7e9 + SIGNAL,
    "a Julian date": 2460000.5 + 0.5 * SIGNAL,
    "one of two outputs": np.column_stack([SIGNAL, 1.7e9 + SIGNAL]),
    "beyond the largest float32": 1e40 * SIGNAL,
    "below the smallest float32": 1e-46 * SIGNAL,
    "a constant": np.full(len(X), 0.1),
}


@pytest.mark.parametrize("y", UNRESOLVED.values(), ids=UNRESOLVED)
def test_float32_x_gives_the_predictions_and_score_of_float64_x(y: np.ndarray) -> None:
    narrow = X.astype(np.float32)
    reg = quick().fit(narrow, y)
    assert reg.predict(narrow).dtype == np.float64
    np.testing.assert_array_equal(reg.predict(narrow), reg.predict(X))
    assert reg.score(narrow, y) == reg.score(X, y)


@pytest.mark.parametrize(
    ("y", "dtype"),
    [
        # Between 2**23 and 2**24, float32 has the integers.
        (2.0**23 + 4096 * np.array([0, 2] * 30), np.float32),
        (2.0**23 + 4095 * np.array([0, 2] * 30), np.float64),
        (np.full(60, 4200.0), np.float32),
        (4000 + 800 * SIGNAL, np.float32),
    ],
)
def test_predictions_are_float32_where_a_standard_deviation_has_4096_numbers_of_it(
    y: np.ndarray, dtype: type
) -> None:
    narrow = X.astype(np.float32)
    assert quick(max_epochs=1).fit(narrow, y).predict(narrow).dtype == dtype
    if y.std() > 0:
        factor = 2.0**-60
        assert quick(max_epochs=1).fit(narrow, y * factor).predict(narrow).dtype == dtype


FORMATS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda rows: rows,
    "frame": lambda rows: pd.DataFrame(rows, columns=["a", "b"]),
    "tensor": torch.from_numpy,
}
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "folds": (TorchRegressor(max_epochs=2, n_folds=2, random_state=0), {}),
    "distribution": (quick(loss="gaussian_nll"), {"return_std": True}),
    "quantiles": (quick(loss="quantile", loss__quantile=[0.1, 0.9]), {"quantiles": [0.1, 0.9]}),
    "ensemble": (TorchEnsembleRegressor(quick(), 2, random_state=0), {"return_std": True}),
}


@pytest.mark.parametrize("convert", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize(("reg", "options"), MODELS.values(), ids=MODELS)
def test_every_kind_of_prediction_has_all_digits_for_every_format_of_x(
    reg: Any, options: dict[str, Any], convert: Callable[[np.ndarray], Any], tmp_path: Path
) -> None:
    rows, y = convert(X.astype(np.float32)), 1.7e9 + SIGNAL
    with sklearn.config_context(array_api_dispatch=isinstance(rows, Tensor)):
        reg = sklearn.clone(reg).fit(rows, torch.from_numpy(y) if isinstance(rows, Tensor) else y)
        found = np.asarray(reg.predict(rows, **options))
        expected = np.asarray(reg.predict(convert(X), **options))
        reg.save(tmp_path / "model.torchreg")
        loaded = torchreg.load(tmp_path / "model.torchreg").predict(rows, **options)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.asarray(loaded), expected)


def test_a_prediction_beyond_the_range_of_float32_is_rejected_with_a_remedy() -> None:
    reg = quick(nn.Linear, max_epochs=50, lr=0.1).fit(X, 1e35 * SIGNAL)
    with pytest.raises(ValueError, match=r"exceeds the range of float32.* pass X as float64"):
        reg.predict((1e6 * X).astype(np.float32))
    assert np.isfinite(reg.predict(1e6 * X)).all()
