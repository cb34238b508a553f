"""A script without torchreg predicts as the fit does, and trains to the same network."""

from __future__ import annotations

import ast
import csv
import inspect
import os
import pickle
import re
import subprocess
import sys
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.exceptions import NotFittedError
from torch import nn

from tests._scripts import assert_nothing_to_do, run_guarded
from torchreg import TorchRegressor
from torchreg.nn import MLP, AddConstant, MultiplyByConstant

WIDTH = 4


def hidden_size():
    return 2 * WIDTH


class Bend(nn.Module):
    """An activation with a parameter of its own."""

    def __init__(self, slope=0.1):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x):
        return torch.where(x > 0, x, self.slope * x)


class Residual(nn.Module):
    """A module of one's own, which uses a function, a constant and another class."""

    def __init__(self, in_features, out_features, depth=1):
        super().__init__()
        self.first = nn.Linear(in_features, hidden_size())
        width = hidden_size()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.bend = Bend()
        self.last = nn.Linear(hidden_size(), out_features)

    def forward(self, x):
        h = self.first(x)
        for layer in self.layers:
            h = h + self.bend(layer(h))
        return self.last(h)


class Flat(nn.Module):
    """Gives shape (n,), overwrites its input, and takes its width from the first rows."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Tanh(), nn.LazyLinear(6), nn.Linear(6, 1))

    def forward(self, x):
        x += 1.0
        return self.layers(x)[:, 0]


class WithConstants(nn.Module):
    """A module that is written with torchreg's own."""

    def __init__(self, in_features):
        super().__init__()
        self.shift = AddConstant(0.5)
        self.layers = MLP(in_features, hidden_sizes=[4], activation="tanh")

    def forward(self, x):
        return self.layers(self.shift(x))


def two_layers(in_features, out_features):
    first = nn.Linear(in_features, 6)
    return nn.Sequential(first, nn.Tanh(), nn.Linear(6, out_features))


def log_cosh(prediction, target):
    return torch.log(torch.cosh(prediction - target))


def mean_of_fourth_powers(prediction, target):
    return ((prediction - target) ** 4).mean()


def warmed_up(optimizer, epochs=3):
    first = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=epochs)
    then = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    both = [first, then]
    return torch.optim.lr_scheduler.SequentialLR(optimizer, both, milestones=[epochs])


class Signs(torch.optim.Optimizer):
    """An optimizer of one's own."""

    def __init__(self, params, lr=0.01):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * p.grad.sign())
        return loss


UNSEEN = """\
from torch import nn


class Unseen(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1))

    def forward(self, x):
        return self.layers(x)
"""
SESSION: dict[str, Any] = {"__name__": "session"}
exec(UNSEEN, SESSION)


class Case(NamedTuple):
    """A fit, and how well training must be repeated, in standard deviations of y."""

    estimator: TorchRegressor
    data: str = "penguins"
    weighted: bool = False
    validation: bool = False
    tolerance: float = 1e-9


def fit_of(**parameters: Any) -> TorchRegressor:
    return TorchRegressor(**{"module": MLP, "max_epochs": 30, "random_state": 0} | parameters)


torch.manual_seed(7)
TEMPLATE = nn.Sequential(
    nn.Linear(3, 6, bias=False),
    nn.BatchNorm1d(6),
    nn.Sequential(Bend(0.2), nn.LayerNorm(6)),
    nn.Dropout(0.25),
    nn.Linear(6, 1),
)
TEMPLATE[0].requires_grad_(False)
NAMED = nn.Sequential(
    OrderedDict(
        first=nn.Linear(3, 4),
        bend=nn.GELU(approximate="tanh"),
        inner=nn.Sequential(OrderedDict(a=nn.Linear(4, 4), b=MLP(4, 2, hidden_sizes=[3]))),
        last=nn.Linear(2, 1),
    )
)

