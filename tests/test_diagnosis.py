"""Findings are correct on a labelled collection of fits, on raw units and on linear data."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from collection import CASES, score
from recipes import LESSON, flippers, linear, tanh
from sklearn.metrics import r2_score
from torch import Tensor, nn

from torchreg import TorchRegressor
from torchreg.diagnosis import CODES, Diagnosis
from torchreg.exceptions import UnscaledWarning
from torchreg.nn import MLP

ENOUGH = 0.95


def diagnosed(X: object, y: object, **options: object) -> Diagnosis:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TorchRegressor(**{"module": MLP, "random_state": 0, **options}).fit(X, y).diagnose()


def test_each_half_of_the_collection_has_at_least_two_fits_with_every_finding() -> None:
    assert len(CASES) > 150
    for half in (0, 1):
        for code in CODES:
            assert sum(code in case.must for case in CASES if case.half == half) >= 2, code
        assert sum(not case.must for case in CASES if case.half == half) >= 15


# The thresholds were chosen on half 0 and corrected with half 1, which has other data, seeds and
# architectures. The third case repeats both with other seeds.
@pytest.mark.parametrize(
    ("halves", "shifts"),
    [([0], [0]), ([1], [0]), ([0, 1], [1000, 2000])],
    ids=["half 0", "half 1", "other seeds"],
)
def test_precision_and_recall_of_every_code(halves: list[int], shifts: list[int]) -> None:
    result = score([case for case in CASES if case.half in halves], shifts)
    print(f"\nhalves {halves}, seeds + {shifts}\n{result.table(CODES)}")
    short = [code for code in CODES if min(result.precision(code), result.recall(code)) < ENOUGH]
    assert not short, result.table(CODES)


@pytest.mark.parametrize("n_folds", ["auto", None])
def test_the_built_in_network_has_no_unscaled_inputs_from_long_tails(
    n_folds: str | None,
) -> None:
    # It clips the inputs of its trained layers; only the linear skip connection receives the tails.
    X = np.random.default_rng(0).standard_cauchy(size=(300, 2))
    y = np.clip(X, -3, 3) @ [1.0, 2.0]
    report = diagnosed(X, y, module=None, n_folds=n_folds, max_epochs=5)
    assert "outlying-rows" in report
    assert "unscaled-inputs" not in report


def test_a_fit_to_raw_units_is_effectively_linear_because_of_scale() -> None:
    finding = diagnosed(*flippers(), **LESSON, standardize=False)["effectively-linear"]
    assert finding.severity == "severe"
    assert finding.numbers["because_of_scale"]
    assert finding.numbers["n_bending"] == 0
    for words in (
        "effectively linear because of scale",
        "flipper_length_mm is about 201 ± 14",
        "body_mass_g is about 4210 ± 800",
        "0 of its 5 hidden units bend",
    ):
        assert words in finding.message
    assert "standardize=True" in finding.advice


def test_a_fit_to_standardized_units_has_no_finding() -> None:
    diagnosis = diagnosed(*flippers(), **LESSON)
    assert diagnosis.findings == ()
    text = str(diagnosis)
    assert text.startswith("Nothing to worry about: 16 parameters, 333 rows")
    assert "\n" not in text
    assert 0.784 < diagnosis.summary["r2"] < 0.786


def test_linear_data_are_the_only_finding_of_a_fit_to_them() -> None:
    diagnosis = diagnosed(*linear(), **tanh(5))
    assert diagnosis.codes == ("linear-data",)
    assert diagnosis.healthy
    assert diagnosis["linear-data"].message.startswith("The data look linear")


def test_a_linear_network_and_linear_data_have_different_messages() -> None:
    lines = tanh(5, module__activation="identity")
    network = diagnosed(*flippers(), **lines)["effectively-linear"].message
    data = diagnosed(*linear(), **lines)["linear-data"].message
    assert network.startswith("The network is effectively linear")
    assert data.startswith("The data look linear")


def test_bends_are_in_the_units_of_x() -> None:
    x = np.linspace(170, 230, 120)
    y = 4000 + 30 * np.abs(x - 200)
    bends = diagnosed(x[:, None], y, **LESSON).summary["bends"]
    strongest = min(bends, key=lambda bend: abs(bend - 200))
    assert abs(strongest - 200) < 1
    assert all(170 <= bend <= 230 for bend in bends)
    assert all(a < b for a, b in pairwise(bends))


def test_the_findings_on_the_training_rows_are_those_without_rows() -> None:
    X, y = flippers()
    for standardize in (True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reg = TorchRegressor(**LESSON, standardize=standardize, random_state=0).fit(X, y)
        assert reg.diagnose(X, y).codes == reg.diagnose(X).codes == reg.diagnose().codes


def test_units_do_not_matter_to_a_diagnosis() -> None:
    X, y = flippers()
    metres = diagnosed(X.to_numpy() / 1000, y / 1000, **tanh(5)).to_dict()["summary"]
    millimetres = diagnosed(X.to_numpy(), y, **tanh(5)).to_dict()["summary"]
    assert metres["layers"] == millimetres["layers"]
    assert metres["r2"] == pytest.approx(millimetres["r2"], rel=1e-6)
    assert metres["bends"] == pytest.approx([bend / 1000 for bend in millimetres["bends"]])


def test_several_outputs_are_named() -> None:
    X, y = flippers()
    both = pd.DataFrame({"mass_g": y, "mass_over_mean": y / y.mean()})
    finding = diagnosed(X, both, **tanh(5, standardize="X"))["unscaled-target"]
    assert "mass_g is about 4210 ± 800" in finding.message
    assert "mass_over_mean" not in finding.message


def test_r2_and_that_of_a_line_are_those_of_the_outputs_that_vary() -> None:
    X, y = flippers()
    both = np.column_stack([y, np.full(len(y), 7.0)])
    one, two = (diagnosed(X, t, **tanh(5, max_epochs=3)).summary for t in (y, both))
    assert two["line_r2"] == pytest.approx(one["line_r2"])
    reg = TorchRegressor(MLP, **tanh(5, max_epochs=3), random_state=0).fit(X, both)
    assert two["r2"] == pytest.approx(r2_score(y, reg.predict(X)[:, 0]))


def test_a_network_memorizes_if_its_parameters_exceed_rows_times_outputs() -> None:
    X, y = flippers()
    # 500 or 750 parameters for 333 rows.
    options = {"module__hidden_sizes": [166], "max_epochs": 1}
    assert "underdetermined" in diagnosed(X, y, **options)
    both = np.column_stack([y, -y])
    assert "underdetermined" not in diagnosed(X, both, **{**options, "module__hidden_sizes": [150]})
    # A product, which curves do not explain. More epochs would only memorize one output.
    X = np.random.default_rng(0).uniform(-1.7, 1.7, size=(100, 3))
    y = X.prod(axis=1)
    both = np.column_stack([y, 0.1 * X[:, 0] - y])
    options = {"lr": 0.02, "batch_size": None, "max_epochs": 60}
    assert "still-falling" not in diagnosed(X, y, **options, module__hidden_sizes=[25])
    assert "still-falling" in diagnosed(X, both, **options, module__hidden_sizes=[20])


class Constant(nn.Sequential):
    """Predicts the mean."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(nn.Linear(in_features, 8), nn.Tanh(), nn.Linear(8, out_features))
        for parameter in self[2].parameters():
            nn.init.zeros_(parameter)


