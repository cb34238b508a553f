"""A network of all layers of torchreg.nn works with all that a fit offers."""

from __future__ import annotations

from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from torch import Tensor, nn

from torchreg import TorchRegressor, load
from torchreg.nn import LinearPath, MemberLinear, PeriodicEmbedding, RobustStandardize, Scale

rng = np.random.default_rng(0)
#: Two skewed columns, a binary one with a rare value, and a constant.
X = np.column_stack(
    [1e3 * np.exp(rng.normal(size=(90, 2))), rng.permutation(90) < 6, np.full(90, 7.0)]
)
y = np.sin(X[:, 0] / 500) + X[:, 1] / 1e3 + 2 * X[:, 2]


class Composed(nn.Module):
    """Embeds the continuous columns."""

    def __init__(self, in_features: int, out_features: int, n_members: int = 3) -> None:
        super().__init__()
        self.n_outputs, self.n_members = out_features, n_members
        self.robust = RobustStandardize(torch.zeros(in_features), torch.ones(in_features))
        self.layers = self.build(in_features, [*range(in_features)])

    def build(self, in_features: int, columns: list[int]) -> nn.Sequential:
        embedding = PeriodicEmbedding(in_features, columns, n_frequencies=4)
        return nn.Sequential(
            embedding,
            Scale(embedding.out_features),
            MemberLinear(self.n_members, embedding.out_features, 8),
            nn.ReLU(),
            MemberLinear(self.n_members, 8, self.n_outputs),
        )

    def initialize_from(self, x: Tensor, t: Tensor, weight: Tensor | None) -> None:
        self.robust.initialize_from(x, t, weight)
        self.layers = self.build(x.shape[1], self.robust.continuous_columns())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.robust(x))


def composed(in_features: int, out_features: int, n_members: int = 3) -> nn.Module:
    network = Composed(in_features, out_features, n_members)
    return LinearPath(network, in_features, out_features)


def fixed() -> nn.Module:
    """A similar network without a class of the user's."""
    return LinearPath(
        nn.Sequential(
            RobustStandardize([0.0] * 4, [1.0, 1.0, 2.0, 0.0], [False, False, True, False]),
            PeriodicEmbedding(4, [0, 1], n_frequencies=4),
            Scale(10),
            MemberLinear(3, 10, 8),
            nn.ReLU(),
            MemberLinear(3, 8, 1),
        ),
        4,
        1,
    )


def test_columns_are_treated_according_to_their_kind() -> None:
    reg = TorchRegressor(composed, max_epochs=2, random_state=0).fit(X, y)
    network = reg.module_.network.network
    assert network.layers[0].columns == [0, 1]
    assert network.robust.binary.tolist() == [False, False, True, False]
    assert network.robust.scale[3] == 0


@pytest.mark.parametrize("batch_size", [None, 32])
def test_a_search_with_the_joblib_backend_has_the_same_scores(batch_size: int | None) -> None:
    reg = TorchRegressor(composed, batch_size=batch_size, max_epochs=8, random_state=0)
    search = GridSearchCV(reg, {"lr": [1e-3, 1e-2]}, cv=3)
    alone = search.fit(X, y).cv_results_["mean_test_score"]
    with joblib.parallel_config(backend="torchreg"):
        together = search.fit(X, y).cv_results_["mean_test_score"]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_saved_files_onnx_files_and_scripts_predict_the_same(tmp_path: Path) -> None:
    import onnxruntime

    reg = TorchRegressor(fixed(), batch_size=32, max_epochs=8, random_state=0).fit(X, y)
    expected = reg.predict(X)
    reg.save(tmp_path / "reg")
    np.testing.assert_array_equal(load(tmp_path / "reg").predict(X), expected)

    reg.to_onnx(tmp_path / "reg.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "reg.onnx")
    (output,) = session.run(None, {session.get_inputs()[0].name: X})
    np.testing.assert_allclose(output.reshape(-1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_integer_weight_is_equivalent_to_repeated_rows(dtype: str) -> None:
    weight = rng.integers(1, 4, len(X))
    many = np.repeat(np.arange(len(X)), weight)
    options = {"batch_size": None, "max_epochs": 8, "random_state": 0, "dtype": dtype}
    one = TorchRegressor(composed, **options).fit(X, y, sample_weight=weight)
    other = TorchRegressor(composed, **options).fit(X[many], y[many])
    np.testing.assert_array_equal(one.predict(X), other.predict(X))