CASES: dict[str, Case] = {
    "penguins": Case(fit_of(module__hidden_sizes=[5], optimizer="rprop", max_epochs=1000)),
    "adam_full_batch": Case(fit_of(batch_size=None)),
    "adam_in_batches": Case(fit_of(batch_size=83)),  # 333 = 4 x 83 + 1
    "adamw": Case(fit_of(optimizer="adamw", optimizer__weight_decay=0.1, batch_size=64), "three"),
    "sgd": Case(fit_of(optimizer="sgd", optimizer__nesterov=True), "three"),
    "rmsprop": Case(fit_of(optimizer=torch.optim.RMSprop, lr=0.003)),
    "lbfgs": Case(
        fit_of(
            optimizer="lbfgs",
            optimizer__stop_at_kinks=False,
            module__hidden_sizes=[4],
            max_epochs=5,
        )
    ),
    "nadam": Case(fit_of(optimizer="nadam", random_state=None)),
    "own_optimizer": Case(fit_of(optimizer=Signs)),
    "huber": Case(fit_of(loss="huber", loss__delta=0.5), weighted=True),
    "absolute": Case(fit_of(loss="absolute_error", batch_size=100), weighted=True),
    "torch_loss": Case(fit_of(loss=nn.SmoothL1Loss, loss__beta=0.5)),
    "own_loss": Case(fit_of(loss=log_cosh, random_state=np.random.RandomState(3))),
    "one_number": Case(fit_of(loss=mean_of_fourth_powers)),
    "one_number_weighted": Case(fit_of(loss=mean_of_fourth_powers), "three", weighted=True),
    "two_outputs": Case(fit_of(module__hidden_sizes=[8], loss="huber"), "two"),
    "weighted_in_batches": Case(fit_of(batch_size=50), "two", weighted=True),
    "constant_column": Case(fit_of(module__activation="silu"), "three"),
    "constant_target": Case(fit_of(), "flat"),
    "dropout": Case(fit_of(module__dropout=0.3)),
    "dropout_in_batches": Case(fit_of(module__dropout=0.3, batch_size=64), "three"),
    "raw": Case(fit_of(standardize=False), "small"),
    "x_alone": Case(fit_of(standardize="X"), "small"),
    "y_alone": Case(fit_of(standardize="y", dtype="float32"), "small", tolerance=1e-4),
    "float32": Case(fit_of(dtype="float32"), "three", tolerance=1e-4),
    "float32_in_batches": Case(fit_of(dtype="float32", batch_size=32), tolerance=1e-4),
    "unix_time": Case(fit_of(), "time"),
    "early_stopping": Case(
        fit_of(early_stopping=True, n_iter_no_change=3, max_epochs=200, lr=0.02), "three"
    ),
    "early_stopping_with_dropout": Case(
        fit_of(early_stopping=True, module__dropout=0.2, batch_size=None, n_iter_no_change=2)
    ),
    "early_stopping_by_tol": Case(
        fit_of(early_stopping=True, tol=0.02, max_epochs=200, batch_size=64), weighted=True
    ),
    "validation": Case(
        fit_of(early_stopping=True, n_iter_no_change=4, max_epochs=100, lr=0.02), validation=True
    ),
    "restarts": Case(fit_of(n_init=4, module__hidden_sizes=[3], random_state=5)),
    "restarts_with_rows_held_out": Case(
        fit_of(n_init=4, early_stopping=True, batch_size=64, lr=0.02, random_state=2),
        "three",
    ),
    "cosine": Case(fit_of(schedule="cosine", lr=0.02)),
    "cosine_in_batches": Case(fit_of(schedule="cosine", schedule__eta_min=1e-4, batch_size=83)),
    "one_cycle": Case(fit_of(schedule="one_cycle", batch_size=64, lr=0.02), "three"),
    "one_cycle_and_early_stopping": Case(
        fit_of(schedule="one_cycle", optimizer="rmsprop", early_stopping=True, n_iter_no_change=3),
        "three",
    ),
    "plateau": Case(fit_of(schedule="reduce_on_plateau", schedule__patience=0, lr=0.1)),
    "plateau_and_early_stopping": Case(
        fit_of(
            schedule="reduce_on_plateau",
            schedule__patience=1,
            early_stopping=True,
            lr=0.05,
            batch_size=64,
            max_epochs=60,
        ),
        "three",
    ),
    "plateau_of_validation_rows": Case(
        fit_of(
            schedule="reduce_on_plateau",
            schedule__patience=0,
            schedule__threshold=0.05,
            lr=0.05,
            tol=1e-9,
        ),
        validation=True,
        weighted=True,
    ),
    "scheduler_of_torch": Case(
        fit_of(schedule=torch.optim.lr_scheduler.StepLR, schedule__step_size=7, lr=0.05)
    ),
    "own_scheduler": Case(fit_of(schedule=warmed_up, schedule__epochs=4, batch_size=100)),
    "settled": Case(fit_of(tol=1e-3, n_iter_no_change=2, max_epochs=500, lr=0.02)),
    "own_module": Case(fit_of(module=Residual, module__depth=2), "three"),
    "own_module_in_part": Case(fit_of(module=partial(Residual, depth=3)), "two"),
    "own_function": Case(fit_of(module=two_layers), "two"),
    "nameless_function": Case(
        fit_of(module=lambda: nn.Sequential(nn.Linear(1, 3), nn.ELU(0.5), nn.Linear(3, 1)))
    ),
    "lazy_flat": Case(fit_of(module=Flat), "three"),
    "torch_layer": Case(fit_of(module=nn.Linear), "two"),
    "with_constants": Case(fit_of(module=WithConstants), "three"),
    "own_activation": Case(fit_of(module__activation=Bend)),
    "template": Case(fit_of(module=TEMPLATE, batch_size=60), "three"),
    "named_template": Case(fit_of(module=NAMED), "three"),
    "own_template": Case(fit_of(module=Residual(3, 1)), "three"),
    "by_hand": Case(
        fit_of(
            module=nn.Sequential(
                AddConstant(-200),
                MultiplyByConstant(0.1),
                nn.Linear(1, 5),
                nn.ReLU(),
                nn.Linear(5, 1),
                MultiplyByConstant([800.0]),
                AddConstant([4200.0]),
            ),
            standardize=False,
            optimizer="rprop",
        )
    ),
    "no_source": Case(fit_of(module=SESSION["Unseen"])),
}


