"""A second fit during which a fault occurs, and the checks after it."""

from __future__ import annotations

import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback
from torch import Tensor, nn

from torchreg import InterruptWarning, PrecisionWarning, TorchRegressor
from torchreg.nn import MLP

Array = np.ndarray
#: Tolerance of predictions after a handled error, in standard deviations of y: steps that are
#: computed in another way differ by rounding, which line searches amplify.
NEAR, NEAR_LINE_SEARCH = 1e-7, 1e-3


def rows(rng: np.random.Generator, width: int = 3) -> tuple[Array, Array]:
    X = 200 + 10 * rng.normal(size=(int(rng.integers(20, 50)), width))
    return X, 4000 + 20 * X[:, 0] + rng.normal(size=len(X))


class Normalized(nn.Module):
    """Has running statistics, which an interrupt must leave consistent."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        layers = nn.Linear(in_features, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, out_features)
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output


#: Short fits of every kind that the engine distinguishes.
KINDS: list[dict[str, Any]] = [
    {},
    {"batch_size": 8},
    {"batch_size": 8, "module__dropout": 0.2},
    {"optimizer": "lbfgs", "max_epochs": 6},
    {"optimizer": "rprop", "dtype": "float32"},
    {"optimizer": "adagrad", "batch_size": 16},
    {"early_stopping": True, "n_iter_no_change": 5},
    {"early_stopping": True, "batch_size": 8, "optimizer": "rmsprop"},
    {"module": Normalized, "batch_size": 10},
    {"callbacks": [Callback()], "max_epochs": 8},
    {"tol": 1e-3, "loss": "huber"},
]


def name_of_kind(options: dict[str, Any]) -> str:
    """Name a test: the same in every process, so without the address of a callback."""
    return re.sub(r" object at 0x\w+", "", str(options))


def short_fit(rng: np.random.Generator) -> dict[str, Any]:
    kind = KINDS[rng.integers(len(KINDS))]
    width = {} if "module" in kind else {"module__hidden_sizes": (int(rng.integers(1, 9)),)}
    return {"max_epochs": 25, "random_state": int(rng.integers(100)), **width, **kind}


class Ended(TorchRegressor):
    """A regressor whose fit an observer stops after a number of epochs."""

    ends_at = 1

    def _observers(self, *given: Any) -> list[Any]:
        return [*super()._observers(*given), self]

    def on_fit_begin(self) -> None: ...

    def on_epoch_begin(self) -> None: ...

    def on_fit_end(self) -> None: ...

    def on_epoch_end(self, record: Any) -> bool:
        return bool(record.epoch >= self.ends_at)


def learned(reg: TorchRegressor) -> dict[str, Any]:
    return {name: value for name, value in vars(reg).items() if name.endswith("_")}


def surroundings() -> dict[str, Any]:
    """Return the global state, which no fit may change."""
    fresh: list[int] = []
    thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return {
        "torch's generator": torch.get_rng_state().numpy().tobytes(),
        "NumPy's generator": repr(np.random.get_state()),
        "threads": (torch.get_num_threads(), fresh[0], threading.active_count()),
        "default dtype": torch.get_default_dtype(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "modes": (torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()),
        "filters": list(warnings.filters),
        "NumPy's errors": np.geterr(),
        "scikit-learn": sklearn.get_config(),
        "Ctrl-C": signal.getsignal(signal.SIGINT),
        "trace": sys.gettrace(),
    }


class RefitTrial:
    """A fitted regressor, new rows, and a record of the fit.

    The seed of `reg` is changed after the fit, so that a new fit differs from the previous one.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.X, self.y = rows(rng)
        self.reg = TorchRegressor(**{"module": MLP, **short_fit(rng)}).fit(*rows(rng))
        self.remember()
        self.reg.set_params(random_state=self.reg.random_state + 1)

    def remember(self) -> None:
        self.old, self.kept = self.reg.predict(self.X), dict(learned(self.reg))

    def refit(self, *may_come: type[BaseException], fit: Callable[[], Any] | None = None) -> None:
        """Fit again; afterwards the fit must be the previous one or equal an undisturbed one."""
        error: BaseException | None = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                for category in (InterruptWarning, ConvergenceWarning, PrecisionWarning):
                    warnings.simplefilter("ignore", category)
                (fit or (lambda: self.reg.fit(self.X, self.y)))()
        except may_come as caught:
            error = caught
        if self.reg.module_ is self.kept["module_"]:
            assert error is not None
            now = learned(self.reg)
            assert now.keys() == self.kept.keys()
            assert all(now[name] is value for name, value in self.kept.items())
            np.testing.assert_array_equal(self.reg.predict(self.X), self.old)
        else:
            self.compare(self.reg, exact=MemoryError not in may_come)

    def compare(self, reg: TorchRegressor, *, exact: bool = True) -> None:
        """Compare a new fit with an undisturbed fit of the same parameters."""
        assert len(reg.history_) == len(reg.loss_curve_)
        assert np.isfinite(reg.predict(self.X)).all()
        if reg.warm_start or not isinstance(reg.random_state, int | np.integer):
            return  # The fit does not follow from the parameters alone.
        quiet = Ended().set_params(**reg.get_params())
        quiet.ends_at = reg.n_iter_
        quiet.fit(self.X, self.y)
        near = 0.0 if exact else NEAR_LINE_SEARCH if reg.optimizer == "lbfgs" else NEAR
        np.testing.assert_allclose(
            reg.predict(self.X), quiet.predict(self.X), rtol=0, atol=near * float(np.std(self.y))
        )
        np.testing.assert_allclose(reg.loss_curve_, quiet.loss_curve_, rtol=near)
        assert (reg.n_iter_, reg.best_epoch_) == (quiet.n_iter_, quiet.best_epoch_)
