"""Scripts of losses whose network gives other numbers than predictions, or several of them."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from tests._scripts import assert_nothing_to_do, run_guarded
from torchreg import TorchRegressor
from torchreg.nn import Exponential, MemberLinear, TabularMLP

Array = np.ndarray
RNG = np.random.default_rng(0)
X = np.column_stack([RNG.normal(size=(120, 2)) * [1, 1e-3], RNG.random(120) < 0.2])
Y = 30 * np.exp(0.5 * X[:, 0]) * RNG.gamma(3.0, 1 / 3, size=120)
BOTH = np.column_stack([Y, 100 * Y])
WEIGHT = np.arange(120) % 4

LOSSES: dict[str, dict[str, Any]] = {
    "poisson": {"loss": "poisson"},
    "gamma": {"loss": "gamma"},
    "tweedie": {"loss": "tweedie", "loss__power": 1.3},
    "quantile": {"loss": "quantile", "loss__quantile": 0.8},
    "quantiles": {"loss": "quantile", "loss__quantile": [0.1, 0.9]},
    "gaussian_nll": {"loss": "gaussian_nll"},
}


class SquaredLogError(nn.Module):
    """A loss of one's own, with a link of torchreg's."""

    center_target = False

    def __init__(self) -> None:
        super().__init__()
        self.link = Exponential()

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target.log()) ** 2


def members(in_features: int, out_features: int) -> nn.Module:
    first, last = MemberLinear(3, in_features, 4), MemberLinear(3, 4, out_features)
    return nn.Sequential(first, nn.Tanh(), last)


class Case(NamedTuple):
    """Settings, the targets, and how well training must be repeated, in units of y's spread."""

    settings: dict[str, Any]
    y: Array = Y
    weight: Array | None = None
    tolerance: float = 1e-9


CAREFUL = {"module": TabularMLP, "module__hidden_sizes": [8], "n_folds": 3, "batch_size": 32}
NARROW = {"module__hidden_sizes": [8], "dtype": "float32"}
CASES = {name: Case(loss) for name, loss in LOSSES.items()}
CASES |= {f"{name}_in_float32": Case(loss | NARROW, Y, None, 1e-4) for name, loss in LOSSES.items()}
CASES |= {f"careful_{name}": Case(loss | CAREFUL, BOTH, WEIGHT) for name, loss in LOSSES.items()}
CASES |= {
    "raw_means": Case({"loss": "poisson", "standardize": "X"}, Y / 30),
    "raw_quantiles": Case(LOSSES["quantiles"] | {"standardize": "X"}, Y / 30),
    "members": Case(LOSSES["quantiles"] | {"module": members}),
    "own": Case({"loss": SquaredLogError}),
}


class Written(NamedTuple):
    """A fit, the script about it and its text, and what the script gave."""

    reg: TorchRegressor
    file: Path
    text: str
    result: dict[str, Any]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    """All cases: fitted, written, and run together in one process without torchreg."""
    folder = tmp_path_factory.mktemp("scripts")
    regs, files = {}, {}
    for name, (settings, y, weight, _) in CASES.items():
        regs[name] = TorchRegressor(**{"max_epochs": 12, "random_state": 0} | settings)
        regs[name].fit(X, y, weight)
        files[name] = folder / f"{name}.py"
        regs[name].to_script(files[name], X, y, weight)
    texts = [file.read_text(encoding="utf-8") for file in files.values()]
    results = run_guarded(folder, [*files.values()])
    parts = zip(CASES, regs.values(), files.values(), texts, results, strict=True)
    return {name: Written(*rest) for name, *rest in parts}


def expected_of(name: str, written: dict[str, Written]) -> tuple[Array, float]:
    """Predict as the regressor does, one column per output; and the spread of y."""
    y, weight = CASES[name].y, CASES[name].weight
    rows = slice(None) if weight is None else weight > 0
    return written[name].reg.predict(X[rows]).reshape(len(X[rows]), -1), float(np.std(y))


@pytest.mark.parametrize("name", CASES)
def test_a_script_predicts_what_the_regressor_predicts(
    name: str, written: dict[str, Written]
) -> None:
    expected, spread = expected_of(name, written)
    assert_allclose(written[name].result["fitted"], expected, rtol=0, atol=1e-6 * spread)


@pytest.mark.parametrize("name", CASES)
def test_a_script_trains_to_the_same_network_epoch_by_epoch(
    name: str, written: dict[str, Written]
) -> None:
    (expected, spread), result = expected_of(name, written), written[name].result
    losses, tolerance = written[name].reg.loss_curve_, CASES[name].tolerance
    assert_allclose(result["losses"], losses, rtol=0, atol=tolerance * abs(losses[0]))
    assert_allclose(result["trained"], expected, rtol=0, atol=tolerance * spread)


@pytest.mark.parametrize("name", CASES)
def test_the_rows_of_the_fit_are_known_again(name: str, written: dict[str, Written]) -> None:
    assert "are not those of the fit" not in " ".join(written[name].text.split())


def test_a_script_leaves_nothing_for_a_linter(written: dict[str, Written]) -> None:
    assert_nothing_to_do(["check"], [str(case.file) for case in written.values()])


def test_a_script_says_what_each_number_is(written: dict[str, Written]) -> None:
    text = written["quantiles"].text
    assert "MeanPinball((0.1, 0.5, 0.9))" in text
    assert "# y, level 0.9" in text
    assert "return network(X)[:, 1::3]  # of the levels 0.1, 0.5, 0.9 that of 0.5" in text
    text = written["careful_gaussian_nll"].text
    assert "# y1, standard deviation" in text
    assert "[:, 0::2]  # the means, without the standard deviations beside them" in text


def test_the_module_of_a_script_gives_all_numbers_in_raw_units(
    written: dict[str, Written], tmp_path: Path
) -> None:
    for name in ("quantiles", "gaussian_nll"):
        reg = written[name].reg
        reg.to_script(tmp_path / "script.py")
        network = runpy.run_path(str(tmp_path / "script.py"))["fitted_network"]()
        with torch.no_grad():
            both = network(torch.from_numpy(X)), reg.module_(torch.from_numpy(X))
        assert_allclose(both[0].numpy(), both[1].numpy(), rtol=1e-12)