def data_of(kind: str, penguins: pd.DataFrame) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 3))
    y = np.sin(2 * X[:, 0]) + X[:, 1] ** 2
    match kind:
        case "penguins":
            return penguins[["flipper_length_mm"]], penguins["body_mass_g"]
        case "three":
            X[:, 2] = 7.0
            return X * [1, 100, 1], 1000 * y
        case "two":
            names = ['it\'s "quoted"', "new\nline, $comma$", "größe 名前"]
            targets = pd.DataFrame({"a_kg": y, "new\nline": 5 - 3 * y})
            return pd.DataFrame(X, columns=names), targets
        case "flat":
            return X[:, :2], np.full(150, 3.0)
        case "small":
            return X[:, :2], y
        case _:
            seconds = 1.7e9 + rng.uniform(-100, 100, size=(100, 1))
            return seconds, np.abs(seconds[:, 0] - 1.7e9)


class Written(NamedTuple):
    """A fit, the script about it, and what the script gave."""

    reg: TorchRegressor
    file: Path
    X: Any
    y: Any
    result: dict[str, Any]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, penguins: pd.DataFrame) -> dict[str, Written]:
    """All cases: fitted, written, and run together in one process without torchreg."""
    folder = tmp_path_factory.mktemp("scripts")
    found = {}
    for name, case in CASES.items():
        X, y = data_of(case.data, penguins)
        weight = np.arange(len(y)) % 4 if case.weighted else None
        extra = {"X_val": X[::5], "y_val": y[::5]} if case.validation else {}
        reg = case.estimator.fit(X, y, weight, **extra)
        file = folder / f"{name}.py"
        reg.to_script(file, X, y, weight, **extra)
        rows = slice(None) if weight is None else weight > 0
        found[name] = (reg, file, X[rows], y[rows])
    (folder / "definitions.py").write_text(UNSEEN)
    results = run_guarded(folder, [file for _, file, _, _ in found.values()])
    pairs = zip(found.items(), results, strict=True)
    return {name: Written(*parts, result) for (name, parts), result in pairs}


