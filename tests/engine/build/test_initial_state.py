"""A network with ``initialize_from`` receives the training rows before its first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.model_selection import GridSearchCV
from torch import Tensor, nn

from torchreg import TorchRegressor
from torchreg.engine.build import initial_state, rebuild_initial_network

rng = np.random.default_rng(0)
X = 200 + 15 * rng.normal(size=(60, 3))
y = X @ [1.0, -2.0, 0.5] + np.abs(X[:, 0] - 200)


class Initialized(nn.Module):
    """Stores a statistic of the rows it receives, and draws its bias."""

    seen: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.layer = nn.Linear(in_features, out_features)
        self.register_buffer("seen", torch.zeros(in_features))
        self.register_buffer("calls", torch.zeros(()))

    def initialize_from(self, x: Tensor, t: Tensor, weight: Tensor | None) -> None:
        assert not torch.is_grad_enabled()
        assert x.dtype == t.dtype == self.layer.weight.dtype
        share = torch.ones_like(t[:, 0]) if weight is None else weight
        self.seen.copy_((share / share.sum()) @ (x * t[:, :1]))
        self.calls += 1
        self.layer.bias.normal_()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def fitted(**options: Any) -> TorchRegressor:
    rows, target = options.pop("rows", (X, y))
    fit = options.pop("fit", {})
    options = {"module": Initialized, "max_epochs": 3, "random_state": 0} | options
    return TorchRegressor(**options).fit(rows, target, **fit)


def state(reg: TorchRegressor) -> dict[str, Tensor]:
    return reg.module_.network.state_dict()


def assert_same(one: TorchRegressor, other: TorchRegressor) -> None:
    assert list(state(one)) == list(state(other))
    assert all(torch.equal(a, state(other)[key]) for key, a in state(one).items())


@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_network_receives_the_standardized_rows_once(batch_size: Any, dtype: str) -> None:
    reg = fitted(batch_size=batch_size, dtype=dtype)
    x, t = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
    np.testing.assert_allclose(state(reg)["seen"], t @ x / len(x), rtol=1e-5, atol=1e-6)
    assert state(reg)["calls"] == 1


@pytest.mark.parametrize("batch_size", [None, 16])
def test_its_random_numbers_depend_on_the_seed(batch_size: Any) -> None:
    assert_same(fitted(batch_size=batch_size), fitted(batch_size=batch_size))
    one, other = (fitted(random_state=s, max_epochs=1, lr=1e-9) for s in (0, 1))
    assert not torch.allclose(state(one)["layer.bias"], state(other)["layer.bias"], atol=1e-3)


def test_a_warm_start_does_not_initialize_again() -> None:
    reg = fitted(warm_start=True)
    seen = state(reg)["seen"].clone()
    reg.fit(X + 5, y * y)
    assert state(reg)["calls"] == 1
    assert torch.equal(state(reg)["seen"], seen)


def test_each_of_several_networks_receives_the_rows() -> None:
    reg = fitted(n_init=3, lr=1e-9)
    assert len(set(reg.init_losses_)) == 3
    assert state(reg)["calls"] == 1


def test_a_copy_of_an_instance_receives_the_rows() -> None:
    module = Initialized(3, 1)
    assert state(fitted(module=module))["calls"] == 1
    assert module.calls == 0


def test_parts_of_a_network_do_not_receive_the_rows() -> None:
    inner = Initialized(3, 1)
    assert state(fitted(module=nn.Sequential(inner)))["0.calls"] == 0


def test_a_search_in_the_batching_backend_equals_a_serial_one() -> None:
    import joblib

    alone = GridSearchCV(fitted(), {"lr": [1e-3, 1e-2]}, cv=3).fit(X, y)
    with joblib.parallel_config(backend="torchreg"):
        together = GridSearchCV(fitted(), {"lr": [1e-3, 1e-2]}, cv=3).fit(X, y)
    for key in ("split0_test_score", "split1_test_score", "split2_test_score"):
        np.testing.assert_allclose(together.cv_results_[key], alone.cv_results_[key], rtol=1e-6)


def test_a_resumed_fit_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    path = tmp_path / "fit.safetensors"
    one = fitted(fit={"checkpoint": path})
    assert_same(one, fitted(fit={"checkpoint": path}))
    assert_same(one, fitted())


def test_sparse_rows_equal_dense_ones() -> None:
    sparse = scipy.sparse.csr_array(np.where(X > 200, X, 0.0))
    dense = fitted(rows=(sparse.toarray(), y), batch_size=16)
    sparse_seen = state(fitted(rows=(sparse, y), batch_size=16))["seen"]
    torch.testing.assert_close(sparse_seen, state(dense)["seen"])


def test_large_sparse_tables_are_sampled_reproducibly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(initial_state, "MAX_INIT_NUMBERS", 3 * 20)
    sparse = scipy.sparse.csr_array(X)
    shapes = []

    class Counting(Initialized):
        def initialize_from(self, x: Tensor, t: Tensor, weight: Tensor | None) -> None:
            assert weight is not None
            shapes.append((len(x), len(t), len(weight)))
            super().initialize_from(x, t, weight)

    weight = np.arange(1.0, len(X) + 1)
    options = {"module": Counting, "rows": (sparse, y), "batch_size": 16}
    one, same = (fitted(**options, fit={"sample_weight": weight}) for _ in range(2))
    assert_same(one, same)
    assert shapes == [(20, 20, 20)] * 2


def test_a_network_may_choose_its_shape_from_the_rows() -> None:
    class Shaped(Initialized):
        def initialize_from(self, x: Tensor, t: Tensor, weight: Tensor | None) -> None:
            self.layer = nn.Sequential(nn.Linear(x.shape[1], len(x) // 10), nn.Linear(6, 1))

    reg = fitted(module=Shaped, dtype="float64")
    assert state(reg)["layer.0.weight"].shape == (6, 3)
    assert state(reg)["layer.0.weight"].dtype == torch.float64


def test_an_error_names_the_method_and_the_shape() -> None:
    class Failing(Initialized):
        def initialize_from(self, x: Tensor, t: Tensor, weight: Tensor | None) -> None:
            raise RuntimeError("no quartiles")

    with pytest.raises(ValueError, match=r"Failing.initialize_from failed on x of shape \(60, 3\)"):
        fitted(module=Failing)


def test_modifying_the_rows_raises() -> None:
    class Greedy(Initialized):
        def initialize_from(self, x: Tensor, t: Tensor, weight: Tensor | None) -> None:
            x.clamp_(-1, 1)

    with pytest.raises(ValueError, match=r"changed them in place.*x\.clone\(\)"):
        fitted(module=Greedy)


class Centred(nn.Module):
    """Initializes its weights from the rows."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.layer = nn.Linear(in_features, out_features)

    def initialize_from(self, x: Tensor, t: Tensor, weight: Tensor | None) -> None:
        share = torch.ones_like(t[:, 0]) if weight is None else weight
        self.layer.weight.copy_(((share / share.sum()) * t.T) @ x)
        self.layer.bias.normal_()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_a_network_initialized_from_rows_cannot_be_rebuilt() -> None:
    widths = {"in_features": 3, "out_features": 1, "seed": 0}
    assert (
        rebuild_initial_network(Centred, {}, fitted(module=Centred).module_.network, **widths)
        is None
    )
