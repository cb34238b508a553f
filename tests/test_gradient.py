"""Both lanes, captured and eager, give the same fit, for a zoo of modules and losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from torchreg import TorchRegressor
from torchreg.engine import gradient
from torchreg.losses import LOSSES
from torchreg.nn import MLP

Array = np.ndarray
CAPTURED = "The steps were captured once and repeated."


@pytest.fixture(scope="module")
def table() -> tuple[Array, Array, Array]:
    """23 rows, which batches of 6 do not divide: 4 columns, the last of small integers."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(23, 4))
    X[:, 3] = rng.integers(0, 5, size=23)
    y = np.sin(X[:, 0]) + X[:, 1] + 0.1 * X[:, 3]
    return X, y, rng.uniform(0.5, 2.0, size=23)


@pytest.fixture
def both(
    table: tuple[Array, Array, Array],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[TorchRegressor, TorchRegressor]]:
    """Fit twice, captured and eagerly, and see that it was so."""

    def fit(*, weighted: bool = False, **options: Any) -> tuple[TorchRegressor, TorchRegressor]:
        X, y, weight = table
        settings: dict[str, Any] = {"optimizer": "sgd", "lr": 0.02, "dtype": "float64"}
        settings |= {"max_epochs": 24, "random_state": 0, "verbose": 1, **options}
        fits = []
        for lane in (CAPTURED, "The steps ran eagerly, because this test asks for it."):
            with monkeypatch.context() as patch:
                if lane != CAPTURED:
                    patch.setattr(gradient, "obstacle", lambda *_: "this test asks for it")
                fits.append(TorchRegressor(**settings).fit(X, y, weight if weighted else None))
            assert capsys.readouterr().out.splitlines()[-1] == lane
        return fits[0], fits[1]

    return fit


def assert_same(
    one: TorchRegressor, other: TorchRegressor, X: Array, *, tolerance: float = 1e-9
) -> None:
    close: dict[str, float] = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(one.loss_curve_, other.loss_curve_, **close)
    np.testing.assert_allclose(one.predict(X), other.predict(X), **close)
    first, second = one.module_.state_dict(), other.module_.state_dict()
    assert list(first) == list(second)
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], **close, equal_nan=True, msg=name)


class Body(nn.Module):
    """Something between two linear layers."""

    def __init__(self, middle: nn.Module, width: int = 6) -> None:
        super().__init__()
        self.first, self.middle = nn.Linear(4, width), middle
        self.last = nn.LazyLinear(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.last = nn.Embedding(5, 3), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([x[:, :3], torch.tanh(self.embedding(x[:, 3].long()))], dim=1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.last = nn.Linear(4, 3), nn.Linear(4, 1)
        self.decode = nn.Linear(3, 4)
        self.decode.weight = nn.Parameter(self.encode.weight.detach().T.clone())
        self.again = nn.Linear(4, 3)
        self.again.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.encode(x)) + self.again(x)
        return self.last(self.decode(h) + h @ self.encode.weight)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cell, self.last = kind(1, 5, batch_first=True), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        # (n, 4) -> (n, 4, 1): the columns are the steps
        return self.last(self.cell(x[:, :, None])[0][:, -1])


class Attentive(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.lift, self.last = nn.Linear(1, 8), nn.Linear(8, 1)
        self.attention = nn.MultiheadAttention(8, 2, dropout=dropout, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x[:, :, None])
        return self.last(self.attention(h, h, h)[0].mean(dim=1))


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolve, self.pool = nn.Conv1d(1, 3, 2), nn.MaxPool1d(2)
        self.last = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pool(torch.tanh(self.convolve(x[:, None]))).flatten(1))


class Branching(nn.Module):
    """Control flow on shapes and settings, which are the same in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.last = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = torch.tanh(layer(x)) if index % 2 == 0 else layer(x) / len(self.layers)
        if x.shape[1] == 4 and self.training:
            x = 1.01 * x
        return self.last(x)


class Partial(nn.Module):
    """With fixed parameters, and some that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed = nn.Linear(4, 6).requires_grad_(False)
        self.unused, self.last = nn.Linear(7, 7), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.fixed(x)))[:, 0]


def weight_norm() -> nn.Module:
    return Body(nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 6)), nn.Tanh()))


def spectral_norm() -> nn.Module:
    return Body(nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 6)), nn.Tanh()))