def spread_of(y: Any) -> float:
    """The largest standard deviation of y's columns; 1 where all are constant."""
    return float(np.std(np.asarray(y), axis=0).max()) or 1.0


@pytest.mark.parametrize("name", CASES)
def test_a_script_predicts_what_the_regressor_predicts(
    name: str, written: dict[str, Written]
) -> None:
    case = written[name]
    expected = case.reg.predict(case.X)
    # (n, 1) -> (n,) where y was a vector
    predicted = np.reshape(case.result["fitted"], expected.shape)
    assert_allclose(predicted, expected, rtol=0, atol=1e-6 * spread_of(case.y))


@pytest.mark.parametrize("name", CASES)
def test_a_script_trains_to_the_same_network_epoch_by_epoch(
    name: str, written: dict[str, Written]
) -> None:
    case, tolerance = written[name], CASES[name].tolerance
    expected = case.reg.predict(case.X)
    trained = np.reshape(case.result["trained"], expected.shape)
    losses = case.reg.loss_curve_
    assert_allclose(case.result["losses"], losses, rtol=0, atol=tolerance * max(losses[0], 1e-9))
    assert_allclose(trained, expected, rtol=0, atol=tolerance * spread_of(case.y))


def test_early_stopping_stops_the_loop_of_a_script_before_its_budget(
    written: dict[str, Written],
) -> None:
    for name in ("early_stopping", "early_stopping_by_tol", "validation", "settled"):
        reg = written[name].reg
        assert len(written[name].result["losses"]) == reg.n_iter_ < reg.max_epochs


def test_a_script_leaves_nothing_for_a_linter_or_a_formatter(written: dict[str, Written]) -> None:
    # With the source of torchreg.nn.MLP in it, lines are as long as they are in this project.
    files = {name: case.file for name, case in written.items() if name != "with_constants"}
    names = [str(file) for file in files.values()]
    assert_nothing_to_do(["check"], names)
    assert_nothing_to_do(["format", "--check", "--diff"], names)


def test_a_script_spells_the_constants_out_as_the_lesson_does(
    written: dict[str, Written],
) -> None:
    text = written["penguins"].file.read_text(encoding="utf-8")
    module = written["penguins"].reg.module_
    mean, scale = module.standardize.mean.item(), module.standardize.scale.item()
    mean_g, scale_g = module.unstandardize.mean.item(), module.unstandardize.scale.item()
    assert (
        f"""
    return nn.Sequential(
        AddConstant({-mean!r}),  # flipper_length_mm ...
        MultiplyByConstant(1 / {scale!r}),  # ... to order 1
        nn.Linear(1, 5),
        nn.ReLU(),
        nn.Linear(5, 1),
        MultiplyByConstant({scale_g!r}),  # order 1 ...
        AddConstant({mean_g!r}),  # ... to body_mass_g
    ).double()
"""
        in text
    )
    assert "import torchreg" not in text


def test_the_parameters_beside_a_script_are_a_state_dict_without_constants(
    written: dict[str, Written],
) -> None:
    state = torch.load(written["penguins"].file.with_suffix(".pt"), weights_only=True)
    assert list(state) == ["2.weight", "2.bias", "4.weight", "4.bias"]
    core = written["penguins"].reg.module_.network.state_dict()
    assert all(map(torch.equal, state.values(), core.values()))


