"""Scripts of networks that hold out a fold each, and of the network for tables."""

from __future__ import annotations

import csv
import re
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
from torchreg.engine.spec import spawn_seeds
from torchreg.nn import MLP, LinearPath, TabularMLP

Array = np.ndarray
RNG = np.random.default_rng(0)
#: Measured, skewed, of two values, constant; a fifth of the rows come twice.
X = np.column_stack(
    [
        RNG.normal(size=149),
        100 * RNG.lognormal(size=149),
        RNG.random(149) < 0.2,
        np.full(149, 7.0),
    ]
)
Y = 1000 * (np.sin(2 * X[:, 0]) + np.log(X[:, 1]) + X[:, 2])
X[1::5], Y[1::5] = X[0:-1:5], Y[0:-1:5]
BOTH = np.column_stack([Y, 5 - 3 * np.abs(Y)])
WEIGHT = np.arange(149) % 4


class Flat(nn.Module):
    """Gives shape (n,), overwrites its input, and takes its width from the first rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Tanh(), nn.LazyLinear(6), nn.Linear(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        x += 1.0
        return self.layers(x)[:, 0]


def with_a_line(in_features: int, out_features: int) -> nn.Module:
    network = TabularMLP(in_features, out_features, hidden_sizes=(8,))
    return LinearPath(network, in_features, out_features)


def mean_of_fourth_powers(prediction: Tensor, target: Tensor) -> Tensor:
    return ((prediction - target) ** 4).mean()


torch.manual_seed(7)
TEMPLATE = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
TEMPLATE[0].requires_grad_(False)
TABLES = {"module": TabularMLP, "module__hidden_sizes": [16]}
#: What a careful default amounts to, with fewer epochs and narrower layers.
CAREFUL = TABLES | {"n_folds": 8, "schedule": "cosine", "lr": 3e-3, "batch_size": 32}


class Case(NamedTuple):
    """Settings, the targets, and how well training must be repeated, in units of y's spread."""

    settings: dict[str, Any]
    y: Array = Y
    weight: Array | None = None
    tolerance: float = 1e-9


STOPS = {"early_stopping": True, "n_iter_no_change": 2, "max_epochs": 200, "lr": 0.02}
PLATEAU = {"schedule": "reduce_on_plateau", "schedule__patience": 0, "lr": 0.05}
CASES = {
    "table": Case(TABLES),
    "table_in_batches": Case(TABLES | {"batch_size": 32, "schedule": "cosine"}),
    "table_of_two_outputs": Case(TABLES | {"loss": "huber"}, BOTH, WEIGHT),
    "table_in_float32": Case(TABLES | {"dtype": "float32"}, tolerance=1e-4),
    "table_with_dropout": Case(TABLES | {"module__dropout": 0.2, "batch_size": 32}),
    "table_as_a_template": Case({"module": TabularMLP(4, 1, hidden_sizes=(8,))}),
    "table_beside_a_line": Case({"module": with_a_line}),
    "folds": Case({"n_folds": 4}),
    "folds_in_batches": Case({"n_folds": 4, "batch_size": 37}),
    "folds_of_batches_as_large_as_a_part": Case({"n_folds": 4, "batch_size": 90}),
    "folds_of_two_outputs": Case({"n_folds": 3, "batch_size": 32}, BOTH),
    "folds_with_weights": Case({"n_folds": 4, "batch_size": 32}, BOTH, WEIGHT),
    "folds_of_one_number": Case({"n_folds": 3, "loss": mean_of_fourth_powers, "batch_size": 32}),
    "folds_that_stop": Case(STOPS | {"n_folds": 4, "batch_size": 32}),
    "folds_that_stop_by_tol": Case(STOPS | {"n_folds": 4, "tol": 0.01}),
    "folds_on_a_plateau": Case(PLATEAU | {"n_folds": 4}),
    "folds_of_a_template": Case({"n_folds": 3, "module": TEMPLATE}),
    "folds_without_a_name": Case(
        {"n_folds": 3, "module": lambda: nn.Sequential(nn.Linear(4, 3), nn.ELU(), nn.Linear(3, 1))}
    ),
    "folds_of_one_layer": Case({"n_folds": 3, "module": nn.Linear(4, 1)}),
    "folds_lazy_flat": Case({"n_folds": 3, "module": Flat}),
    "folds_raw_targets": Case({"n_folds": 3, "standardize": "X"}, Y / 1000),
    "careful": Case(CAREFUL),
    "careful_of_two_outputs": Case(CAREFUL, BOTH, WEIGHT),
    "careful_in_float32": Case(CAREFUL | {"dtype": "float32"}, tolerance=1e-4),
}


class Written(NamedTuple):
    """A fit, the script about it, and what the script gave."""

    reg: TorchRegressor
    file: Path
    result: dict[str, Any]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    """All cases: fitted, written, and run together in one process without torchreg."""
    folder = tmp_path_factory.mktemp("scripts")
    regs, files = {}, {}
    for name, (settings, y, weight, _) in CASES.items():
        base = {"module": MLP, "max_epochs": 12, "random_state": 0}
        regs[name] = TorchRegressor(**base | settings).fit(X, y, weight)
        files[name] = folder / f"{name}.py"
        regs[name].to_script(files[name], X, y, weight)
    results = run_guarded(folder, [*files.values()])
    return {
        name: Written(regs[name], files[name], result)
        for name, result in zip(CASES, results, strict=True)
    }


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
def test_a_script_trains_to_the_same_networks_epoch_by_epoch(
    name: str, written: dict[str, Written]
) -> None:
    (expected, spread), result = expected_of(name, written), written[name].result
    losses, tolerance = written[name].reg.loss_curve_, CASES[name].tolerance
    assert_allclose(result["losses"], losses, rtol=0, atol=tolerance * losses[0])
    assert_allclose(result["trained"], expected, rtol=0, atol=tolerance * spread)


