"""The regressors of the accuracy benchmarks, untuned."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import torchreg
from torchreg import TorchRegressor
from torchreg.nn import MLP

Predict = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray, int, int], Predict]  # X, y, seed, threads

#: Packages of torchreg that do not affect fits or predictions.
UNRELATED_PACKAGES = {"diagnosis", "export", "plotting", "reporting"}


@dataclass(frozen=True)
class Model:
    """A regressor: how it is fitted, and what its results depend on.

    Parameters
    ----------
    fit : callable
        Maps X, y, a seed and a number of threads to ``predict``.
    module : str
        Module that must be installed.
    packages : tuple of str
        Packages on whose versions the results depend.
    sources : bool
        Whether the results depend on the code of torchreg.
    """

    fit: Fit
    module: str
    packages: tuple[str, ...]
    sources: bool = False

    def warm_up(self, threads: int) -> None:
        """Fit a few rows, so that imports are not timed."""
        rng = np.random.default_rng(0)
        self.fit(rng.standard_normal((100, 2)), rng.standard_normal(100), 0, threads)

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None

    @property
    def code(self) -> str:
        """Code of the benchmark on which the results depend."""
        return inspect.getsource(self.fit)

    @property
    def version(self) -> str:
        """Versions of the packages, and a digest of the code."""
        digest = hashlib.sha256(self.code.encode())
        names = [f"{name} {importlib.metadata.version(name)}" for name in self.packages]
        if self.sources:
            digest.update(_digest_of_torchreg().encode())
            names.insert(0, f"torchreg {torchreg.__version__}")
        return f"{', '.join(names)} ({digest.hexdigest()[:8]})"


def fit_linear(X: np.ndarray, y: np.ndarray, seed: int, threads: int) -> Predict:
    return LinearRegression().fit(X, y).predict


def fit_hist_gradient_boosting(X: np.ndarray, y: np.ndarray, seed: int, threads: int) -> Predict:
    return HistGradientBoostingRegressor(random_state=seed).fit(X, y).predict


def fit_lightgbm(X: np.ndarray, y: np.ndarray, seed: int, threads: int) -> Predict:
    import lightgbm

    data = lightgbm.Dataset(X, y, params={"verbosity": -1})
    options = {"objective": "l2", "seed": seed, "num_threads": threads, "verbosity": -1}
    return lightgbm.train(options, data, num_boost_round=100).predict


def fit_catboost(X: np.ndarray, y: np.ndarray, seed: int, threads: int) -> Predict:
    import catboost

    options = {"random_seed": seed, "thread_count": threads}
    quiet = {"verbose": False, "allow_writing_files": False}
    return catboost.CatBoostRegressor(**options, **quiet).fit(X, y).predict


def fit_mlp_raw(X: np.ndarray, y: np.ndarray, seed: int, threads: int) -> Predict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return MLPRegressor(random_state=seed).fit(X, y).predict


def fit_mlp_standardized(X: np.ndarray, y: np.ndarray, seed: int, threads: int) -> Predict:
    network = TransformedTargetRegressor(
        MLPRegressor(random_state=seed), transformer=StandardScaler()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(StandardScaler(), network).fit(X, y).predict


def fit_plain_network(X: np.ndarray, y: np.ndarray, seed: int, threads: int) -> Predict:
    """Train a standardized 2×256 ReLU network: what a careful tutorial does with torch.

    AdamW at 1e-3, batches of 256, a cosine over 200 epochs; of its epochs the one that is best
    on 10 % of the rows, held out.
    """
    torch.manual_seed(seed)
    scale_x, scale_y = StandardScaler().fit(X), StandardScaler().fit(y[:, None])
    x = torch.as_tensor(scale_x.transform(X), dtype=torch.float32)
    t = torch.as_tensor(scale_y.transform(y[:, None]), dtype=torch.float32)
    order = torch.randperm(len(x))
    n_valid = max(1, round(0.1 * len(x)))
    x_valid, t_valid = x[order[:n_valid]], t[order[:n_valid]]
    x, t = x[order[n_valid:]], t[order[n_valid:]]
    network = nn.Sequential(
        *(nn.Linear(x.shape[1], 256), nn.ReLU()),
        *(nn.Linear(256, 256), nn.ReLU()),
        nn.Linear(256, 1),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    n_steps = 200 * math.ceil(len(x) / 256)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    loss_best, best = math.inf, network.state_dict()
    for _ in range(200):
        for rows in torch.randperm(len(x)).split(256):
            optimizer.zero_grad()
            nn.functional.mse_loss(network(x[rows]), t[rows]).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            loss = nn.functional.mse_loss(network(x_valid), t_valid).item()
        if loss < loss_best:
            loss_best = loss
            best = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(best)

    def predict(X: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            t = network(torch.as_tensor(scale_x.transform(X), dtype=torch.float32))
        return scale_y.inverse_transform(t.double().numpy())[:, 0]  # (n, 1) -> (n,)

    return predict


def fit_realmlp_s(X: np.ndarray, y: np.ndarray, seed: int, threads: int) -> Predict:
    from pytabkit import RealMLP_TD_S_Regressor

    options = {"device": "cpu", "random_state": seed, "n_threads": threads}
    return RealMLP_TD_S_Regressor(**options).fit(X, y).predict


def fit_realmlp(X: np.ndarray, y: np.ndarray, seed: int, threads: int) -> Predict:
    from pytabkit import RealMLP_TD_Regressor

    options = {"device": "cpu", "random_state": seed, "n_threads": threads}
    return RealMLP_TD_Regressor(**options).fit(X, y).predict


def fit_torchreg(X: np.ndarray, y: np.ndarray, seed: int, threads: int) -> Predict:
    return TorchRegressor(random_state=seed).fit(X, y).predict


def fit_torchreg_mlp(X: np.ndarray, y: np.ndarray, seed: int, threads: int) -> Predict:
    return TorchRegressor(module=MLP, random_state=seed).fit(X, y).predict


def fit_torchreg_quick(X: np.ndarray, y: np.ndarray, seed: int, threads: int) -> Predict:
    """Train one network, with 10 % of the rows held out, for half of the epochs."""
    return TorchRegressor(early_stopping=True, max_epochs=30, random_state=seed).fit(X, y).predict


def fit_torchreg_thorough(X: np.ndarray, y: np.ndarray, seed: int, threads: int) -> Predict:
    """Train two to four times as many networks for twice as many epochs."""
    return TorchRegressor(n_folds=16, max_epochs=120, random_state=seed).fit(X, y).predict


LINEAR = "LinearRegression"
MLP_STANDARDIZED = "MLPRegressor, standardized"
TORCHREG = "TorchRegressor()"
QUICK, THOROUGH = f"{TORCHREG}, quick", f"{TORCHREG}, thorough"

#: Fast ones first, so that an interrupted run has most of the results.
MODELS: Mapping[str, Model] = {
    LINEAR: Model(fit_linear, "sklearn", ("scikit-learn",)),
    "HistGradientBoosting": Model(fit_hist_gradient_boosting, "sklearn", ("scikit-learn",)),
    "LightGBM": Model(fit_lightgbm, "lightgbm", ("lightgbm",)),
    MLP_STANDARDIZED: Model(fit_mlp_standardized, "sklearn", ("scikit-learn",)),
    "MLPRegressor, raw units": Model(fit_mlp_raw, "sklearn", ("scikit-learn",)),
    "CatBoost": Model(fit_catboost, "catboost", ("catboost",)),
    "2×256 ReLU, torch": Model(fit_plain_network, "torch", ("torch",)),
    "TorchRegressor(module=MLP)": Model(fit_torchreg_mlp, "torchreg", ("torch",), True),
    TORCHREG: Model(fit_torchreg, "torchreg", ("torch",), True),
    QUICK: Model(fit_torchreg_quick, "torchreg", ("torch",), True),
    THOROUGH: Model(fit_torchreg_thorough, "torchreg", ("torch",), True),
    "RealMLP-TD-S": Model(fit_realmlp_s, "pytabkit", ("pytabkit", "torch")),
    "RealMLP-TD": Model(fit_realmlp, "pytabkit", ("pytabkit", "torch")),
}


@cache
def _digest_of_torchreg() -> str:
    """Return a digest of torchreg's code without comments, docstrings and layout."""
    root = Path(torchreg.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        if UNRELATED_PACKAGES.isdisjoint(path.relative_to(root).parts):
            digest.update(code_only(path.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()


def code_only(source: str) -> str:
    """Return the syntax tree of code without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)
