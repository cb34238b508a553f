"""A network whose output is bounded cannot reach all of y, and the finding says so."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchreg
from torchreg import BoundedOutputWarning, TorchRegressor
from torchreg.diagnosis import Finding

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 2))
#: Exactly normally distributed, a function of X's first column.
NORMAL = np.array([NormalDist().inv_cdf((i + 0.5) / 200) for i in X[:, 0].argsort().argsort()])
SHARES = np.array([NormalDist().cdf(value) for value in NORMAL])


class Ends(nn.Module):
    """A perceptron with a function of its output, which no layer announces."""

    def __init__(
        self, in_features: int, out_features: int, end: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_features, 8), nn.Tanh(), nn.LayerNorm(8))
        self.head, self.end = nn.Linear(8, out_features), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.head(self.layers(x)))


def ending_in(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1), *layers)


def fit(module: Any, y: Any = NORMAL, **options: Any) -> TorchRegressor:
    given = {"max_epochs": 3, "random_state": 0, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BoundedOutputWarning)
        return TorchRegressor(module, **given).fit(X, y)


def finding_of(reg: TorchRegressor) -> Finding | None:
    return next((f for f in reg.diagnose().findings if f.code == "bounded-output"), None)


def missed(low: float, high: float) -> float:
    """Return the mean squared distance of a standard normal variable to an interval."""

    def tail(bound: float) -> float:
        normal = NormalDist()
        return (1 + bound**2) * normal.cdf(-bound) - bound * normal.pdf(bound)

    return (tail(-low) if low > -np.inf else 0) + (tail(high) if high < np.inf else 0)


@pytest.mark.parametrize(
    ("module", "low", "high"),
    [
        (ending_in(nn.Sigmoid()), 0, 1),
        (ending_in(nn.Tanh(), nn.Identity()), -1, 1),
        (ending_in(nn.ReLU()), 0, np.inf),
        (ending_in(nn.Softplus(), nn.Dropout(0.1)), 0, np.inf),
        (ending_in(nn.Hardtanh(-0.5, 2)), -0.5, 2),
        (ending_in(nn.LogSigmoid()), -np.inf, 0),
        (lambda: Ends(2, 1, torch.exp), 0, np.inf),
        (lambda: Ends(2, 1, lambda z: 1 / (1 + torch.exp(-z))), 0, 1),
        (lambda: Ends(2, 1, lambda z: 3 + torch.sigmoid(z)), 3, 4),
        (lambda: Ends(2, 1, lambda z: z.clamp(-1, 1).squeeze(1)), -1, 1),
        (lambda: Ends(2, 1, lambda z: z.square().expand(-1, 3).unsqueeze(2)), 0, np.inf),
    ],
)
@pytest.mark.filterwarnings("ignore::torchreg.DeadUnitsWarning")
def test_the_share_of_y_that_bounds_hide_is_that_of_the_normal_distribution(
    module: Any, low: float, high: float
) -> None:
    finding = finding_of(fit(module))
    assert finding is not None
    assert finding.numbers["missing_r2"] == pytest.approx(missed(low, high), abs=0.03)
    assert finding.severity == ("severe" if missed(low, high) > 0.1 else "warning")
    for word, bound, exceeded in (("low", low, low > -2), ("high", high, high < 2.5)):
        assert (f" {'below' if word == 'low' else 'above'} " in finding.message) == exceeded
        if exceeded:
            assert finding.numbers[word][0] == pytest.approx(bound, abs=0.01)


@pytest.mark.parametrize("y", [NORMAL, NORMAL**3, X[:, 1] + 3 * RNG.normal(size=200)], ids="abc")
@pytest.mark.parametrize(
    "end",
    [
        lambda z: z,
        lambda z: z**3,
        lambda z: 100 * torch.tanh(z),
        lambda z: F.leaky_relu(z).squeeze(1),
        lambda z: z.expand(-1, 3).unsqueeze(2),
        lambda z: z - torch.exp(-z),
    ],
)
def test_a_network_that_can_reach_y_has_no_such_finding_however_badly_it_fits(
    end: Any, y: Any
) -> None:
    reg = fit(Ends, y, module__end=end)
    assert reg.score(X, y) < 0.5
    assert finding_of(reg) is None


@pytest.mark.parametrize("layer", [nn.Sigmoid, nn.ReLU, nn.Softplus])
@pytest.mark.parametrize("standardize", [True, "y"])
def test_fit_warns_of_bounds_and_the_remedy_cures(layer: Any, standardize: Any) -> None:
    torch.manual_seed(0)
    reg = TorchRegressor(
        ending_in(layer()), lr=0.03, max_epochs=100, standardize=standardize, random_state=0
    )
    cure: Any = {True: "X", "y": False}[standardize]
    with pytest.warns(BoundedOutputWarning, match=rf"below 0\.5.*standardize={cure!r}, which"):
        reg.fit(X, SHARES)
    assert reg.score(X, SHARES) < 0.7
    assert "stalled" not in reg.diagnose(X, SHARES)
    cured = reg.set_params(standardize=cure).fit(X, SHARES)
    assert cured.score(X, SHARES) > 0.95
    assert finding_of(cured) is None


def test_the_advice_is_another_module_where_y_is_outside_the_range_in_any_units() -> None:
    for y, standardize in (
        (4000 + 800 * NORMAL, True),
        (4000 + 800 * NORMAL, "X"),
        (1 + SHARES, "X"),
    ):
        finding = finding_of(fit(ending_in(nn.Softsign()), -y, standardize=standardize))
        assert finding is not None
        assert finding.advice.startswith("A module without")


def test_bounds_are_those_of_predictions_in_units_of_y_with_a_link() -> None:
    y = np.exp(NORMAL)
    finding = finding_of(fit(ending_in(nn.Softplus()), y, loss="poisson", max_epochs=1))
    assert finding is not None
    assert re.search(rf"below {y.mean():.2f}\d*, where [67]\d% of its values", finding.message)
    assert finding.advice.startswith("A module without")


def test_the_bounded_output_of_several_is_named_and_the_file_keeps_it(tmp_path: Any) -> None:
    import pandas as pd

    y = pd.DataFrame({"free": NORMAL, "bounded": 3 + NORMAL})
    reg = fit(Ends, y, module__end=lambda z: torch.stack([z[:, 0], z[:, 1].tanh()], dim=1))
    finding = finding_of(reg)
    assert finding is not None
    assert re.search(
        r"bounded cannot be .* below 2\S* or above [34]\S*, where 3\d%", finding.message
    )
    assert "free" not in finding.message
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reg.save(tmp_path / "reg")
    loaded = torchreg.load(tmp_path / "reg", module=Ends, module__end=torch.tanh)
    assert str(loaded.diagnose()) == str(reg.diagnose())


def test_bounds_are_not_claimed_of_a_network_whose_copy_uses_its_parameters() -> None:
    class Closure(Ends):
        def __init__(self) -> None:
            super().__init__(2, 1, nn.Identity())
            head, layers = self.head, self.layers
            self.forward = lambda x: head(layers(x))

    assert finding_of(fit(Closure)) is None


def test_networks_of_folds_have_the_bounds_of_each() -> None:
    finding = finding_of(fit(Ends, module__end=torch.tanh, n_folds=2))
    assert finding is not None
    assert finding.numbers["missing_r2"] == pytest.approx(missed(-1, 1), abs=0.03)


def test_finding_bounds_changes_neither_the_network_nor_random_numbers() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    reg = fit(Ends, module__end=torch.tanh)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.abs().max() < 2 for parameter in reg.module_.network.parameters())
