"""The variants of the ablation lack what their names say."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch

from tests._benchmarks import benchmark_imports
from torchreg import TorchRegressor
from torchreg.nn import MLP


@pytest.fixture(scope="module")
def ablation() -> Iterator[ModuleType]:
    """Import the script; its variants and its results are ``_variants`` and ``_scores``."""
    with benchmark_imports() as load:
        yield load("ablation")


@pytest.fixture
def variants(ablation: ModuleType) -> ModuleType:
    return sys.modules["_variants"]


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).standard_normal((60, 3))
    X[:, 2] = X[:, 2] > 0
    return X, np.sin(2 * X[:, 0]) + X[:, 1] + X[:, 2]


def test_without_changes_a_variant_is_the_default(
    variants: ModuleType, rows: tuple[np.ndarray, np.ndarray]
) -> None:
    X, y = rows
    predict = variants.fit_variant(X, y, 3, 1, changes={})
    # The networks of the default are computed together, those of a variant one after another.
    expected = TorchRegressor(random_state=3).fit(X, y).predict(X)
    np.testing.assert_allclose(predict(X), expected, rtol=1e-12)


def test_without_all_parts_the_network_is_an_mlp(variants: ModuleType) -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    network = variants.ReducedTabularMLP(3, 2, (8,), without=variants.PARTS)
    network.initialize_from(x, x[:, :2], None)
    plain = MLP(3, 2, (8,))
    plain.load_state_dict(network.mlp.state_dict())
    torch.testing.assert_close(network(x), plain(x), rtol=0, atol=0)


@pytest.mark.parametrize("part", ["waves", "bins", "line"])
def test_a_missing_part_has_no_parameters_and_adds_nothing(variants: ModuleType, part: str) -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    network = variants.ReducedTabularMLP(3, 1, (8,), without=(part,))
    network.initialize_from(x, x[:, :1], None)
    trained = {name.split(".")[0] for name, _ in network.named_parameters()}
    assert trained == {"waves", "bins", "mlp"} - {part}
    assert (part == "line") == (not network.line.weight.any())
    assert network(x).shape == (50, 1)


def test_every_variant_fits_and_has_its_own_version(
    variants: ModuleType, rows: tuple[np.ndarray, np.ndarray]
) -> None:
    X, y = rows
    versions = {variant.version for variant in variants.VARIANTS.values()}
    assert len(versions) == len(variants.VARIANTS)
    for group in variants.GROUPS.values():
        for changes in group.values():
            predict = variants.fit_variant(X, y, 0, 1, changes={**changes, "max_epochs": 1})
            assert np.isfinite(predict(X)).all()
