"""A zoo of modules for rows of four columns: what people build, and what is hard to repeat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from torchreg.losses import LOSSES
from torchreg.nn import (
    MLP,
    Ensemble,
    LinearPath,
    MemberLinear,
    PeriodicEmbedding,
    RobustStandardize,
    Scale,
    TabularMLP,
)


def center_target(loss: Any) -> bool:
    """Whether a loss takes targets below 0."""
    return getattr(LOSSES.get(loss, loss), "center_target", True)


class Body(nn.Module):
    """A module between two linear layers."""

    def __init__(self, middle: nn.Module, width: int = 6, out_features: int = 1) -> None:
        super().__init__()
        self.first, self.middle = nn.Linear(4, width), middle
        self.last = nn.LazyLinear(out_features)

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
    "linear path": lambda: LinearPath(MLP(4, 1, [5]), 4, 1),
    "for tables": lambda: TabularMLP(4, 1, [5]),
    "several": lambda: Ensemble([MLP(4, 1, [5]), MLP(4, 1, [5])]),
    "members": lambda: nn.Sequential(MemberLinear(3, 4, 5), nn.Tanh(), MemberLinear(3, 5, 1)),
    "embedded numbers": lambda: nn.Sequential(
        RobustStandardize([0.1] * 4, [0.0, 1.0, 1.5, 1.0], [False, True, False, False]),
        PeriodicEmbedding(4, [0, 2]),
        Scale(10),
        nn.Linear(10, 1),
    ),
}
