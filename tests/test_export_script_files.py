"""What a script contains and prints, and the files next to it."""

from __future__ import annotations

import ast
import csv
import os
import pickle
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from torchreg import TorchRegressor
from torchreg.nn import MLP, TabularMLP

Data = tuple[np.ndarray, np.ndarray]


def fit_of(data: tuple[Any, Any], **parameters: Any) -> TorchRegressor:
    settings = {"module": MLP, "module__hidden_sizes": [3], "max_epochs": 3, "random_state": 0}
    return TorchRegressor(**settings | parameters).fit(*data)


def text_of(reg: TorchRegressor, folder: Path, *rows: Any, **more: Any) -> str:
    """The script, its comments without line ends."""
    reg.to_script(folder / "script.py", *rows, **more)
    return re.sub(r"\n# (?!%%)", " ", (folder / "script.py").read_text(encoding="utf-8"))


@pytest.fixture
def flippers(penguins: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    return penguins[["flipper_length_mm"]], penguins["body_mass_g"]


def test_constants_are_written_as_numbers_with_the_names_of_their_columns(
    flippers: Any, tmp_path: Path
) -> None:
    reg = fit_of(flippers)
    mean, scale = reg.module_.standardize.mean.item(), reg.module_.standardize.scale.item()
    mean_g, scale_g = reg.module_.unstandardize.mean.item(), reg.module_.unstandardize.scale.item()
    assert f"""
    return nn.Sequential(
        AddConstant({-mean!r}),  # flipper_length_mm ...
        MultiplyByConstant(1 / {scale!r}),  # ... to order 1
        nn.Linear(1, 3),
        nn.ReLU(),
        nn.Linear(3, 1),
        MultiplyByConstant({scale_g!r}),  # order 1 ...
        AddConstant({mean_g!r}),  # ... to body_mass_g
    ).double()
""" in text_of(reg, tmp_path, *flippers)


def test_the_parameters_are_a_state_dict_without_constants(flippers: Any, tmp_path: Path) -> None:
    reg = fit_of(flippers)
    reg.to_script(tmp_path / "script.py")
    state = torch.load(tmp_path / "script.pt", weights_only=True)
    assert list(state) == ["2.weight", "2.bias", "4.weight", "4.bias"]
    assert all(map(torch.equal, state.values(), reg.module_.network.state_dict().values()))


def test_layers_that_the_rows_determine_are_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=(150, 2)), rng.random(150) < 0.2])
    reg = fit_of((X, X[:, 0]), module=TabularMLP, n_folds=3)
    text = text_of(reg, tmp_path, X, X[:, 0])
    assert re.search(r"core\.\w+ = BinEmbedding\(3, columns=\[0, 1\]", text)
    assert re.search(r"core\.mlp\.layers\[0\] = nn\.Linear\(\d+, 3\)", text)
    assert "Ensemble([build_core() for _ in SEEDS])" in text


def test_the_numbers_of_a_link_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 2)), rng.normal(size=60)
    text = text_of(fit_of((X, y), loss="quantile", loss__quantile=[0.1, 0.9]), tmp_path)
    assert "# y, level 0.9" in text
    assert "return network(X)[:, 1::3]  # level 0.5" in text
    text = text_of(fit_of((X, np.column_stack([y, y])), loss="gaussian_nll"), tmp_path)
    assert "# y1, standard deviation" in text
    assert "return network(X)[:, 0::2]  # mean" in text