@pytest.mark.parametrize("seed", [2, 6, 21])
def test_a_network_is_not_behind_curves_that_follow_the_noise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(60, 1)), rng.normal(size=60)
    # Curves have a term for each five rows, and "explain" a quarter of the noise.
    options = {"module": Constant, "lr": 1e-9, "batch_size": None, "max_epochs": 20}
    assert diagnosed(X, y, **options).codes == ()


@pytest.mark.parametrize(("max_epochs", "risen"), [(30, False), (60, True)])
def test_a_validation_loss_that_rose_by_a_fifth_is_told_from_a_gap(
    max_epochs: int, risen: bool
) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(480, 12))
    y = X[:, 0] + rng.normal(size=480)
    reg = TorchRegressor(MLP, max_epochs=max_epochs, lr=0.01, batch_size=None, random_state=0)
    reg.fit(X[:80], y[:80], X_val=X[80:], y_val=y[80:])
    finding = reg.diagnose()["overfitting"]
    ratio = finding.numbers["validation_loss"] / finding.numbers["best_validation_loss"]
    assert (ratio > 1.2) == risen == ("in epoch 19" in finding.message)


@pytest.mark.parametrize(("slope", "drifted"), [(20.0, False), (400.0, True)])
def test_parameters_that_grow_a_hundredfold_have_drifted(slope: float, drifted: bool) -> None:
    X = np.random.default_rng(0).normal(size=(100, 1))
    report = diagnosed(X, slope * X[:, 0], module=nn.Linear, optimizer="lbfgs", standardize=False)
    assert ("parameter-drift" in report) == drifted


