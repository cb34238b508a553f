"""Features of MLPRegressor, skorch and torchreg: scikit-learn's checks, and a list of abilities."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _eager import build_network
from _harness import Run, begin, run_fresh, synthetic, table
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.metrics import r2_score
from sklearn.neural_network import MLPRegressor
from sklearn.utils.estimator_checks import check_estimator
from skorch import NeuralNetRegressor
from skorch.callbacks import EpochScoring
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import Tensor, nn

from torchreg import TorchRegressor

LIBRARIES = ("MLPRegressor", "skorch", "TorchRegressor")

CHECKS_NOTES = """\
`check_estimator(..., on_fail=None)` with `SCIPY_ARRAY_API=1`, in a fresh process each. The network
of skorch has a `LazyLinear`, because the checks use data of several widths. Skipped checks need
array libraries or devices that are not installed."""

ABILITIES_NOTES = """\
The script tests each ability; *no* means that it raised an error or had no effect. skorch has a
module of matching width, float32 data and y of shape (n, 1), unless these are the point."""


class LazyNetwork(nn.Module):
    """Network for data of any width, optionally with a cast to float32."""

    def __init__(self, cast: bool = False) -> None:
        super().__init__()
        self.cast = cast
        self.layers = nn.Sequential(nn.LazyLinear(100), nn.ReLU(), nn.Linear(100, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.to(torch.float32) if self.cast else x)


def estimator_to_check(name: str) -> BaseEstimator:
    if name == "MLPRegressor":
        return MLPRegressor()
    if name == "TorchRegressor":
        return TorchRegressor()
    return NeuralNetRegressor(LazyNetwork, module__cast="cast" in name, verbose=0)


def count_checks(name: str) -> dict[str, int]:
    """Count the checks by status. Call it in a fresh process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes = check_estimator(estimator_to_check(name), on_fail=None)
    return dict(Counter(outcome["status"] for outcome in outcomes))


def checks(run: Run) -> list[str]:
    statuses = ("passed", "failed", "xfail", "skipped")
    rows = []
    for name in ("MLPRegressor", "skorch", "skorch, with a cast to float32", "TorchRegressor"):
        code = f"import json, abilities\nprint(json.dumps(abilities.count_checks({name!r})))"
        printed = run_fresh(code, run.threads, {"SCIPY_ARRAY_API": "1"})[1]
        counts = json.loads(printed.splitlines()[-1])
        rows.append([name, *(str(counts.get(status, 0)) for status in statuses)])
    return ["## scikit-learn's checks", CHECKS_NOTES, table(["", *statuses], rows)]


def make(library: str, **options: Any) -> BaseEstimator:
    """Build an estimator with 50 epochs and options of the library."""
    if library == "MLPRegressor":
        return MLPRegressor(**{"max_iter": 50, "random_state": 0, **options})
    if library == "TorchRegressor":
        return TorchRegressor(**{"max_epochs": 50, "random_state": 0, **options})
    torch.manual_seed(0)
    defaults = {"module": build_network(3, (100,)), "max_epochs": 50, "optimizer": torch.optim.Adam}
    return NeuralNetRegressor(**{**defaults, "train_split": None, "verbose": 0, **options})