def test_rows_are_written_with_all_digits_and_their_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = ['it\'s "quoted"', "new\nline, $comma$", "größe 名前"]
    X = pd.DataFrame(1.7e9 + rng.uniform(-100, 100, size=(60, 3)), columns=names)
    y = pd.DataFrame({"a_kg": X.iloc[:, 0] - 1.7e9, "new\nline": 1.0})
    weight = np.arange(60) % 4
    TorchRegressor(MLP, max_epochs=1).fit(X, y, weight).to_script(
        tmp_path / "script.py", X, y, weight
    )
    with open(tmp_path / "script_data.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == [*X.columns, *y.columns, "sample_weight"]
    table = np.column_stack([X, y, weight])[weight > 0]
    assert np.array_equal(np.array(rows, dtype=float), table)


def test_a_drawn_seed_is_written(kink: Data, tmp_path: Path) -> None:
    reg = fit_of(kink, random_state=None)
    seed = re.search(r"SEED = (\d+)", text_of(reg, tmp_path))
    assert seed is not None
    again = fit_of(kink, random_state=int(seed[1]))
    assert np.array_equal(again.predict(kink[0]), reg.predict(kink[0]))


def test_without_rows_a_script_trains_on_those_that_it_is_given(kink: Data, tmp_path: Path) -> None:
    X, y = kink
    reg = fit_of(kink, n_folds=3, batch_size=32)
    reg.to_script(tmp_path / "script.py")
    script = runpy.run_path(str(tmp_path / "script.py"))
    assert (script["FEATURES"], script["TARGETS"]) == (["x"], ["y"])
    network, _ = script["train"](torch.from_numpy(X), torch.from_numpy(y[:, None]))
    predicted = script["predict"](network, torch.from_numpy(X))[:, 0].numpy()
    assert_allclose(predicted, reg.predict(X), rtol=1e-9)


@pytest.mark.parametrize("name", ['quo"""te.py', "two words.py", "größe.py", "back\\slash.py"])
def test_any_file_name_gives_a_valid_script(name: str, kink: Data, tmp_path: Path) -> None:
    fit_of(kink).to_script(tmp_path / name)
    assert ast.parse((tmp_path / name).read_text(encoding="utf-8"), name).body


class Plain(nn.Module):
    def __init__(self, in_features):
        super().__init__()
        self.layer = nn.Linear(in_features, 1)

    def forward(self, x):
        return self.layer(x)


def test_writing_a_script_changes_neither_regressor_nor_generators(
    kink: Data, tmp_path: Path
) -> None:
    reg = TorchRegressor(module=Plain, max_epochs=2).fit(*kink)
    before = pickle.dumps(reg), torch.get_rng_state(), np.random.get_state()[1].tobytes()
    reg.to_script(tmp_path / "script.py", *kink)
    assert pickle.dumps(reg) == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert np.random.get_state()[1].tobytes() == before[2]


# %% Notes
def test_a_script_that_repeats_the_fit_has_no_notes(kink: Data, tmp_path: Path) -> None:
    text = text_of(fit_of(kink), tmp_path, *kink)
    assert re.search(r"# %% Training\n+def ", text)


def test_a_script_says_what_it_does_not_repeat(kink: Data, tmp_path: Path) -> None:
    from skorch.callbacks import EpochTimer

    notes = {
        "The fit had callbacks, which are not repeated.": {"callbacks": [EpochTimer()]},
        "The fit trained 4 networks from different seeds and kept": {"n_init": 4},
        "so dropout draws others": {"n_folds": 2, "module__dropout": 0.1},
        "L-BFGS amplifies rounding errors": {"optimizer": "lbfgs", "max_epochs": 1},
    }
    for note, parameters in notes.items():
        assert note in text_of(fit_of(kink, **parameters), tmp_path)
    X, y = kink
    text = text_of(fit_of(kink), tmp_path, X[:100], y[:100])
    assert f"The fit had {len(y)} training rows and the data have 100" in text


# %% Scripts as programs
MAIN = """
import runpy, sys
for sys.argv in [line.split("|") for line in sys.argv[1:]]:
    runpy.run_path(sys.argv[0], run_name="__main__")
    print("--")
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory, penguins: pd.DataFrame) -> dict[str, Any]:
    """What scripts print with the rows of the fit, and with other rows."""
    folder = tmp_path_factory.mktemp("programs")
    X, y = penguins[["flipper_length_mm"]], penguins["body_mass_g"]
    one = fit_of((X, y))
    one.to_script(folder / "one.py", X, y)
    both = penguins[["bill_length_mm", "bill_depth_mm"]], penguins[["body_mass_g", X.columns[0]]]
    fit_of(both).to_script(folder / "two.py", *both)
    (folder / "new.csv").write_text("when,flipper_length_mm\n2007,181\n\n2008,210\n")
    calls = [f"{folder / 'one.py'}", f"{folder / 'two.py'}"]
    calls.append(f"{folder / 'one.py'}|{folder / 'new.csv'}")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", MAIN, *calls],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "MPLBACKEND": "Agg", "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    texts = dict(zip(("one", "two", "new"), done.stdout.split("--\n"), strict=False))
    return texts | {"folder": folder, "reg": one}


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_script_compares_both_networks_and_draws_them(name: str, printed: dict[str, Any]) -> None:
    difference = re.search(r"predictions differ by (\S+) at most\.\n$", printed[name])
    assert difference is not None, printed[name]
    assert float(difference[1]) < 1e-6
    assert (printed["folder"] / f"{name}.png").stat().st_size > 5_000


def test_a_script_prints_predictions_for_rows_without_targets(printed: dict[str, Any]) -> None:
    header, *lines = printed["new"].split()
    X = pd.DataFrame({"flipper_length_mm": [181.0, 210.0]})
    assert header == "body_mass_g"
    assert_allclose([float(line) for line in lines], printed["reg"].predict(X), rtol=1e-12)
