"""A script predicts what the regressor predicts, and trains to the same network."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from tests._scripts import assert_ruff_is_clean, run_scripts
from torchreg import TorchRegressor
from torchreg.nn import MLP, AddConstant, Exponential, LinearPath, MultiplyByConstant, TabularMLP

WIDTH = 4


# %% Modules, losses, an optimizer and a schedule that users may define
def hidden_size():
    return 2 * WIDTH


class Bend(nn.Module):
    """An activation with a parameter."""

    def __init__(self, slope=0.1):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x):
        return torch.where(x > 0, x, self.slope * x)


class Residual(nn.Module):
    """A module that uses a function, a constant and another class."""

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
    """A module that returns shape (n,)."""

    def __init__(self, in_features):
        super().__init__()
        self.layers = nn.Sequential(AddConstant(0.5), MLP(in_features, hidden_sizes=[4]))

    def forward(self, x):
        return self.layers(x)[:, 0]


class Grown(nn.Module):
    """A module that takes its layers and a setting from the training rows."""

    def __init__(self, in_features):
        super().__init__()
        self.layer = nn.Linear(in_features, 1)

    def initialize_from(self, x, t, weight):
        self.layer = nn.Sequential(nn.Linear(x.shape[1], 3), nn.Tanh(), nn.Linear(3, 1))
        self.n_rows = len(x)

    def forward(self, x):
        return self.layer(x)


def with_a_line(in_features, out_features):
    network = TabularMLP(in_features, out_features, hidden_sizes=(8,))
    return LinearPath(network, in_features, out_features)


def log_cosh(prediction, target):
    return torch.log(torch.cosh(prediction - target))


def mean_of_fourth_powers(prediction, target):
    return ((prediction - target) ** 4).mean()


class SquaredLogError(nn.Module):
    """A loss with a link of torchreg."""

    center_target = False

    def __init__(self) -> None:
        super().__init__()
        self.link = Exponential()

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target.log()) ** 2


def warmed_up(optimizer, epochs=3):
    first = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=epochs)
    then = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [first, then], milestones=[epochs])


class Signs(torch.optim.Optimizer):
    def __init__(self, params, lr=0.01):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * p.grad.sign())
        return loss


# %% Fits
class Case(NamedTuple):
    """A fit, and how well training must be repeated, in standard deviations of y."""

    settings: dict[str, Any]
    data: str = "penguins"
    weighted: bool = False
    validation: bool = False
    tolerance: float = 1e-9


torch.manual_seed(7)
LAYERS = [nn.BatchNorm1d(6), nn.LayerNorm(6, bias=False), Bend(0.2), nn.Dropout(0.25)]
TEMPLATE = nn.Sequential(nn.Linear(3, 6, bias=False), *LAYERS, nn.Linear(6, 1))
BY_HAND = nn.Sequential(
    AddConstant(-200),
    MultiplyByConstant(0.1),
    nn.Linear(1, 5),
    nn.ReLU(),
    nn.Linear(5, 1),
    MultiplyByConstant([800.0]),
    AddConstant([4200.0]),
)
SMALL = {"module__hidden_sizes": [4]}
TABLE = {"module": TabularMLP, "module__hidden_sizes": [16], "max_epochs": 10}
DEFAULT = TABLE | {"n_folds": 8, "schedule": "cosine", "lr": 3e-3, "batch_size": 32}
FOLDS = TABLE | {"n_folds": 3, "batch_size": 32, "module__hidden_sizes": [8]}
STOPS = {"early_stopping": True, "n_iter_no_change": 2, "max_epochs": 200, "lr": 0.02}
PLATEAU = {"schedule": "reduce_on_plateau", "schedule__patience": 0, "lr": 0.05}
LINKS: dict[str, dict[str, Any]] = {
    "poisson": {"loss": "poisson"},
    "gamma": {"loss": "gamma"},
    "tweedie": {"loss": "tweedie", "loss__power": 1.3},
    "quantile": {"loss": "quantile", "loss__quantile": 0.8},
    "quantiles": {"loss": "quantile", "loss__quantile": [0.1, 0.9]},
    "gaussian_nll": {"loss": "gaussian_nll"},
}

CASES: dict[str, Case] = {
    # Optimizers and batches.
    "rprop": Case({"module__hidden_sizes": [5], "optimizer": "rprop", "max_epochs": 1000}),
    "adam": Case({"batch_size": None, "random_state": None}),
    "adam_in_batches": Case({"batch_size": 83}),  # 333 = 4 x 83 + 1
    "adamw": Case({"optimizer": "adamw", "optimizer__weight_decay": 0.1}, "three"),
    "sgd": Case({"optimizer": "sgd", "optimizer__nesterov": True, "batch_size": 64}, "three"),
    "rmsprop": Case({"optimizer": torch.optim.RMSprop, "lr": 0.003}),
    "lbfgs": Case(
        {"optimizer": "lbfgs", "optimizer__stop_at_kinks": False, "max_epochs": 4} | SMALL
    ),
    "own_optimizer": Case({"optimizer": Signs}),
    # Losses and weights.
    "huber": Case({"loss": "huber", "loss__delta": 0.5}, weighted=True),
    "absolute": Case({"loss": "absolute_error", "batch_size": 100}, weighted=True),
    "torch_loss": Case({"loss": nn.SmoothL1Loss, "loss__beta": 0.5}),
    "own_loss": Case({"loss": log_cosh, "random_state": np.random.RandomState(3)}),
    "own_link": Case({"loss": SquaredLogError}, "positive"),
    "one_number": Case({"loss": mean_of_fourth_powers}),
    "weighted_in_batches": Case({"batch_size": 50}, "two", weighted=True),
    # Scales and dtypes.
    "constant_column": Case({"module__activation": "silu"}, "three"),
    "constant_target": Case({}, "flat"),
    "unix_time": Case({}, "time"),
    "raw": Case({"standardize": False}, "small"),
    "x_alone": Case({"standardize": "X"}, "small"),
    "y_alone": Case({"standardize": "y", "dtype": "float32"}, "small", tolerance=1e-4),
    "float32": Case({"dtype": "float32"}, "three", tolerance=1e-4),
    "float32_in_batches": Case({"dtype": "float32", "batch_size": 32}, tolerance=1e-4),
    # Validation, restarts and schedules.
    "stops": Case(STOPS, "three"),
    "stops_by_tol": Case(STOPS | {"tol": 0.02, "batch_size": 64}, weighted=True),
    "stops_with_dropout": Case(STOPS | {"module__dropout": 0.2, "batch_size": None}),
    "stops_by_validation_rows": Case(STOPS, weighted=True, validation=True),
    "converges": Case({"tol": 1e-3, "n_iter_no_change": 2, "max_epochs": 500, "lr": 0.02}),
    "restarts": Case({"n_init": 4, "module__hidden_sizes": [3], "random_state": 5}),
    "restarts_that_stop": Case(STOPS | {"n_init": 4, "batch_size": 64}, "three"),
    "cosine": Case({"schedule": "cosine", "schedule__eta_min": 1e-4, "batch_size": 83}),
    "one_cycle": Case({"schedule": "one_cycle", "early_stopping": True}, "three"),
    "plateau": Case(PLATEAU),
    "plateau_that_stops": Case(PLATEAU | STOPS | {"batch_size": 64}, "three"),
    "plateau_of_validation_rows": Case(PLATEAU | {"tol": 1e-9}, weighted=True, validation=True),
    "torch_schedule": Case(
        {"schedule": torch.optim.lr_scheduler.StepLR, "schedule__step_size": 7, "lr": 0.05}
    ),
    "own_schedule": Case({"schedule": warmed_up, "schedule__epochs": 4, "batch_size": 100}),
    # Modules.
    "two_outputs": Case({"module__hidden_sizes": [8], "loss": "huber"}, "two"),
    "dropout": Case({"module__dropout": 0.3, "batch_size": 64}, "three"),
    "own_activation": Case({"module__activation": Bend}),
    "own_module": Case({"module": Residual, "module__depth": 2}, "three"),
    "own_module_in_part": Case({"module": partial(Residual, depth=3)}, "two"),
    "own_function": Case({"module": with_a_line}, "three"),
    "flat": Case({"module": Flat}, "three"),
    "grown": Case({"module": Grown}, "three"),
    "grown_in_float32": Case({"module": Grown, "dtype": "float32"}, "three", tolerance=1e-4),
    "torch_layer": Case({"module": nn.Linear}, "two"),
    "template": Case({"module": TEMPLATE, "batch_size": 60}, "three"),
    "by_hand": Case({"module": BY_HAND, "standardize": False, "optimizer": "rprop"}),
    "table": Case(TABLE, "mixed"),
    "table_in_batches": Case(TABLE | {"batch_size": 32, "schedule": "cosine"}, "mixed"),
    "table_with_dropout": Case(TABLE | {"module__dropout": 0.2}, "mixed", weighted=True),
    # Folds.
    "folds": Case({"n_folds": 4, "batch_size": 37}, "mixed"),
    "folds_in_full_batches": Case({"n_folds": 3}, "mixed"),
    "folds_with_weights": Case({"n_folds": 4, "batch_size": 32}, "mixed", weighted=True),
    "folds_of_one_number": Case(FOLDS | {"loss": mean_of_fourth_powers}, "mixed"),
    "folds_that_stop": Case(STOPS | {"n_folds": 4, "tol": 0.01}, "mixed"),
    "folds_on_a_plateau": Case(PLATEAU | {"n_folds": 4}, "mixed"),
    "folds_of_a_template": Case({"n_folds": 3, "module": TEMPLATE[::5]}, "three"),
    "folds_of_one_layer": Case({"n_folds": 3, "module": nn.Linear}, "mixed"),
    "default": Case(DEFAULT, "mixed"),
    "default_in_float32": Case(DEFAULT | {"dtype": "float32"}, "mixed", tolerance=1e-4),
    # Links.
    **{name: Case(loss, "positive") for name, loss in LINKS.items()},
    **{f"{name}_in_folds": Case(FOLDS | loss, "both", True) for name, loss in LINKS.items()},
    "raw_quantiles": Case(LINKS["quantiles"] | {"standardize": "X"}, "positive"),
    "quantiles_in_float32": Case(
        LINKS["quantiles"] | {"dtype": "float32"}, "positive", tolerance=1e-4
    ),
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
        case "mixed":
            # Skewed, of two values and constant columns; a fifth of the rows come twice.
            X = np.column_stack([X[:, 0], np.exp(X[:, 1]), X[:, 2] > 1, np.full(150, 7.0)])
            X[1::5], y[1::5] = X[::5], y[::5]
            return X, 1000 * y
        case "two":
            names = ["it's quoted", "new\nline, $comma$", "größe 名前"]
            targets = pd.DataFrame({"a_kg": y, "new\nline": 5 - 3 * y})
            return pd.DataFrame(X, columns=names), targets
        case "positive":
            return X * [1, 1e-3, 1], 30 * np.exp(0.5 * X[:, 0]) * rng.gamma(3, 1 / 3, 150)
        case "both":
            y = 30 * np.exp(0.5 * X[:, 0]) * rng.gamma(3, 1 / 3, 150)
            return X, np.column_stack([y, 100 * y])
        case "flat":
            return X[:, :2], np.full(150, 3.0)
        case "small":
            return X[:, :2], y
        case _:
            seconds = 1.7e9 + rng.uniform(-100, 100, size=(100, 1))
            return seconds, np.abs(seconds[:, 0] - 1.7e9)


class Written(NamedTuple):
    """A fit, its script, and the results of the script."""

    reg: TorchRegressor
    file: Path
    X: Any
    y: Any
    result: dict[str, Any]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, penguins: pd.DataFrame) -> dict[str, Written]:
    """All cases: fitted, written, and run in one process that cannot import torchreg."""
    folder = tmp_path_factory.mktemp("scripts")
    found = {}
    for name, case in CASES.items():
        X, y = data_of(case.data, penguins)
        weight = np.arange(len(y)) % 4 if case.weighted else None
        extra = {"X_val": X[::5], "y_val": y[::5]} if case.validation else {}
        settings = {"module": MLP, "max_epochs": 30, "random_state": 0} | case.settings
        reg = TorchRegressor(**settings).fit(X, y, weight, **extra)
        file = folder / f"{name}.py"
        reg.to_script(file, X, y, weight, **extra)
        rows = slice(None) if weight is None else weight > 0
        found[name] = (reg, file, X[rows], y[rows])
    results = run_scripts([file for _, file, _, _ in found.values()])
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
    predicted = np.reshape(case.result["fitted"], expected.shape)
    assert_allclose(predicted, expected, rtol=0, atol=1e-6 * spread_of(case.y))


@pytest.mark.parametrize("name", CASES)
def test_a_script_trains_to_the_same_network_epoch_by_epoch(
    name: str, written: dict[str, Written]
) -> None:
    case, tolerance = written[name], CASES[name].tolerance
    expected, losses = case.reg.predict(case.X), case.reg.loss_curve_
    scale = max(abs(losses[0]), 1e-9)
    assert_allclose(case.result["losses"], losses, rtol=0, atol=tolerance * scale)
    trained = np.reshape(case.result["trained"], expected.shape)
    assert_allclose(trained, expected, rtol=0, atol=tolerance * spread_of(case.y))


def test_early_stopping_stops_the_loop_of_a_script(written: dict[str, Written]) -> None:
    for name in ("stops", "stops_by_tol", "stops_by_validation_rows", "converges"):
        reg = written[name].reg
        assert len(written[name].result["losses"]) == reg.n_iter_ < reg.max_epochs


def test_ruff_has_nothing_to_improve_in_a_script(written: dict[str, Written]) -> None:
    files = {name: str(case.file) for name, case in written.items()}
    assert_ruff_is_clean(["check"], [*files.values()])
    # A long constant of torchreg is one line.
    short = [file for file in files.values() if "_PENALTIES" not in Path(file).read_text()]
    assert_ruff_is_clean(["format", "--check", "--diff", "--line-length", "100"], short)
