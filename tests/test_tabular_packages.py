"""The packages of the extra ``tabular``: TabM and embeddings as modules of a regressor."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rtdl_num_embeddings import PeriodicEmbeddings
from tabm import TabM
from torch import nn

from torchreg import TorchRegressor, load
from torchreg.nn import PeriodicEmbedding

rng = np.random.default_rng(0)
X = 200 + 15 * rng.normal(size=(60, 3))
y = X @ [1.0, -2.0, 0.5] + 3 * np.abs(X[:, 0] - 200)


def test_periodic_embeddings_generalize_those_of_rtdl_num_embeddings() -> None:
    theirs = PeriodicEmbeddings(3, 5, n_frequencies=4, activation=False, lite=False).double()
    ours = PeriodicEmbedding(3, n_frequencies=8, n_outputs=5).double()
    with torch.no_grad():
        # A sine is a cosine with another phase.
        ours.frequency.copy_(theirs.periodic.weight.repeat(1, 2))
        ours.phase.copy_(torch.tensor([0.0] * 4 + [-math.pi / 2] * 4))
        ours.weight.copy_(theirs.linear.weight.mT)
        ours.bias.copy_(theirs.linear.bias)
    x = torch.randn(7, 3, dtype=torch.float64)
    values, embedded = ours(x).split([3, 15], dim=1)
    assert torch.equal(values, x)
    torch.testing.assert_close(embedded, theirs(x).flatten(1))


def build(in_features: int, out_features: int, dropout: float = 0.0) -> nn.Module:
    return TabM.make(
        n_num_features=in_features, d_out=out_features, k=4, n_blocks=2, d_block=16, dropout=dropout
    )


@pytest.mark.parametrize("target", [y, np.column_stack([y, -y])], ids=["vector", "two"])
@pytest.mark.parametrize("batch_size", [None, 16])
def test_tabm_trains_on_the_losses_of_its_members_and_predicts_their_mean(
    target: Any, batch_size: Any
) -> None:
    options: dict[str, Any] = {"batch_size": batch_size, "lr": 1e-2, "dtype": "float64"}
    reg = TorchRegressor(build, max_epochs=40, random_state=0, **options).fit(X, target)
    assert reg.score(X, target) > 0.9
    assert reg.loss_curve_[-1] < reg.loss_curve_[0] / 5
    x = torch.as_tensor((X - X.mean(0)) / X.std(0))
    with torch.no_grad():
        members = reg.module_.network(x).numpy()
    assert members.shape == (60, 4, 1 if target.ndim == 1 else 2)
    mean = target.mean(0) + target.std(0) * members.mean(axis=1).reshape(target.shape)
    np.testing.assert_allclose(reg.predict(X), mean)


def test_tabm_is_saved_and_loaded(tmp_path: Path) -> None:
    reg = TorchRegressor(build, module__dropout=0.1, max_epochs=3, random_state=0).fit(X, y)
    reg.save(tmp_path / "tabm")
    loaded = load(tmp_path / "tabm", module=build)
    np.testing.assert_array_equal(loaded.predict(X), reg.predict(X))


def test_embeddings_of_the_package_train_inside_tabm() -> None:
    def with_embeddings(in_features: int, out_features: int) -> nn.Module:
        embeddings = PeriodicEmbeddings(
            in_features, 4, n_frequencies=8, frequency_init_scale=0.3, lite=False
        )
        return TabM.make(
            n_num_features=in_features,
            num_embeddings=embeddings,
            d_out=out_features,
            k=4,
            n_blocks=1,
            d_block=16,
        )

    reg = TorchRegressor(with_embeddings, max_epochs=40, lr=1e-2, random_state=0).fit(X, y)
    assert reg.score(X, y) > 0.9
