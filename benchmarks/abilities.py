"""What can be done with MLPRegressor, skorch and torchreg: scikit-learn's checks, and abilities."""

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
`check_estimator(..., on_fail=None)` with `SCIPY_ARRAY_API=1`, in a fresh process each. skorch has
a network with a `LazyLinear`, for the checks bring data of several widths. Skipped are checks of
array libraries and devices that are not there."""

ABILITIES_NOTES = """\
Each *yes* was done by the script; each *no* raised an error, or did nothing. (skorch: with a module
made for the data, and data of float32 with y of shape (n, 1) wherever the point is another.)"""


class LazyNetwork(nn.Module):
    """For data of any width, as scikit-learn's checks bring it; perhaps with a cast to float32."""

    def __init__(self, cast: bool = False) -> None:
        super().__init__()
        self.cast = cast
        self.layers = nn.Sequential(nn.LazyLinear(100), nn.ReLU(), nn.Linear(100, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.to(torch.float32) if self.cast else x)


def checked(name: str) -> BaseEstimator:
    if name == "MLPRegressor":
        return MLPRegressor()
    if name == "TorchRegressor":
        return TorchRegressor()
    return NeuralNetRegressor(LazyNetwork, module__cast="cast" in name, verbose=0)


def count_checks(name: str) -> dict[str, int]:
    """Return how many checks passed, failed, ...; call it in a fresh process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes = check_estimator(checked(name), on_fail=None)
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
    """Make a quick estimator; the options are for this library."""
    if library == "MLPRegressor":
        return MLPRegressor(**{"max_iter": 50, "random_state": 0, **options})
    if library == "TorchRegressor":
        return TorchRegressor(**{"max_epochs": 50, "random_state": 0, **options})
    torch.manual_seed(0)
    defaults = {"module": build_network(3, (100,)), "max_epochs": 50, "optimizer": torch.optim.Adam}
    return NeuralNetRegressor(**{**defaults, "train_split": None, "verbose": 0, **options})


def problem(library: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a small problem, in the form that the library likes best."""
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


def gives_y_back_in_its_shape(library: str) -> bool:
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
    """Send raw X through the fitted network alone, a plain torch module, and compare with raw y."""
    X, y = problem(library)
    X, y = 200 + 10 * X, 4000 + 800 * y
    module = make(library).fit(X, y).module_
    with torch.no_grad():
        predicted = module(torch.as_tensor(X))
    return isinstance(module, nn.Module) and bool(r2_score(y, predicted.numpy()) > 0.5)


ABILITIES: dict[str, Callable[[str], bool]] = {
    "learns with X of 200 ± 10 and y of 4000 ± 800 as they are (R2 > 0.5, 50 epochs of Adam)": (
        learns_in_raw_units
    ),
    "the fitted network alone, a torch module, takes and gives those units": (
        predicts_in_raw_units_without_the_library
    ),
    "float64 X and a y of shape (n,) work": takes_float64_and_a_vector,
    "predictions for a y of shape (n, 1) have that shape": gives_y_back_in_its_shape,
    "`fit(..., sample_weight=...)`": weights_rows,
    "any `nn.Module` as the network": takes_any_network,
    "Huber's loss": takes_a_callable_loss,
    "validation rows of one's own": takes_a_validation_set,
    "skorch's callbacks": takes_callbacks,
    "sparse X": takes_sparse_columns,
    "`device=`": takes_a_device,
    "`partial_fit`": learns_batch_by_batch,
}


def is_able(ability: Callable[[str], bool], library: str) -> str:
    try:
        return "yes" if ability(library) else "no"
    except Exception:  # whatever the library raises, it cannot do it
        return "no"


def abilities() -> list[str]:
    rows = [
        [words, *(is_able(ability, library) for library in LIBRARIES)]
        for words, ability in ABILITIES.items()
    ]
    return ["## What can be done", ABILITIES_NOTES, table(["", *LIBRARIES], rows)]


def main() -> None:
    run = begin("abilities", __doc__)
    with warnings.catch_warnings():
        # Of budgets that ran out and weights that overflowed: the answer is in the tables.
        warnings.simplefilter("ignore")
        blocks = [*checks(run), *abilities()]
    run.report("What can be done with MLPRegressor, skorch and torchreg", *blocks)


if __name__ == "__main__":
    main()
