"""The ablation benchmark takes away what it says, and compares with the default."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from torchreg import TorchRegressor
from torchreg.nn import MLP

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
MODULES = ("ablation", "accuracy", "_accuracy_report", "_datasets", "_harness", "_parts")

Import = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Import]:
    """Import a script, or what it shares, from the folder of the benchmarks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module
        for name in (*MODULES, "_scores", "_untuned"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def parts(benchmark: Import) -> ModuleType:
    return benchmark("_parts")


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3))
    X[:, 2] = X[:, 2] > 0
    return X, np.sin(2 * X[:, 0]) + X[:, 1] + X[:, 2]


def test_with_nothing_changed_it_is_the_default(
    parts: ModuleType, rows: tuple[np.ndarray, np.ndarray]
) -> None:
    X, y = rows
    predict = parts.fit_changed(X, y, 3, 1, changes={})
    np.testing.assert_array_equal(predict(X), TorchRegressor(random_state=3).fit(X, y).predict(X))


def test_without_all_parts_the_network_is_an_mlp(parts: ModuleType) -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    network = parts.Without(3, 2, (8,), without=parts.PARTS)
    network.initialize_from(x, x[:, :2], None)
    plain = MLP(3, 2, (8,))
    plain.load_state_dict(network.mlp.state_dict())
    torch.testing.assert_close(network(x), plain(x), rtol=0, atol=0)


@pytest.mark.parametrize("part", ["waves", "bins", "line"])
def test_a_part_that_is_taken_away_has_nothing_that_is_learned_or_added(
    parts: ModuleType, part: str
) -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    network = parts.Without(3, 1, (8,), without=(part,))
    network.initialize_from(x, x[:, :1], None)
    learned = {name.split(".")[0] for name, _ in network.named_parameters()}
    assert learned == {"waves", "bins", "mlp"} - {part}
    assert (part == "line") == (not network.line.weight.any())
    assert network(x).shape == (50, 1)


def test_without_a_clip_what_lies_far_away_stays_there(parts: ModuleType) -> None:
    x = torch.tensor([[0.0], [1.0], [2.0], [1000.0]])
    for part, expected in (("scale", 1000.0), ("clip", 998.5 / 500.5)):
        network = parts.Without(1, without=(part,))
        network.initialize_from(x, x, None)
        assert network.scale(x)[-1].tolist() == pytest.approx([expected] * 2, rel=1e-5)


def test_every_variant_fits_and_has_a_version_of_its_own(
    parts: ModuleType, rows: tuple[np.ndarray, np.ndarray]
) -> None:
    X, y = rows
    assert len({variant.version for variant in parts.VARIANTS.values()}) == len(parts.VARIANTS)
    for changes in (*parts.TAKEN_AWAY.values(), *parts.ALONE.values(), *parts.CHANGED.values()):
        predict = parts.fit_changed(X, y, 0, 1, changes={**changes, "max_epochs": 1})
        assert np.isfinite(predict(X)).all()


def test_the_report_has_ratios_to_the_default_and_leaves_out_what_is_not_complete(
    benchmark: Import, tmp_path: Path
) -> None:
    ablation, scores = benchmark("ablation"), benchmark("_scores")
    result = scores.Result(
        *("Auto", 0, ablation.TORCHREG, 0.4, 2.0, 2.0, 0.1, 392, 7),
        *("data", "torchreg 0.1.0 (0)", 1, "a processor", "2026-11-28"),
    )
    file = tmp_path / "ablation.csv"
    for dataset, ratio in (("Auto", 2.0), ("Wage", 0.5)):
        scores.append(file, replace(result, dataset=dataset))
        slower = {"model": "without line", "nrmse": 0.4 * ratio, "fit_s": 3.0}
        scores.append(file, replace(result, dataset=dataset, **slower))
    scores.append(file, replace(result, model="without bins"))
    ablation.write_report(file)
    text = file.with_suffix(".md").read_text(encoding="utf-8")
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    assert ["line", "1.000", "0.500", "2.000", "1.50"] in cells
    assert all(row[0] != "bins" for row in cells)