class Slipping(nn.Linear):
    """Its last training pass fails by far."""

    n_passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.n_passes += self.training
        return super().forward(x) + 3.0 * (self.training and self.n_passes >= 42)


def test_one_bad_epoch_at_the_end_is_no_oscillation() -> None:
    X = np.random.default_rng(0).normal(size=(100, 1))
    options = {"optimizer": "sgd", "lr": 0.05, "batch_size": None, "max_epochs": 40}
    reg = TorchRegressor(Slipping, **options, random_state=0).fit(X, X[:, 0] ** 3)
    assert [loss > 5 for loss in reg.loss_curve_] == [False] * 39 + [True]
    assert "learning-rate-too-high" not in reg.diagnose()


@pytest.mark.parametrize(
    ("sizes", "warned"), [((20, 0.05), False), ((20, 0.001), False), ((0.001, 0.002), True)]
)
def test_fit_warns_of_scale_only_if_the_largest_column_is_far_from_order_1(
    sizes: tuple[float, float], warned: bool
) -> None:
    z = np.random.default_rng(0).normal(size=(200, 2))
    reg = TorchRegressor(MLP, standardize="y", lr=1e-9, max_epochs=20, random_state=0)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        reg.fit(z * sizes, z.sum(axis=1))
    assert "unscaled-inputs" in reg.diagnose()
    assert any(issubclass(w.category, UnscaledWarning) for w in seen) == warned


def test_the_built_in_network_has_no_finding_on_penguins_and_reports_validation_rows() -> None:
    diagnosis = diagnosed(*flippers(), module=None)
    assert diagnosis.findings == ()
    each = diagnosis.summary["n_parameters"] // 8
    assert f"8 networks with {each} parameters each, averaged; 333 rows" in str(diagnosis)
    assert "of single networks on their validation rows" in str(diagnosis)
    assert diagnosis.summary["n_validation"] == 333
    assert [layer["n_units"] for layer in diagnosis.summary["layers"]] == [8 * 64, 8 * 64]


def test_validation_rows_of_folds_are_counted_together() -> None:
    X = np.linspace(0, 1, 20)[:, None]
    finding = diagnosed(X, np.abs(X[:, 0] - 0.5), module=None)["small-validation"]
    assert finding.numbers["n_validation"] == 20
    assert "20 validation rows, each held out by one of the networks," in finding.message
    assert finding.advice == "More rows."


def test_a_network_that_keeps_its_best_weights_is_not_underdetermined() -> None:
    X, y = flippers()
    options = {"module__hidden_sizes": [400], "max_epochs": 30}
    assert "underdetermined" in diagnosed(X, y, **options)
    assert "underdetermined" not in diagnosed(X, y, **options, early_stopping=True)
    assert "underdetermined" not in diagnosed(X, y, **options, n_folds=3)
