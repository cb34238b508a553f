"""The default of TorchRegressor with parts of it taken away, or one part alone."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from _untuned import TORCHREG, Model, Predict, fit_torchreg
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

#: What makes the network more than a multilayer perceptron on standardized columns.
PARTS = frozenset({"scale", "clip", "line", "waves", "bins"})


class Without(TabularMLP):
    """The network for tables without some of its parts: without all of them it is an MLP.

    Without ``"scale"`` columns are standardized only, and not clipped. Without ``"line"`` there
    is no straight line below, and the last layer begins as large as any other.
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
        for part in sorted(self.without & scales.keys()):  # "scale" last: it is no clip either
            self.scale = scales[part](torch.zeros(in_features), torch.ones(in_features))

    @torch.no_grad()
    def initialize_from(self, x: Tensor, t: Tensor, weight: Tensor | None) -> None:
        super().initialize_from(x, t, weight)
        if "line" in self.without:
            self.line.weight.zero_()
            self.line.bias.zero_()
            self.mlp.layers[-1].reset_parameters()
        if self.bins.out_features:  # else no column is embedded, in neither
            for part in self.without & {"waves", "bins"}:
                setattr(self, part, Nothing())

    def _embed(self, columns: list[int]) -> None:
        super()._embed([] if {"waves", "bins"} <= self.without else columns)


class Unclipped(ScaledAndClipped):
    """Quartiles without a clip."""

    def clip(self, z: Tensor) -> Tensor:
        return z


class Unscaled(Unclipped):
    """Columns as TorchRegressor gives them, standardized; which are measurements is still seen."""

    def scaled(self, x: Tensor) -> Tensor:
        return x


class Nothing(nn.Module):
    """In the place of waves or bins that are added to the other: 0."""

    out_features = 1

    def forward(self, z: Tensor) -> Tensor:
        return z.new_zeros(())

    waves = forward


@dataclass(frozen=True)
class Times:
    """A setting that is so many times what it is by default."""

    factor: float

    def of(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(self.of, value))
        return value if value is None else int(self.factor * value)


def default_for(X: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Write out what ``TorchRegressor()`` comes to for these rows, with a network to take from."""
    n_rows = len(np.unique(np.column_stack([X, y]), axis=0))
    return {
        "module": Without,
        **network_for(n_rows),
        "n_folds": n_folds_for(n_rows),
        "early_stopping": True,
        "max_epochs": EPOCHS,
        "batch_size": batch_size_for(n_rows),
        "schedule": "cosine",
        "lr": LR["adam"],
    }


def fit_changed(
    X: np.ndarray, y: np.ndarray, seed: int, threads: int, *, changes: Mapping[str, Any]
) -> Predict:
    """Fit the default with some of its settings changed."""
    settings = default_for(X, y)
    for name, value in changes.items():
        settings[name] = value.of(settings[name]) if isinstance(value, Times) else value
    settings.setdefault("n_iter_no_change", math.ceil(PATIENCE * settings["max_epochs"]))
    return TorchRegressor(**settings, random_state=seed).fit(X, y).predict


@dataclass(frozen=True)
class Variant(Model):
    """The default with some of its settings changed."""

    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def code(self) -> str:
        pieces = (Without, Unclipped, Unscaled, Nothing, Times, default_for, fit_changed)
        return "".join(map(inspect.getsource, pieces)) + repr(sorted(self.changes.items()))


def variant(changes: Mapping[str, Any]) -> Variant:
    fit = partial(fit_changed, changes=changes)
    return Variant(fit, "torchreg", ("torch",), True, changes)


def without(*parts: str) -> dict[str, Any]:
    return {"module__without": tuple(sorted(parts))}


#: One network that keeps the weights of the epoch that is best on 10 % of the rows.
ONE_HELD_OUT = {"n_folds": None}
STEADY = {"schedule": "constant"}
#: What a part alone is added to: scikit-learn's and torch's own learning rate, held.
PLAIN = {**without(*PARTS), **ONE_HELD_OUT, **STEADY, "lr": 1e-3}
RATE = ("schedule", "lr")

TAKEN_AWAY: Mapping[str, Mapping[str, Any]] = {
    "folds: one network, 10 % held out": ONE_HELD_OUT,
    "folds: one network, all rows": {"n_folds": None, "early_stopping": False},
    "line": without("line"),
    "waves": without("waves"),
    "bins": without("bins"),
    "waves and bins": without("waves", "bins"),
    "clip": without("clip"),
    "quartiles and clip": without("scale"),
    "all of the network: an MLP": without(*PARTS),
    "patience: all epochs": {"n_iter_no_change": EPOCHS},
    "cosine: constant, 0.006": STEADY,
    "cosine: constant, 0.001": {**STEADY, "lr": 1e-3},
}
ALONE: Mapping[str, Mapping[str, Any]] = {
    "nothing": PLAIN,
    "folds": {name: value for name, value in PLAIN.items() if name not in ONE_HELD_OUT},
    "line": {**PLAIN, **without(*PARTS - {"line"})},
    "waves": {**PLAIN, **without(*PARTS - {"waves"})},
    "bins": {**PLAIN, **without(*PARTS - {"bins"})},
    "waves and bins": {**PLAIN, **without(*PARTS - {"waves", "bins"})},
    "quartiles and clip": {**PLAIN, **without(*PARTS - {"scale", "clip"})},
    "cosine from 0.006": {name: value for name, value in PLAIN.items() if name not in RATE},
}
CHANGED: Mapping[str, Mapping[str, Any]] = {
    "SiLU": {"module__activation": "silu"},
    "half as wide": {"module__hidden_sizes": Times(0.5)},
    "twice as wide": {"module__hidden_sizes": Times(2)},
    "half of the epochs": {"max_epochs": Times(0.5)},
    "twice the epochs": {"max_epochs": Times(2)},
    "half of the batch": {"batch_size": Times(0.5)},
    "twice the batch": {"batch_size": Times(2)},
    "half of the learning rate": {"lr": LR["adam"] / 2},
    "twice the learning rate": {"lr": 2 * LR["adam"]},
    "half of the folds": {"n_folds": Times(0.5)},
    "twice the folds": {"n_folds": Times(2)},
    "half of the waves": {"module__n_frequencies": Times(0.5)},
    "half of the bins": {"module__n_bins": Times(0.5)},
    "waves of a third of the frequency": {"module__frequency_scale": 0.1},
}
GROUPS = {"without": TAKEN_AWAY, "alone": ALONE, "with": CHANGED}
VARIANTS: Mapping[str, Model] = {
    TORCHREG: Model(fit_torchreg, "torchreg", ("torch",), True),
    **{
        f"{group} {name}": variant(changes)
        for group, variants in GROUPS.items()
        for name, changes in variants.items()
    },
}
