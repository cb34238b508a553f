"""Modules that compute in one dtype train in it; modules that fail are quoted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from torch import Tensor, nn

import torchreg
from torchreg import TorchRegressor

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
Y = X[:, 0] - X[:, 1] * X[:, 2]


class Casts(nn.Module):
    """Casts its input to one dtype."""

    dtype = torch.float32

    def __init__(self, in_features: int, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_features, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x.to(self.dtype))
        return output


class CastsToFloat64(Casts):
    dtype = torch.float64


class HasConstant(Casts):
    """Multiplies by a tensor that is no buffer, and normalizes batches."""

    def __init__(self, in_features: int) -> None:
        super().__init__(in_features)
        self.norm = nn.BatchNorm1d(in_features)
        self.constant = torch.eye(in_features, dtype=self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(self.norm(x) @ self.constant)
        return output


class HasFloat64Constant(HasConstant):
    dtype = torch.float64


class StartsAtZero(nn.Module):
    """Starts a recurrence from zeros of the default dtype, after dropout."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.1)
        self.cell, self.head = nn.RNNCell(in_features, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.cell(self.dropout(x), torch.zeros(len(x), 4)))
        return output


class CastsInTraining(Casts):
    """Casts its input in training mode only."""

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x.float() if self.training else x)
        return output


def fit(module: Any, **options: Any) -> TorchRegressor:
    return TorchRegressor(module, **{"max_epochs": 3, "random_state": 0} | options).fit(X, Y)


@pytest.mark.parametrize("options", [{}, {"optimizer": "lbfgs"}, {"n_folds": 2}], ids=str)
@pytest.mark.parametrize("module", [Casts, HasConstant, StartsAtZero, CastsInTraining])
def test_a_module_that_computes_in_float32_trains_in_float32(
    module: Any, options: dict[str, Any]
) -> None:
    reg = fit(module, **options)
    assert reg.dtype_ == torch.float32
    np.testing.assert_array_equal(
        reg.predict(X), fit(module, dtype="float32", **options).predict(X)
    )


@pytest.mark.parametrize("module", [CastsToFloat64, HasFloat64Constant])
def test_a_module_that_computes_in_float64_trains_in_float64_at_any_size(module: Any) -> None:
    reg = fit(module)
    assert reg.dtype_ == torch.float64
    rows = np.repeat(X, 500, axis=0)  # Above the size up to which "auto" is float64.
    wide = TorchRegressor(module, batch_size=None, max_epochs=1).fit(rows, rows[:, 0])
    assert wide.dtype_ == torch.float64


def test_verbose_names_the_dtype_and_the_cause_once(capsys: pytest.CaptureFixture[str]) -> None:
    fit(Casts, verbose=1, n_folds=2)
    assert capsys.readouterr().out.count("dtype='auto' is float32: the module can") == 1
    fit(nn.Linear(3, 1), verbose=1)
    assert "auto" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "given", "possible"),
    [(Casts, "float64", "float32"), (CastsToFloat64, "float32", "float64")],
)
def test_a_dtype_in_which_the_module_fails_is_rejected_with_the_other_one(
    module: Any, given: str, possible: str
) -> None:
    with pytest.raises(ValueError, match=rf"dtype='{given}'.*Set dtype='{possible}'"):
        fit(module, dtype=given)


@pytest.mark.parametrize("backend", ["sequential", "torchreg"])
def test_no_candidate_of_a_search_fails_because_of_its_dtype(backend: str) -> None:
    import joblib

    # The sizes are on both sides of the limit up to which "auto" is float64.
    search = GridSearchCV(
        TorchRegressor(Casts, max_epochs=3, random_state=0),
        {"module__width": [2, 3000], "dtype": ["auto", "float32"]},
        cv=2,
        error_score="raise",
    )
    with joblib.parallel_config(backend=backend):
        scores = search.fit(X, Y).cv_results_["mean_test_score"]
    np.testing.assert_array_equal(scores[:2], scores[2:])


def test_finding_the_dtype_changes_no_buffer_and_draws_no_number() -> None:
    class Counts(HasConstant):
        dtype = torch.get_default_dtype()

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + 0 * torch.rand(1))

    reg = fit(Counts, batch_size=None)
    norm = reg.module_.network.norm
    assert norm.num_batches_tracked == 3
    np.testing.assert_array_equal(
        reg.predict(X), fit(Counts, batch_size=None, dtype="float32").predict(X)
    )


# Errors inside forward


class Branches(nn.Module):
    """The first of two layers fits the columns it receives, the second does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 1), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.first(x[:, :1]) + self.second(x[:, 1:])
        return output


class Convolves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.conv = nn.Linear(7, 1), nn.Conv1d(2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.conv(x[:, None, :]))
        return output


class Embeds(nn.Module):
    """Embeds the codes of the first column, which are negative if they are standardized."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.embedding = nn.Linear(7, 1), nn.Embedding(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(torch.cat([x[:, 1:], self.embedding(x[:, 0].long())], 1))
        return output


class Positive(nn.Module):
    """Checks its input, of the width that it takes."""

    in_features = 3

    def __init__(self, limit: float = 0.0) -> None:
        super().__init__()
        self.limit, self.head = limit, nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.min() < self.limit:
            raise ValueError("concentrations must be positive")
        output: Tensor = self.head(torch.cat([x, x[:, :1]], 1))
        return output


@pytest.mark.parametrize(
    ("module", "quoted"),
    [
        (Branches, r"its layer second, Linear, takes 4 features but receives 2\. mat1"),
        (Convolves, r"3 features: Given groups=1"),
        (Embeds, r"3 features: index out of range.*standardize='y'"),
        (Positive, r"3 features: concentrations must be positive.*standardize='y'"),
        (Positive(1000), r"3 features: concentrations must be positive$"),
    ],
    ids=str,
)
def test_an_error_in_forward_is_quoted_and_blames_no_other_layer(module: Any, quoted: str) -> None:
    codes = np.column_stack([np.arange(40) % 5, 200 + X[:, 1:]])
    reg = TorchRegressor(module, max_epochs=2)
    with pytest.raises(ValueError, match=quoted):
        reg.fit(codes, Y)
    if "'y'" in quoted:
        reg.set_params(standardize="y").fit(codes, Y)


def test_a_regressor_in_float32_survives_its_file(tmp_path: Any) -> None:
    reg = fit(Casts)
    reg.save(tmp_path / "reg")
    loaded = torchreg.load(tmp_path / "reg", module=Casts)
    assert loaded.dtype_ == torch.float32
    np.testing.assert_array_equal(loaded.predict(X), reg.predict(X))