def test_source_of_ones_own_is_in_the_script_in_an_order_in_which_it_runs(
    written: dict[str, Written],
) -> None:
    text = written["own_module"].file.read_text(encoding="utf-8")
    words = ["class Bend(", "WIDTH = 4", "def hidden_size(", "class Residual("]
    assert sorted(words, key=text.index) == words
    assert inspect.getsource(Residual) in text
    assert "import Residual" not in text
    assert "log_cosh" not in text


def test_a_script_says_where_source_could_not_be_had(written: dict[str, Written]) -> None:
    text = written["no_source"].file.read_text(encoding="utf-8")
    assert "from definitions import Unseen" in text
    assert "# Unseen was defined where no source is kept: write it into definitions.py" in text


def test_the_rows_beside_a_script_have_all_digits_and_their_names(
    written: dict[str, Written], penguins: pd.DataFrame
) -> None:
    for name in ("two_outputs", "unix_time"):
        case = written[name]
        with open(case.file.with_name(f"{name}_data.csv"), newline="", encoding="utf-8") as file:
            names, *rows = csv.reader(file)
        table = np.column_stack([np.asarray(case.X), np.asarray(case.y)])
        assert np.array_equal(np.array(rows, dtype=float), table)
        if name == "two_outputs":
            assert names == [*case.X.columns, *case.y.columns]


MAIN = """
import runpy, sys
for sys.argv in [line.split("|") for line in sys.argv[1:]]:
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as exit:
        print(exit)
    print("--")
"""


@pytest.fixture(scope="module")
def told(written: dict[str, Written]) -> dict[str, str]:
    """What scripts print when they are run, some of them with rows of their own."""
    penguins = written["penguins"].file
    (penguins.parent / "new.csv").write_text("when,flipper_length_mm\n2007,181\n\n2008,210\n")
    (penguins.parent / "bad.csv").write_text("flipper_mm\n181\n")
    calls = {
        "penguins": f"{penguins}",
        "two_outputs": f"{written['two_outputs'].file}",
        "constant_column": f"{written['constant_column'].file}",
        "new": f"{penguins}|{penguins.parent / 'new.csv'}",
        "bad": f"{penguins}|{penguins.parent / 'bad.csv'}",
        "absent": f"{penguins}|absent.csv",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", MAIN, *calls.values()],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "MPLBACKEND": "Agg", "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(calls, done.stdout.split("--\n"), strict=False))


@pytest.mark.parametrize("name", ["penguins", "two_outputs", "constant_column"])
def test_a_script_compares_both_networks_and_draws_them(
    name: str, told: dict[str, str], written: dict[str, Written]
) -> None:
    difference = re.search(r"predictions differ by (\S+) at most\.\n$", told[name])
    assert difference is not None, told[name]
    assert float(difference[1]) < 1e-9 * spread_of(written[name].y)
    assert written[name].file.with_suffix(".png").stat().st_size > 5_000


def test_a_script_prints_predictions_for_rows_without_targets(
    told: dict[str, str], written: dict[str, Written]
) -> None:
    header, *lines = told["new"].split()
    X = pd.DataFrame({"flipper_length_mm": [181.0, 210.0]})
    assert header == "body_mass_g"
    assert_allclose([float(line) for line in lines], written["penguins"].reg.predict(X), rtol=1e-12)


def test_a_script_says_which_columns_it_misses(told: dict[str, str]) -> None:
    assert "bad.csv has no column ['flipper_length_mm'], but ['flipper_mm']." in told["bad"]
    assert told["absent"] == (
        "No absent.csv: give a CSV file with the columns ['flipper_length_mm'].\n"
    )


# Around the script.


@pytest.fixture(scope="module")
def fitted(kink: tuple[Any, Any]) -> TorchRegressor:
    return fit_of(module__hidden_sizes=[3], max_epochs=2).fit(*kink)