def test_a_script_leaves_nothing_for_a_linter_or_a_formatter(written: dict[str, Written]) -> None:
    files = {name: str(case.file) for name, case in written.items()}
    # With source of torchreg's in it, lines are as long as they are in this project.
    plain = [file for name, file in files.items() if name.startswith("folds")]
    assert_nothing_to_do(["check"], [*files.values()])
    assert_nothing_to_do(["format", "--check", "--diff"], plain)


def test_each_network_stops_after_its_own_patience(written: dict[str, Written]) -> None:
    for name in ("folds_that_stop", "folds_that_stop_by_tol"):
        reg = written[name].reg
        assert len(written[name].result["losses"]) == reg.n_iter_ < reg.max_epochs


def test_a_script_spells_out_the_seeds_and_what_the_rows_gave(written: dict[str, Written]) -> None:
    text = written["careful"].file.read_text(encoding="utf-8")
    seeds = re.search(r"SEEDS = \[  # of the networks, one for each fold\n([\d, \n]+)\]", text)
    assert seeds is not None
    assert [int(seed) for seed in seeds[1].split(",")[:-1]] == spawn_seeds(0, 8)
    assert "core.waves = PeriodicEmbedding(4, columns=[0, 1], frequency_scale=0.3)" in text
    assert "core.bins = BinEmbedding(4, columns=[0, 1], n_bins=32)" in text
    assert "core.mlp.layers[0] = nn.Linear(10, 16)" in text
    assert "Ensemble([build_core() for _ in SEEDS])" in text
    assert "trains the same\n8 networks once more" in text


def test_a_script_of_folds_has_nothing_to_say_of_networks_that_were_not_kept(
    written: dict[str, Written],
) -> None:
    text = written["careful"].file.read_text(encoding="utf-8")
    assert "# %% Training, from the seeds\ndef merge_identical" in text


def test_the_rows_of_a_script_are_those_of_the_fit(written: dict[str, Written]) -> None:
    file = written["folds_with_weights"].file.with_name("folds_with_weights_data.csv")
    with open(file, newline="", encoding="utf-8") as lines:
        _, *rows = csv.reader(lines)
    table = np.column_stack([X, BOTH, WEIGHT])[WEIGHT > 0]
    assert np.array_equal(np.array(rows, dtype=float), table)


def test_without_rows_a_script_of_folds_trains_the_same_networks(tmp_path: Path) -> None:
    reg = TorchRegressor(n_folds=3, batch_size=32, max_epochs=5, random_state=0).fit(X, Y)
    reg.to_script(tmp_path / "script.py")
    script = runpy.run_path(str(tmp_path / "script.py"))
    network, _ = script["train"](torch.from_numpy(X), torch.from_numpy(Y[:, None]))
    predicted = script["predict"](network, torch.from_numpy(X))[:, 0].numpy()
    assert_allclose(predicted, reg.predict(X), rtol=1e-9)


def test_networks_of_folds_draw_their_numbers_in_turn_and_the_script_says_so(
    tmp_path: Path,
) -> None:
    reg = TorchRegressor(n_folds=3, module__dropout=0.1, max_epochs=2, random_state=0).fit(X, Y)
    reg.to_script(tmp_path / "script.py", X, Y)
    text = " ".join((tmp_path / "script.py").read_text(encoding="utf-8").replace("#", "").split())
    assert "train side by side draw their random numbers in turn" in text


def test_another_number_of_folds_than_that_of_the_fit_is_refused(tmp_path: Path) -> None:
    reg = TorchRegressor(n_folds=4, max_epochs=2, random_state=0).fit(X, Y).set_params(n_folds=5)
    with pytest.raises(ValueError, match=r"each of n_folds=5, but the fit left 4\. Set n_folds to"):
        reg.to_script(tmp_path / "script.py")


def test_networks_of_other_shapes_are_refused(tmp_path: Path) -> None:
    reg = TorchRegressor(n_folds=3, max_epochs=2, random_state=0).fit(X, Y)
    reg.module_.network.members[1] = nn.Linear(4, 1)
    with pytest.raises(ValueError, match="writes networks that differ in their numbers only"):
        reg.to_script(tmp_path / "script.py")


def test_what_the_rows_gave_has_the_dtype_of_the_network_whatever_torch_s_default(
    tmp_path: Path,
) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        reg = TorchRegressor(**CAREFUL, dtype="float32", max_epochs=2, random_state=0).fit(X, Y)
        reg.to_script(tmp_path / "script.py")
        script = runpy.run_path(str(tmp_path / "script.py"))
        rows = torch.from_numpy(X), torch.from_numpy(Y[:, None])
        for network in (script["fitted_network"](), script["train"](*rows)[0]):
            predicted = script["predict"](network, rows[0])[:, 0].numpy()
            assert_allclose(predicted, reg.predict(X), rtol=0, atol=1e-4 * np.std(Y))
    finally:
        torch.set_default_dtype(torch.float32)