ACTIVATIONS = [
    *[nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh],
    *[nn.Identity, nn.LeakyReLU, nn.LogSigmoid, nn.LogSoftmax, nn.Mish, nn.PReLU, nn.ReLU],
    *[nn.ReLU6, nn.RReLU, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softmax, nn.Softmin, nn.Softplus],
    *[nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold, nn.GLU],
]
ARGUMENTS: dict[Any, dict[str, Any]] = {
    nn.Threshold: {"threshold": 0.1, "value": 0.2},
    nn.GLU: {"dim": 1},
    **{kind: {"dim": 1} for kind in (nn.LogSoftmax, nn.Softmax, nn.Softmin)},
}
ZOO: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: Body(nn.Sequential(nn.ReLU(), nn.Dropout(0.4))),
    "dropout first": lambda: nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 1)),
    "alpha dropout in place": lambda: Body(
        nn.Sequential(nn.SELU(True), nn.AlphaDropout(0.3, True))
    ),
    "feature dropout": lambda: Body(nn.FeatureAlphaDropout(0.3)),
    "attention with dropout": lambda: Attentive(0.3),
    "batch norm and dropout": lambda: Body(nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.3))),
    "built-in": lambda: MLP(4, 1, hidden_sizes=[6, 5]),
    "batch norm": lambda: Body(nn.Sequential(nn.BatchNorm1d(6), nn.ReLU())),
    "batch norm first": lambda: nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Linear(4, 1)),
    "batch norm without statistics": lambda: Body(nn.BatchNorm1d(6, track_running_stats=False)),
    "lazy batch norm": lambda: Body(nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d())),
    "layer norm": lambda: Body(nn.Sequential(nn.LayerNorm(6), nn.Tanh())),
    "rms norm": lambda: Body(nn.RMSNorm(6)),
    "group norm": lambda: Body(nn.GroupNorm(2, 6)),
    "residual": lambda: Body(Residual()),
    "embedding": Embedded,
    "weight tying": Tied,
    "GRU": lambda: Recurrent(nn.GRU),
    "plain RNN": lambda: Recurrent(nn.RNN),
    "attention": lambda: Attentive(0.0),
    "transformer": lambda: Body(
        nn.Sequential(
            nn.Unflatten(1, (3, 2)),
            nn.TransformerEncoderLayer(2, 1, 4, dropout=0.0, batch_first=True),
            nn.Flatten(),
        )
    ),
    "convolution": Convolved,
    "new shapes": lambda: Body(nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten(), nn.Tanh())),
    "control flow": Branching,
    "fixed and unused": Partial,
    "weight norm": weight_norm,
    "spectral norm": spectral_norm,
    "in place": lambda: Body(nn.Sequential(nn.ELU(inplace=True), nn.Linear(6, 6), nn.ReLU(True))),
    "in place first": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 1)),
    "linear": lambda: nn.Linear(4, 1),
}


@pytest.mark.parametrize("batch_size", [None, 6], ids=["whole", "batches"])
@pytest.mark.parametrize("kind", ACTIVATIONS, ids=lambda kind: kind.__name__)
def test_every_activation_gives_the_same_fit_in_both_lanes(
    kind: type[nn.Module], batch_size: int | None, both: Any, table: tuple[Array, ...]
) -> None:
    def build() -> nn.Module:
        return Body(kind(**ARGUMENTS.get(kind, {})))

    assert_same(*both(module=build, batch_size=batch_size), table[0])


@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "unweighted"])
@pytest.mark.parametrize("batch_size", [None, 6], ids=["whole", "batches"])
@pytest.mark.parametrize("name", ZOO)
def test_every_module_of_the_zoo_gives_the_same_fit_in_both_lanes(
    name: str, batch_size: int | None, weighted: bool, both: Any, table: tuple[Array, ...]
) -> None:
    # Only standardizing y leaves the integer column as it is.
    options = {"standardize": "y" if name == "embedding" else True, "batch_size": batch_size}
    assert_same(*both(module=ZOO[name], weighted=weighted, **options), table[0])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop", "rprop", "lbfgs"])
@pytest.mark.parametrize("batch_size", [None, 6], ids=["whole", "batches"])
def test_every_optimizer_of_our_own_gives_the_same_fit_in_both_lanes(
    optimizer: str, batch_size: int | None, both: Any, table: tuple[Array, ...]
) -> None:
    fits = both(module=lambda: Body(nn.Tanh()), optimizer=optimizer, batch_size=batch_size, lr=None)
    assert_same(*fits, table[0], tolerance=1e-7)


def mean_over_all(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).abs().mean() ** 2


class Learned(nn.Module):
    """A loss with a number of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return torch.log1p(((prediction - target) / self.scale) ** 2)


@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "unweighted"])
@pytest.mark.parametrize("batch_size", [None, 6], ids=["whole", "batches"])
@pytest.mark.parametrize("loss", [*LOSSES, nn.SmoothL1Loss, mean_over_all, Learned])
def test_every_loss_gives_the_same_fit_in_both_lanes(
    loss: Any, batch_size: int | None, weighted: bool, both: Any, table: tuple[Array, ...]
) -> None:
    options = {"loss": loss, "batch_size": batch_size, "weighted": weighted}
    assert_same(*both(module=lambda: Body(nn.Tanh()), **options), table[0])


@pytest.mark.parametrize("batch_size", [None, 6], ids=["whole", "batches"])
@pytest.mark.parametrize("name", ["built-in", "layer norm", "GRU", "residual"])
def test_in_float32_both_lanes_agree_to_its_rounding(
    name: str, batch_size: int | None, both: Any, table: tuple[Array, ...]
) -> None:
    fits = both(module=ZOO[name], batch_size=batch_size, dtype="float32")
    assert_same(*fits, table[0], tolerance=2e-5)


def test_early_stopping_and_a_warm_start_go_the_same_way_in_both_lanes(
    both: Any, table: tuple[Array, ...]
) -> None:
    options = {"module": ZOO["batch norm and dropout"], "batch_size": 6, "early_stopping": True}
    one, other = both(**options, n_iter_no_change=3, max_epochs=60, warm_start=True)
    assert one.n_iter_ == other.n_iter_ and one.best_epoch_ == other.best_epoch_
    assert_same(one, other, table[0])
    X, y, weight = table
    assert_same(one.fit(X, y, weight), other.fit(X, y, weight), X)