def test_only_a_fitted_regressor_writes_a_script(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        TorchRegressor(module=MLP).to_script(tmp_path / "script.py")


@pytest.mark.parametrize("name", ["script", "script.txt", "script.py.gz", ""])
def test_a_script_is_a_python_file(name: str, fitted: TorchRegressor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expects a file name that ends in \.py, got "):
        fitted.to_script(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(fitted: TorchRegressor, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*absent'\. Make it first"):
        fitted.to_script(tmp_path / "absent" / "script.py")


def test_a_script_is_replaced_as_a_whole_or_not_at_all(
    fitted: TorchRegressor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "script.py"
    file.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            fitted.to_script(file)
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]
    fitted.to_script(str(file))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script.pt", "script.py"]
    assert ast.get_docstring(ast.parse(file.read_text())) is not None


def test_without_rows_a_script_asks_for_them(fitted: TorchRegressor, tmp_path: Path) -> None:
    fitted.to_script(tmp_path / "script.py")
    text = (tmp_path / "script.py").read_text()
    assert "python script.py rows.csv" in text
    assert 'FEATURES = ["x"]' in text
    assert 'TARGETS = ["y"]' in text


@pytest.mark.parametrize("name", ['quo"""te.py', "two words.py", "größe.py", "back\\slash.py"])
def test_any_file_name_will_do(name: str, fitted: TorchRegressor, tmp_path: Path) -> None:
    fitted.to_script(tmp_path / name)
    compile((tmp_path / name).read_text(encoding="utf-8"), name, "exec")


def test_writing_a_script_leaves_the_regressor_and_the_generators_alone(
    kink: tuple[Any, Any], tmp_path: Path
) -> None:
    reg = fit_of(module=Residual, max_epochs=2).fit(*kink)
    before = pickle.dumps(reg), torch.get_rng_state(), np.random.get_state()[1].tobytes()
    reg.to_script(tmp_path / "script.py", *kink)
    assert pickle.dumps(reg) == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert np.random.get_state()[1].tobytes() == before[2]


def train(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (prediction - target) ** 2


def test_a_name_that_the_script_needs_itself_is_refused(
    kink: tuple[Any, Any], tmp_path: Path
) -> None:
    reg = fit_of(loss=train, max_epochs=2).fit(*kink)
    with pytest.raises(ValueError, match=r"uses 'train', a name that the script needs .* Rename"):
        reg.to_script(tmp_path / "script.py")


class Odd(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x):
        return self.layer(x)


def test_an_argument_that_has_no_source_is_named(kink: tuple[Any, Any], tmp_path: Path) -> None:
    reg = fit_of(module=Odd, module__what=object(), max_epochs=2).fit(*kink)
    with pytest.raises(ValueError, match=r"module__what: <object object at .*Python source"):
        reg.to_script(tmp_path / "script.py")


def test_parameters_in_two_places_are_refused(kink: tuple[Any, Any], tmp_path: Path) -> None:
    layer = nn.Linear(1, 1)
    reg = fit_of(module=nn.Sequential(layer, nn.Tanh(), layer), max_epochs=2).fit(*kink)
    with pytest.raises(ValueError, match="uses the same parameters in two places"):
        reg.to_script(tmp_path / "script.py")


@pytest.mark.parametrize("stops", [True, False])
def test_a_script_says_that_torch_searches_on_at_kinks(
    stops: bool, kink: tuple[Any, Any], tmp_path: Path
) -> None:
    reg = TorchRegressor(
        module=MLP, optimizer="lbfgs", optimizer__stop_at_kinks=stops, max_epochs=1
    )
    reg.fit(*kink).to_script(tmp_path / "fit.py")
    written = (tmp_path / "fit.py").read_text(encoding="utf-8")
    said = " ".join(written.replace("#", "").split())
    assert ("the fit ended its line searches sooner than torch's LBFGS does" in said) == stops
    assert "stop_at_kinks" not in written
