"""Variants of the default for the ablation: without a part, with one part alone, changed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from _models import TORCHREG, Model, Predict, fit_torchreg
from torch import Tensor, nn

from torchreg import TorchRegressor
from torchreg._estimator.defaults import (
    EPOCHS,
    LR,
    PATIENCE,
    batch_size_for,
    n_folds_for,
    network_for,
)
from torchreg.nn import ScaledAndClipped, TabularMLP

#: Parts of the network; without all of them it is an MLP on standardized columns.
PARTS = frozenset({"scale", "clip", "line", "waves", "bins"})


class ReducedTabularMLP(TabularMLP):
    """``TabularMLP`` without some of its parts.

    Without ``"scale"`` columns are standardized and not clipped. Without ``"line"`` there is no
    linear skip connection, and the last layer has torch's initial weights.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int = 1,
        hidden_sizes: Sequence[int] = (128, 128),
        activation: str = "relu",
        without: Collection[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(in_features, out_features, hidden_sizes, activation, **options)
        self.without = frozenset(without)
        scales = {"scale": Unscaled, "clip": Unclipped}
        for part in sorted(self.without & scales.keys()):  # "scale" last: it does not clip either
            self.scale = scales[part](torch.zeros(in_features), torch.ones(in_features))

    @torch.no_grad()
    def initialize_from(self, x: Tensor, t: Tensor, weight: Tensor | None) -> None:
        super().initialize_from(x, t, weight)
        if "line" in self.without:
            self.line.weight.zero_()
            self.line.bias.zero_()
            self.mlp.layers[-1].reset_parameters()
        if self.bins.out_features:  # Otherwise no column is embedded.
            for part in self.without & {"waves", "bins"}:
                setattr(self, part, Zero())

    def _embed_columns(self, columns: list[int]) -> None:
        super()._embed_columns([] if {"waves", "bins"} <= self.without else columns)


class Unclipped(ScaledAndClipped):
    """Scaling by quartiles without clipping."""

    def clip(self, z: Tensor) -> Tensor:
        return z


class Unscaled(Unclipped):
    """No scaling; the kinds of the columns are still found."""

    def rescale(self, x: Tensor) -> Tensor:
        return x


class Zero(nn.Module):
    """An embedding that is 0."""

    out_features = 1

    def forward(self, z: Tensor) -> Tensor:
        return z.new_zeros(())

    embed = forward


@dataclass(frozen=True)
class Times:
    """A multiple of the default value."""

    factor: float

    def of(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(self.of, value))
        return value if value is None else int(self.factor * value)


def default_params(X: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Return the parameters of ``TorchRegressor()`` for these rows, with a reducible network."""
    n_rows = len(np.unique(np.column_stack([X, y]), axis=0))
    return {
        "module": ReducedTabularMLP,
        **network_for(n_rows),
        "n_folds": n_folds_for(n_rows),
        "early_stopping": True,
        "max_epochs": EPOCHS,
        "batch_size": batch_size_for(n_rows),
        "schedule": "cosine",
        "lr": LR["adam"],
    }


def fit_variant(
    X: np.ndarray, y: np.ndarray, seed: int, threads: int, *, changes: Mapping[str, Any]
) -> Predict:
    """Fit the default with some parameters changed."""
    params = default_params(X, y)
    for name, value in changes.items():
        params[name] = value.of(params[name]) if isinstance(value, Times) else value
    params.setdefault("n_iter_no_change", math.ceil(PATIENCE * params["max_epochs"]))
    return TorchRegressor(**params, random_state=seed).fit(X, y).predict


@dataclass(frozen=True)
class Variant(Model):
    """The default with some parameters changed."""

    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def code(self) -> str:
        pieces = (ReducedTabularMLP, Unclipped, Unscaled, Zero, Times, default_params, fit_variant)
        return "".join(map(inspect.getsource, pieces)) + repr(sorted(self.changes.items()))


def build_variant(changes: Mapping[str, Any]) -> Variant:
    fit = partial(fit_variant, changes=changes)
    return Variant(fit, "torchreg", ("torch",), True, changes)


def without(*parts: str) -> dict[str, Any]:
    return {"module__without": tuple(sorted(parts))}


#: One network with a validation set of 10 % of the rows.
ONE_NETWORK = {"n_folds": None}
CONSTANT_LR = {"schedule": "constant"}
#: The base of "alone": an MLP with the default learning rate of scikit-learn and torch.
PLAIN = {**without(*PARTS), **ONE_NETWORK, **CONSTANT_LR, "lr": 1e-3}

WITHOUT: Mapping[str, Mapping[str, Any]] = {
    "folds: one network, 10 % validation rows": ONE_NETWORK,
    "folds: one network, no validation rows": {"n_folds": None, "early_stopping": False},
    "linear skip connection": without("line"),
    "periodic embedding": without("waves"),
    "bin embedding": without("bins"),
    "both embeddings": without("waves", "bins"),
    "clipping": without("clip"),
    "quartile scaling and clipping": without("scale"),
    "all parts of the network: an MLP": without(*PARTS),
    "patience: all epochs": {"n_iter_no_change": EPOCHS},
    "cosine: constant, 0.006": CONSTANT_LR,
    "cosine: constant, 0.001": {**CONSTANT_LR, "lr": 1e-3},
}
ALONE: Mapping[str, Mapping[str, Any]] = {
    "nothing": PLAIN,
    "folds": {name: value for name, value in PLAIN.items() if name not in ONE_NETWORK},
    "linear skip connection": {**PLAIN, **without(*PARTS - {"line"})},
    "periodic embedding": {**PLAIN, **without(*PARTS - {"waves"})},
    "bin embedding": {**PLAIN, **without(*PARTS - {"bins"})},
    "both embeddings": {**PLAIN, **without(*PARTS - {"waves", "bins"})},
    "quartile scaling and clipping": {**PLAIN, **without(*PARTS - {"scale", "clip"})},
    "cosine from 0.006": {k: v for k, v in PLAIN.items() if k not in ("schedule", "lr")},
}
WITH: Mapping[str, Mapping[str, Any]] = {
    "SiLU": {"module__activation": "silu"},
    "half the width": {"module__hidden_sizes": Times(0.5)},
    "twice the width": {"module__hidden_sizes": Times(2)},
    "half the epochs": {"max_epochs": Times(0.5)},
    "twice the epochs": {"max_epochs": Times(2)},
    "half the batch size": {"batch_size": Times(0.5)},
    "twice the batch size": {"batch_size": Times(2)},
    "half the learning rate": {"lr": LR["adam"] / 2},
    "twice the learning rate": {"lr": 2 * LR["adam"]},
    "half the folds": {"n_folds": Times(0.5)},
    "twice the folds": {"n_folds": Times(2)},
    "half the frequencies": {"module__n_frequencies": Times(0.5)},
    "half the bins": {"module__n_bins": Times(0.5)},
    "a third of the frequency scale": {"module__frequency_scale": 0.1},
}
GROUPS = {"without": WITHOUT, "alone": ALONE, "with": WITH}
VARIANTS: Mapping[str, Model] = {
    TORCHREG: Model(fit_torchreg, "torchreg", ("torch",), True),
    **{
        f"{group} {name}": build_variant(changes)
        for group, variants in GROUPS.items()
        for name, changes in variants.items()
    },
}
