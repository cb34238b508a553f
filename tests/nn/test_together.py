"""Files of a network of all layers of torchreg.nn give its predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from torchreg import TorchRegressor, load
from torchreg.nn import LinearPath, MemberLinear, PeriodicEmbedding, RobustStandardize, Scale

rng = np.random.default_rng(0)
#: Two skewed columns, a binary one with a rare value, and a constant.
X = np.column_stack(
    [1e3 * np.exp(rng.normal(size=(90, 2))), rng.permutation(90) < 6, np.full(90, 7.0)]
)
y = np.sin(X[:, 0] / 500) + X[:, 1] / 1e3 + 2 * X[:, 2]


def fixed() -> nn.Module:
    """All layers, without a class of the user's."""
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


def test_saved_files_and_onnx_files_predict_the_same(tmp_path: Path) -> None:
    import onnxruntime

    reg = TorchRegressor(fixed(), batch_size=32, max_epochs=8, random_state=0).fit(X, y)
    expected = reg.predict(X)
    reg.save(tmp_path / "reg")
    np.testing.assert_array_equal(load(tmp_path / "reg").predict(X), expected)

    reg.to_onnx(tmp_path / "reg.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "reg.onnx")
    (output,) = session.run(None, {session.get_inputs()[0].name: X})
    np.testing.assert_allclose(output.reshape(-1), expected, rtol=1e-5, atol=1e-5)