def problem(library: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a small data set in the form that the library supports best."""
    X, y = synthetic(300, 3)
    if library == "skorch":
        return X.astype(np.float32), y.astype(np.float32).reshape(-1, 1)  # (n,) -> (n, 1)
    return X, y


def learns_in_raw_units(library: str) -> bool:
    X, y = problem(library)
    X, y = 200 + 10 * X, 4000 + 800 * y
    return bool(r2_score(y, make(library).fit(X, y).predict(X)) > 0.5)


def takes_float64_and_a_vector(library: str) -> bool:
    X, y = synthetic(300, 3)
    return make(library).fit(X, y).predict(X).shape == y.shape


def preserves_the_shape_of_y(library: str) -> bool:
    X, y = problem(library)
    column = y.reshape(-1, 1)  # (n,) or (n, 1) -> (n, 1)
    return make(library).fit(X, column).predict(X).shape == column.shape


def weights_rows(library: str) -> bool:
    X, y = problem(library)
    weights = (np.arange(len(y)) % 2).astype(X.dtype)
    wrong = np.where(weights.reshape(y.shape) > 0, y, -y).astype(X.dtype)
    model = make(library).fit(X, wrong, sample_weight=weights)
    return bool(r2_score(y, model.predict(X)) > 0.5)


def takes_any_network(library: str) -> bool:
    X, y = problem(library)
    network = nn.Sequential(nn.Linear(3, 20), nn.SiLU(), nn.LayerNorm(20), nn.Linear(20, 1))
    make(library, module=network).fit(X, y)
    return True


def takes_a_callable_loss(library: str) -> bool:
    X, y = problem(library)
    if library == "skorch":
        make(library, criterion=nn.HuberLoss).fit(X, y)
    else:
        make(library, loss=nn.functional.huber_loss).fit(X, y)
    return True


def takes_a_validation_set(library: str) -> bool:
    X, y = problem(library)
    if library == "skorch":
        net = make(library, train_split=predefined_split(Dataset(X, y))).fit(X, y)
        return "valid_loss" in net.history[-1]
    model = make(library).fit(X, y, X_val=X, y_val=y)
    return len(model.validation_loss_curve_) == model.n_iter_


def takes_callbacks(library: str) -> bool:
    X, y = problem(library)
    scoring = EpochScoring("r2", on_train=True, name="r2")
    model = make(library, callbacks=[scoring]).fit(X, y)
    return "r2" in (model.history if library == "skorch" else model.history_)[-1]


def takes_sparse_columns(library: str) -> bool:
    X, y = problem(library)
    make(library).fit(sparse.csr_matrix(X), y)
    return True


def takes_a_device(library: str) -> bool:
    X, y = problem(library)
    make(library, device="cpu").fit(X, y)
    return True


def learns_batch_by_batch(library: str) -> bool:
    X, y = problem(library)
    make(library).partial_fit(X, y)
    return True


def predicts_in_raw_units_without_the_library(library: str) -> bool:
    """Whether the fitted torch module alone maps raw X to raw y."""
    X, y = problem(library)
    X, y = 200 + 10 * X, 4000 + 800 * y
    module = make(library).fit(X, y).module_
    with torch.no_grad():
        predicted = module(torch.as_tensor(X))
    return isinstance(module, nn.Module) and bool(r2_score(y, predicted.numpy()) > 0.5)


ABILITIES: dict[str, Callable[[str], bool]] = {
    "learns from X of 200 ± 10 and y of 4000 ± 800 (R2 > 0.5, 50 epochs of Adam)": (
        learns_in_raw_units
    ),
    "the fitted torch module alone has these units": (predicts_in_raw_units_without_the_library),
    "float64 X and y of shape (n,)": takes_float64_and_a_vector,
    "predictions of shape (n, 1) for y of shape (n, 1)": preserves_the_shape_of_y,
    "`fit(..., sample_weight=...)`": weights_rows,
    "any `nn.Module` as the network": takes_any_network,
    "Huber loss": takes_a_callable_loss,
    "validation data": takes_a_validation_set,
    "skorch's callbacks": takes_callbacks,
    "sparse X": takes_sparse_columns,
    "`device=`": takes_a_device,
    "`partial_fit`": learns_batch_by_batch,
}


def try_ability(ability: Callable[[str], bool], library: str) -> str:
    try:
        return "yes" if ability(library) else "no"
    except Exception:  # Any error means that it cannot.
        return "no"


def abilities() -> list[str]:
    rows = [
        [name, *(try_ability(ability, library) for library in LIBRARIES)]
        for name, ability in ABILITIES.items()
    ]
    return ["## Abilities", ABILITIES_NOTES, table(["", *LIBRARIES], rows)]


def main() -> None:
    run = begin("abilities", __doc__)
    with warnings.catch_warnings():
        # Unconverged fits and overflows show in the tables.
        warnings.simplefilter("ignore")
        blocks = [*checks(run), *abilities()]
    run.report("Abilities of MLPRegressor, skorch and torchreg", *blocks)


if __name__ == "__main__":
    main()
