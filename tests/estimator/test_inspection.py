"""Asking a regressor about itself: what it says unasked, what it takes, what it leaves alone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse
import torch
from recipes import LESSON, Biased, birds, flippers, kink, ripples, sine, tanh
from sklearn.exceptions import NotFittedError
from torch import nn

from torchreg import TorchRegressor
from torchreg.exceptions import DeadUnitsWarning, EffectivelyLinearWarning, UnscaledWarning
from torchreg.nn import MLP

Array = np.ndarray


def fitted(**options: object) -> TorchRegressor:
    return TorchRegressor(**{"module": MLP, "random_state": 0, **tanh(), **options}).fit(*sine())


# %% What a fit says unasked
@pytest.mark.parametrize(
    ("options", "data", "category"),
    [
        ({**LESSON, "standardize": False}, flippers, EffectivelyLinearWarning),
        ({"module": Biased, "module__bias": -50.0}, sine, DeadUnitsWarning),
        ({"standardize": "X"}, flippers, UnscaledWarning),
    ],
)
def test_what_is_certain_is_warned_of_and_each_warning_can_be_switched_off(
    options: dict[str, object], data: Callable[[], tuple[Array, Array]], category: type[Warning]
) -> None:
    reg = TorchRegressor(**{"module": MLP, "random_state": 0, **options})
    with pytest.warns(category, match=r"Try: .* More: diagnose\(\)\.$") as caught:
        reg.fit(*data())
    assert [warning.category for warning in caught] == [category]
    assert str(caught[0].filename) == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", category)
        reg.fit(*data())


@pytest.mark.parametrize("data", [flippers, birds, sine, kink, ripples])
@pytest.mark.parametrize("optimizer", ["adam", "rprop", "lbfgs"])
def test_a_healthy_fit_warns_of_nothing(
    data: Callable[[], tuple[Array, Array]], optimizer: str
) -> None:
    reg = TorchRegressor(module=MLP, **tanh(optimizer=optimizer, max_epochs=60), random_state=0)
    with warnings.catch_warnings(record=True) as caught:
        reg.fit(*data())
    assert not caught


# %% What diagnose takes
def test_before_the_fit_there_is_nothing_to_diagnose() -> None:
    with pytest.raises(NotFittedError):
        TorchRegressor(module=MLP).diagnose()


def test_rows_that_do_not_fit_are_refused() -> None:
    reg = fitted(max_epochs=2)
    X, y = sine()
    with pytest.raises(ValueError, match="was given y without X"):
        reg.diagnose(y=y)
    with pytest.raises(ValueError, match="has 2 features"):
        reg.diagnose(np.hstack([X, X]))
    with pytest.raises(ValueError, match="y has 2 outputs, but 1 were fitted"):
        reg.diagnose(X, np.column_stack([y, y]))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        reg.diagnose(X, y[:-1])


def test_sparse_rows_tensors_and_float32_are_taken() -> None:
    X, y = ripples()
    reg = TorchRegressor(module=MLP, **tanh(16), random_state=0).fit(X, y)
    codes = reg.diagnose(X, y).codes
    for given in (scipy.sparse.csr_array(X), torch.from_numpy(X), X.astype(np.float32)):
        assert reg.diagnose(given, y).codes == codes


def test_rare_columns_of_a_sparse_table_are_neither_unscaled_nor_outlying() -> None:
    draw = np.random.default_rng(0).random((400, 1000))
    X = scipy.sparse.csr_array(np.where(draw < 0.01, 100 * draw, 0))
    y = np.asarray(X.sum(axis=1)).ravel()
    codes = TorchRegressor(module=MLP, max_epochs=12, random_state=0).fit(X, y).diagnose(X, y).codes
    assert not {"unscaled-inputs", "outlying-rows"} & set(codes)


@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_the_smallest_tables_can_be_diagnosed(n_rows: int) -> None:
    X, y = np.arange(2.0 * n_rows).reshape(n_rows, 2), np.arange(float(n_rows))
    reg = TorchRegressor(module=MLP, max_epochs=20, random_state=0).fit(X, y)
    assert "underdetermined" in reg.diagnose()
    assert "underdetermined" in reg.diagnose(X, y)


def test_a_constant_target_is_no_disease() -> None:
    X, _ = sine()
    reg = TorchRegressor(module=MLP, **tanh(), random_state=0).fit(X, np.full(len(X), 4200.0))
    assert reg.diagnose().codes == ()


def test_a_loss_that_reads_its_output_otherwise_is_not_held_against_y() -> None:
    X, y = sine()
    counts = np.random.default_rng(0).poisson(np.exp(6 + y))
    reg = TorchRegressor(
        module=MLP, **tanh(loss=nn.PoissonNLLLoss, standardize="X", max_epochs=100), random_state=0
    )
    codes = reg.fit(X, counts).diagnose(X, counts).codes
    assert not {"unscaled-target", "stalled", "overfitting", "learning-rate-too-low"} & set(codes)


def test_after_a_warm_start_the_curve_of_the_last_fit_counts() -> None:
    reg = TorchRegressor(module=MLP, **tanh(max_epochs=300), random_state=0, warm_start=True).fit(
        *sine()
    )
    diagnosis = reg.fit(*sine()).diagnose()
    assert diagnosis.codes == ()
    assert diagnosis.summary["n_epochs"] == 600


# %% What it leaves alone
class Noisy(nn.Module):
    """Draws random numbers in every call, and says how often it was called."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(in_features, 4), nn.Linear(4, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.b(nn.functional.dropout(self.a(x).tanh(), 0.1, training=True))


def test_a_diagnosis_changes_nothing() -> None:
    X, y = sine()
    reg = TorchRegressor(Noisy, max_epochs=20, random_state=0).fit(X, y)
    reg.module_.network.train()
    before, seed = copy.deepcopy(reg), torch.get_rng_state()
    first = reg.diagnose(X, y).to_dict()
    assert reg.diagnose(X, y).to_dict() == first
    assert torch.equal(torch.get_rng_state(), seed)
    assert vars(reg).keys() == vars(before).keys()
    state = reg.module_.state_dict()
    assert all(torch.equal(value, state[k]) for k, value in before.module_.state_dict().items())
    assert reg.module_.network.training
    assert not reg.module_.standardize.training
